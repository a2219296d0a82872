"""The two clocks: wall time for what people read, monotonic time for what expires.

Programs hand both to their engines as arguments; nothing else in flashq asks for the time of a
decision. That wall time never goes backwards is `walltime`'s rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from flashq.walltime import WallTime


class Clock(Protocol):
    """What a program needs of time; tests and the simulation bring their own."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, never less than the last answer."""
        ...

    def mono_ms(self) -> int:
        """Return milliseconds since some fixed moment, untouched by changes of the wall clock."""
        ...


class SystemClock:
    """The machine's clocks.

    When the wall clock is set back, `wall_ms` goes on more slowly until that has caught up: see
    `WallTime`.

    Args:
        wall_ns: nanoseconds since 1970.
        mono_ns: nanoseconds of a clock that only goes forward.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._mono_ns = mono_ns
        self._wall_time = WallTime()

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, never less than the last answer."""
        return self._wall_time.advance(self._wall_ns() // 1_000_000, self.mono_ms())

    def mono_ms(self) -> int:
        """Return milliseconds of the monotonic clock."""
        return self._mono_ns() // 1_000_000
