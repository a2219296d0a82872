"""What is concluded from what shards say of storage, and what dashboards are told."""

from __future__ import annotations

import json

from flashq.gateway.http_overview import STUCK_S, StorageWatch, View, dashboard_frame
from flashq.protocol.objects import Metrics
from flashq.protocol.server import ShardStats, StatsReply


def stats(*places: tuple[int, int]) -> StatsReply:
    """Return what shards say whose logs are at these places and safe up to those."""
    shards = [
        ShardStats(
            shard=shard, epoch=1, jobs=0, bytes=0, sessions=0, waiters=0, unsafe_bytes=0,
            log_seq=log, safe_seq=safe, mailbox_out=0,
        )
        for shard, (log, safe) in enumerate(places)
    ]  # fmt: skip
    return StatsReply(ok=True, queued=1, processing=2, delayed=3, dlq=4, shards=shards)


def test_a_log_that_gets_safe_is_no_problem() -> None:
    """However far ahead it is, as long as it moves."""
    watch = StorageWatch()
    for second in range(20):
        watch.note(stats((100 + second, second), (5, 5)), float(second))
    assert watch.problems == []


def test_a_log_that_stays_unsafe_is_one() -> None:
    """From a while on; and it is none any more when it has moved."""
    watch = StorageWatch()
    watch.note(stats((10, 3)), 0.0)
    watch.note(stats((20, 3)), STUCK_S - 1)
    assert watch.problems == []
    watch.note(stats((20, 3)), STUCK_S)
    assert watch.problems == [f"storage has confirmed nothing for {STUCK_S:.0f} s"]
    watch.note(stats((20, 4)), STUCK_S + 1)
    assert watch.problems == []


def test_a_shard_that_says_nothing_is_not_storages_fault() -> None:
    """It is named as the one that does not answer."""
    watch = StorageWatch()
    watch.note(stats((10, 3)), 0.0)
    watch.note(stats(), 2 * STUCK_S)
    assert watch.problems == []


def test_a_dashboard_reads_what_older_ones_do() -> None:
    """The keys of the older feed, and which shards are missing."""
    metrics = Metrics(
        total_pushed=1, total_completed=0, total_failed=0, total_expired=0, total_cancelled=0,
        total_retried=0, total_timed_out=0, total_stalled=0, total_lost=0, total_evicted=0,
        jobs_per_second=0.0, avg_latency_ms=0.0, queues=[],
    )  # fmt: skip
    view = View(stats=stats(), metrics=metrics, queues=[], queues_total=7, workers=[], timestamp=5)
    told = json.loads(dashboard_frame(view, []))
    assert told["stats"]["queued"] == 1
    assert told["missing_shards"] == []
    assert told["queues_total"] == 7
    assert {"metrics", "queues", "workers", "metrics_history", "timestamp"} <= told.keys()
