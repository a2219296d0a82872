"""The history of metrics: one point for each interval, from what shards answer."""

from __future__ import annotations

from typing import Any

from flashq.coordinator.history import ANSWER_MS, FIRST_MS, INTERVAL_MS, POINTS_MAX, STORED_EVERY
from flashq.protocol.internal import Sampled, ShardHello, TakeSample
from flashq.protocol.objects import MetricsPoint
from flashq.protocol.server import MetricsHistoryReply
from tests.unit.coordinator.bench import HASH, Bench


def points(bench: Bench) -> list[MetricsPoint]:
    """What whoever asks is told."""
    return list(bench.ask(MetricsHistoryReply, cmd="METRICSHISTORY").points)


def question(bench: Bench, shard: int) -> TakeSample | None:
    """What a shard was asked last."""
    asked = [one for one in bench.said_to(b"shard-%d" % shard) if isinstance(one, TakeSample)]
    return asked[-1] if asked else None


def sample(shard: int, at: int, completed: int, **more: int) -> Sampled:
    """A shard's answer."""
    figures: dict[str, Any] = {"queued": 0, "processing": 0, "failed": 0, "latency_ms_sum": 0}
    return Sampled(shard=shard, at=at, completed=completed, **{**figures, **more})


def interval(bench: Bench, completed: int = 0) -> None:
    """Let an interval pass in which shard 1 answers."""
    bench.sent.clear()
    bench.pass_time(INTERVAL_MS)
    asked = question(bench, 1)
    assert asked is not None
    bench.say(b"shard-1", sample(1, asked.at, completed))


def started(*shards: int) -> Bench:
    """A coordinator whose shards have been asked once, and have not answered."""
    bench = Bench()
    for shard in shards:
        bench.start_shard(shard)
    bench.pass_time(FIRST_MS)
    return bench


def test_a_point_is_the_sum_of_what_shards_answer() -> None:
    """It is there when the last one has answered, and tells of when it was asked."""
    bench = started(0, 1)
    at = bench.now_ms
    assert question(bench, 0) == question(bench, 1) == TakeSample(at=at)
    bench.say(b"shard-0", sample(0, at, 10, queued=5, latency_ms_sum=100))
    assert points(bench) == []
    bench.say(b"shard-1", sample(1, at, 30, processing=2, failed=3, latency_ms_sum=300))
    assert points(bench) == [
        MetricsPoint(
            timestamp=at, queued=5, processing=2, completed=40, failed=3, throughput=0.0,
            latency_ms=10.0,
        )
    ]  # fmt: skip


def test_throughput_is_what_was_completed_since_the_point_before() -> None:
    """Per second; and none when a shard has lost its totals, not less than none."""
    bench = started(1)
    for completed in (100, 350, 10):
        interval(bench, completed)
    assert [point.throughput for point in points(bench)] == [
        0.0, 100 * 1000 / INTERVAL_MS, 250 * 1000 / INTERVAL_MS, 0.0
    ]  # fmt: skip


def test_a_shard_that_is_silent_counts_with_what_it_said_last() -> None:
    """Else the totals would fall, and rise again, whenever a shard is started anew."""
    bench = started(0, 1)
    for shard in (0, 1):
        bench.say(b"shard-%d" % shard, sample(shard, bench.now_ms, 10))
    bench.sent.clear()
    bench.pass_time(INTERVAL_MS)
    asked = question(bench, 1)
    assert asked is not None
    bench.say(b"shard-1", sample(1, asked.at, 15))
    assert len(points(bench)) == 1
    bench.pass_time(ANSWER_MS)
    assert [point.completed for point in points(bench)] == [20, 25]


def test_an_answer_that_comes_too_late_makes_no_point_of_its_own() -> None:
    """Nor does that of a process that is not the shard any more."""
    bench = started(1)
    asked = bench.now_ms
    bench.pass_time(ANSWER_MS)
    bench.say(b"shard-1", sample(1, asked, 7))
    bench.say(b"S-new", ShardHello(shard=1, config_hash=HASH))
    bench.say(b"shard-1", sample(1, asked, 9))
    bench.say(b"nobody", sample(99, asked, 9))
    assert [point.completed for point in points(bench)] == [0]


def test_the_history_is_bounded() -> None:
    """Five minutes."""
    bench = started(1)
    for completed in range(POINTS_MAX + 5):
        interval(bench, completed)
    assert [point.completed for point in points(bench)] == list(range(5, POINTS_MAX + 5))


def test_the_history_outlives_the_coordinator() -> None:
    """It is stored once a minute, if there is something new in it: an idle server writes nothing.
    Whoever asks does not wait for that."""
    bench = started(1)
    for completed in range(STORED_EVERY - 1):  # the first point has no answer in it
        assert "history" not in bench.storage.open(4).parts
        interval(bench, completed)
    bench.pass_time(1)
    before = points(bench)
    bench.restart(lose=False)
    assert points(bench) == before

    stored = bench.storage.open(4).parts["history"]
    bench.start_shard(1)
    bench.pass_time(FIRST_MS)
    for _ in range(2 * STORED_EVERY):
        interval(bench, STORED_EVERY - 2)
    assert bench.storage.open(4).parts["history"] == stored


def test_an_end_stores_what_there_is() -> None:
    """A restart for a new version leaves no hole but its own."""
    bench = started(1)
    interval(bench, 5)
    bench.coordinator.drain(bench.mono_ms)
    bench.turn()
    before = points(bench)
    bench.restart(lose=False)
    assert points(bench) == before


def test_nothing_is_stored_while_storage_is_away() -> None:
    """It would be one more thing that waits."""
    bench = started(1)
    bench.coordinator.set_trouble("disk full")
    for completed in range(2 * STORED_EVERY):
        interval(bench, completed)
    assert "history" not in bench.storage.open(4).parts
    bench.coordinator.set_trouble("")
    bench.pass_time(1)
    assert "history" in bench.storage.open(4).parts
