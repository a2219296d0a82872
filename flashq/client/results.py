"""What the client's methods give back: jobs, pages, events, and the error of a half-accepted batch.

The objects are the protocol's own Structs, decoded straight from a reply's bytes; only payloads
stay encoded until somebody looks at them. Pure data; no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from flashq.errors import FlashQError
from flashq.protocol.base import Reply
from flashq.protocol.columns import values_of
from flashq.protocol.crons import CronJob
from flashq.protocol.jobs import BatchError
from flashq.protocol.objects import Event as WireEvent
from flashq.protocol.objects import JobColumns, JobView
from flashq.protocol.sessions import ClosingNotice, GapNotice, ShardNotice

T = TypeVar("T")

_decode_payload: Final = msgspec.msgpack.Decoder().decode

# The slots that hold a payload, as bytes until the property of the same name is first read.
_job_data: Final[Any] = JobView.data
_cron_data: Final[Any] = CronJob.data
_event_data: Final[Any] = WireEvent.data


def payload(raw: Raw | None) -> Any:
    """Decode one payload; None stands for none."""
    return None if raw is None else _decode_payload(raw)


class Job(JobView, kw_only=True, omit_defaults=True, gc=False):
    """A job: every field of the protocol as an attribute, times in Unix milliseconds.

    `data` is decoded when it is first read. `state` is known where the reply tells it (get_job,
    get_jobs), and `token` names the lease where the job was handed out to this client. A method
    that is given the job instead of its id passes the token on.
    """

    state: str | None = None

    @property  # type: ignore[misc]
    def data(self) -> Any:  # type: ignore[override]
        """The payload."""
        value = _job_data.__get__(self)
        if type(value) is Raw:
            value = _decode_payload(value)
            _job_data.__set__(self, value)
        return value


class Cron(CronJob, kw_only=True):
    """A cron; `next_run` in Unix milliseconds, `repeat_every` in milliseconds."""

    @property  # type: ignore[misc]
    def data(self) -> Any:  # type: ignore[override]
        """The payload that each firing pushes."""
        value = _cron_data.__get__(self)
        if type(value) is Raw:
            value = _decode_payload(value)
            _cron_data.__set__(self, value)
        return value


class Event(WireEvent, kw_only=True, omit_defaults=True):
    """Something that happened to jobs of one queue; `at` is Unix milliseconds."""

    @property  # type: ignore[misc]
    def data(self) -> list[Any] | None:  # type: ignore[override]
        """Payloads (pushed) or results (completed) in line with `ids`, where they were sent."""
        value = _event_data.__get__(self)
        if value and any(type(item) is Raw for item in value):
            value = [payload(item) for item in value]
            _event_data.__set__(self, value)
        return value  # type: ignore[no-any-return]


class Gap(Struct, frozen=True, kw_only=True):
    """Stands in a stream of events where some are missing.

    Args:
        reason: "server" (it could not keep up), "connection" (it was lost for a while) or "buffer"
            (this program did not read fast enough).
        shard, first_missed, next: which events, where the server says so.
    """

    reason: str
    shard: int | None = None
    first_missed: int | None = None
    next: int | None = None


class Page(list[T], Generic[T]):
    """A list that also says what it is a part of.

    Args:
        items: what was found.
        total: how many there are in all, where that was counted.
        missing_shards: shards that did not answer in time; what they have is not in the list.
        next: what the next page is asked for with, as `after`; None for the last one.
    """

    __slots__ = ("missing_shards", "next", "total")

    def __init__(
        self,
        items: Iterable[T],
        *,
        total: int | None = None,
        missing_shards: Iterable[int] = (),
        next: str | None = None,
    ) -> None:
        super().__init__(items)
        self.total = total
        self.next = next
        self.missing_shards = list(missing_shards)


class Children(Struct, frozen=True, kw_only=True):
    """A flow parent's children: those still known, all their ids, and how many have completed."""

    children: list[Job]
    children_ids: list[int]
    completed: int
    total: int


class PartialBatchError(FlashQError):
    """Some entries of a batch were not accepted; all others were.

    Args:
        ids: in line with the batch; None for an entry that was not accepted.
        errors: index, error and code of each of those.
    """

    code = "partial_batch"

    def __init__(self, ids: list[int | None], errors: list[BatchError]) -> None:
        first = errors[0]
        super().__init__(
            f"{len(errors)} of {len(ids)} jobs were not accepted; "
            f"the first at index {first.index}: {first.error}"
        )
        self.ids = ids
        self.errors = errors

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.ids, self.errors))


def _jobs_of(columns: JobColumns) -> list[Job]:
    """Make jobs of columns: by position, which takes half the time."""
    queue, token, count = columns.queue, columns.token, len(columns.ids)
    return [
        Job(id_, queue, Raw(data), priority, created_at, run_at, started_at, attempts, token)
        for id_, data, priority, created_at, run_at, started_at, attempts in zip(
            columns.ids,
            columns.data,
            values_of(columns.priority, count),
            values_of(columns.created_at, count),
            values_of(columns.run_at, count),
            values_of(columns.started_at, count),
            values_of(columns.attempts, count),
            strict=True,
        )
    ]


# --- replies and notices, with the objects above in them


class Delivered(Struct, kw_only=True):
    """The reply to PULL or PULLB."""

    job: Job | None = None
    jobs: list[Job] = []
    columns: JobColumns | None = None
    ready: bool = False

    def __post_init__(self) -> None:
        if self.columns is not None:
            self.jobs = _jobs_of(self.columns)
            self.columns = None

    def all(self) -> list[Job]:
        """Return what was delivered."""
        return self.jobs if self.job is None else [self.job]


class JobFound(Reply, kw_only=True):
    job: Job | None
    state: str


class JobsFound(Reply, kw_only=True):
    jobs: list[Job]
    total: int | None = None
    missing_shards: list[int] = []


class ChildrenFound(Reply, kw_only=True):
    children: list[Job]
    children_ids: list[int]
    completed: int
    total: int


class CronsFound(Reply, kw_only=True):
    crons: list[Cron]
    next: str | None = None


class EventArrived(Struct, kw_only=True, tag_field="notice", tag="event"):
    event: Event


AnyNotice = ShardNotice | EventArrived | GapNotice | ClosingNotice
