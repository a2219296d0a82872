"""Durations are counted in buckets, and what several processes counted can be added up."""

from __future__ import annotations

import pytest

from flashq.protocol.histogram import SECONDS, Distribution, Histogram, merge


def test_a_value_counts_in_every_bucket_that_it_fits_into() -> None:
    """As Prometheus wants it: a bound is inclusive, and what exceeds all of them is counted."""
    histogram = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 5, 6):
        histogram.add(value)
    told = histogram.snapshot()
    assert told == Distribution(bounds=[1, 2, 5], cumulative=[2, 3, 4, 5], sum=13.5)
    assert told.count == 5


def test_a_batch_counts_as_often_as_it_is_large() -> None:
    """A batch of a thousand costs one step, and counts like a thousand."""
    one_by_one, at_once = Histogram(SECONDS), Histogram(SECONDS)
    for _ in range(1000):
        one_by_one.add(0.25)
    at_once.add_many(0.25, 1000)
    assert at_once.snapshot() == one_by_one.snapshot()


@pytest.mark.parametrize("values", [(), (7, 0, 1, 2, 1.5, 5, 6, 2), (9, 8), (1, 1, 1)])
def test_many_values_count_like_each_of_them(values: tuple[float, ...]) -> None:
    """In any order, on the bounds and beyond them."""
    one_by_one, at_once = Histogram((1, 2, 5)), Histogram((1, 2, 5))
    for value in values:
        one_by_one.add(value)
    at_once.add_all(values)
    assert at_once.snapshot() == one_by_one.snapshot()


def test_what_was_told_does_not_change_later() -> None:
    """A snapshot can be sent when it suits, while counting goes on."""
    histogram = Histogram((1,))
    told = histogram.snapshot()
    histogram.add(0)
    assert told.count == 0


def test_processes_add_up() -> None:
    """The server's figure is the sum of its shards'."""
    first, second = Histogram((1, 2)), Histogram((1, 2))
    first.add(0.5)
    second.add_many(3, 2)
    assert merge([first.snapshot(), second.snapshot()]) == Distribution(
        bounds=[1, 2], cumulative=[1, 1, 3], sum=6.5
    )


@pytest.mark.parametrize(("share", "bound"), [(0.5, 1), (0.51, 2), (0.9, 2), (1, float("inf"))])
def test_a_quantile_is_a_bound(share: float, bound: float) -> None:
    """Nine of ten fit below 2, half of them below 1, and one is larger than every bucket."""
    histogram = Histogram((1, 2))
    histogram.add_many(0.5, 5)
    histogram.add_many(1.5, 4)
    histogram.add(100)
    assert histogram.snapshot().quantile(share) == bound


def test_nothing_has_no_quantile() -> None:
    """A server that was just started has not been slow."""
    assert Histogram((1,)).snapshot().quantile(0.99) == 0
