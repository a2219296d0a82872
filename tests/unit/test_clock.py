"""`flashq.clock`: the machine's clocks, in milliseconds."""

from __future__ import annotations

from flashq.clock import SystemClock


def test_wall_time_never_goes_back() -> None:
    """An administrator sets the clock back by a minute: jobs pushed after that must not look older
    than jobs pushed before."""
    walls, monos = iter([100_000, 40_000, 101_000]), iter([0, 0, 80, 80, 1000, 1000])
    clock = SystemClock(lambda: next(walls) * 1_000_000, lambda: next(monos) * 1_000_000)
    assert [clock.wall_ms() for _ in range(3)] == [100_000, 100_080, 101_000]


def test_monotonic_time_is_in_whole_milliseconds() -> None:
    """Deadlines are integers in ms; a part of one must not make them floats."""
    assert SystemClock(mono_ns=lambda: 1_999_999).mono_ms() == 1


def test_the_machines_clocks_are_in_milliseconds() -> None:
    """A clock in seconds or microseconds would pass every other test."""
    clock = SystemClock()
    assert 1_600_000_000_000 < clock.wall_ms() < 10_000_000_000_000
    assert clock.mono_ms() <= clock.mono_ms()


class Machine:
    """Both clocks of a machine, to be set at will."""

    def __init__(self) -> None:
        self.wall_ms = 1_800_000_000_000
        self.mono_ms = 5000

    def clock(self) -> SystemClock:
        """Return the clock of a program on it."""
        return SystemClock(lambda: self.wall_ms * 1_000_000, lambda: self.mono_ms * 1_000_000)

    def pass_time(self, ms: int) -> None:
        """Let both clocks go."""
        self.wall_ms += ms
        self.mono_ms += ms


MONTH_MS = 30 * 86_400_000


def test_a_clock_that_is_a_month_ahead_for_some_seconds_moves_nothing() -> None:
    """Jobs were dated a month ahead by it, for 240 days."""
    machine = Machine()
    clock = machine.clock()
    began = clock.wall_ms()
    machine.wall_ms += MONTH_MS
    for second in range(1, 9):
        machine.pass_time(1000)
        assert clock.wall_ms() == began + second * 1000
        assert clock.off_ms == MONTH_MS
    machine.wall_ms -= MONTH_MS
    assert clock.wall_ms() == began + 8000
    assert (clock.off_ms, clock.jumps) == (0, 0)


def test_a_jump_that_lasts_is_believed() -> None:
    """Somebody has set the clock right."""
    machine = Machine()
    clock = machine.clock()
    began = clock.wall_ms()
    machine.wall_ms += MONTH_MS
    for _ in range(31):
        clock.wall_ms()
        machine.pass_time(1000)
    assert clock.wall_ms() == began + 31_000 + MONTH_MS
    assert (clock.off_ms, clock.jumps) == (0, 1)


def test_the_programs_of_a_process_and_its_children_believe_the_same() -> None:
    """One that is started again while the clock is wrong knows what the others know."""
    assert SystemClock()._belief is SystemClock()._belief
