"""`flashq.clock`: the machine's clocks, in milliseconds."""

from __future__ import annotations

from flashq.clock import SystemClock


def test_wall_time_never_goes_back() -> None:
    """An administrator sets the clock back by a minute: jobs pushed after that must not look older
    than jobs pushed before."""
    walls, monos = iter([100_000, 40_000, 101_000]), iter([0, 80, 1000])
    clock = SystemClock(lambda: next(walls) * 1_000_000, lambda: next(monos) * 1_000_000)
    assert [clock.wall_ms() for _ in range(3)] == [100_000, 100_000, 101_000]


def test_monotonic_time_is_in_whole_milliseconds() -> None:
    """Deadlines are integers in ms; a part of one must not make them floats."""
    assert SystemClock(mono_ns=lambda: 1_999_999).mono_ms() == 1


def test_the_machines_clocks_are_in_milliseconds() -> None:
    """A clock in seconds or microseconds would pass every other test."""
    clock = SystemClock()
    assert 1_600_000_000_000 < clock.wall_ms() < 10_000_000_000_000
    assert clock.mono_ms() <= clock.mono_ms()
