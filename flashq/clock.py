"""The two clocks: wall time for what people read, monotonic time for what expires.

Programs hand both to their engines as arguments; nothing else in flashq asks for the time of a
decision. What of the wall clock is believed, and that time never goes backwards, are `walltime`'s
rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from flashq.walltime import Belief, WallTime

_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock to compare the wall clock with. It goes on while the machine sleeps."""

_BELIEF: Final = Belief()
"""What this process takes for the machine's wall clock. Children of a fork begin with it, so that a
program that is started again while the clock is wrong knows what the others know."""


class Clock(Protocol):
    """What a program needs of time; tests and the simulation bring their own."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, never less than the last answer."""
        ...

    def mono_ms(self) -> int:
        """Return milliseconds since some fixed moment, untouched by changes of the wall clock."""
        ...

    @property
    def off_ms(self) -> int:
        """How far the machine's wall clock is ahead of what is believed; less than 0 for behind."""
        ...

    @property
    def jumps(self) -> int:
        """How many jumps of the machine's wall clock have lasted, and been believed."""
        ...


class SystemClock:
    """The machine's clocks.

    A wall clock that jumps is followed once the jump has lasted, and one that was set back is
    waited for: see `Belief` and `WallTime`.

    Args:
        wall_ns: nanoseconds since 1970; None for the machine's.
        mono_ns: nanoseconds of a clock that only goes forward.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] | None = None,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = time.time_ns if wall_ns is None else wall_ns
        self._mono_ns = mono_ns
        self._steady_ns = mono_ns if wall_ns is not None else _steady_ns
        self._belief = _BELIEF if wall_ns is None else Belief()
        self._wall_time = WallTime()

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, never less than the last answer."""
        believed_ms = self._belief.wall_ms(
            self._wall_ns() // 1_000_000, self._steady_ns() // 1_000_000
        )
        return self._wall_time.advance(believed_ms, self.mono_ms())

    def mono_ms(self) -> int:
        """Return milliseconds of the monotonic clock."""
        return self._mono_ns() // 1_000_000

    @property
    def off_ms(self) -> int:
        """How far the wall clock was ahead of what is believed, when it was last asked for."""
        return self._belief.off_ms

    @property
    def jumps(self) -> int:
        """How many jumps have been believed since the process, or one it was forked from, began."""
        return self._belief.jumps


def _steady_ns() -> int:
    return time.clock_gettime_ns(_STEADY)
