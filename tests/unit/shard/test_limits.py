"""The token bucket: bursts up to the limit, and never more than the rate over any stretch."""

from __future__ import annotations

import pytest

from flashq.shard.limits import TokenBucket


def test_starts_full_and_refills_evenly() -> None:
    """A burst of the limit, then one token each 1000/limit ms."""
    bucket = TokenBucket(10, 1000, full=True)
    assert bucket.available(1000) == 10
    bucket.spend(10)
    assert bucket.available(1099) == 0
    assert bucket.available(1100) == 1
    assert bucket.available(1550) == 5


def test_saves_up_at_most_the_limit() -> None:
    """An idle night does not let a flood through."""
    bucket = TokenBucket(3, 0, full=True)
    assert bucket.available(10**9) == 3


def test_starts_empty_after_a_restart() -> None:
    """A crash must not let more through than the limit allows."""
    bucket = TokenBucket(5, 0, full=False)
    assert bucket.available(0) == 0
    assert bucket.available(200) == 1


def test_limit_0_gives_nothing_ever() -> None:
    """0 stops the queue, and nobody need wake for it."""
    bucket = TokenBucket(0, 0, full=True)
    assert bucket.available(10**9) == 0
    assert bucket.next_at_ms() is None


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 999, 1000, 2500])
def test_the_next_token_comes_exactly_when_announced(limit: int) -> None:
    """A waiter is woken neither before there is a token, nor a millisecond after it is there."""
    bucket = TokenBucket(limit, 0, full=True)
    bucket.spend(bucket.available(0))
    now = 0
    for _ in range(50):
        at = bucket.next_at_ms()
        assert at is not None
        assert at > now
        if at - 1 > now:
            assert bucket.available(at - 1) == 0
        assert bucket.available(at) >= 1
        bucket.spend(bucket.available(at))
        now = at


def test_a_clock_that_stands_still_gives_nothing() -> None:
    """Nor does one that goes back."""
    bucket = TokenBucket(10, 100, full=True)
    bucket.spend(bucket.available(100))
    assert bucket.available(100) == 0
    assert bucket.available(50) == 0
