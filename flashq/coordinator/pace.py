"""How often a slice of a checkpoint may be written, so that the log has storage for itself mostly.

Owns the share of storage's time that slices may take, over all shards together.
"""

from __future__ import annotations

from typing import Final

REST_TIMES: Final = 3
"""After a slice storage has this many times as long without one: slices take a quarter at most."""


class Pace:
    """When slices are written."""

    def __init__(self) -> None:
        #: when the slice that is being written was handed on, on the monotonic clock; None for none
        self._began_ms: int | None = None
        #: when the next one may be written
        self.due_ms = 0

    @property
    def is_writing(self) -> bool:
        """Whether a slice is being written."""
        return self._began_ms is not None

    def begin(self, mono_ms: int) -> None:
        """A slice is handed on to storage."""
        self._began_ms = mono_ms

    def end(self, mono_ms: int) -> None:
        """It is stored, with everything that was before it."""
        assert self._began_ms is not None, "a slice was being written"
        self.due_ms = mono_ms + REST_TIMES * (mono_ms - self._began_ms)
        self._began_ms = None
