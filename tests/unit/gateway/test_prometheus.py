"""The page that Prometheus reads."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from flashq.gateway import prometheus
from flashq.gateway.http_overview import View
from flashq.gateway.prometheus import Durations, GatewayFigures, render
from flashq.protocol.histogram import Distribution
from flashq.protocol.objects import Metrics, QueueInfo
from flashq.protocol.server import (
    CoordinatorStats,
    ProgramStats,
    ShardStats,
    StatsReply,
    SupervisorStats,
    WorkerInfo,
)
from flashq.protocol.webhooks import WebhookView

NOBODY = GatewayFigures(listeners=2, websockets=1, outstanding=0)


def queue(name: str, pending: int = 0) -> QueueInfo:
    """Return a queue with so many jobs."""
    return QueueInfo(
        name=name, pending=pending, processing=0, dlq=0, paused=False,
        rate_limit=None, concurrency_limit=None,
    )  # fmt: skip


def view(*queues: QueueInfo) -> View:
    """Return a server with these queues and one shard."""
    shard = ShardStats(
        shard=0, epoch=7, jobs=5, bytes=100, sessions=2, waiters=1, unsafe_bytes=9,
        log_seq=20, safe_seq=15, mailbox_out=0,
    )  # fmt: skip
    stats = StatsReply(
        ok=True, queued=5, processing=1, delayed=2, dlq=4, shards=[shard], missing_shards=[1]
    )
    metrics = Metrics(
        total_pushed=10, total_completed=6, total_failed=4, total_expired=0, total_cancelled=0,
        total_retried=0, total_timed_out=0, total_stalled=0, total_lost=0, total_evicted=0,
        jobs_per_second=1.234, avg_latency_ms=5.678, queues=[],
    )  # fmt: skip
    workers = [
        WorkerInfo(id=name, queues=[], concurrency=1, last_heartbeat=1, jobs_processed=0)
        for name in "abc"
    ]
    return View(
        stats=stats,
        metrics=metrics,
        queues=list(queues),
        queues_total=len(queues),
        workers=workers,
        timestamp=5,
    )


def values(page: bytes) -> dict[tuple[str, ...], float]:
    """Return each sample of a page by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_older_series_are_there_and_declared() -> None:
    """Totals as counters, which older servers forgot to declare."""
    page = render(Durations(), view(queue("q", 5)), NOBODY)
    found = values(page)
    assert found["flashq_jobs_pushed_total",] == 10
    assert found["flashq_jobs_current", "dlq"] == 4
    assert found["flashq_throughput_per_second",] == 1.23
    assert found["flashq_latency_ms",] == 5.68
    assert found["flashq_queue_jobs", "q", "pending"] == 5
    assert found["flashq_workers_active",] == 3
    assert found["flashq_shard_unsafe_records", "0"] == 5
    assert found["flashq_shards_missing",] == 1
    assert b"# TYPE flashq_jobs_pushed_total counter" in page
    assert b"# HELP flashq_jobs_pushed_total" in page


def test_a_silent_shard_is_said_to_be_one() -> None:
    """Its part of the totals is what it said last."""
    page = render(Durations(), replace(view(), silent_shards=[2]), NOBODY)
    found = values(page)
    assert [found["flashq_shard_up", str(shard)] for shard in range(3)] == [1, 0, 0]
    assert found["flashq_jobs_pushed_total",] == 10


def test_totals_that_lack_a_shard_are_not_told() -> None:
    """A gap is better than a number that goes back, as behind a router that is new."""
    seconds = Distribution(bounds=[0.5], cumulative=[2, 6], sum=19.0)
    stats = replace(view().stats, wait_seconds=seconds)
    page = render(Durations(), replace(view(), stats=stats, unknown_shards=[1]), NOBODY)
    found = values(page)
    assert not [key for key in found if key[0].endswith(("_total", "_bucket"))]
    assert found["flashq_throughput_per_second",] == 1.23
    assert found["flashq_shard_up", "1"] == 0


def test_waits_and_attempts_are_histograms_of_the_whole_server() -> None:
    """Without labels."""
    found = view()
    seconds = Distribution(bounds=[0.5, 2.0], cumulative=[2, 6, 8], sum=19.0)
    stats = replace(found.stats, wait_seconds=seconds, processing_seconds=seconds)
    page = render(Durations(), replace(found, stats=stats), NOBODY)
    for name in ("flashq_queue_wait_seconds", "flashq_processing_seconds"):
        assert f"# TYPE {name} histogram" in page.decode()
        counts = {key[1:]: value for key, value in values(page).items() if key[0].startswith(name)}
        assert counts == {("0.5",): 2, ("2.0",): 6, ("+Inf",): 8, (): 19.0}


def webhook(number: int, pending: int = 0) -> WebhookView:
    """Return a webhook with so much to be told."""
    return WebhookView(
        id=f"wh_{number}", url="https://example.com/secret", events=["*"], queue=None, secret=None,
        created_at=1, signed=False, pending=pending, dead=2, evicted=3, dropped=4, delivered=5,
        failed=6, retried=7, last_error="no",
    )  # fmt: skip


def test_webhooks_are_told_by_their_ids() -> None:
    """Not by their addresses, which may have secrets in them."""
    page = render(Durations(), view(), NOBODY, [webhook(1, 9)])
    found = values(page)
    names = ("pending", "dead", "evicted_total", "dropped_total", "delivered_total", "failed_total",
             "retried_total")  # fmt: skip
    assert [found[f"flashq_webhook_{name}", "wh_1"] for name in names] == [9, 2, 3, 4, 5, 6, 7]
    assert b"secret" not in page
    assert not [key for key in values(render(Durations(), view(), NOBODY)) if "webhook" in key[0]]


def test_the_number_of_webhooks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the most to be told are shown, and all are counted."""
    monkeypatch.setattr(prometheus, "WEBHOOKS_MAX", 2)
    page = render(Durations(), view(), NOBODY, [webhook(n, n) for n in range(5)])
    found = values(page)
    assert {key[1] for key in found if key[0] == "flashq_webhook_pending"} == {"wh_4", "wh_3"}
    assert found["flashq_webhooks",] == 5


def test_names_are_escaped() -> None:
    """A queue's name is a label's value and nothing else."""
    name = 'a"} 1\nflashq_fake{x="\\'
    found = values(render(Durations(), view(queue(name, 1)), NOBODY))
    assert found["flashq_queue_jobs", name, "pending"] == 1
    assert not [key for key in found if key[0] == "flashq_fake"]


def test_queues_without_series_of_their_own_are_counted() -> None:
    """Whoever gathers the figures asks for the fullest only."""
    found = values(render(Durations(), replace(view(queue("q", 4)), queues_total=5), NOBODY))
    assert {key[1] for key in found if key[0] == "flashq_queue_jobs"} == {"q"}
    assert found["flashq_queues",] == 5


def test_requests_are_counted_by_command_and_outcome() -> None:
    """With their durations."""
    durations = Durations()
    durations.observe("PUSH", "ok", 0.004)
    durations.observe("PUSH", "ok", 0.3)
    durations.observe("PUSH", "busy", 0.001)
    found = values(render(durations, view(), NOBODY))
    assert found["flashq_http_request_seconds_count", "PUSH", "ok"] == 2
    assert found["flashq_http_request_seconds_count", "PUSH", "busy"] == 1
    assert found["flashq_http_request_seconds_sum", "PUSH", "ok"] == pytest.approx(0.304)


def test_storage_has_series_of_its_own() -> None:
    """How quick it is, how far behind, and how much log there is."""
    shown = view()
    coordinator = CoordinatorStats(
        lag_ms=250, log_bytes=100, log_bytes_max=1000, committed_bytes=5000, losses=1,
        commit_seconds=Distribution(bounds=[0.005, 0.02], cumulative=[1, 2, 3], sum=0.5),
        clock_off_ms=-1500, clock_jumps=2, ahead_bytes=77,
    )  # fmt: skip
    shown.stats.coordinator = coordinator
    found = values(render(Durations(), shown, NOBODY))
    assert found["flashq_storage_up",] == 1
    assert found["flashq_storage_lag_seconds",] == 0.25
    assert found["flashq_storage_log_bytes",] == 100
    assert found["flashq_storage_log_bytes_max",] == 1000
    assert found["flashq_storage_ahead_bytes",] == 77
    assert found["flashq_storage_committed_bytes_total",] == 5000
    assert found["flashq_storage_losses_total",] == 1
    assert found["flashq_storage_commit_seconds_bucket", "0.02"] == 2
    assert found["flashq_storage_commit_seconds_bucket", "+Inf"] == 3
    assert found["flashq_storage_commit_seconds_count",] == 3
    assert found["flashq_storage_commit_seconds_sum",] == 0.5
    assert found["flashq_clock_off_seconds",] == -1.5
    assert found["flashq_clock_jumps_total",] == 2
    shown.stats.storage = "storage unavailable: disk full"
    assert values(render(Durations(), shown, NOBODY))["flashq_storage_up",] == 0


def test_restarts_are_counted_for_each_program_and_reason() -> None:
    """From 0 on, so that a rate sees the first; without a supervisor nobody counts here."""
    shown = view()
    assert b"flashq_restarts" not in render(Durations(), shown, NOBODY)
    shown.stats.supervisor = SupervisorStats(
        pid=1, started_at=1_000, silent_ms=1500, watchdog_ms=4000,
        programs=[
            ProgramStats(program="flashq-shard 0", started_at=7_500, restarts={"hang": 2}),
            ProgramStats(program="flashq-router", started_at=2_000),
        ],
    )  # fmt: skip
    page = render(Durations(), shown, NOBODY)
    found = values(page)
    assert b"# TYPE flashq_restarts_total counter" in page
    assert found["flashq_restarts_total", "flashq-shard 0", "hang"] == 2
    for reason in ("exit", "signal", "hang", "fork"):
        assert found["flashq_restarts_total", "flashq-router", reason] == 0
    assert found["flashq_program_start_time_seconds", "flashq-shard 0"] == 7.5
    assert found["flashq_supervisor_silent_seconds",] == 1.5
    assert found["flashq_supervisor_up",] == 1
    shown.stats.supervisor.silent_ms = 4001
    assert values(render(Durations(), shown, NOBODY))["flashq_supervisor_up",] == 0
