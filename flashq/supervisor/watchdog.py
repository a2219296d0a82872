"""Decides which programs hang: those whose loops have not turned for too long.

Pure. Each program counts the turns of its loop; what the counts are comes in now and then, at a
look. Silence is measured between looks and never against a program's own clock. A look that comes
late says that the supervisor itself did not run (it was stopped, the whole machine was), and then
nobody else may have run either: every wait begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

UNWATCHED: Final = 0
"""The count of a program that is doing what may take any time, and has said so."""
LOOKS: Final = 4
"""So many looks in the time after which a program hangs; a loop turns at least as often."""
START_MS_MIN: Final = 120_000
"""What a program that starts may always take for one step: it imports, and so do all others."""


class Silent(NamedTuple):
    """A program that hangs."""

    name: str
    silent_ms: int


class _Heard(NamedTuple):
    """What a program has been heard of."""

    turns: int
    at_ms: int
    """When that number was first seen."""


@dataclass(slots=True)
class Watchdog:
    """Who has been heard of, and when.

    Args:
        limit_ms: the longest silence of a program that is ready; 0 for no watch at all.
    """

    limit_ms: int
    #: by name: programs that run and were there at the last look
    _heard: dict[str, _Heard] = field(default_factory=dict)
    #: when the next look is due; None before the first
    _look_at_ms: int | None = None

    @property
    def interval_ms(self) -> int:
        """The time between two looks, and the longest that an idle loop may wait."""
        return self.limit_ms // LOOKS

    @property
    def next_look_ms(self) -> int | None:
        """When `look` has something to do; None for never."""
        if not self.limit_ms:
            return None
        return 0 if self._look_at_ms is None else self._look_at_ms

    def forget(self, name: str) -> None:
        """A program has ended; the next one of this name has not been heard of."""
        self._heard.pop(name, None)

    def look(self, counts: Mapping[str, int], starting: set[str], mono_ms: int) -> list[Silent]:
        """Return who hangs, if a look is due.

        Args:
            counts: by name, how often the loop of each program that runs has turned.
            starting: who is not ready yet.
            mono_ms: now.
        """
        due_ms = self.next_look_ms
        if due_ms is None or mono_ms < due_ms:
            return []
        did_not_run = self._look_at_ms is not None and mono_ms - due_ms > self.interval_ms
        self._look_at_ms = mono_ms + self.interval_ms
        silent = []
        for name, count in counts.items():
            heard = self._heard.get(name)
            if did_not_run or count == UNWATCHED or heard is None or heard.turns != count:
                self._heard[name] = _Heard(count, mono_ms)
                continue
            limit_ms = max(self.limit_ms, START_MS_MIN) if name in starting else self.limit_ms
            if mono_ms - heard.at_ms >= limit_ms:
                silent.append(Silent(name, mono_ms - heard.at_ms))
        return silent
