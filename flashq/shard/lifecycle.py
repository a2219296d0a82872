"""A job, its states and the transitions between them.

Owns the slim `Job` and the objects that hang on it. A job is in exactly one state; `move` is the
only way from one to another, and a pair that TRANSITIONS does not have raises with the job's
story.

    push ──> WAITING <──────────────────────────────┐
      │        │  ^                                 │
      │        │  └── due ── DELAYED <── retry, ────┤
      │        │               ^        moved       │
      │     deliver            │                    │
      │        v               │                    │
      │      ACTIVE ───────────┴── released, lost ──┤
      │        │ │                                  │
      │      ack └──── failed for good ──> FAILED ──┘ retry_dlq
      │        v
      │    COMPLETED
      v
    PENDING ──> PARKED (dependencies), FLOW (children) ──> WAITING, DELAYED, FAILED

    WAITING, DELAYED, ACTIVE, PARKED, FLOW ── cancel ──> CANCELLED

From every state a job can be removed (GONE).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from flashq.protocol.records import Options

WAITING: Final = 0
DELAYED: Final = 1
ACTIVE: Final = 2
COMPLETED: Final = 3
FAILED: Final = 4
PARKED: Final = 5
FLOW: Final = 6
PENDING: Final = 7
CANCELLED: Final = 8
GONE: Final = 9

STATES: Final = 10
KEPT: Final = frozenset({COMPLETED, CANCELLED})
"""The states of jobs that have ended and are kept for a while, with nothing more to happen to them.
Retention is the same for both."""
ASIDE: Final = frozenset({DELAYED, PARKED, FLOW, PENDING})
"""States in which a job waits for something else than its turn."""
HISTORY_MAX: Final = 20
"""So many failed attempts of a job are remembered; the oldest go first."""
STATE_NAMES: Final = (
    "waiting",
    "delayed",
    "active",
    "completed",
    "failed",
    "waitingchildren",  # as the older servers call a job with unfinished dependencies
    "waitingparent",  # as they call a flow's parent
    "unknown",
    "cancelled",
    "unknown",
)
STATES_BY_NAME: Final = {
    "waiting": WAITING,
    "delayed": DELAYED,
    "active": ACTIVE,
    "completed": COMPLETED,
    "failed": FAILED,
    "waitingchildren": PARKED,
    "waiting-children": PARKED,
    "waitingparent": FLOW,
    "waiting-parent": FLOW,
    "cancelled": CANCELLED,
}

TRANSITIONS: Final[tuple[frozenset[int], ...]] = (
    frozenset({ACTIVE, FAILED, CANCELLED, GONE}),  # WAITING
    frozenset({WAITING, ACTIVE, FAILED, CANCELLED, GONE}),  # DELAYED; ACTIVE by an adoption
    frozenset({WAITING, DELAYED, COMPLETED, FAILED, CANCELLED, GONE}),  # ACTIVE
    frozenset({GONE}),  # COMPLETED
    frozenset({WAITING, GONE}),  # FAILED
    frozenset({WAITING, DELAYED, FAILED, CANCELLED, GONE}),  # PARKED
    frozenset({WAITING, DELAYED, FAILED, CANCELLED, GONE}),  # FLOW
    frozenset({PARKED, FLOW, GONE}),  # PENDING
    frozenset({GONE}),  # CANCELLED
    frozenset(),  # GONE
)


class IllegalTransition(AssertionError):
    """A bug of ours: a job was to go where its state does not lead."""


class Damage(Exception):
    """A record or page that does not fit the state: the log is damaged, or we have a bug."""


class Delivery(Struct, gc=False, eq=False):
    """Jobs that were handed out together, under one lease token.

    `jobs` keeps all of them until the last is no longer held; a job is still held exactly when its
    `lease` is this object. Volatile: `missed` counts, by job id, heartbeats that did not name it;
    `beats` has when (monotonic ms) a job was last heard to be worked on; `starts`, where time-outs
    count from the start of the work instead of from the delivery, when that was; until the log is
    safe up to `gate` the jobs may still be on their way out, and nobody can name them. `queues` are
    theirs: one, unless somebody has named its token for jobs of others.
    """

    token: int
    session: bytes
    jobs: list[Job]
    open: int
    queues: tuple[str, ...]
    missed: dict[int, int] | None = None
    beats: dict[int, int] | None = None
    starts: dict[int, int] | None = None
    gate: int = 0


class Extra(Struct, gc=False):
    """What few jobs have: made at first need, never taken away while the job lives."""

    progress: int = 0
    progress_msg: str | None = None
    last_heartbeat: int = 0
    stall_count: int = 0
    lost: int = 0
    last_token: int = 0
    """The token of the last delivery that ended without an end of the job."""
    error: str | None = None
    result: bytes | None = None
    logs: list[tuple[int, str, str]] | None = None
    """(timestamp, message, level), oldest first."""
    history: list[tuple[int, str, str | None, int]] | None = None
    """(at, reason, error, started_at) of each failed attempt."""
    watchers: list[int] | None = None
    """Jobs, of any shard, that are told when this one ends."""
    asked: set[int] | None = None
    """Dependencies not heard of yet; positions of children not made yet."""
    open: set[int] | None = None
    """Dependencies, or made children, that have not ended."""
    children: list[int] | None = None
    children_queues: list[str] | None = None
    """The queues of `children`, which may be in other shards."""
    children_completed: int = 0
    rejected: tuple[str, str] | None = None
    """Why a pending push will be refused: text and code."""
    doomed: str | None = None
    """Why the job will die once its push is answered: a dependency or child that failed."""
    ttl_since: int = 0
    """When a retry of the dead letter started the job's ttl anew; 0 for its creation."""
    result_dropped: bool = False
    """There was a result, which is no longer kept."""
    cancel_reason: str | None = None
    """What its CANCEL gave as the reason."""


class Job(Struct, gc=False):
    """A job. Times are wall-clock milliseconds."""

    id: int
    queue: str
    data: bytes
    priority: int
    created_at: int
    run_at: int
    state: int
    attempts: int
    options: Options | None
    started_at: int
    ended_at: int
    lease: Delivery | None
    extra: Extra | None

    def need_extra(self) -> Extra:
        """Return the job's extra, made if there was none."""
        if self.extra is None:
            self.extra = Extra()
        return self.extra


def move(job: Job, to: int) -> None:
    """Bring the job into state `to`.

    Raises:
        IllegalTransition: the table has no such pair.
    """
    if to not in TRANSITIONS[job.state]:
        raise IllegalTransition(f"{job!r} cannot go to {to}")
    job.state = to


def state_name(job: Job | None) -> str:
    """Return the state as clients read it."""
    return "unknown" if job is None else STATE_NAMES[job.state]


def expires_at(job: Job) -> int:
    """Return the first millisecond at which a job that has a ttl is too old to be handed out."""
    extra = job.extra
    since = job.created_at if extra is None else extra.ttl_since or job.created_at
    return since + options_of(job).ttl + 1


NO_OPTIONS: Final = Options()
JSON_ONLY: Final = Options(json=True)
"""What a push in JSON without options says. `ShardState.intern` gives this very object, so that
`is_plain` need not compare."""


def is_plain(job: Job) -> bool:
    """Tell whether the job's push said nothing special about it."""
    return job.options is None or job.options is JSON_ONLY


def is_volatile(job: Job) -> bool:
    """Tell whether the job is of level memory: neither the log nor a checkpoint has it."""
    return job.options is not None and job.options.level == "memory"


def asks_to_be_kept(options: Options | None) -> bool:
    """Tell whether a push, or its queue, asked to keep the job once it has completed."""
    return (
        options is not None
        and bool(options.keep_completed_age or options.keep_completed_count)
        and not options.remove_on_complete
    )


def is_retained(job: Job) -> bool:
    """Tell whether the job is to be kept once it has completed: a shard's bounds on completed jobs
    and results are not for those."""
    return asks_to_be_kept(job.options)


def is_aged(job: Job) -> bool:
    """Tell whether the job is to be kept for a time and in whatever number: the bounds that other
    jobs put on their queue are not for it."""
    options = job.options
    return is_retained(job) and options is not None and not options.keep_completed_count


def is_special(job: Job) -> bool:
    """Tell whether the job is more than a payload in a queue: it has options, or something that few
    jobs have."""
    return job.extra is not None or not is_plain(job)


def special_of(jobs: list[Job]) -> list[Job]:
    """Return those of many jobs that are special: `is_special` spelled out, as calls would cost
    more than all else here."""
    return [
        job
        for job in jobs
        if job.extra is not None or (job.options is not None and job.options is not JSON_ONLY)
    ]


def options_of(job: Job) -> Options:
    """Return the job's options, the defaults if it has none."""
    return NO_OPTIONS if job.options is None else job.options
