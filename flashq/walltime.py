"""Wall time for a program's decisions: it never goes backwards, never stands still, and does not
believe every clock.

Pure: all clocks are arguments. Two rules, one on the other:

* `Belief` compares the wall clock with one that only goes forward. A wall clock that jumps is not
  believed until the jump has lasted; by then time goes on as if there had been none. So a clock
  that is a month ahead for some seconds dates no job, and fires no cron.
* `WallTime` lets time go on more slowly where a wall clock that is believed is behind it. So job
  times keep their order, and a delay or the time to a next attempt is hardly longer than it was
  asked for: nothing waits until a clock that was wrong by a day has caught up with itself.
"""

from __future__ import annotations

from typing import Final

PACE: Final = (7, 8)
"""How fast time goes on, beside the monotonic clock, until a wall clock that was set back is where
it was."""
JUMP_MS_MIN: Final = 1000
"""A wall clock that is off by no more was corrected in the usual way, and is followed at once."""
JUMP_LASTS_MS: Final = 30_000
"""A jump is believed once it has lasted so long. Machines that sleep do not jump: the clock to
compare with goes on meanwhile."""


class Belief:
    """What one machine's wall clock is believed to be."""

    def __init__(self) -> None:
        #: the wall clock less the steady one, as it is believed; None before the first reading
        self._offset_ms: int | None = None
        #: that of a jump that is not believed yet, and since when, on the steady clock
        self._doubt: tuple[int, int] | None = None
        #: how far the wall clock is ahead of what is believed; less than 0 for behind
        self.off_ms = 0
        #: how many jumps have been believed
        self.jumps = 0

    def wall_ms(self, wall_ms: int, steady_ms: int) -> int:
        """Return what to take for the wall clock.

        Args:
            wall_ms: what the wall clock reads.
            steady_ms: what a clock reads that only goes forward, also while the machine sleeps.
        """
        offset_ms = wall_ms - steady_ms
        if self._offset_ms is None:
            self._offset_ms = offset_ms
        off_ms = offset_ms - self._offset_ms
        if abs(off_ms) <= JUMP_MS_MIN:
            return self._believe(offset_ms, wall_ms)
        if self._doubt is None or abs(offset_ms - self._doubt[0]) > JUMP_MS_MIN:
            self._doubt = (offset_ms, steady_ms)
        elif steady_ms - self._doubt[1] >= JUMP_LASTS_MS:
            self.jumps += 1
            return self._believe(offset_ms, wall_ms)
        self.off_ms = off_ms
        return self._offset_ms + steady_ms

    def _believe(self, offset_ms: int, wall_ms: int) -> int:
        self._offset_ms, self._doubt, self.off_ms = offset_ms, None, 0
        return wall_ms


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
            wall_ms: what the wall clock is believed to be.
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
