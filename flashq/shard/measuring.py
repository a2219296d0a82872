"""How long jobs wait and how long they are worked on, counted for everybody who looks.

Owns the two histograms of a shard. They are volatile: a restart begins them anew, as Prometheus
expects of counters. A batch is counted at once where all its jobs have the same times, which is
what batches are like; a single job costs as much as a batch.
"""

from __future__ import annotations

from typing import Final

from flashq.protocol.histogram import Histogram
from flashq.shard.lifecycle import Job

BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600),
)
"""Of buckets, from a worker that waits for the job to a queue that nobody looks after."""


class Measures:
    """What has been counted since this process began."""

    def __init__(self) -> None:
        #: from when a job was due (at its push, without a delay) to its delivery; each delivery
        #: counts
        self.queue_wait: Final = Histogram(BOUNDS_S)
        #: from the delivery to the worker's word that the attempt has ended
        self.processing: Final = Histogram(BOUNDS_S)

    def delivered(self, jobs: list[Job], now_ms: int) -> None:
        """Count jobs that have just been handed out together."""
        _add(self.queue_wait, [job.run_at for job in jobs], now_ms)

    def ended(self, jobs: list[Job], now_ms: int) -> None:
        """Count attempts that have just ended together."""
        _add(self.processing, [job.started_at for job in jobs], now_ms)


def _add(histogram: Histogram, since_ms: list[int], now_ms: int) -> None:
    """Count times from then to now; those of a batch are mostly the same."""
    first = since_ms[0]
    if since_ms.count(first) == len(since_ms):
        histogram.add_many((now_ms - first) / 1000, len(since_ms))
    else:
        histogram.add_all([(now_ms - at) / 1000 for at in since_ms])
