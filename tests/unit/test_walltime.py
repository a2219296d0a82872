"""`flashq.walltime`: which clocks are believed, and that time never goes backwards."""

from __future__ import annotations

import pytest

from flashq.walltime import JUMP_LASTS_MS, JUMP_MS_MIN, Belief, WallTime

HOUR_MS = 3_600_000


def test_the_first_reading_is_believed() -> None:
    """There is nothing to compare it with."""
    assert Belief().wall_ms(7 * HOUR_MS, 3) == 7 * HOUR_MS


@pytest.mark.parametrize("step", [-JUMP_MS_MIN, -1, 1, 250, JUMP_MS_MIN])
def test_a_clock_that_is_steered_is_followed_at_once(step: int) -> None:
    """A time service corrects it by small steps, again and again."""
    belief = Belief()
    wall = belief.wall_ms(HOUR_MS, 0)
    for mono in range(1000, 60_000, 1000):
        wall += 1000 + step
        assert belief.wall_ms(wall, mono) == wall
        assert (belief.off_ms, belief.jumps) == (0, 0)


@pytest.mark.parametrize("jump", [-HOUR_MS, -JUMP_MS_MIN - 1, JUMP_MS_MIN + 1, HOUR_MS])
def test_a_jump_is_believed_once_it_has_lasted(jump: int) -> None:
    """Until then time goes on as if there had been none."""
    belief = Belief()
    belief.wall_ms(2 * HOUR_MS, 0)
    for mono in (1, 1000, JUMP_LASTS_MS):
        assert belief.wall_ms(2 * HOUR_MS + jump + mono, mono) == 2 * HOUR_MS + mono
        assert belief.off_ms == jump
    mono = JUMP_LASTS_MS + 1
    assert belief.wall_ms(2 * HOUR_MS + jump + mono, mono) == 2 * HOUR_MS + jump + mono
    assert (belief.off_ms, belief.jumps) == (0, 1)


def test_a_clock_that_jumps_about_is_not_believed() -> None:
    """Each jump has to last by itself."""
    belief = Belief()
    belief.wall_ms(9 * HOUR_MS, 0)
    for mono in range(1000, 10 * JUMP_LASTS_MS, 1000):
        jump = HOUR_MS * (1 + mono // 20_000 % 3)
        assert belief.wall_ms(9 * HOUR_MS + jump + mono, mono) == 9 * HOUR_MS + mono
    assert belief.jumps == 0


def test_a_jump_that_ends_is_forgotten() -> None:
    """The next one, by the same step, has to last from its own beginning."""
    belief = Belief()
    belief.wall_ms(HOUR_MS, 0)
    for began in (1000, JUMP_LASTS_MS + 1000):
        belief.wall_ms(2 * HOUR_MS + began, began)
        end = began + JUMP_LASTS_MS - 1
        assert belief.wall_ms(2 * HOUR_MS + end, end) == HOUR_MS + end
        assert belief.wall_ms(HOUR_MS + end, end) == HOUR_MS + end
        assert belief.off_ms == 0


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
