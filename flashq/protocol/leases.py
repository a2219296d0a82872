"""Commands of workers: take jobs, keep them, finish them, give them back.

A delivered job carries a lease `token`. A worker that names it is told `lease lost` when the job is
no longer its own; one that does not is served by the job's state alone.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from flashq.protocol.base import (
    IDS_MAX,
    CountReply,
    Ids,
    Mutation,
    OptionalRaw,
    Reply,
    Request,
    SessionId,
    TextReply,
    Tokens,
    Unsigned,
)
from flashq.protocol.command import Role, Scope, command, reading
from flashq.protocol.objects import JobColumns, JobView, Progress


class Pull(Mutation, kw_only=True, omit_defaults=True, tag="PULL"):
    """Waits up to `timeout` ms (default 60,000; 0 does not wait) for one job. WITHDRAW takes back
    one that waits, by its `ticket`: 16 random bytes."""

    queue: str
    timeout: Unsigned | None = None
    ticket: SessionId | None = None


class PullReply(Reply, kw_only=True):
    job: JobView | None


class PullBatch(Mutation, kw_only=True, omit_defaults=True, tag="PULLB"):
    """Up to `count` jobs as soon as there is one. `columns` lets a reply in MessagePack give jobs
    that say nothing special as columns, which costs half.

    With `starts` a job's `timeout` counts from its first HEARTBEAT, which says that the work
    begins, instead of from its delivery; only for a session. With `ready` nothing is handed out:
    the reply says that there is something to take. So one waits for several queues, and then takes
    from one: a job is said to one of those that wait so, and to the next once that has pulled from
    the queue (also for a `count` of 0), or has not within 200 ms."""

    queue: str
    count: Unsigned
    timeout: Unsigned | None = None
    columns: bool | None = None
    starts: bool | None = None
    ready: bool | None = None
    ticket: SessionId | None = None


class Withdraw(Request, kw_only=True, omit_defaults=True, tag="WITHDRAW"):
    """Takes a PULL, PULLB or WAITJOB back that waits, and is not answered then: who has asked is
    gone. `ticket` is what it was asked with, `queue` that of its job. `count` is 0 when there is
    none any more."""

    ticket: SessionId
    queue: str | None = None


class PullBatchReply(Reply, kw_only=True, omit_defaults=True):
    """`jobs` is empty after the time-out, and in the reply to a PULLB with `ready`, which says
    `ready` when there is something to take."""

    ok: bool
    jobs: list[JobView]
    ready: bool = False


class PullColumnsReply(Reply, kw_only=True):
    """The reply to a PULLB that asked for `columns`."""

    ok: bool
    columns: JobColumns


class HandedOut(Struct):
    """What any reply to PULL or PULLB hands out, and under which lease."""

    job: HandedJob | None = None
    jobs: list[HandedJob] = []
    columns: HandedColumns | None = None

    def leases(self) -> list[tuple[int, int]]:
        """Return job ids with the tokens of their leases."""
        if self.columns is not None:
            return [(job_id, self.columns.token) for job_id in self.columns.ids]
        jobs = self.jobs if self.job is None else [self.job]
        return [(job.id, job.token) for job in jobs if job.token is not None]


class HandedJob(Struct):
    id: int
    token: int | None = None


class HandedColumns(Struct):
    ids: list[int]
    token: int


class EmptyPullBatchReply(Reply, kw_only=True):
    """A time-out as the older clients read it."""

    jobs: list[JobView] = []
    job: None = None


class Ack(Mutation, kw_only=True, omit_defaults=True, tag="ACK"):
    id: Unsigned
    result: OptionalRaw = None
    token: Unsigned | None = None


class AckBatch(Mutation, kw_only=True, omit_defaults=True, tag="ACKB"):
    """`tokens` and `results`, where given, are in line with `ids`; null stands for none."""

    ids: Ids
    tokens: Tokens | None = None
    results: Annotated[list[OptionalRaw], Meta(max_length=IDS_MAX)] | None = None


class AckBatchReply(Reply, kw_only=True, omit_defaults=True):
    """`ids` has one element: how many were acknowledged. `lost` names the ids that were not."""

    ok: bool
    ids: list[int]
    lost: list[int] = []
    missing_shards: list[int] = []


class Fail(Mutation, kw_only=True, omit_defaults=True, tag="FAIL"):
    """Of an `error` of more than 10,000 characters the middle is left out, and the reply says how
    much."""

    id: Unsigned
    error: str | None = None
    token: Unsigned | None = None


class Release(Mutation, kw_only=True, omit_defaults=True, tag="RELEASE"):
    """Gives active jobs back to their queue; no attempt is counted."""

    ids: Ids
    tokens: Tokens | None = None


class HeartbeatJob(Mutation, kw_only=True, omit_defaults=True, tag="HEARTBEAT"):
    """`job_id` is another name of `id`."""

    id: Unsigned | None = None
    job_id: Unsigned | None = None
    token: Unsigned | None = None


class SetProgress(Mutation, kw_only=True, omit_defaults=True, tag="PROGRESS"):
    """`progress` is rounded, and clamped to 0..100. A `message` is kept like an error of FAIL."""

    id: Unsigned
    progress: int | float
    message: str | None = None
    token: Unsigned | None = None


class GetProgress(Request, kw_only=True, tag="GETPROGRESS"):
    id: Unsigned


class ProgressReply(Reply, kw_only=True):
    progress: Progress


class MoveToDelayed(Mutation, kw_only=True, omit_defaults=True, tag="MOVETODELAYED"):
    id: Unsigned
    delay: Unsigned
    token: Unsigned | None = None


COMMANDS: Final = (
    command(
        Pull,
        PullReply,
        Scope.QUEUE,
        Role.WORKER,
        "pull",
        "Takes the next job of a queue, and waits for one.",
        waits=True,
    ),
    command(
        PullBatch,
        PullBatchReply,
        Scope.QUEUE,
        Role.WORKER,
        "pull_batch",
        "Takes up to `count` jobs of a queue, and waits for the first.",
        ("GET", "/queues/{queue}/jobs"),
        waits=True,
    ),
    command(
        Withdraw,
        CountReply,
        Scope.QUEUE_OR_ALL,
        Role.READ,
        "pull",
        "Takes back a pull or wait that nobody waits for any more.",
        mutates=False,
    ),
    command(
        Ack,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "ack",
        "Completes an active job, with a result or without.",
        ("POST", "/jobs/{id}/ack"),
    ),
    command(
        AckBatch,
        AckBatchReply,
        Scope.JOBS,
        Role.WORKER,
        "ack_batch",
        "Completes many active jobs.",
        ("POST", "/jobs/ack"),
    ),
    command(
        Fail,
        TextReply,
        Scope.JOB,
        Role.WORKER,
        "fail",
        "Ends an active job's attempt: it is retried, or goes to the dead letters.",
        ("POST", "/jobs/{id}/fail"),
    ),
    command(
        Release,
        CountReply,
        Scope.JOBS,
        Role.WORKER,
        "release",
        "Gives active jobs back to their queue without counting an attempt.",
        ("POST", "/jobs/release"),
    ),
    command(
        HeartbeatJob,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "heartbeat",
        "Says that an active job is still being worked on.",
        ("POST", "/jobs/{id}/heartbeat"),
    ),
    command(
        SetProgress,
        TextReply,
        Scope.JOB,
        Role.WORKER,
        "progress",
        "Sets an active job's progress, 0 to 100, and a message.",
        ("POST", "/jobs/{id}/progress"),
    ),
    reading(
        GetProgress,
        ProgressReply,
        Scope.JOB,
        "get_progress",
        "Gives an active job's progress.",
        ("GET", "/jobs/{id}/progress"),
    ),
    command(
        MoveToDelayed,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "move_to_delayed",
        "Puts an active job back, to run after `delay` ms.",
        ("POST", "/jobs/{id}/move-to-delayed"),
    ),
)
