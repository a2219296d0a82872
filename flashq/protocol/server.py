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
)
