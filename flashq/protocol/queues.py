"""Commands about whole queues: limits, pause, removal, counts, and their dead letters."""

from __future__ import annotations

from typing import Final

from flashq.protocol.base import (
    U32,
    CountReply,
    Durability,
    Mutation,
    Name,
    Reply,
    Request,
    Text,
    Unsigned,
)
from flashq.protocol.command import Role, Scope, command, reading
from flashq.protocol.objects import JobView, QueueInfo
from flashq.protocol.paging import Limit


class Pause(Mutation, kw_only=True, tag="PAUSE"):
    queue: str


class Resume(Mutation, kw_only=True, tag="RESUME"):
    queue: str


class IsPaused(Request, kw_only=True, tag="ISPAUSED"):
    queue: str


class PausedReply(Reply, kw_only=True):
    paused: bool


class SetRateLimit(Mutation, kw_only=True, tag="RATELIMIT"):
    """At most `limit` deliveries a second, by a token bucket that starts full; 0 stops all.

    The same limit again changes nothing; another one keeps the tokens, as far as it has room.
    """

    queue: str
    limit: U32


class ClearRateLimit(Mutation, kw_only=True, tag="RATELIMITCLEAR"):
    queue: str


class SetConcurrency(Mutation, kw_only=True, tag="SETCONCURRENCY"):
    """At most `limit` jobs of the queue are active at a time; 0 stops the queue."""

    queue: str
    limit: U32


class ClearConcurrency(Mutation, kw_only=True, tag="CLEARCONCURRENCY"):
    queue: str


class QueueConfig(Mutation, kw_only=True, omit_defaults=True, tag="QUEUECONFIG"):
    """Sets the named defaults for the queue's later pushes, and gives all of them."""

    queue: str
    durability: Durability | None = None
    keep_completed_age: Unsigned | None = None
    keep_completed_count: Unsigned | None = None


class QueueConfigReply(Reply, kw_only=True):
    durability: str | None
    keep_completed_age: int
    keep_completed_count: int


class Drain(Mutation, kw_only=True, tag="DRAIN"):
    """Removes the queue's waiting and delayed jobs."""

    queue: str


class Obliterate(Mutation, kw_only=True, tag="OBLITERATE"):
    """Removes the queue: jobs in every state, keys, limits, pause, and the crons that target it."""

    queue: str


class Clean(Mutation, kw_only=True, omit_defaults=True, tag="CLEAN"):
    """Removes jobs in `state` (waiting, delayed, completed, failed, cancelled) made at least
    `grace` ms ago, oldest first, at most `limit`."""

    queue: str
    grace: Unsigned
    state: str
    limit: Unsigned | None = None


class Count(Request, kw_only=True, tag="COUNT"):
    queue: str


class GetJobCounts(Request, kw_only=True, tag="GETJOBCOUNTS"):
    queue: str


class JobCountsReply(Reply, kw_only=True, omit_defaults=True):
    """`known` false: no such queue is known, as nothing has a job or a setting in it."""

    ok: bool
    waiting: int
    active: int
    delayed: int
    completed: int
    failed: int
    waitingchildren: int
    waitingparent: int
    cancelled: int = 0
    known: bool = True


class ListQueues(Request, kw_only=True, omit_defaults=True, tag="LISTQUEUES"):
    """Gives queues by name, at most `limit` (1,000) of those behind `after`, and with `search` only
    those whose names have that text in them, in whatever case; or, with `fullest`, those with most
    jobs."""

    limit: Limit | None = None
    after: Text | None = None
    search: Name | None = None
    fullest: bool | None = None


class QueuesReply(Reply, kw_only=True, omit_defaults=True):
    """`total` counts all that match. The next page is behind `next`, which is absent with the last
    one, and with the fullest."""

    ok: bool
    queues: list[QueueInfo]
    total: int = 0
    next: str | None = None
    missing_shards: list[int] = []


class GetDlq(Request, kw_only=True, omit_defaults=True, tag="DLQ"):
    """The queue's dead letters, oldest failure first; `count` is 100 by default."""

    queue: str
    count: Unsigned | None = None


class DlqReply(Reply, kw_only=True):
    jobs: list[JobView]


class RetryDlq(Mutation, kw_only=True, omit_defaults=True, tag="RETRYDLQ"):
    queue: str
    id: Unsigned | None = None


class RetriedReply(Reply, kw_only=True):
    """`ids` has one element: how many were put back into the queue."""

    ids: list[int]


class PurgeDlq(Mutation, kw_only=True, tag="PURGEDLQ"):
    queue: str


COMMANDS: Final = (
    reading(
        GetJobCounts,
        JobCountsReply,
        Scope.QUEUE,
        "get_job_counts",
        "Counts a queue's jobs by state.",
        ("GET", "/queues/{queue}/counts"),
    ),
    reading(
        Count,
        CountReply,
        Scope.QUEUE,
        "count",
        "Counts a queue's waiting and delayed jobs.",
        ("GET", "/queues/{queue}/count"),
    ),
    command(
        Pause,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "pause",
        "Stops deliveries from a queue.",
        ("POST", "/queues/{queue}/pause"),
    ),
    command(
        Resume,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "resume",
        "Lets a paused queue deliver again.",
        ("POST", "/queues/{queue}/resume"),
    ),
    reading(
        IsPaused,
        PausedReply,
        Scope.QUEUE,
        "is_paused",
        "Tells whether a queue is paused.",
        ("GET", "/queues/{queue}/paused"),
    ),
    command(
        SetRateLimit,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "set_rate_limit",
        "Limits a queue's deliveries a second.",
        ("POST", "/queues/{queue}/rate-limit"),
    ),
    command(
        ClearRateLimit,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "clear_rate_limit",
        "Lifts a queue's rate limit.",
        ("DELETE", "/queues/{queue}/rate-limit"),
    ),
    command(
        SetConcurrency,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "set_concurrency",
        "Limits how many of a queue's jobs are active at a time.",
        ("POST", "/queues/{queue}/concurrency"),
    ),
    command(
        ClearConcurrency,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "clear_concurrency",
        "Lifts a queue's concurrency limit.",
        ("DELETE", "/queues/{queue}/concurrency"),
    ),
    command(
        QueueConfig,
        QueueConfigReply,
        Scope.QUEUE,
        Role.ADMIN,
        "queue_config",
        "Sets and gives a queue's defaults.",
        ("POST", "/queues/{queue}/config"),
    ),
    command(
        Drain,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "drain",
        "Removes a queue's waiting and delayed jobs.",
        ("POST", "/queues/{queue}/drain"),
    ),
    command(
        Obliterate,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "obliterate",
        "Removes a queue and everything in it.",
        ("DELETE", "/queues/{queue}"),
    ),
    command(
        Clean,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "clean",
        "Removes a queue's old jobs in one state.",
        ("POST", "/queues/{queue}/clean"),
    ),
    reading(
        ListQueues,
        QueuesReply,
        Scope.ALL,
        "list_queues",
        "Lists all queues.",
        ("GET", "/queues"),
    ),
    reading(
        GetDlq,
        DlqReply,
        Scope.QUEUE,
        "get_dlq",
        "Lists a queue's dead letters, oldest failure first.",
        ("GET", "/queues/{queue}/dlq"),
    ),
    command(
        RetryDlq,
        RetriedReply,
        Scope.QUEUE,
        Role.ADMIN,
        "retry_dlq",
        "Puts one dead letter, or all of a queue, back to work.",
        ("POST", "/queues/{queue}/dlq/retry"),
    ),
    command(
        PurgeDlq,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "purge_dlq",
        "Removes a queue's dead letters.",
        ("DELETE", "/queues/{queue}/dlq"),
    ),
)
