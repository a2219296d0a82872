"""`flashq.clock`: wall time that never goes backwards."""

from __future__ import annotations

from flashq.clock import SystemClock


def test_wall_time_stands_still_when_the_clock_is_set_back() -> None:
    """An administrator sets the clock back by a minute: jobs pushed after that must not look older
    than jobs pushed before, so time waits until the clock has caught up."""
    readings = iter([100_000, 40_000, 99_999, 100_001])
    clock = SystemClock(wall_ns=lambda: next(readings) * 1_000_000)
    assert [clock.wall_ms() for _ in range(4)] == [100_000, 100_000, 100_000, 100_001]


def test_monotonic_time_is_in_whole_milliseconds() -> None:
    """Deadlines are integers in ms; a part of one must not make them floats."""
    assert SystemClock(mono_ns=lambda: 1_999_999).mono_ms() == 1


def test_the_machines_clocks_are_in_milliseconds() -> None:
    """A clock in seconds or microseconds would pass every other test."""
    clock = SystemClock()
    assert 1_600_000_000_000 < clock.wall_ms() < 10_000_000_000_000
    assert clock.mono_ms() <= clock.mono_ms()
