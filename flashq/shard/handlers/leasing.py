"""ACK, ACKB, FAIL, RELEASE, HEARTBEAT, PROGRESS, GETPROGRESS, MOVETODELAYED.

PULL and PULLB are the engine's own: their answer may have to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from flashq.errors import (
    BatchTooLarge,
    InvalidRequest,
    JobNotActive,
    JobNotFound,
    LeaseLost,
    PayloadTooLarge,
)
from flashq.ids import epoch_of_token
from flashq.protocol import records as r
from flashq.protocol.base import CountReply, Reply, TextReply
from flashq.protocol.codec import transcode
from flashq.protocol.depth import check_depth
from flashq.protocol.leases import (
    Ack,
    AckBatch,
    AckBatchReply,
    Fail,
    GetProgress,
    HeartbeatJob,
    MoveToDelayed,
    ProgressReply,
    Release,
    SetProgress,
)
from flashq.protocol.objects import NULL_JSON, NULL_MSGPACK, Progress
from flashq.protocol.records import AnyRecord
from flashq.protocol.texts import shortened
from flashq.shard.context import Context, Decision
from flashq.shard.lifecycle import (
    ACTIVE,
    DELAYED,
    WAITING,
    Job,
    is_special,
    special_of,
)
from flashq.shard.outbox import Origin
from flashq.shard.retention import keep_newest_of_queue


def holds(context: Context, job: Job, token: int | None) -> bool:
    """Tell whether a worker that names `token` (or none) may end the job.

    A delivery whose record was lost in a crash left the job waiting: its token is of an older
    epoch, and good as long as the job has not been handed out since.
    """
    if job.state == ACTIVE:
        return token is None or (job.lease is not None and job.lease.token == token)
    return token is not None and is_lost_delivery(context, job, token)


def is_lost_delivery(context: Context, job: Job, token: int) -> bool:
    """Tell whether `token` can be of a delivery of this job that the log does not know."""
    if job.state not in (WAITING, DELAYED) or not 0 < epoch_of_token(token) < context.epoch:
        return False
    return job.extra is None or job.extra.last_token < token


def adopting(job: Job, token: int | None, session: bytes | None) -> list[AnyRecord]:
    """Return what makes a job active again whose delivery got lost; nothing for an active one."""
    if job.state == ACTIVE or token is None:
        return []
    return [r.Adopted([job.id], token, session or b"")]


def _held_job(
    context: Context, job_id: int, token: int | None, origin: Origin, *, text: str | None = None
) -> Job:
    """Return the job that a worker may act on.

    Raises:
        JobNotFound: there is none, or it is not active (with `text`: JobNotActive with it).
        LeaseLost: it names a token that is not current.
    """
    job = context.job(job_id, origin)
    if job is not None and holds(context, job, token):
        return job
    if job is not None and token is not None:
        raise LeaseLost(id=job_id)
    if text is not None:
        raise JobNotActive(text.format(id=job_id))
    raise JobNotFound(id=job_id)


def _result(context: Context, raw: object, origin: Origin) -> bytes | None:
    """Return a result as it is stored: MessagePack, None for null."""
    if raw is None:
        return None
    data = bytes(raw)  # type: ignore[call-overload]
    if data == (NULL_JSON if origin.json else NULL_MSGPACK):
        return None
    limit = context.limits.payload_bytes_max
    if len(data) > limit:
        raise PayloadTooLarge(size=len(data), limit=limit)
    check_depth(data, json=origin.json)
    return transcode(data, to_json=False) if origin.json else data


def ack(context: Context, command: Ack, origin: Origin) -> Decision:
    """Complete a job."""
    job = _held_job(context, command.id, command.token, origin)
    result = _result(context, command.result, origin)
    records = adopting(job, command.token, command.session)
    if not records:
        context.measures.ended([job], context.now_ms)
    records.append(r.Acked([job.id], [] if result is None else [result]))
    if is_special(job):
        records += context.ending(job, None)
        records += keep_newest_of_queue(context, [job])
    return Decision(Reply(), records, context.is_durable(job))


def ack_batch(context: Context, command: AckBatch, origin: Origin) -> Decision:
    """Complete many jobs; those that cannot be are left out and named."""
    ids = command.ids
    _check_batch(context, ids, command.tokens, command.results)
    held, places, lost, records = _held_of(context, command, origin)
    results: list[bytes | None] = []
    if command.results is not None:
        results = [_result(context, command.results[place], origin) for place in places]
    reply = AckBatchReply(ok=True, ids=[len(held)], lost=lost)
    if not held:
        return Decision(reply)
    if not any(result is not None for result in results):
        results = []
    current = [job for job in held if job.lease is not None] if records else held
    if current:
        context.measures.ended(current, context.now_ms)
    records.append(r.Acked(ids if len(held) == len(ids) else [job.id for job in held], results))
    special = special_of(held)
    for job in special:
        records += context.ending(job, None)
    if special:
        records += keep_newest_of_queue(context, held)
    durable = len(special) < len(held) and context.is_durable(None)
    return Decision(reply, records, durable or any(map(context.is_durable, special)))


def _held_of(
    context: Context, command: AckBatch, origin: Origin
) -> tuple[list[Job], Sequence[int], list[int], list[AnyRecord]]:
    """Sort a batch's ids.

    Returns:
        The jobs that may be acknowledged, their places in the request, the other ids, and the
        records that adopt those jobs whose delivery got lost.
    """
    ids = command.ids
    tokens: Sequence[int | None] = command.tokens or [None] * len(ids)
    index = context.state.index
    jobs = index.get_many(ids)
    if origin.sight is not None:
        jobs = [job if job is None or origin.sees(job.queue) else None for job in jobs]
    if _are_all_held(jobs, tokens) and (index.run_of(ids) or len(set(ids)) == len(ids)):
        return cast("list[Job]", jobs), range(len(ids)), [], []
    held: list[Job] = []
    places: list[int] = []
    lost: list[int] = []
    seen: set[int] = set()
    records: list[AnyRecord] = []
    for place, (job, token) in enumerate(zip(jobs, tokens, strict=True)):
        if job is None or job.id in seen or not holds(context, job, token):
            lost.append(ids[place])
            continue
        seen.add(job.id)
        held.append(job)
        places.append(place)
        records += adopting(job, token, command.session)
    return held, places, lost, records


def _are_all_held(jobs: list[Job | None], tokens: Sequence[int | None]) -> bool:
    """Tell whether these are jobs, each under the lease that its token names."""
    odd = [
        None
        for job, token in zip(jobs, tokens, strict=True)
        if job is None or job.lease is None or (token != job.lease.token and token is not None)
    ]
    return not odd


def _check_batch(context: Context, ids: Sequence[int], *in_line: Sequence[object] | None) -> None:
    limit = context.limits.batch_jobs_max
    if len(ids) > limit:
        raise BatchTooLarge(count=len(ids), limit=limit)
    for other in in_line:
        if other is not None and len(other) != len(ids):
            raise InvalidRequest(detail=f"{len(other)} entries beside {len(ids)} ids")


def fail(context: Context, command: Fail, origin: Origin) -> Decision:
    """End an attempt: the job is retried, or dies."""
    job = _held_job(context, command.id, command.token, origin)
    error, cut = (None, 0) if command.error is None else shortened(command.error)
    records = adopting(job, command.token, command.session)
    if not records:
        context.measures.ended([job], context.now_ms)
    records += context.failing(job, "failed", error)
    return Decision(TextReply(ok=True, cut=cut), records, context.is_durable(job))


def release(context: Context, command: Release, origin: Origin) -> Decision:
    """Give active jobs back, uncounted; those that are not held are left out."""
    _check_batch(context, command.ids, command.tokens)
    back: dict[int, None] = {}
    records: list[AnyRecord] = []
    durable = False
    for position, job_id in enumerate(command.ids):
        job = context.job(job_id, origin)
        token = command.tokens[position] if command.tokens is not None else None
        if job is None or job_id in back or not holds(context, job, token):
            continue
        back[job_id] = None
        records += adopting(job, token, command.session)
        durable = durable or context.is_durable(job)
    if back:
        records.append(r.Requeued(list(back), "released", 0))
    return Decision(CountReply(count=len(back)), records, durable)


def heartbeat_job(context: Context, command: HeartbeatJob, origin: Origin) -> Decision:
    """Keep an active job from stalling."""
    job_id = command.id if command.id is not None else command.job_id
    if job_id is None:
        raise InvalidRequest(detail="missing field `id`")
    text = "Job {id} not in processing"
    job = _held_job(context, job_id, command.token, origin, text=text)
    records = adopting(job, command.token, command.session)
    return Decision(Reply(), [*records, r.Beaten(job.id)], durable=False)


def set_progress(context: Context, command: SetProgress, origin: Origin) -> Decision:
    """Set an active job's progress."""
    text = "Job {id} not found in processing"
    job = _held_job(context, command.id, command.token, origin, text=text)
    progress = round(min(100, max(0, command.progress)))  # NaN is 0, by the order of these
    message, cut = (None, 0) if command.message is None else shortened(command.message)
    records = adopting(job, command.token, command.session)
    records.append(r.ProgressSet(job.id, progress, message))
    return Decision(TextReply(ok=True, cut=cut), records, context.is_durable(job))


def get_progress(context: Context, command: GetProgress, origin: Origin) -> Decision:
    """Give an active job's progress."""
    job = context.job(command.id, origin)
    if job is None or job.state != ACTIVE:
        raise JobNotFound(id=command.id)
    extra = job.extra
    progress = Progress(
        id=job.id,
        progress=0 if extra is None else extra.progress,
        message=None if extra is None else extra.progress_msg,
    )
    return Decision(ProgressReply(progress=progress))


def move_to_delayed(context: Context, command: MoveToDelayed, origin: Origin) -> Decision:
    """Put an active job back, to run later."""
    text = "Job {id} not in processing"
    job = _held_job(context, command.id, command.token, origin, text=text)
    records = adopting(job, command.token, command.session)
    records.append(r.Requeued([job.id], "moved", context.now_ms + command.delay))
    return Decision(Reply(), records, context.is_durable(job))
