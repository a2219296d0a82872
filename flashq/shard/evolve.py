"""How the state of a shard changes: what each record of the log does.

`evolve` is the only code that changes a `ShardState`, but for the passing of time. It decides
nothing and reads no clock: everything it needs is in the entry, so that a replay gives the same
state. A record that does not fit raises `Damage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from msgspec.structs import replace

from flashq.protocol import records as r
from flashq.protocol.records import Entry
from flashq.shard.arrivals import ARRIVALS, settle_awaited
from flashq.shard.checkpoint import JobLoader
from flashq.shard.holdings import DEFAULT_SETTINGS, Queue
from flashq.shard.indexes import retire
from flashq.shard.lifecycle import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    DELAYED,
    FAILED,
    HISTORY_MAX,
    WAITING,
    Damage,
    Delivery,
    Job,
    is_special,
    is_volatile,
    options_of,
    special_of,
)
from flashq.shard.state import (
    EXPIRED_SESSIONS_MAX,
    OUTCOME_COMPLETED,
    OUTCOME_FAILED,
    OUTCOME_REMOVED,
    ShardState,
)

_TOKEN_OF: Final = attrgetter("lease.token")
_OUTCOMES: Final = {COMPLETED: OUTCOME_COMPLETED, FAILED: OUTCOME_FAILED}
_FILED: Final = frozenset({WAITING, DELAYED, COMPLETED, CANCELLED})
"""States in which a plain job is in no more than its page, its lane, and heaps that find out by
themselves that it is gone."""


def evolve(state: ShardState, entry: Entry, *, logged: bool = True) -> None:
    """Let an entry take effect.

    Args:
        state: the state to change.
        entry: the facts of one command.
        logged: False for an entry that the log does not get (jobs of level memory).

    Raises:
        Damage: a record does not fit the state.
    """
    if entry.at > state.now_ms or entry.due != state.due_mark:
        state.advance(entry.at, until=entry.due)
    if logged:
        state.seq += 1
    for record in entry.records:
        _EVOLVE[type(record)](state, record)
    if entry.answer is not None:
        state.keep_answer(entry.answer)


# --- jobs are worked on


def _delivered(state: ShardState, record: r.Delivered) -> None:
    ids, now = record.ids, state.now_ms
    queue = state.queues[record.queue]
    jobs = queue.ready.pop(len(ids))
    if [job.id for job in jobs] != ids:
        raise Damage(f"jobs {ids} delivered, which were not the first of {record.queue}")
    state.touch_many(ids)
    delivery = Delivery(record.token, record.session, jobs, len(jobs), (queue.name,))
    queue.deliveries[delivery] = None
    for job in jobs:
        job.state = ACTIVE
        job.started_at = now
        job.lease = delivery
    count = len(jobs)
    queue.counts[WAITING] -= count
    queue.counts[ACTIVE] += count
    state.counts[WAITING] -= count
    state.counts[ACTIVE] += count
    if record.session:
        state.session(record.session).deliveries[record.token] = delivery


def _adopted(state: ShardState, record: r.Adopted) -> None:
    delivery = Delivery(record.token, record.session, [], 0, ())
    if record.session:
        deliveries = state.session(record.session).deliveries
        delivery = deliveries.setdefault(record.token, delivery)
    for job_id in record.ids:
        job = state.take(job_id)
        queue = state.queues[job.queue]
        job = state.withdraw(job, queue)
        state.set_state(job, queue, ACTIVE)
        job.started_at = state.now_ms
        state.hold(job, delivery)


def _acked(state: ShardState, record: r.Acked) -> None:
    now, results = state.now_ms, record.results
    jobs = state.take_many(record.ids)
    state.totals.latency_ms_sum += now * len(jobs) - sum([job.created_at for job in jobs])
    state.totals.completed += len(jobs)
    if not special_of(jobs) and not [job for job in jobs if job.lease is None]:
        _complete_plain(state, jobs)
        if results:
            for job, result in zip(jobs, results, strict=True):
                if result is not None:
                    state.keep_result(job, result)
        return
    for position, job in enumerate(jobs):
        result = results[position] if results else None
        _complete(state, job, state.queues[job.queue], result)


def _complete_plain(state: ShardState, jobs: list[Job]) -> None:
    """Complete active jobs without options: nothing of them but their leases is to be released."""
    now = state.now_ms
    for lease, held in _by_delivery(jobs):
        for job in held:
            job.state = COMPLETED
            job.ended_at = now
            job.lease = None
        state.release(lease, len(held))
        state.file_plain(held, state.queues[held[0].queue])
    state.counts[ACTIVE] -= len(jobs)
    state.counts[COMPLETED] += len(jobs)


def _by_delivery(jobs: list[Job]) -> Iterator[tuple[Delivery | None, list[Job]]]:
    """Yield those that were handed out together, and so are of one queue."""
    first = jobs[0].lease
    if not [job for job in jobs if job.lease is not first]:
        yield first, jobs
        return
    for _, held in groupby(jobs, _TOKEN_OF):
        together = list(held)
        yield together[0].lease, together


def _complete(state: ShardState, job: Job, queue: Queue, result: bytes | None) -> None:
    """Complete a job that has options."""
    if job.lease is None:
        raise Damage(f"job {job.id} acknowledged, which nobody holds")
    job = state.withdraw(job, queue)
    state.set_state(job, queue, COMPLETED)
    job.ended_at = state.now_ms
    state.end(job, queue)
    if options_of(job).remove_on_complete:
        state.forget(job, queue, OUTCOME_COMPLETED)
        return
    if result is not None:
        job.need_extra().result = result
    state.file_ended(job, queue)


def _failed(state: ShardState, record: r.Failed) -> None:
    job = state.take(record.id)
    queue = state.queues[job.queue]
    settle_awaited(state, job)
    extra = job.need_extra()
    if job.lease is not None:
        extra.last_token = job.lease.token
    is_gone = record.final and options_of(job).remove_on_fail
    if not is_gone:
        job = state.withdraw(job, queue)
    _count_failure(state, job, record)
    history = extra.history = extra.history or []
    history.append((state.now_ms, record.reason, record.error, job.started_at))
    del history[:-HISTORY_MAX]
    extra.error = record.error if record.error is not None else record.reason
    if not record.final:
        state.totals.retried += 1
        extra.progress_msg = record.error if record.error is not None else extra.progress_msg
        job.started_at = 0
        job.run_at = record.run_at
        state.enqueue(job, queue)
        return
    state.totals.failed += 1
    if is_gone:
        state.forget(job, queue, OUTCOME_FAILED)
        return
    job.ended_at = state.now_ms
    state.set_state(job, queue, FAILED)
    queue.dlq[job.id] = job


def _count_failure(state: ShardState, job: Job, record: r.Failed) -> None:
    extra = job.need_extra()
    if record.counted:
        job.attempts += 1
    if record.reason == "timeout":
        state.totals.timed_out += 1
    elif record.reason == "stalled":
        state.totals.stalled += 1
        extra.stall_count += 1
    elif record.reason == "lost":
        state.totals.lost += 1
        extra.lost += 1


def _requeued(state: ShardState, record: r.Requeued) -> None:
    for job_id in record.ids:
        job = state.take(job_id)
        queue = state.queues[job.queue]
        extra = job.need_extra()
        if job.lease is not None:
            extra.last_token = job.lease.token
        state.close_lease(job)
        job.started_at = 0
        if record.reason == "lost":
            extra.lost += 1
            state.totals.lost += 1
        elif record.reason == "moved":
            extra.progress = 0
            extra.progress_msg = None
        if record.run_at:
            job.run_at = record.run_at
        state.enqueue(job, queue)


def _progress_set(state: ShardState, record: r.ProgressSet) -> None:
    extra = state.take(record.id).need_extra()
    extra.progress = record.progress
    extra.progress_msg = record.message


def _beaten(state: ShardState, record: r.Beaten) -> None:
    state.take(record.id).need_extra().last_heartbeat = state.now_ms


def _logged(state: ShardState, record: r.Logged) -> None:
    extra = state.take(record.id).need_extra()
    logs = extra.logs = extra.logs or []
    logs.append((state.now_ms, record.message, record.level))
    del logs[: max(0, len(logs) - record.entries_max)]


# --- jobs change or go


def _priority_set(state: ShardState, record: r.PrioritySet) -> None:
    job = state.take(record.id)
    if job.state != WAITING:
        job.priority = record.priority
        return
    queue = state.queues[job.queue]
    fresh = retire(job)
    queue.ready.discard(job.priority)
    fresh.priority = record.priority
    state.place(fresh)
    queue.ready.lane(fresh.priority).add(fresh)


def _promoted(state: ShardState, record: r.Promoted) -> None:
    job = state.take(record.id)
    job.run_at = state.now_ms
    state.enqueue(job, state.queues[job.queue])


def _data_set(state: ShardState, record: r.DataSet) -> None:
    job = state.take(record.id)
    state.bytes += len(record.data) - len(job.data)
    job.data = record.data
    options = options_of(job)
    if options.json != record.json:
        job.options = state.intern(replace(options, json=record.json))


def _removed(state: ShardState, record: r.Removed) -> None:
    jobs = state.take_many(record.ids)
    first = jobs[0].state if jobs else COMPLETED
    if first not in _FILED or special_of(jobs) or [job for job in jobs if job.state != first]:
        _remove_any(state, jobs)
    else:
        state.forget_plain(jobs, record.ids, first, _OUTCOMES.get(first, OUTCOME_REMOVED))
    totals, count = state.totals, len(record.ids)
    if record.reason == "expired":
        totals.expired += count
    elif record.reason in ("evicted", "retention"):
        totals.evicted += count


def _remove_any(state: ShardState, jobs: list[Job]) -> None:
    """Remove jobs of any kind, those that are plain and in one state together."""
    plain: dict[int, list[Job]] = {}
    for job in jobs:
        if job.state in _FILED and not is_special(job):
            plain.setdefault(job.state, []).append(job)
            continue
        settle_awaited(state, job)
        state.forget(job, state.queues[job.queue], _OUTCOMES.get(job.state, OUTCOME_REMOVED))
    for was, alike in plain.items():
        ids = [job.id for job in alike]
        state.forget_plain(alike, ids, was, _OUTCOMES.get(was, OUTCOME_REMOVED))


def _results_dropped(state: ShardState, record: r.ResultsDropped) -> None:
    for job_id in record.ids:
        extra = state.take(job_id).need_extra()
        if extra.result is not None:
            extra.result = None
            extra.result_dropped = True
            state.results -= 1


def _retried(state: ShardState, record: r.Retried) -> None:
    for job_id in record.ids:
        job = state.take(job_id)
        queue = state.queues[job.queue]
        del queue.dlq[job_id]
        job.attempts = 0
        job.run_at = state.now_ms
        job.ended_at = 0
        extra = job.need_extra()
        extra.error = None
        extra.lost = 0
        extra.stall_count = 0
        if options_of(job).ttl:
            extra.ttl_since = state.now_ms
        state.enqueue(job, queue)


def _raised(state: ShardState, record: r.Raised) -> None:
    loader = JobLoader(state)
    image = loader.read(record.image)[0]
    job = state.index.get(image.id)
    if job is not None:
        state.touch(job.id)
        state.volatile_jobs -= is_volatile(job)  # a batch may raise it twice
        job.options = state.intern(image.options)
        return
    loader.load(record.image)
    loader.finish()
    state.next_sequence = max(state.next_sequence, image.id // state.shard_count + 1)


def _cancelled(state: ShardState, record: r.Cancelled) -> None:
    for job_id in record.ids:
        job = state.take(job_id)
        queue = state.queues[job.queue]
        if job.lease is not None:
            job.need_extra().last_token = job.lease.token
        if options_of(job).remove_on_complete:
            state.forget(job, queue, OUTCOME_REMOVED)
            continue
        job = state.withdraw(job, queue)
        state.set_state(job, queue, CANCELLED)
        job.ended_at = state.now_ms
        state.end(job, queue)
        queue.free_custom_id(job)
        if record.reason is not None:
            job.need_extra().cancel_reason = record.reason
        if job.extra is not None:
            job.extra.open = job.extra.asked = None
        state.file_ended(job, queue)
    state.totals.cancelled += len(record.ids)


# --- queues


def _queue_set(state: ShardState, record: r.QueueSet) -> None:
    queue = state.queue(record.queue)
    settings = record.settings
    queue.settings = DEFAULT_SETTINGS if settings == DEFAULT_SETTINGS else settings
    state.forget_if_idle(queue)


def _queue_gone(state: ShardState, record: r.QueueGone) -> None:
    queue = state.queues.get(record.queue)
    if queue is not None:
        queue.settings = DEFAULT_SETTINGS
        state.debounces.forget(queue)
        state.forget_if_idle(queue)


def _debounce_started(state: ShardState, record: r.DebounceStarted) -> None:
    state.debounces.start(state.queue(record.queue), record.debounce_id, record.until)


# --- sessions and mailboxes


def _session_ended(state: ShardState, record: r.SessionEnded) -> None:
    session = state.sessions.pop(record.session, None)
    if session is not None:
        state.answer_bytes -= session.bytes
    state.expired_sessions[record.session] = None
    while len(state.expired_sessions) > EXPIRED_SESSIONS_MAX:
        state.expired_sessions.popitem(last=False)


def _sent(state: ShardState, record: r.Sent) -> None:
    mailbox = state.mailbox(record.peer)
    mailbox.pending.append((mailbox.next_number, state.seq, record.body))
    mailbox.next_number += 1


def _mail_taken(state: ShardState, record: r.MailTaken) -> None:
    pending = state.mailbox(record.peer).pending
    while pending and pending[0][0] <= record.number:
        pending.popleft()


def _received(state: ShardState, record: r.Received) -> None:
    state.inboxes[record.peer] = (record.incarnation, record.number)


def _begun(state: ShardState, record: r.Begun) -> None:
    state.begin_life(record.incarnation)


_EVOLVE: Final[dict[type, Callable[[ShardState, Any], None]]] = {
    **ARRIVALS,
    r.Delivered: _delivered,
    r.Adopted: _adopted,
    r.Acked: _acked,
    r.Failed: _failed,
    r.Requeued: _requeued,
    r.ProgressSet: _progress_set,
    r.Beaten: _beaten,
    r.Logged: _logged,
    r.PrioritySet: _priority_set,
    r.Promoted: _promoted,
    r.DataSet: _data_set,
    r.Removed: _removed,
    r.ResultsDropped: _results_dropped,
    r.Retried: _retried,
    r.Raised: _raised,
    r.Cancelled: _cancelled,
    r.QueueSet: _queue_set,
    r.QueueGone: _queue_gone,
    r.DebounceStarted: _debounce_started,
    r.SessionEnded: _session_ended,
    r.Sent: _sent,
    r.MailTaken: _mail_taken,
    r.Received: _received,
    r.Begun: _begun,
}
