"""Jobs as readers see them."""

from __future__ import annotations

from typing import Any, Final, cast

from msgspec import Raw

from flashq.errors import BadMessage
from flashq.protocol.codec import encode_json, encode_msgpack, transcode
from flashq.protocol.columns import column_of
from flashq.protocol.objects import (
    Attempt,
    FullJobView,
    FullStateView,
    JobColumns,
    JobView,
    LogEntry,
    PlainJobView,
    StateView,
)
from flashq.shard.lifecycle import ACTIVE, CANCELLED, COMPLETED, STATE_NAMES, Extra, Job
from flashq.shard.outbox import Origin

REPLY_BYTES_MAX: Final = 8 * 1024 * 1024
"""A reply carries no more payload than this, but for a single job."""
_NEWER: Final = ("token", "jitter", "lost", "error", "history", "cancelled_at", "cancel_reason")
"""Keys of a job that the older protocols do not have."""


def fitting(jobs: list[Job]) -> list[Job]:
    """Return the first jobs, as many as one reply can carry."""
    size = sum([len(job.data) for job in jobs])
    if size <= REPLY_BYTES_MAX:
        return jobs
    fits = list(jobs)
    while size > REPLY_BYTES_MAX and len(fits) > 1:
        size -= len(fits.pop().data)
    return fits


def payload(data: bytes, *, is_json: bool, json: bool) -> Raw:
    """Return a stored payload in the encoding that its reader reads.

    Args:
        data: the payload.
        is_json: how it is stored.
        json: how it is wanted.
    """
    if is_json == json:
        return Raw(data)
    try:
        return Raw(transcode(data, to_json=json))
    except BadMessage:
        # One can say what the other cannot; its reader gets the bytes rather than nothing.
        if json:
            return Raw(encode_json({"msgpack": data}))
        return Raw(encode_msgpack({"json": data}))


def job_view(job: Job, origin: Origin, *, is_single: bool = False) -> JobView:
    """Return the job for the asker, in its encoding; `token` while it is active.

    Args:
        is_single: whether the reply has no other job, and so has room for all of this one.
    """
    options, extra, json = job.options, job.extra, origin.json
    if (
        options is None
        and extra is None
        and not json
        and not origin.full
        and job.state != CANCELLED
    ):
        # The case worth a fast way: positional, in the order of the fields.
        lease = job.lease
        plain = PlainJobView(
            job.id,
            job.queue,
            Raw(job.data),
            job.priority,
            job.created_at,
            job.run_at,
            job.started_at,
            job.attempts,
            None if lease is None else lease.token,
            job.ended_at,
        )
        return cast("JobView", plain)
    fields = _fields(job, origin)
    if not origin.full:
        return JobView(**fields)
    return _full_view(fields, is_single=is_single)


def _full_view(fields: dict[str, Any], *, is_single: bool = False) -> FullJobView:
    """Return a job for readers of the older protocols: of what those do not have, only what says
    something."""
    for name in _NEWER:
        if not fields.get(name, True) or (name == "history" and not is_single):
            fields.pop(name, None)
    return FullJobView(**fields)


def are_columns(jobs: list[Job]) -> bool:
    """Tell whether jobs can be given as columns: they are in MessagePack, without options and
    extra."""
    return not [job for job in jobs if job.options is not None or job.extra is not None]


def job_columns(jobs: list[Job]) -> JobColumns:
    """Return jobs that were handed out together, and can be given as columns."""
    first = jobs[0]
    assert first.lease is not None, "they were handed out"
    return JobColumns(
        queue=first.queue,
        ids=[job.id for job in jobs],
        token=first.lease.token,
        data=[job.data for job in jobs],
        priority=column_of([job.priority for job in jobs]),
        created_at=column_of([job.created_at for job in jobs]),
        run_at=column_of([job.run_at for job in jobs]),
        started_at=column_of([job.started_at for job in jobs]),
        attempts=column_of([job.attempts for job in jobs]),
    )


def state_view(job: Job, origin: Origin) -> StateView:
    """Return the job beside its state, for lists."""
    fields = _fields(job, origin)
    state = STATE_NAMES[job.state]
    if origin.full:
        nested = _full_view(fields)
        return FullStateView(state=state, job=nested, **fields)
    return StateView(state=state, **fields)


def _fields(job: Job, origin: Origin) -> dict[str, Any]:
    options = job.options
    is_json = options is not None and options.json
    fields: dict[str, Any] = {
        "id": job.id,
        "queue": job.queue,
        "data": payload(job.data, is_json=is_json, json=origin.json),
        "priority": job.priority,
        "created_at": job.created_at,
        "run_at": job.run_at,
        "started_at": job.started_at,
        "attempts": job.attempts,
        "completed_at": job.ended_at if job.state == COMPLETED else 0,
        "token": None if job.lease is None else job.lease.token,
    }
    if options is not None:
        fields |= {
            "max_attempts": options.max_attempts,
            "backoff": options.backoff,
            "ttl": options.ttl,
            "timeout": options.timeout,
            "unique_key": options.unique_key,
            "custom_id": options.custom_id,
            "depends_on": options.depends_on,
            "tags": options.tags,
            "lifo": options.lifo,
            "remove_on_complete": options.remove_on_complete,
            "remove_on_fail": options.remove_on_fail,
            "stall_timeout": options.stall_timeout,
            "keep_completed_age": options.keep_completed_age,
            "keep_completed_count": options.keep_completed_count,
            "parent_id": (options.parent or None) if origin.sees(options.parent_queue) else None,
        }
        if options.jitter:  # a default that is a float is left out only where it is not named
            fields["jitter"] = options.jitter
    if extra := job.extra:
        fields |= _extra_fields(extra, origin)
    if job.state == CANCELLED:
        fields["cancelled_at"] = job.ended_at
    if job.state == ACTIVE:
        beaten = extra.last_heartbeat if extra is not None else 0
        fields["last_heartbeat"] = max(beaten, job.started_at)
    return fields


def _extra_fields(extra: Extra, origin: Origin) -> dict[str, Any]:
    return {
        "progress": extra.progress,
        "progress_msg": extra.progress_msg,
        "stall_count": extra.stall_count,
        "lost": extra.lost,
        "error": extra.error,
        "cancel_reason": extra.cancel_reason,
        "children_ids": children_of(extra, origin),
        "children_completed": extra.children_completed,
        "history": tuple(
            Attempt(at=at, reason=reason, error=error, started_at=started_at)
            for at, reason, error, started_at in extra.history or ()
        ),
    }


def children_of(extra: Extra, origin: Origin) -> tuple[int, ...]:
    """Return those of a flow's children that there are for the asker, in their order."""
    children = extra.children or ()
    if origin.sight is None:
        return tuple(children)
    queues = extra.children_queues or ()
    named = zip(children, queues, strict=True)
    return tuple(child for child, queue in named if origin.sees(queue))


def result_view(job: Job, origin: Origin) -> Raw | None:
    """Return a completed job's result for the asker, None when there is none."""
    extra = job.extra
    if extra is None or extra.result is None:
        return None
    return result_payload(extra.result, origin)


def result_payload(stored: bytes, origin: Origin) -> Raw:
    """Return a stored result in the asker's encoding.

    Results are stored as MessagePack, however they came.
    """
    return payload(stored, is_json=False, json=origin.json)


def log_entries(extra: Extra | None) -> list[LogEntry]:
    """Return a job's log, oldest entry first."""
    logs = () if extra is None or extra.logs is None else extra.logs
    return [LogEntry(timestamp=at, message=message, level=level) for at, message, level in logs]
