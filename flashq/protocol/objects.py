"""The objects that replies are made of: jobs, queues, crons, log entries, metrics, events."""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType

from flashq.protocol.base import OptionalRaw

NULL_MSGPACK = b"\xc0"
NULL_JSON = b"null"


class PlainJobView(Struct, omit_defaults=True):
    """The keys of a job that says nothing special: a JobView, made and encoded in half the time."""

    id: int
    queue: str
    data: Raw
    priority: int = 0
    created_at: int = 0
    run_at: int = 0
    started_at: int = 0
    attempts: int = 0
    token: int | None = None
    completed_at: int = 0


class JobView(PlainJobView, omit_defaults=True):
    """A job as a reader sees it. Times are Unix milliseconds; 0 means "not set".

    Keys at their defaults are left out. `token` names the current lease, in the reply that hands
    the job out. `error` is why the job failed, `cancel_reason` why it was cancelled; `history` has
    one entry for each failed attempt.
    """

    max_attempts: int = 0
    backoff: int = 0
    ttl: int = 0
    timeout: int = 0
    unique_key: str | None = None
    depends_on: tuple[int, ...] = ()
    progress: int = 0
    progress_msg: str | None = None
    tags: tuple[str, ...] = ()
    lifo: bool = False
    remove_on_complete: bool = False
    remove_on_fail: bool = False
    last_heartbeat: int = 0
    stall_timeout: int = 0
    stall_count: int = 0
    parent_id: int | None = None
    children_ids: tuple[int, ...] = ()
    children_completed: int = 0
    custom_id: str | None = None
    keep_completed_age: int = 0
    keep_completed_count: int = 0
    jitter: float = 0.0
    lost: int = 0
    error: str | None = None
    history: tuple[Attempt, ...] = ()
    cancelled_at: int = 0
    cancel_reason: str | None = None


class JobColumns(Struct, kw_only=True):
    """Jobs of one queue that were handed out together and say nothing special, as columns in line
    with `ids`; a column of one stands for all. `data` has each payload's MessagePack."""

    queue: str
    ids: list[int]
    token: int
    data: list[bytes]
    priority: list[int]
    created_at: list[int]
    run_at: list[int]
    started_at: list[int]
    attempts: list[int]


class FullJobView(JobView, omit_defaults=False):
    """A job with all thirty keys of the older protocols.

    The keys that those do not have are there only when they say something, and `history` only in
    the reply to GETJOB: some of their clients take no more than 64 KiB at a time, and ask for a
    hundred jobs.
    """

    token: int | UnsetType = UNSET  # type: ignore[assignment]
    jitter: float | UnsetType = UNSET  # type: ignore[assignment]
    lost: int | UnsetType = UNSET  # type: ignore[assignment]
    error: str | UnsetType = UNSET  # type: ignore[assignment]
    history: tuple[Attempt, ...] | UnsetType = UNSET  # type: ignore[assignment]
    cancelled_at: int | UnsetType = UNSET  # type: ignore[assignment]
    cancel_reason: str | UnsetType = UNSET  # type: ignore[assignment]


class Attempt(Struct, kw_only=True, omit_defaults=True):
    """One failed attempt of a job. `reason` is failed, timeout, stalled or lost."""

    at: int
    reason: str
    error: str | None = None
    started_at: int = 0


class StateView(JobView, kw_only=True, omit_defaults=True):
    """A job beside its state, for lists."""

    state: str


class FullStateView(FullJobView, StateView, kw_only=True, omit_defaults=False):
    """A listed job with all thirty keys and its state, and the same job again under `job`."""

    job: FullJobView


class LogEntry(Struct, kw_only=True):
    timestamp: int
    message: str
    level: str


class Progress(Struct, kw_only=True):
    id: int
    progress: int
    message: str | None


class QueueInfo(Struct, kw_only=True):
    name: str
    pending: int
    processing: int
    dlq: int
    paused: bool
    rate_limit: int | None
    concurrency_limit: int | None


class QueueMetrics(Struct, kw_only=True):
    name: str
    pending: int
    processing: int
    dlq: int
    rate_limit: int | None


class Metrics(Struct, kw_only=True):
    """Totals since the data directory was made, or since the server's start with `memory:`."""

    total_pushed: int
    total_completed: int
    total_failed: int
    total_expired: int
    total_cancelled: int
    total_retried: int
    total_timed_out: int
    total_stalled: int
    total_lost: int
    total_evicted: int
    jobs_per_second: float
    avg_latency_ms: float
    queues: list[QueueMetrics]


class MetricsPoint(Struct, kw_only=True, frozen=True):
    """One point of the history; `timestamp` is Unix milliseconds. `completed` and `failed` are
    totals, `throughput` is jobs completed a second since the point before, and `latency_ms` is the
    mean over all completions."""

    timestamp: int
    queued: int
    processing: int
    completed: int
    failed: int
    throughput: float
    latency_ms: float


class Event(Struct, kw_only=True, omit_defaults=True):
    """Something that happened to jobs of one queue, all in the same way at the same time.

    `seq` counts a shard's events within `epoch`; a listener that sees a hole has missed some.
    `event` is one of EVENTS. `data` holds payloads (pushed) or results (completed), in line with
    `ids`, when they are sent along.
    """

    seq: int
    shard: int
    epoch: int
    event: str
    queue: str
    at: int
    ids: list[int]
    error: str | None = None
    progress: int | None = None
    message: str | None = None
    data: list[OptionalRaw] | None = None


EVENTS = (
    "pushed",
    "active",
    "progress",
    "completed",
    "failed",
    "retrying",
    "stalled",
    "timeout",
    "expired",
    "cancelled",
    "delayed",
    "promoted",
)
