"""GETJOB, GETSTATE, GETRESULT, GETJOBBYCUSTOMID, GETJOBS, GETJOBSBATCH, GETLOGS, LOG.

Lists walk the pages of the id index from the newest id down and stop when they have enough; totals
come from the counters, so they are exact and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flashq.errors import (
    BatchTooLarge,
    FieldTooLarge,
    InvalidRequest,
    ReplyTooLarge,
    ResultNotKept,
    StateInvalid,
)
from flashq.protocol import records as r
from flashq.protocol.base import TextReply
from flashq.protocol.jobs import (
    GetJob,
    GetJobByCustomId,
    GetJobs,
    GetJobsBatch,
    GetLogs,
    GetResult,
    GetState,
    JobReply,
    JobsReply,
    Log,
    LogsReply,
    PushReply,
    ResultReply,
    ShownPushReply,
    StateReply,
)
from flashq.protocol.texts import shortened
from flashq.shard.context import Context, Decision
from flashq.shard.lifecycle import (
    CANCELLED,
    COMPLETED,
    GONE,
    PENDING,
    STATES_BY_NAME,
    Job,
    state_name,
)
from flashq.shard.outbox import Origin
from flashq.shard.state import OUTCOME_COMPLETED
from flashq.shard.sweeps import jobs_of
from flashq.shard.views import (
    REPLY_BYTES_MAX,
    fitting,
    job_view,
    log_entries,
    result_view,
    state_view,
)

LIST_LIMIT: Final = 100
LIST_LIMIT_MAX: Final = 10_000
LIST_OFFSET_MAX: Final = 1_000_000
"""Whoever wants more of a list than that asks for it in another way, such as an export."""
GATHERED_MAX: Final = 20_000
"""The jobs of a queue that has no more are listed without a look at all others."""
LOG_LEVEL_CHARS_MAX: Final = 32

STALLED_NAME: Final = "stalled"


def get_job(context: Context, command: GetJob, origin: Origin) -> Decision:
    """Give a job and its state."""
    return Decision(_job_reply(context.job(command.id, origin), origin))


def shown(context: Context, pushed: PushReply, origin: Origin) -> PushReply:
    """Return the reply to a push, with the job if it is still there."""
    job = context.job(pushed.id, origin)
    if job is None:
        return pushed
    return ShownPushReply(id=pushed.id, job=job_view(job, origin, is_single=True))


def _job_reply(job: Job | None, origin: Origin) -> JobReply:
    view = None if job is None else job_view(job, origin, is_single=True)
    return JobReply(job=view, state=state_name(job))


def get_state(context: Context, command: GetState, origin: Origin) -> Decision:
    """Give a job's state."""
    return Decision(StateReply(id=command.id, state=state_name(context.job(command.id, origin))))


def get_result(context: Context, command: GetResult, origin: Origin) -> Decision:
    """Give a completed job's result; null when there is none.

    Raises:
        ResultNotKept: there was one, or can have been.
    """
    job = context.job(command.id, origin)
    if job is None:
        ended = context.outcome(command.id, origin)
        if ended == OUTCOME_COMPLETED and not origin.older:
            raise ResultNotKept(id=command.id)
    else:
        check_result_kept(job, origin)
    result = None if job is None or job.state != COMPLETED else result_view(job, origin)
    return Decision(ResultReply(id=command.id, result=result))


def check_result_kept(job: Job, origin: Origin) -> None:
    """Refuse to say of a job that it has no result, when it had one.

    Older clients do not know the difference, and are not refused.

    Raises:
        ResultNotKept: its result was let go.
    """
    if job.extra is not None and job.extra.result_dropped and not origin.older:
        raise ResultNotKept(id=job.id)


def get_job_by_custom_id(context: Context, command: GetJobByCustomId, origin: Origin) -> Decision:
    """Find a job by its custom id: in the named queue, else the newest of all queues."""
    queues = context.state.queues
    if command.queue is not None:
        named = queues.get(command.queue)
        found = [named.custom_ids.get(command.job_id)] if named is not None else []
    else:
        found = [queue.custom_ids.get(command.job_id) for queue in queues.values()]
    ids = [job_id for job_id in found if job_id is not None]
    return Decision(_job_reply(context.job(max(ids), origin) if ids else None, origin))


def get_jobs_batch(context: Context, command: GetJobsBatch, origin: Origin) -> Decision:
    """Give many jobs, in the order asked for; unknown ones are left out.

    Raises:
        BatchTooLarge, ReplyTooLarge: fewer have to be asked for.
    """
    limit = context.limits.batch_jobs_max
    if len(command.ids) > limit:
        raise BatchTooLarge(count=len(command.ids), limit=limit)
    known = [context.job(job_id, origin) for job_id in command.ids]
    jobs = [job for job in known if job is not None]
    if len(fitting(jobs)) < len(jobs):
        raise ReplyTooLarge(limit=REPLY_BYTES_MAX)
    return Decision(JobsReply(ok=True, jobs=[state_view(job, origin) for job in jobs]))


def get_jobs(context: Context, command: GetJobs, origin: Origin) -> Decision:
    """List jobs, newest ids first; a page ends early when its payloads fill a reply.

    `stalled` is a state to older clients, and no job is ever in it.

    Raises:
        FieldTooLarge: the page is beyond the bound.
        StateInvalid: there is no such state.
    """
    limit = LIST_LIMIT if command.limit is None else command.limit
    if limit > LIST_LIMIT_MAX:
        raise FieldTooLarge(field="limit", size=limit, limit=LIST_LIMIT_MAX)
    offset = command.offset or 0
    if offset > LIST_OFFSET_MAX:
        raise FieldTooLarge(field="offset", size=offset, limit=LIST_OFFSET_MAX)
    name = (command.state or "").lower()
    if name == STALLED_NAME:
        return Decision(JobsReply(ok=True, jobs=[], total=0))
    state = STATES_BY_NAME.get(name)
    if name and state is None:
        known = ", ".join([*STATES_BY_NAME, STALLED_NAME])
        raise StateInvalid(f"Invalid state '{name[:64]}'. Use: {known}")
    found: list[Job] = []
    if limit:
        for job in _matching(context, command.queue, state, origin):
            if offset:
                offset -= 1
                continue
            found.append(job)
            if len(found) >= limit:
                break
    total = _total(context, command.queue, state, origin)
    views = [state_view(job, origin) for job in fitting(found)]
    return Decision(JobsReply(ok=True, jobs=views, total=total))


def _matching(
    context: Context, queue: str | None, state: int | None, origin: Origin
) -> Iterator[Job]:
    """Yield the jobs that a list shows, newest ids first: those of a small queue by what it has
    itself, others by the pages of all jobs."""
    hidden = _hidden_from(origin)
    states = frozenset(range(GONE) if state is None else (state,)).difference(hidden)
    if queue is not None:
        named = context.state.queues.get(queue)
        if named is None:
            return
        if sum(named.counts[each] for each in states) <= GATHERED_MAX:
            yield from reversed(jobs_of(named, states))
            return
    index = context.state.index
    for number in index.newest_first():
        page = index.pages[number]
        if not page.live:
            continue
        for job in reversed(page.jobs):
            if job is not None and job.state in states and (queue is None or job.queue == queue):
                yield job


def _hidden_from(origin: Origin) -> tuple[int, ...]:
    """Return the states in which there is no job for the asker."""
    return (PENDING, CANCELLED) if origin.older else (PENDING,)


def _total(context: Context, queue: str | None, state: int | None, origin: Origin) -> int:
    if queue is None:
        counts = context.state.counts
    elif queue in context.state.queues:
        counts = context.state.queues[queue].counts
    else:
        return 0
    hidden = _hidden_from(origin)
    if state is not None:
        return 0 if state in hidden else counts[state]
    return sum(counts) - sum(counts[each] for each in hidden)


def log(context: Context, command: Log, origin: Origin) -> Decision:
    """Add an entry to a job's log.

    Raises:
        FieldTooLarge: its level is no word; older clients have it cut.
    """
    job = context.need_job(_id(command.id, command.job_id), origin)
    level = "info" if command.level is None else command.level
    if len(level) > LOG_LEVEL_CHARS_MAX and not origin.older:
        size = f"{len(level)} characters"
        raise FieldTooLarge(field="level", size=size, limit=LOG_LEVEL_CHARS_MAX)
    message, cut = shortened(command.message)
    limit = context.limits.job_logs_max
    record = r.Logged(job.id, level[:LOG_LEVEL_CHARS_MAX], message, limit)
    return Decision(TextReply(ok=True, cut=cut), [record], context.is_durable(job))


def get_logs(context: Context, command: GetLogs, origin: Origin) -> Decision:
    """Give a job's log, oldest entry first; empty for an unknown job."""
    job_id = _id(command.id, command.job_id)
    job = context.job(job_id, origin)
    return Decision(LogsReply(id=job_id, logs=log_entries(None if job is None else job.extra)))


def _id(named: int | None, alias: int | None) -> int:
    job_id = named if named is not None else alias
    if job_id is None:
        raise InvalidRequest(detail="missing field `id`")
    return job_id
