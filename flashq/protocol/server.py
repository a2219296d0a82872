"""Commands about the server as a whole."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from flashq.protocol.base import Reply, Request
from flashq.protocol.command import Scope, reading
from flashq.protocol.objects import Metrics


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


class StatsReply(Reply, kw_only=True, omit_defaults=True):
    """`storage` says what is wrong with storage, so that changes wait; absent when nothing is."""

    ok: bool
    queued: int
    processing: int
    delayed: int
    dlq: int
    completed: int = 0
    waiting_dependencies: int = 0
    shards: list[ShardStats] = []
    missing_shards: list[int] = []
    storage: str = ""


class ListWorkers(Request, kw_only=True, tag="LISTWORKERS"):
    pass


class WorkerInfo(Struct, kw_only=True, omit_defaults=True):
    """A worker that was heard of in the last 30 s: one that has registered itself, or a session
    that takes jobs.

    Args:
        id: what it calls itself, else a name made of its session, which is not told.
        queues: those that it says it works on, or takes jobs from.
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
    ok: bool
    workers: list[WorkerInfo]
    missing_shards: list[int] = []


class GetMetrics(Request, kw_only=True, tag="METRICS"):
    pass


class MetricsReply(Reply, kw_only=True, omit_defaults=True):
    ok: bool
    metrics: Metrics
    missing_shards: list[int] = []


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
)
