"""The server's figures as Prometheus reads them.

Owns the names, types and labels of all series, and the durations of this gateway's own requests.
The older names are kept. The number of series is bounded: queues beyond a number are left out and
counted. Whoever asks brings the figures; nothing is asked from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from flashq.gateway.http_overview import View
from flashq.protocol.histogram import Distribution
from flashq.protocol.objects import Metrics
from flashq.protocol.server import RestartReason, ShardStats, StatsReply, SupervisorStats
from flashq.protocol.webhooks import WebhookView

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
WEBHOOKS_MAX: Final = 100
"""Webhooks with series of their own: those that are still to be told the most."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)

_TOTALS: Final = (
    ("pushed", "Jobs pushed."),
    ("completed", "Jobs completed."),
    ("failed", "Jobs failed for good."),
    ("expired", "Jobs whose time to live ran out."),
    ("cancelled", "Jobs cancelled."),
    ("retried", "Failed attempts that were followed by another."),
    ("timed_out", "Attempts that took longer than the job's timeout."),
    ("stalled", "Attempts that fell silent."),
    ("lost", "Deliveries whose worker went away."),
    ("evicted", "Ended jobs that went to make room for later ones."),
)


class GatewayFigures(NamedTuple):
    """What this gateway knows of itself and nobody else."""

    listeners: int
    websockets: int
    outstanding: int


class Durations:
    """How long this gateway's requests took, by command; and how often it was busy."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self._seconds: Final = Histogram(
            "flashq_http_request_seconds",
            "From an HTTP request's arrival to its answer. Pulls and waits have their waiting in "
            "it.",
            ["command", "outcome"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        #: by command and outcome; made once, because looking them up takes longer than counting
        self._known: dict[tuple[str, str], Histogram] = {}

    def observe(self, command: str, outcome: str, seconds: float) -> None:
        """Count one request.

        Args:
            command: its word, or another name out of few.
            outcome: `ok`, or the code of its error.
            seconds: its duration.
        """
        known = self._known.get((command, outcome))
        if known is None:
            known = self._known[command, outcome] = self._seconds.labels(command, outcome)
        known.observe(seconds)


def render(
    durations: Durations,
    view: View,
    figures: GatewayFigures,
    webhooks: Sequence[WebhookView] | None = None,
) -> bytes:
    """Return the page.

    Args:
        durations: of this gateway's requests.
        view: the server.
        figures: this gateway.
        webhooks: all of them; None when they are not known.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(view, figures, webhooks))
    return generate_latest(registry) + generate_latest(durations.registry)


class _Figures(Collector):
    """One moment's figures; `collect` is called once."""

    def __init__(
        self, view: View, figures: GatewayFigures, webhooks: Sequence[WebhookView] | None
    ) -> None:
        self._view: Final = view
        self._webhooks: Final = webhooks
        self._gateway: Final = figures

    def collect(self) -> Iterator[Metric]:
        """Yield all series."""
        view = self._view
        if view.unknown_shards:
            # Totals without a part of them would go back, and then jump by jobs that never were.
            yield from _lately(view.metrics)
        else:
            yield from _totals(view.metrics)
            yield from _lately(view.metrics)
            yield from _durations(view.stats)
        yield from _states(view)
        yield from _queues(view)
        yield from _shards(view.stats.shards)
        yield _up(view)
        yield from _storage(view.stats)
        missing = _gauge("flashq_shards_missing", "Shards that did not answer in time.")
        missing.add_metric((), len(view.stats.missing_shards))
        yield missing
        if view.stats.supervisor is not None:
            yield from _programs(view.stats.supervisor)
        if self._webhooks is not None:
            yield from _webhook_figures(self._webhooks)
        yield from self._own()

    def _own(self) -> Iterator[Metric]:
        figures = self._gateway
        for name, text, value in (
            ("flashq_workers_active", "Workers heard of lately.", len(self._view.workers)),
            ("flashq_event_readers", "Readers of events at this gateway.", figures.listeners),
            ("flashq_websockets", "WebSocket connections of this gateway.", figures.websockets),
            (
                "flashq_gateway_outstanding",
                "Requests of this gateway without an answer yet.",
                figures.outstanding,
            ),
        ):
            family = _gauge(name, text)
            family.add_metric((), value)
            yield family


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _totals(metrics: Metrics) -> Iterator[Metric]:
    for name, text in _TOTALS:
        family = CounterMetricFamily(f"flashq_jobs_{name}", text)
        family.add_metric((), getattr(metrics, f"total_{name}"))
        yield family


def _lately(metrics: Metrics) -> Iterator[Metric]:
    throughput = _gauge("flashq_throughput_per_second", "Jobs completed a second, lately.")
    throughput.add_metric((), round(metrics.jobs_per_second, 2))
    yield throughput
    latency = _gauge("flashq_latency_ms", "Average time from a job's delivery to its end.")
    latency.add_metric((), round(metrics.avg_latency_ms, 2))
    yield latency


def _states(view: View) -> Iterator[Metric]:
    stats = view.stats
    family = _gauge("flashq_jobs_current", "Jobs by state.", "state")
    for state, value in (
        ("queued", stats.queued),
        ("processing", stats.processing),
        ("delayed", stats.delayed),
        ("dlq", stats.dlq),
        ("completed", stats.completed),
        ("cancelled", stats.cancelled),
        ("waiting_dependencies", stats.waiting_dependencies),
    ):
        family.add_metric((state,), value)
    yield family


def _queues(view: View) -> Iterator[Metric]:
    jobs = _gauge("flashq_queue_jobs", "Jobs by queue and state.", "queue", "state")
    paused = _gauge("flashq_queue_paused", "Whether a queue is paused.", "queue")
    for queue in view.queues:
        jobs.add_metric((queue.name, "pending"), queue.pending)
        jobs.add_metric((queue.name, "processing"), queue.processing)
        jobs.add_metric((queue.name, "dlq"), queue.dlq)
        paused.add_metric((queue.name,), int(queue.paused))
    yield jobs
    yield paused
    known = _gauge("flashq_queues", "Queues, also those without series of their own.")
    known.add_metric((), view.queues_total)
    yield known


_DURATIONS: Final = (
    (
        "wait_seconds",
        "flashq_queue_wait_seconds",
        "From when a job was due to its delivery; each delivery counts.",
    ),
    (
        "processing_seconds",
        "flashq_processing_seconds",
        "From a job's delivery to the worker's word that the attempt has ended.",
    ),
)


def _durations(stats: StatsReply) -> Iterator[Metric]:
    """Yield histograms of the whole server: labels for queues would be without bound."""
    for field, name, text in _DURATIONS:
        counted = getattr(stats, field)
        if counted is not None:
            yield _histogram(name, text, counted)


def _histogram(name: str, text: str, counted: Distribution) -> HistogramMetricFamily:
    bounds = [*map(str, counted.bounds), "+Inf"]
    buckets = list(zip(bounds, counted.cumulative, strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=counted.sum)


_SHARD_GAUGES: Final = (
    ("jobs", "flashq_shard_jobs", "Unfinished and kept jobs in a shard."),
    ("bytes", "flashq_shard_bytes", "What a shard's jobs take, estimated."),
    ("sessions", "flashq_shard_sessions", "Client sessions that a shard knows."),
    ("waiters", "flashq_shard_waiters", "Pulls and waits parked in a shard."),
    ("unsafe_bytes", "flashq_shard_unsafe_bytes", "Records that storage has not confirmed yet."),
    ("mailbox_out", "flashq_shard_mailbox", "Messages to other shards without acknowledgement."),
    ("epoch", "flashq_shard_epoch", "A shard's epoch; it rises with each start."),
)


def _shards(shards: list[ShardStats]) -> Iterator[Metric]:
    for field, name, text in _SHARD_GAUGES:
        family = _gauge(name, text, "shard")
        for shard in shards:
            family.add_metric((str(shard.shard),), getattr(shard, field))
        yield family
    lag = _gauge("flashq_shard_unsafe_records", "Records ahead of storage.", "shard")
    for shard in shards:
        lag.add_metric((str(shard.shard),), max(0, shard.log_seq - shard.safe_seq))
    yield lag


def _up(view: View) -> Metric:
    """Return which shards have answered, and so whose counts are as they were heard last."""
    family = _gauge(
        "flashq_shard_up",
        "Whether a shard answers; of one that does not, totals are as they were heard last.",
        "shard",
    )
    silent = {*view.stats.missing_shards, *view.silent_shards}
    known = {shard.shard for shard in view.stats.shards} | silent
    for shard in sorted(known):
        family.add_metric((str(shard),), int(shard not in silent))
    return family


_STORAGE_GAUGES: Final = (
    ("log_bytes", "flashq_storage_log_bytes", "Log that no checkpoint has replaced yet."),
    ("log_bytes_max", "flashq_storage_log_bytes_max", "Log from which on changes are refused."),
    ("ahead_bytes", "flashq_storage_ahead_bytes", "Size of the write-ahead log of SQLite."),
)
_STORAGE_COUNTERS: Final = (
    ("committed_bytes", "flashq_storage_committed_bytes", "Log that was stored."),
    (
        "losses",
        "flashq_storage_losses",
        "Times that storage came back without something that it had acknowledged.",
    ),
)


def _storage(stats: StatsReply) -> Iterator[Metric]:
    works = _gauge("flashq_storage_up", "Whether storage works; changes wait while it does not.")
    works.add_metric((), int(not stats.storage))
    yield works
    told = stats.coordinator
    if told is None:
        return
    for field, name, text in _STORAGE_GAUGES:
        gauge = _gauge(name, text)
        gauge.add_metric((), getattr(told, field))
        yield gauge
    lag = _gauge("flashq_storage_lag_seconds", "Age of the oldest change that is not stored yet.")
    lag.add_metric((), told.lag_ms / 1000)
    yield lag
    for field, name, text in _STORAGE_COUNTERS:
        counter = CounterMetricFamily(name, text)
        counter.add_metric((), getattr(told, field))
        yield counter
    yield _histogram(
        "flashq_storage_commit_seconds", "How long storage took for a commit.", told.commit_seconds
    )
    off = _gauge(
        "flashq_clock_off_seconds",
        "How far the wall clock is ahead of what is believed; not 0 while a jump has to last.",
    )
    off.add_metric((), told.clock_off_ms / 1000)
    yield off
    jumps = CounterMetricFamily(
        "flashq_clock_jumps", "Jumps of the wall clock that have lasted, and been believed."
    )
    jumps.add_metric((), told.clock_jumps)
    yield jumps


def _programs(supervisor: SupervisorStats) -> Iterator[Metric]:
    """Yield what a supervisor knows. Counters begin at 0, so that the first restart is a rise."""
    restarts = CounterMetricFamily(
        "flashq_restarts",
        "Times that a program was started again since the server started.",
        labels=("program", "reason"),
    )
    started = _gauge(
        "flashq_program_start_time_seconds", "When a program was started, in Unix time.", "program"
    )
    for program in supervisor.programs:
        for reason in get_args(RestartReason):
            restarts.add_metric((program.program, reason), program.restarts.get(reason, 0))
        started.add_metric((program.program,), program.started_at / 1000)
    yield restarts
    yield started
    silent = _gauge(
        "flashq_supervisor_silent_seconds", "For how long the supervisor's loop has not turned."
    )
    silent.add_metric((), supervisor.silent_ms / 1000)
    yield silent
    works = _gauge(
        "flashq_supervisor_up",
        "Whether the supervisor's loop turns; nobody starts programs again while it does not.",
    )
    works.add_metric((), int(not supervisor.hangs))
    yield works


_WEBHOOK_GAUGES: Final = (
    ("pending", "flashq_webhook_pending", "Deliveries that a webhook is still to be told."),
    ("dead", "flashq_webhook_dead", "Deliveries that a webhook could not be told."),
)
_WEBHOOK_COUNTERS: Final = (
    ("delivered", "flashq_webhook_delivered", "Deliveries that a webhook was told."),
    ("failed", "flashq_webhook_failed", "Attempts to tell a webhook that failed."),
    ("retried", "flashq_webhook_retried", "Failed attempts that were followed by another."),
    ("evicted", "flashq_webhook_evicted", "Deliveries that a full queue moved to the dead ones."),
    ("dropped", "flashq_webhook_dropped", "Dead deliveries forgotten to make room."),
)


def _webhook_figures(webhooks: Sequence[WebhookView]) -> Iterator[Metric]:
    known = _gauge("flashq_webhooks", "Webhooks, also those without series of their own.")
    known.add_metric((), len(webhooks))
    yield known
    shown = sorted(webhooks, key=lambda one: -one.pending)[:WEBHOOKS_MAX]
    for field, name, text in _WEBHOOK_GAUGES:
        gauge = _gauge(name, text, "webhook")
        for webhook in shown:
            gauge.add_metric((webhook.id,), getattr(webhook, field))
        yield gauge
    for field, name, text in _WEBHOOK_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=("webhook",))
        for webhook in shown:
            counter.add_metric((webhook.id,), getattr(webhook, field))
        yield counter
