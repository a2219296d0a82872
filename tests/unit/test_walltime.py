"""`flashq.walltime`: it never goes backwards, and never stands still."""

from __future__ import annotations

from flashq.walltime import WallTime


def test_a_clock_that_goes_is_followed() -> None:
    """Forward jumps too: what is due by then is due."""
    time = WallTime()
    assert [time.advance(wall, wall) for wall in (5, 5, 9, 1_000_000)] == [5, 5, 9, 1_000_000]


def test_a_clock_that_was_set_back_is_waited_for_without_standing_still() -> None:
    """A clock that was an hour ahead for a moment made every delay an hour longer."""
    time = WallTime()
    assert time.advance(3_600_000, 1000) == 3_600_000
    assert time.advance(0, 1000) == 3_600_000
    assert time.advance(0, 1008) == 3_600_007
    assert time.advance(8000, 9000) == 3_607_000
    assert time.advance(3_607_001, 9001) == 3_607_001


def test_many_small_steps_are_as_long_as_one() -> None:
    """A busy program asks many times a millisecond: fractions must not add up."""
    often, seldom = WallTime(1000), WallTime(1000)
    seldom.advance(0, 0)
    assert [often.advance(0, mono) for mono in range(801)][-1] == seldom.advance(0, 800) == 1700


def test_it_is_set_back_twice() -> None:
    """Before it has caught up: time goes on from where it is."""
    time = WallTime(1000)
    assert [time.advance(500, 0), time.advance(100, 80), time.advance(20, 160)] == [
        1000,
        1070,
        1140,
    ]


def test_it_begins_where_the_log_ended() -> None:
    """A shard that is started after the clock was set back must not be older than its log."""
    time = WallTime(1000)
    assert [time.advance(0, 5000), time.advance(0, 5800)] == [1000, 1700]
