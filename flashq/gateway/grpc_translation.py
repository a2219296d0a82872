"""gRPC's messages as commands, and replies as gRPC's messages.

Owns what of a command can be said through this door and how: JSON texts in bytes, 0 for "not set",
numbers that no job has. Knows nothing of gRPC calls or of the bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from flashq.errors import InvalidRequest, JobNotFound
from flashq.gateway.proto import messages
from flashq.ids import JOB_ID_MAX
from flashq.protocol.jobs import NewJob, Push, PushBatch
from flashq.protocol.leases import Ack, AckBatch, Fail
from flashq.protocol.objects import JobView

BATCH_JOBS_MAX: Final = 1000
"""Most jobs in one request or reply."""
REPLY_BYTES_MAX: Final = 4 * 1024 * 1024
"""A message above this size is refused by a client that has not been told otherwise."""

_check: Final = msgspec.json.Decoder(Raw).decode

_STATES: Final = {
    "waiting": "JOB_STATE_WAITING",
    "delayed": "JOB_STATE_DELAYED",
    "active": "JOB_STATE_ACTIVE",
    "completed": "JOB_STATE_COMPLETED",
    "failed": "JOB_STATE_FAILED",
    "waitingchildren": "JOB_STATE_WAITING_CHILDREN",
    "waitingparent": "JOB_STATE_WAITING_CHILDREN",
    "cancelled": "JOB_STATE_CANCELLED",
}


def json_text(data: bytes, complaint: str) -> Raw:
    """Return what a client gave as JSON, checked and not read.

    Args:
        data: one JSON text in UTF-8.
        complaint: what an error's text begins with.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        if not data.isascii():
            data.decode()
        return _check(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{complaint}: {error}") from None


def _given(number: int) -> int | None:
    """Return a number, None for 0; one beyond all that a command can say is cut to that."""
    return min(number, JOB_ID_MAX) or None


def _options(request: Any) -> dict[str, Any]:
    """Return the options of a `PushRequest` or `JobInput`, as the commands name them."""
    return {
        "priority": request.priority or None,
        "delay": _given(request.delay_ms),
        "ttl": _given(request.ttl_ms),
        "timeout": _given(request.timeout_ms),
        "max_attempts": _given(request.max_attempts),
        "backoff": _given(request.backoff_ms),
        "unique_key": request.unique_key if request.HasField("unique_key") else None,
        "depends_on": list(request.depends_on) or None,
        "lifo": request.lifo or None,
    }


def push(request: Any) -> Push:
    """Return the command of a `PushRequest`.

    Raises:
        InvalidRequest: its payload is not JSON.
    """
    data = json_text(request.data, "Invalid JSON data")
    return Push(queue=request.queue, data=data, **_options(request))


def push_batch(request: Any) -> PushBatch:
    """Return the command of a `PushBatchRequest`.

    Raises:
        InvalidRequest: a payload is not JSON.
    """
    return PushBatch(
        queue=request.queue,
        jobs=[
            NewJob(data=json_text(job.data, "Invalid JSON"), **_options(job))
            for job in request.jobs
        ],
    )


def ack(request: Any) -> Ack:
    """Return the command of an `AckRequest`.

    Raises:
        InvalidRequest: its result is not JSON.
        JobNotFound: no job can have that id.
    """
    result = None
    if request.HasField("result"):
        result = json_text(request.result, "Invalid result JSON")
    return Ack(id=_possible(request.id), result=result)


def ack_batch(request: Any) -> AckBatch:
    """Return the command of an `AckBatchRequest`; ids that no job can have are left out."""
    return AckBatch(ids=[job_id for job_id in request.ids if job_id <= JOB_ID_MAX])


def fail(request: Any) -> Fail:
    """Return the command of a `FailRequest`.

    Raises:
        JobNotFound: no job can have that id.
    """
    error = request.error if request.HasField("error") else None
    return Fail(id=_possible(request.id), error=error)


def settlement(result: Any) -> Ack | Fail:
    """Return the command of a `JobResult`; a result that is not JSON is none.

    Raises:
        JobNotFound: no job can have that id.
    """
    if not result.success:
        return fail(result)
    try:
        return ack(result)
    except InvalidRequest:
        return Ack(id=_possible(result.id))


def _possible(job_id: int) -> int:
    if job_id > JOB_ID_MAX:
        raise JobNotFound(id=job_id)
    return job_id


def job(view: JobView) -> Any:
    """Return the `Job` of a delivered job."""
    return messages.Job(
        id=view.id,
        queue=view.queue,
        data=bytes(view.data),
        priority=view.priority,
        created_at=view.created_at,
        run_at=view.run_at,
        started_at=view.started_at,
        attempts=view.attempts,
        max_attempts=view.max_attempts,
        backoff=view.backoff,
        ttl=view.ttl,
        timeout=view.timeout,
        unique_key=view.unique_key,
        depends_on=view.depends_on,
        progress=view.progress,
        progress_msg=view.progress_msg,
        lifo=view.lifo,
    )


def jobs_that_fit(views: Sequence[JobView]) -> Any:
    """Return a `PullBatchResponse` with the first jobs, as many as a client can receive."""
    response = messages.PullBatchResponse()
    size = 0
    for view in views:
        one = job(view)
        size += one.ByteSize() + _FRAME_BYTES_MAX
        if size > REPLY_BYTES_MAX and response.jobs:
            break
        response.jobs.append(one)
    return response


_FRAME_BYTES_MAX: Final = 6
"""Tag and length in front of a job in a list."""


def state(name: str) -> str:
    """Return the `JobState` of a state by the name that the shards give it."""
    return _STATES.get(name, "JOB_STATE_UNKNOWN")
