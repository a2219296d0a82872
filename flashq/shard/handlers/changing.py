"""CANCEL, CHANGEPRIORITY, PROMOTE, UPDATEJOB, DISCARD."""

from __future__ import annotations

from typing import Final

from flashq.errors import FieldTooLarge, JobNotFound, WrongState
from flashq.protocol import records as r
from flashq.protocol.base import Reply
from flashq.protocol.jobs import Cancel, ChangePriority, Discard, Promote, UpdateJob
from flashq.protocol.records import AnyRecord
from flashq.shard.context import Context, Decision
from flashq.shard.handlers.producing import check_payload
from flashq.shard.lifecycle import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    DELAYED,
    FAILED,
    KEPT,
    WAITING,
    is_special,
)
from flashq.shard.outbox import Origin
from flashq.shard.retention import keep_newest_of_queue

CANCEL_REASON_CHARS_MAX: Final = 1000

_ENDED: Final = (COMPLETED, FAILED)
_UPDATABLE: Final = (WAITING, DELAYED, ACTIVE, FAILED)
_DISCARDABLE: Final = (WAITING, DELAYED, ACTIVE)


def cancel(context: Context, command: Cancel, origin: Origin) -> Decision:
    """End a job that has not ended, and keep it as cancelled; its worker learns by its lease.

    Raises:
        JobNotFound: there is none.
        WrongState: it has ended.
        FieldTooLarge: the reason is too long.
    """
    job = context.need_job(command.id, origin)
    if job.state == CANCELLED:
        raise WrongState(f"Job {job.id} cannot be cancelled (already cancelled)")
    if job.state in _ENDED:
        raise WrongState(f"Job {job.id} cannot be cancelled (already completed/failed)")
    size = len(command.reason or "")
    if size > CANCEL_REASON_CHARS_MAX:
        what = f"{size} characters"
        raise FieldTooLarge(field="reason", size=what, limit=CANCEL_REASON_CHARS_MAX)
    records: list[AnyRecord] = [r.Cancelled([job.id], command.reason or None)]
    if is_special(job):
        records += context.ending(job, "cancelled", removed=True)
        records += keep_newest_of_queue(context, [job])
    return Decision(Reply(), records, context.is_durable(job))


def change_priority(context: Context, command: ChangePriority, origin: Origin) -> Decision:
    """Change a job's priority; a waiting one moves to its new place."""
    job = context.job(command.id, origin)
    if job is None or job.state in KEPT:
        text = f"Job {command.id} not found or cannot change priority"
        raise JobNotFound(text) if job is None else WrongState(text)
    record = r.PrioritySet(job.id, command.priority)
    return Decision(Reply(), [record], context.is_durable(job))


def promote(context: Context, command: Promote, origin: Origin) -> Decision:
    """Make a delayed job ready now."""
    job = context.job(command.id, origin)
    if job is not None and job.state == WAITING:
        raise WrongState(f"Job {job.id} is not delayed")
    if job is None or job.state != DELAYED:
        text = f"Job {command.id} not found or not in delayed state"
        raise JobNotFound(text) if job is None else WrongState(text)
    return Decision(Reply(), [r.Promoted(job.id)], context.is_durable(job))


def update(context: Context, command: UpdateJob, origin: Origin) -> Decision:
    """Replace a job's payload."""
    job = context.job(command.id, origin)
    if job is None or job.state not in _UPDATABLE:
        raise JobNotFound(id=command.id)
    data = bytes(command.data)
    check_payload(context, data, json=origin.json)
    context.check_room(0, max(0, len(data) - len(job.data)))
    record = r.DataSet(job.id, data, origin.json)
    return Decision(Reply(), [record], context.is_durable(job))


def discard(context: Context, command: Discard, origin: Origin) -> Decision:
    """Send a job to the dead letters, whatever attempts it has left."""
    job = context.job(command.id, origin)
    if job is None or job.state not in _DISCARDABLE:
        text = f"Job {command.id} not found or already in DLQ/completed"
        raise JobNotFound(text) if job is None else WrongState(text)
    records = context.failing(job, "discarded", None, final=True, counted=False)
    return Decision(Reply(), records, context.is_durable(job))
