"""How long things took, counted in few buckets: what a process counts into, and what it tells.

Owns the arithmetic of both, so that whoever counts, passes on or shows durations means the same. A
histogram never grows; what it tells can be added up over processes, as Prometheus does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Bounds of buckets for durations in seconds, from a commit to a storage that hangs."""


class Distribution(Struct, kw_only=True, frozen=True):
    """What a histogram has counted.

    Args:
        bounds: upper bounds of the buckets, rising, each one inclusive.
        cumulative: for each bound how many values were not above it, and last how many there were.
        sum: of all values.
    """

    bounds: list[float]
    cumulative: list[int]
    sum: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return self.cumulative[-1]

    def quantile(self, share: float) -> float:
        """Return the bound that so large a share of the values did not exceed.

        Args:
            share: above 0, at most 1.

        Returns:
            0 when there are no values; infinity when the last bound is not enough.
        """
        wanted = share * self.count
        if not wanted:
            return 0.0
        index = bisect_left(self.cumulative, wanted)
        return self.bounds[index] if index < len(self.bounds) else float("inf")


def merge(distributions: Sequence[Distribution]) -> Distribution:
    """Add up what several histograms with the same bounds have counted; there is at least one."""
    first = distributions[0]
    columns = [one.cumulative for one in distributions]
    assert all(one.bounds == first.bounds for one in distributions), "the bounds are the same"
    return Distribution(
        bounds=first.bounds,
        cumulative=[sum(column) for column in zip(*columns, strict=True)],
        sum=sum(one.sum for one in distributions),
    )


class Histogram:
    """Counts values by size.

    Args:
        bounds: upper bounds of the buckets, rising; what is larger is counted too.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        assert list(bounds) == sorted(set(bounds)), "bounds rise"
        self._bounds: Final = tuple(bounds)
        #: by bucket, one more than there are bounds
        self._counts: Final = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_many(self, value: float, count: int) -> None:
        """Count the same value several times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def add_all(self, values: Iterable[float]) -> None:
        """Count many values: fast where they are in order, or nearly so."""
        ordered = sorted(values)
        counted = 0
        for bucket, bound in enumerate(self._bounds):
            if counted == len(ordered):
                break
            upto = bisect_right(ordered, bound, counted)
            self._counts[bucket] += upto - counted
            counted = upto
        self._counts[-1] += len(ordered) - counted
        self._sum += sum(ordered)

    def snapshot(self) -> Distribution:
        """Return what has been counted until now."""
        return Distribution(
            bounds=list(self._bounds), cumulative=list(accumulate(self._counts)), sum=self._sum
        )
