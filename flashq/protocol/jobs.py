"""Commands about jobs that nobody is processing: push, look, change, wait."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Raw, Struct

from flashq.protocol.base import (
    I32,
    IDS_MAX,
    U32,
    Durability,
    Fraction,
    Ids,
    Mutation,
    OnDependencyFailure,
    OptionalRaw,
    Reply,
    Request,
    SessionId,
    Text,
    TextReply,
    Unsigned,
    Within,
)
from flashq.protocol.command import Role, Scope, command, reading
from flashq.protocol.objects import JobView, LogEntry, StateView


class JobOptions(Struct, kw_only=True, omit_defaults=True):
    """What a push may say about a job besides its payload; all of it optional.

    Durations are milliseconds. `max_attempts` 0 retries without end; `backoff` is the wait before
    the first retry and doubles with each further one, shortened or lengthened by up to the
    fraction `jitter`. `job_id` is the caller's own id: a second push with it gives the first job.
    """

    priority: I32 | None = None
    delay: Unsigned | None = None
    ttl: Unsigned | None = None
    timeout: Unsigned | None = None
    max_attempts: U32 | None = None
    backoff: Unsigned | None = None
    jitter: Fraction | None = None
    unique_key: Text | None = None
    depends_on: Ids | None = None
    on_dependency_failure: OnDependencyFailure | None = None
    tags: Annotated[list[Text], Meta(max_length=IDS_MAX)] | None = None
    lifo: bool | None = None
    remove_on_complete: bool | None = None
    remove_on_fail: bool | None = None
    stall_timeout: Unsigned | None = None
    debounce_id: Text | None = None
    debounce_ttl: Unsigned | None = None
    job_id: Text | None = None
    keep_completed_age: Unsigned | None = None
    keep_completed_count: Unsigned | None = None
    durability: Durability | None = None


class NewJob(JobOptions, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One entry of a batch."""

    data: Raw


class NewChild(JobOptions, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One child of a flow."""

    queue: str
    data: Raw


class Push(
    JobOptions,
    kw_only=True,
    omit_defaults=True,
    tag_field="cmd",
    tag="PUSH",
    forbid_unknown_fields=True,
):
    """A push is flat: the options stand beside `queue` and `data`. With `view` the reply shows the
    job as it stands in the queue, or the one that stands for it; a repeat, and a push that waited
    for other shards, are answered without."""

    # The last five are those of `Mutation`: a Struct cannot inherit them beside the options.
    queue: str
    data: Raw
    view: bool | None = None
    session: SessionId | None = None
    n: Unsigned | None = None
    done_below: Unsigned | None = None
    within: Within | None = None
    reqId: OptionalRaw = None  # noqa: N815


class PushReply(Reply, kw_only=True):
    id: int


class ShownPushReply(PushReply, kw_only=True):
    """The reply to a PUSH with `view`."""

    job: JobView


class PlainJob(Struct, forbid_unknown_fields=True):
    """An entry of a batch that says nothing but payload and priority: the case worth a fast way."""

    data: Raw
    priority: I32 = 0


class PlainPush(Mutation, kw_only=True, tag="PUSH"):
    """A PUSH that says nothing but payload and priority. Decoded first; not in the registry."""

    queue: str
    data: Raw
    priority: I32 = 0
    view: bool | None = None


class PlainPushBatch(Mutation, kw_only=True, omit_defaults=True, tag="PUSHB"):
    """A PUSHB all of whose entries are plain. Decoded first; not in the registry."""

    queue: str
    jobs: list[PlainJob]
    payloads: None = None


class PayloadBatch(Mutation, kw_only=True, omit_defaults=True, tag="PUSHB"):
    """A PUSHB of nothing but payloads. Decoded first; not in the registry."""

    queue: str
    payloads: list[Raw]


class PushBatch(Mutation, kw_only=True, omit_defaults=True, tag="PUSHB"):
    """`payloads` may stand in the place of `jobs`: those of jobs that say nothing else."""

    queue: str
    jobs: Annotated[list[NewJob], Meta(max_length=IDS_MAX)] | None = None
    payloads: Annotated[list[Raw], Meta(max_length=IDS_MAX)] | None = None


class BatchError(Struct, kw_only=True):
    """Why the entry at `index` of a batch was not accepted; its place in `ids` is null."""

    index: int
    error: str
    code: str


class PushBatchReply(Reply, kw_only=True, omit_defaults=True):
    """`ids` is in line with the request's `jobs`."""

    ok: bool
    ids: list[int | None]
    errors: list[BatchError] = []


class Flow(
    JobOptions,
    kw_only=True,
    omit_defaults=True,
    tag_field="cmd",
    tag="FLOW",
    forbid_unknown_fields=True,
):
    """A parent that runs when all its children have ended. `parent_data` is another name of
    `data`; the options are the parent's (`depends_on` is refused)."""

    queue: str
    children: Annotated[list[NewChild], Meta(max_length=IDS_MAX)]
    data: OptionalRaw = None
    parent_data: OptionalRaw = None
    session: SessionId | None = None
    n: Unsigned | None = None
    done_below: Unsigned | None = None
    within: Within | None = None
    reqId: OptionalRaw = None  # noqa: N815


class FlowReply(Reply, kw_only=True):
    parent_id: int
    children_ids: list[int]


class GetChildren(Request, kw_only=True, tag="GETCHILDREN"):
    parent_id: Unsigned


class ChildrenReply(Reply, kw_only=True):
    parent_id: int
    children: list[JobView]
    children_ids: list[int]
    completed: int
    total: int


class GetJob(Request, kw_only=True, tag="GETJOB"):
    id: Unsigned


class GetJobByCustomId(Request, kw_only=True, omit_defaults=True, tag="GETJOBBYCUSTOMID"):
    """Without `queue` every shard is asked, and the newest job with that id is given."""

    job_id: Text
    queue: str | None = None


class JobReply(Reply, kw_only=True):
    job: JobView | None
    state: str


class GetState(Request, kw_only=True, tag="GETSTATE"):
    id: Unsigned


class StateReply(Reply, kw_only=True):
    id: int
    state: str


class GetResult(Request, kw_only=True, tag="GETRESULT"):
    id: Unsigned


class ResultReply(Reply, kw_only=True):
    id: int
    result: OptionalRaw


class WaitJob(Request, kw_only=True, omit_defaults=True, tag="WAITJOB"):
    """Answered when the job has ended, at the latest after `timeout` ms (default 30,000). WITHDRAW
    takes it back by its `ticket`: 16 random bytes."""

    id: Unsigned
    timeout: Unsigned | None = None
    ticket: SessionId | None = None


class WaitReply(Reply, kw_only=True):
    result: OptionalRaw


class GetJobsBatch(Request, kw_only=True, tag="GETJOBSBATCH"):
    ids: Ids


class GetJobs(Request, kw_only=True, omit_defaults=True, tag="GETJOBS"):
    """Newest ids first. Without `queue`, over all queues. `limit` is 100 by default."""

    queue: str | None = None
    state: str | None = None
    limit: Unsigned | None = None
    offset: Unsigned | None = None


class JobsReply(Reply, kw_only=True, omit_defaults=True):
    """`missing_shards` names the shards that did not answer in time; the rest is given."""

    ok: bool
    jobs: list[StateView]
    total: int | None = None
    missing_shards: list[int] = []


class Cancel(Mutation, kw_only=True, omit_defaults=True, tag="CANCEL"):
    """The job is kept as cancelled, with `reason` (at most 1,000 characters), for as long as a
    completed one. To older clients it is gone."""

    id: Unsigned
    reason: Text | None = None


class ChangePriority(Mutation, kw_only=True, tag="CHANGEPRIORITY"):
    id: Unsigned
    priority: I32


class Promote(Mutation, kw_only=True, tag="PROMOTE"):
    id: Unsigned


class UpdateJob(Mutation, kw_only=True, tag="UPDATEJOB"):
    id: Unsigned
    data: Raw


class Discard(Mutation, kw_only=True, tag="DISCARD"):
    id: Unsigned


class Log(Mutation, kw_only=True, omit_defaults=True, tag="LOG"):
    """`job_id` is another name of `id`. Of a message of more than 10,000 characters the middle is
    left out, and the reply says how much."""

    message: str
    id: Unsigned | None = None
    job_id: Unsigned | None = None
    level: Text | None = None


class GetLogs(Request, kw_only=True, omit_defaults=True, tag="GETLOGS"):
    id: Unsigned | None = None
    job_id: Unsigned | None = None


class LogsReply(Reply, kw_only=True):
    id: int
    logs: list[LogEntry]


CleanState = Literal["waiting", "delayed", "completed", "failed"]


COMMANDS: Final = (
    command(
        Push,
        PushReply,
        Scope.QUEUE,
        Role.PRODUCER,
        "push",
        "Adds a job to a queue.",
        ("POST", "/queues/{queue}/jobs"),
    ),
    command(
        PushBatch,
        PushBatchReply,
        Scope.QUEUE,
        Role.PRODUCER,
        "push_batch",
        "Adds many jobs to a queue; each entry succeeds or fails by itself.",
        ("POST", "/queues/{queue}/jobs/batch"),
    ),
    command(
        Flow,
        FlowReply,
        Scope.QUEUE,
        Role.PRODUCER,
        "push_flow",
        "Adds a parent job that runs when all its children have ended.",
        ("POST", "/queues/{queue}/flows"),
    ),
    reading(
        GetChildren,
        ChildrenReply,
        Scope.JOB,
        "get_children",
        "Gives a flow parent's children and how many have completed.",
        ("GET", "/jobs/{id}/children"),
    ),
    command(
        Log,
        TextReply,
        Scope.JOB,
        Role.WORKER,
        "log",
        "Adds an entry to a job's log.",
        ("POST", "/jobs/{id}/logs"),
    ),
    reading(
        GetLogs,
        LogsReply,
        Scope.JOB,
        "get_logs",
        "Gives a job's log, oldest entry first.",
        ("GET", "/jobs/{id}/logs"),
    ),
    reading(
        GetJob,
        JobReply,
        Scope.JOB,
        "get_job",
        "Gives a job and its state.",
        ("GET", "/jobs/{id}"),
    ),
    reading(
        GetState,
        StateReply,
        Scope.JOB,
        "get_state",
        "Gives a job's state.",
        ("GET", "/jobs/{id}/state"),
    ),
    reading(
        GetResult,
        ResultReply,
        Scope.JOB,
        "get_result",
        "Gives a completed job's result.",
        ("GET", "/jobs/{id}/result"),
    ),
    reading(
        WaitJob,
        WaitReply,
        Scope.JOB,
        "finished",
        "Waits for a job's end and gives its result.",
        ("GET", "/jobs/{id}/wait"),
        waits=True,
    ),
    reading(
        GetJobByCustomId,
        JobReply,
        Scope.QUEUE_OR_ALL,
        "get_job_by_custom_id",
        "Finds a job by the id that its push gave it.",
        ("GET", "/jobs/by-custom-id/{job_id}"),
    ),
    reading(
        GetJobsBatch,
        JobsReply,
        Scope.JOBS,
        "get_jobs_batch",
        "Gives many jobs by id, in the order asked for.",
        ("POST", "/jobs/get"),
    ),
    reading(
        GetJobs,
        JobsReply,
        Scope.QUEUE_OR_ALL,
        "get_jobs",
        "Lists jobs by queue and state, newest first, with the exact total.",
        ("GET", "/jobs"),
    ),
    command(
        Cancel,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "cancel",
        "Removes a job that has not ended.",
        ("POST", "/jobs/{id}/cancel"),
    ),
    command(
        ChangePriority,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "change_priority",
        "Changes a job's priority.",
        ("POST", "/jobs/{id}/priority"),
    ),
    command(
        Promote,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "promote",
        "Makes a delayed job ready now.",
        ("POST", "/jobs/{id}/promote"),
    ),
    command(
        UpdateJob,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "update",
        "Replaces a job's payload.",
        ("PUT", "/jobs/{id}"),
    ),
    command(
        Discard,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "discard",
        "Sends a job to the dead letters.",
        ("POST", "/jobs/{id}/discard"),
    ),
)
