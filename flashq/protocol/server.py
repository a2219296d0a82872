"""Commands about the server as a whole."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from flashq.protocol.base import Reply, Request, Text
from flashq.protocol.command import Scope, reading
from flashq.protocol.histogram import Distribution
from flashq.protocol.objects import Metrics, MetricsPoint
from flashq.protocol.paging import Limit


class Stats(Request, kw_only=True, tag="STATS"):
    pass


class ShardStats(Struct, kw_only=True, omit_defaults=True):
    """`unsafe_bytes` is what the log has taken on but storage has not confirmed yet; `bytes` is an
    estimate of what the jobs take."""

    shard: int
    epoch: int
    jobs: int
    bytes: int
    sessions: int
    waiters: int
    unsafe_bytes: int
    log_seq: int
    safe_seq: int
    mailbox_out: int


class CoordinatorStats(Struct, kw_only=True, omit_defaults=True):
    """How storage does, as the coordinator has measured it since its process began.

    Args:
        lag_ms: for how long the oldest change has waited that is not stored yet.
        log_bytes: size of the log of all shards that no checkpoint has replaced yet.
        log_bytes_max: from this size on changes are refused until one has.
        committed_bytes: size of the log that was stored.
        losses: how often storage came back without something that it had acknowledged.
        commit_seconds: how long storage took for each commit.
        clock_off_ms: how far the machine's wall clock is ahead of what is believed (less than 0 for
            behind): it has jumped, and that has not lasted yet.
        clock_jumps: how many jumps have lasted, and been believed.
        trouble: what was wrong with storage last, also if that is over.
        trouble_at: when it was said last, in Unix milliseconds; 0 for never.
        ahead_bytes: how much storage has written ahead of its file.
    """

    lag_ms: int
    log_bytes: int
    log_bytes_max: int
    committed_bytes: int
    losses: int
    commit_seconds: Distribution
    clock_off_ms: int = 0
    clock_jumps: int = 0
    trouble: str = ""
    trouble_at: int = 0
    ahead_bytes: int = 0


RestartReason = Literal["exit", "signal", "hang", "fork"]
"""Why a program was started again: it ended by itself, a signal ended it, its loop did not turn any
more, or the machine had no process for it."""


class Restart(Struct, kw_only=True, omit_defaults=True):
    """How a program was started again.

    Args:
        at: Unix milliseconds.
        reason: `exit`, `signal`, `hang`, or `fork` when the machine had no process for it.
        detail: as in `status 1`, `SIGKILL` or `EAGAIN`; absent for a hang.
    """

    at: int
    reason: RestartReason
    detail: str | None = None


class ProgramStats(Struct, kw_only=True, omit_defaults=True):
    """How a program fares, as its supervisor knows.

    Args:
        program: its process title, as in `flashq-shard 3`.
        started_at: when its process was started, in Unix milliseconds.
        restarts: how often it was started again since the server started, by reason.
        last_restart: absent when it never was.
    """

    program: str
    started_at: int
    restarts: dict[RestartReason, int] = {}
    last_restart: Restart | None = None


class SupervisorStats(Struct, kw_only=True, omit_defaults=True):
    """What the supervisor of a server knows of its programs, and they of it.

    Args:
        pid: the supervisor's process id.
        started_at: when the server was started, in Unix milliseconds.
        silent_ms: how long its loop has not turned, which it does each quarter of `watchdog_ms`.
        watchdog_ms: from which silence on a loop hangs; 0 if nobody watches.
    """

    pid: int
    started_at: int
    silent_ms: int
    watchdog_ms: int
    programs: list[ProgramStats]

    @property
    def hangs(self) -> bool:
        """Whether the supervisor itself hangs, so that nobody starts programs again."""
        return 0 < self.watchdog_ms < self.silent_ms


class StatsReply(Reply, kw_only=True, omit_defaults=True):
    """`storage` says what is wrong with storage, so that changes wait; absent when nothing is.
    `coordinator` is at most 2 s old, and absent before the router has heard of it. `supervisor` is
    absent where each program was started by itself, as by systemd.

    `wait_seconds` are from when a job was due to each of its deliveries, `processing_seconds` from
    a delivery to its worker's ACK or FAIL; both since the shards' processes began, and, as far as
    the router has heard of them, those before.

    Of shards in `missing_shards`, which did not answer, counts are as the router heard them last;
    `unknown_shards` are those of them of which it has heard nothing yet."""

    ok: bool
    queued: int
    processing: int
    delayed: int
    dlq: int
    completed: int = 0
    cancelled: int = 0
    waiting_dependencies: int = 0
    shards: list[ShardStats] = []
    missing_shards: list[int] = []
    unknown_shards: list[int] = []
    storage: str = ""
    wait_seconds: Distribution | None = None
    processing_seconds: Distribution | None = None
    coordinator: CoordinatorStats | None = None
    supervisor: SupervisorStats | None = None


class ListWorkers(Request, kw_only=True, omit_defaults=True, tag="LISTWORKERS"):
    """Gives workers by id, at most `limit` (1,000) of those behind `after`."""

    limit: Limit | None = None
    after: Text | None = None


class WorkerInfo(Struct, kw_only=True, omit_defaults=True):
    """A worker that was heard of in the last 30 s: one that has registered itself, or a session
    that takes jobs.

    Args:
        id: what it calls itself, else a name made of its session, which is not told.
        queues: those that it says it works on, or takes jobs from; at most 100.
        concurrency: how many jobs it works on at a time, if it has said so; else 0.
        last_heartbeat: Unix milliseconds; anything that is heard of a session is a heartbeat.
        jobs_processed: what it says; of a session, the jobs that it took and holds no more.
        name: the program, if it has said so.
        jobs_held: deliveries that it has not ended.
        pulls_waiting: its pulls that wait for jobs.
    """

    id: str
    queues: list[str]
    concurrency: int
    last_heartbeat: int
    jobs_processed: int
    name: str | None = None
    jobs_held: int = 0
    pulls_waiting: int = 0


class WorkersReply(Reply, kw_only=True, omit_defaults=True):
    """The next page is behind `next`, which is absent with the last one."""

    ok: bool
    workers: list[WorkerInfo]
    next: str | None = None
    missing_shards: list[int] = []


class GetMetrics(Request, kw_only=True, omit_defaults=True, tag="METRICS"):
    """Gives totals, and the counts of those `queues` (1,000) that have most jobs."""

    queues: Limit | None = None


class MetricsReply(Reply, kw_only=True, omit_defaults=True):
    """Totals of `missing_shards` and `unknown_shards` are as in STATS."""

    ok: bool
    metrics: Metrics
    missing_shards: list[int] = []
    unknown_shards: list[int] = []


class GetMetricsHistory(Request, kw_only=True, tag="METRICSHISTORY"):
    pass


class MetricsHistoryReply(Reply, kw_only=True, omit_defaults=True):
    """One point for every 5 s of the last 5 minutes, oldest first."""

    ok: bool
    points: list[MetricsPoint]


COMMANDS: Final = (
    reading(
        Stats,
        StatsReply,
        Scope.ALL,
        "stats",
        "Counts all jobs by state, and gives each shard's condition.",
        ("GET", "/stats"),
    ),
    reading(
        GetMetrics,
        MetricsReply,
        Scope.ALL,
        "metrics",
        "Gives the totals and each queue's counts.",
        ("GET", "/metrics"),
    ),
    reading(
        ListWorkers,
        WorkersReply,
        Scope.ALL,
        "list_workers",
        "Lists all workers heard of in the last 30 s, whatever door they use.",
        ("GET", "/workers"),
    ),
    reading(
        GetMetricsHistory,
        MetricsHistoryReply,
        Scope.COORDINATOR,
        "metrics_history",
        "Gives a point for every 5 s of the last 5 minutes.",
    ),
)
