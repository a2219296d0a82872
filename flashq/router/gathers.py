"""Requests that more than one shard has to answer: what each is asked, and one reply out of many.

Owns how each such command is divided and merged. Shards are asked, and answer, in the asker's own
encoding, so payloads pass through as they are. Knows nothing of sockets, deadlines and who asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from flashq.errors import (
    BatchTooLarge,
    FlashQError,
    InvalidRequest,
    ShardUnavailable,
    error_from,
)
from flashq.ids import shard_of_job
from flashq.protocol.base import CountReply, Reply
from flashq.protocol.codec import Outline, decode, decode_request, encode
from flashq.protocol.histogram import Distribution, merge
from flashq.protocol.jobs import GetJobs, GetJobsBatch
from flashq.protocol.leases import AckBatch, AckBatchReply, Release
from flashq.protocol.objects import (
    NULL_JSON,
    NULL_MSGPACK,
    Metrics,
    QueueInfo,
    QueueMetrics,
)
from flashq.protocol.paging import Listed, fullest, page
from flashq.protocol.queues import ListQueues, QueuesReply
from flashq.protocol.server import (
    GetMetrics,
    ListWorkers,
    MetricsReply,
    StatsReply,
    WorkerInfo,
    WorkersReply,
)
from flashq.router.known import Known
from flashq.router.sessions import Asker

T = TypeVar("T")

LISTED_JOBS_MAX: Final = 100_000
"""Most of `limit` + `offset` where jobs of all queues are listed: each shard gives so many."""
LIMIT_DEFAULT: Final = 100

Bodies = dict[int, bytes]
"""By shard: what it is asked, or what it has answered."""


class Division(NamedTuple):
    """A request divided over shards.

    Args:
        bodies: what each of them is asked.
        merge: makes one reply of theirs; called with the replies and the missing shards' numbers.
    """

    bodies: Bodies
    merge: Callable[[Bodies, list[int]], Any]


class Gather:
    """A request that several shards answer."""

    __slots__ = ("asker", "deadline_ms", "division", "read", "replies", "waiting")

    def __init__(self, asker: Asker, division: Division, deadline_ms: int) -> None:
        self.asker: Final = asker
        self.division: Final = division
        self.deadline_ms: Final = deadline_ms
        #: shards that have not answered yet, with the epoch under which each was asked
        self.waiting: dict[int, int] = {}
        self.replies: dict[int, bytes] = {}
        #: under which number its reply is expected to be large; empty for a small one
        self.read = b""


def ask_all(
    word: str,
    body: bytes,
    shard_count: int,
    *,
    json: bool,
    known: Known,
    names: Callable[[], dict[str, str]],
) -> Division:
    """Divide a request that concerns all shards.

    Args:
        known: what others have said, and silent shards before, for STATS and METRICS.
        names: gives what clients call themselves, by their ids in lists, for LISTWORKERS.

    Raises:
        InvalidRequest, BadMessage: it does not fit its command.
    """
    if word == "GETJOBS":
        request = decode_request(body, json=json)
        offset, limit = request.offset or 0, LIMIT_DEFAULT
        if request.limit is not None:
            limit = request.limit
        if offset + limit > LISTED_JOBS_MAX:
            raise InvalidRequest(
                detail=f"limit and offset over all queues are at most {LISTED_JOBS_MAX} together"
            )
        body = encode(GetJobs(state=request.state, limit=offset + limit), json=json)
        merge = partial(_merge_jobs, offset, limit, json)
    elif word == "STATS":
        merge = partial(_merge_stats, known, json)
    elif word == "METRICS":
        merge = partial(_merge_metrics, known, decode_request(body, json=json), json)
    elif word == "LISTWORKERS":
        merge = partial(_merge_workers, names(), decode_request(body, json=json), json)
    elif word == "LISTQUEUES":
        merge = partial(_merge_queues, decode_request(body, json=json), json)
    else:
        merge = partial(_MERGES[word], json)
    return Division(dict.fromkeys(range(shard_count), body), merge)


def divide_by_id(
    outline: Outline, body: bytes, shard_count: int, ids_max: int, *, json: bool
) -> Division | int:
    """Divide a request that names many jobs.

    Args:
        ids_max: most ids in one request.

    Returns:
        The number of the one shard that has all the jobs, or the division over several.

    Raises:
        InvalidRequest, BadMessage, BatchTooLarge: it does not fit its command.
    """
    if outline.ids is None:
        raise InvalidRequest(detail="missing field `ids`")
    owners = {shard_of_job(job_id, shard_count) for job_id in outline.ids}
    if len(owners) < 2:
        return owners.pop() if owners else 0
    request = decode_request(body, json=json)
    if len(request.ids) > ids_max:
        raise BatchTooLarge(count=len(request.ids), limit=ids_max)
    places: dict[int, list[int]] = {shard: [] for shard in sorted(owners)}
    for place, job_id in enumerate(request.ids):
        places[shard_of_job(job_id, shard_count)].append(place)
    bodies = {
        shard: encode(_part_of(request, chosen), json=json) for shard, chosen in places.items()
    }
    merges: dict[type[Any], Callable[[Bodies, list[int]], Any]] = {
        AckBatch: partial(_merge_acks, json),
        Release: partial(_merge_counts, json),
        GetJobsBatch: partial(_merge_named_jobs, request.ids, json),
    }
    return Division(bodies, merges[type(request)])


def _part_of(request: Any, places: Sequence[int]) -> Any:
    """The request for the ids at `places`, and what stands in line with them."""
    changes: dict[str, Any] = {"ids": [request.ids[place] for place in places]}
    for name in ("tokens", "results"):
        values = getattr(request, name, None)
        if values is None:
            continue
        if len(values) != len(request.ids):
            raise InvalidRequest(detail=f"`{name}` must have as many elements as `ids`")
        changes[name] = [values[place] for place in places]
    return replace(request, **changes)


class _Verdict(Struct):
    ok: bool = True
    error: str = ""
    code: str = ""
    retryable: bool = False


def join(division: Division, replies: Bodies, *, json: bool) -> bytes:
    """Make one reply's body of those of the shards.

    A shard that did not answer, or says that it cannot now, is named as missing. Any other error is
    about the request, so that it is the answer; so is one that leaves nothing to give.
    """
    good: Bodies = {}
    missing: list[int] = []
    excuse: FlashQError | None = None
    for shard in sorted(division.bodies):
        reply = replies.get(shard)
        if reply is None:
            missing.append(shard)
            continue
        verdict = decode(reply, _Verdict, json=json)
        if verdict.ok:
            good[shard] = reply
            continue
        error = error_from(verdict.code, verdict.error)
        if not verdict.retryable and not isinstance(error, ShardUnavailable):
            return reply
        excuse = excuse or error
        missing.append(shard)
    if not good:
        raise excuse or ShardUnavailable(shard=missing[0])
    return encode(division.merge(good, missing), json=json)


# --- one reply out of many


def _read(replies: Bodies, kind: type[T], json: bool) -> list[T]:
    return [decode(body, kind, json=json) for body in replies.values()]


class _Identified(Struct):
    id: int
    created_at: int = 0


class _JobList(Struct):
    jobs: list[Raw]
    total: int | None = None


class _JobListReply(Reply, kw_only=True, omit_defaults=True):
    """A reply like JobsReply whose jobs are passed through."""

    ok: bool
    jobs: list[Raw]
    total: int | None = None
    missing_shards: list[int] = []


def _with_ids(lists: list[_JobList], json: bool) -> list[tuple[int, Raw]]:
    return [
        (decode(bytes(job), _Identified, json=json).id, job) for part in lists for job in part.jobs
    ]


def _merge_jobs(offset: int, limit: int, json: bool, replies: Bodies, missing: list[int]) -> Any:
    lists = _read(replies, _JobList, json)
    newest_first = sorted(_with_ids(lists, json), key=lambda pair: pair[0], reverse=True)
    return _JobListReply(
        ok=True,
        jobs=[job for _, job in newest_first[offset : offset + limit]],
        total=sum(part.total or 0 for part in lists),
        missing_shards=missing,
    )


def _merge_named_jobs(ids: list[int], json: bool, replies: Bodies, missing: list[int]) -> Any:
    found = dict(_with_ids(_read(replies, _JobList, json), json))
    jobs = [found[job_id] for job_id in ids if job_id in found]
    return _JobListReply(ok=True, jobs=jobs, missing_shards=missing)


def _merge_acks(json: bool, replies: Bodies, missing: list[int]) -> Any:
    parts = _read(replies, AckBatchReply, json)
    return AckBatchReply(
        ok=True,
        ids=[sum(sum(part.ids) for part in parts)],
        lost=[job_id for part in parts for job_id in part.lost],
        missing_shards=missing,
    )


class _CountWithMissing(Reply, kw_only=True, omit_defaults=True):
    """A CountReply that does not cover everything."""

    ok: bool
    count: int
    missing_shards: list[int] = []


def _merge_counts(json: bool, replies: Bodies, missing: list[int]) -> Any:
    count = sum(part.count for part in _read(replies, CountReply, json))
    return _CountWithMissing(ok=True, count=count, missing_shards=missing)


class _Found(Struct):
    job: Raw
    state: str


class _FoundReply(Reply, kw_only=True, omit_defaults=True):
    """A reply like JobReply whose job is passed through."""

    ok: bool
    job: Raw
    state: str
    missing_shards: list[int] | UnsetType = UNSET


def _merge_found(json: bool, replies: Bodies, missing: list[int]) -> Any:
    """The newest of the jobs with that custom id; without one, what is known of it."""
    best: _Found | None = None
    best_rank: tuple[bool, bool, int, int] | None = None
    for found in _read(replies, _Found, json):
        rank = (False, found.state != "unknown", 0, 0)
        content = bytes(found.job)
        if content not in (NULL_JSON, NULL_MSGPACK):
            job = decode(content, _Identified, json=json)
            rank = (True, True, job.created_at, job.id)
        if best_rank is None or rank > best_rank:
            best, best_rank = found, rank
    assert best is not None  # `join` has at least one reply
    return _FoundReply(ok=True, job=best.job, state=best.state, missing_shards=missing or UNSET)


def _merge_queues(request: ListQueues, json: bool, replies: Bodies, missing: list[int]) -> Any:
    parts = _read(replies, QueuesReply, json)
    queues = [queue for part in parts for queue in part.queues]
    if request.fullest:
        listed = Listed(fullest(queues, _name, _jobs, limit=request.limit), None)
    else:
        is_cut = any(part.next is not None for part in parts)
        listed = page(queues, _name, limit=request.limit, after=request.after, is_cut=is_cut)
    return QueuesReply(
        ok=True,
        queues=listed.entries,
        total=sum(part.total for part in parts),
        next=listed.next,
        missing_shards=missing,
    )


def _name(queue: QueueInfo | QueueMetrics) -> str:
    return queue.name


def _jobs(queue: QueueInfo | QueueMetrics) -> int:
    return queue.pending + queue.processing + queue.dlq


def _merge_stats(known: Known, json: bool, replies: Bodies, missing: list[int]) -> Any:
    told = {shard: decode(body, StatsReply, json=json) for shard, body in replies.items()}
    parts, unknown = known.stats(told, missing)
    sums = {
        name: sum(getattr(part, name) for part in parts)
        for name in (
            "queued",
            "processing",
            "delayed",
            "dlq",
            "completed",
            "cancelled",
            "waiting_dependencies",
        )
    }
    shards = [shard for part in parts for shard in part.shards]
    return StatsReply(
        ok=True,
        shards=shards,
        missing_shards=missing,
        unknown_shards=unknown,
        storage=known.coordinator.storage,
        coordinator=known.coordinator.coordinator,
        supervisor=known.supervisor(),
        wait_seconds=_added([part.wait_seconds for part in parts]),
        processing_seconds=_added([part.processing_seconds for part in parts]),
        **sums,
    )


def _added(told: list[Distribution | None]) -> Distribution | None:
    counted = [one for one in told if one is not None]
    return merge(counted) if counted else None


_MEAN: Final = "avg_latency_ms"
_SUMMED: Final = tuple(name for name in Metrics.__struct_fields__ if name not in (_MEAN, "queues"))


def _merge_metrics(
    known: Known, request: GetMetrics, json: bool, replies: Bodies, missing: list[int]
) -> Any:
    told = {shard: decode(body, MetricsReply, json=json).metrics for shard, body in replies.items()}
    parts, unknown = known.metrics(told, missing)
    sums = {name: sum(getattr(part, name) for part in parts) for name in _SUMMED}
    weight = sum(part.total_completed for part in parts)
    latency_ms = sum(part.avg_latency_ms * part.total_completed for part in parts)
    queues = fullest(
        (queue for part in parts for queue in part.queues), _name, _jobs, limit=request.queues
    )
    queues.sort(key=_name)
    metrics = Metrics(avg_latency_ms=latency_ms / weight if weight else 0.0, queues=queues, **sums)
    return MetricsReply(ok=True, metrics=metrics, missing_shards=missing, unknown_shards=unknown)


def _merge_workers(
    names: dict[str, str],
    request: ListWorkers,
    json: bool,
    replies: Bodies,
    missing: list[int],
) -> Any:
    """One entry for each worker: a session takes jobs from several shards."""
    found: dict[str, WorkerInfo] = {}
    parts = _read(replies, WorkersReply, json)
    for part in parts:
        for info in part.workers:
            known = found.get(info.id)
            found[info.id] = info if known is None else _as_one(known, info)
    for info in found.values():
        info.name = info.name or names.get(info.id)
    listed = page(
        found.values(),
        lambda info: info.id,
        limit=request.limit,
        after=request.after,
        is_cut=any(part.next is not None for part in parts),
    )
    return WorkersReply(ok=True, workers=listed.entries, next=listed.next, missing_shards=missing)


def _as_one(one: WorkerInfo, other: WorkerInfo) -> WorkerInfo:
    return WorkerInfo(
        id=one.id,
        queues=list(dict.fromkeys([*one.queues, *other.queues])),
        concurrency=max(one.concurrency, other.concurrency),
        last_heartbeat=max(one.last_heartbeat, other.last_heartbeat),
        jobs_processed=one.jobs_processed + other.jobs_processed,
        name=one.name or other.name,
        jobs_held=one.jobs_held + other.jobs_held,
        pulls_waiting=one.pulls_waiting + other.pulls_waiting,
    )


def _merge_goodbyes(_json: bool, _replies: Bodies, _missing: list[int]) -> Any:
    return Reply()


_MERGES: Final[dict[str, Callable[[bool, Bodies, list[int]], Any]]] = {
    "GETJOBBYCUSTOMID": _merge_found,
    "GOODBYE": _merge_goodbyes,
    "WITHDRAW": _merge_counts,
}
"""How the replies to a request that all shards get as it is become one."""
