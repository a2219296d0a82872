"""Wall time for a program's decisions: it never goes backwards, and never stands still.

Pure: both clocks are arguments. When the wall clock is set back, job times keep their order, and a
delay or the time to a next attempt is hardly longer than it was asked for: nothing waits until a
clock that was wrong by a day has caught up with itself.
"""

from __future__ import annotations

from typing import Final

PACE: Final = (7, 8)
"""How fast time goes on, beside the monotonic clock, until a wall clock that was set back is where
it was."""


class WallTime:
    """The time of one program.

    Args:
        at_ms: where it begins; a clock that reads less was set back before.
    """

    def __init__(self, at_ms: int = 0) -> None:
        self._now_ms = at_ms
        #: where it was, on either clock, when the wall clock was first seen behind it
        self._left: tuple[int, int] | None = None

    def advance(self, wall_ms: int, mono_ms: int) -> int:
        """Return the time in ms since 1970, never less than the last answer.

        Args:
            wall_ms: what the wall clock reads.
            mono_ms: what the monotonic clock reads, never less than before.
        """
        if wall_ms >= self._now_ms:
            self._now_ms, self._left = wall_ms, None
            return wall_ms
        if self._left is None:
            self._left = (self._now_ms, mono_ms)
        now_ms, since_ms = self._left
        numerator, denominator = PACE
        self._now_ms = now_ms + (mono_ms - since_ms) * numerator // denominator
        return self._now_ms
