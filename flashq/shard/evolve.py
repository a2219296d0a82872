"""How the state of a shard changes: what each record of the log does.

`evolve` is the only code that changes a `ShardState`, but for the passing of time. It decides
nothing and reads no clock: everything it needs is in the entry, so that a replay gives the same
state. A record that does not fit raises `Damage`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from msgspec.structs import replace

from flashq.protocol import records as r
from flashq.protocol.records import Entry, Options
from flashq.shard.checkpoint import JobLoader
from flashq.shard.indexes import PAGE_SEQUENCES, retire
from flashq.shard.lifecycle import (
    ACTIVE,
    COMPLETED,
    DELAYED,
    FAILED,
    FLOW,
    HISTORY_MAX,
    PARKED,
    PENDING,
    WAITING,
    Damage,
    Delivery,
    Job,
    options_of,
)
from flashq.shard.state import (
    DEFAULT_SETTINGS,
    EXPIRED_SESSIONS_MAX,
    JOB_BYTES,
    OUTCOME_COMPLETED,
    OUTCOME_FAILED,
    OUTCOME_REMOVED,
    AwaitedPush,
    Queue,
    ShardState,
)

_QUEUE_OF: Final = attrgetter("queue")
_OUTCOMES: Final = {COMPLETED: OUTCOME_COMPLETED, FAILED: OUTCOME_FAILED}


def evolve(state: ShardState, entry: Entry, *, logged: bool = True) -> None:
    """Let an entry take effect.

    Args:
        state: the state to change.
        entry: the facts of one command.
        logged: False for an entry that the log does not get (jobs of level memory).

    Raises:
        Damage: a record does not fit the state.
    """
    if entry.at > state.now_ms:
        state.advance(entry.at)
    if logged:
        state.seq += 1
    for record in entry.records:
        _EVOLVE[type(record)](state, record)
    answer = entry.answer
    if answer is not None:
        session = state.session(answer.session)
        answers = session.answers
        answers[answer.n] = answer
        if answer.done_below > session.done_below:
            session.done_below = answer.done_below
            while answers:
                first = next(iter(answers))
                if first >= answer.done_below:
                    break
                del answers[first]


# --- jobs come


def _pushed(state: ShardState, record: r.Pushed) -> None:
    queue = state.queue(record.queue)
    name, now = queue.name, state.now_ms
    options, run_at = state.intern(record.options), record.run_at
    first, data, priorities = record.first, record.data, record.priorities
    count, step = len(data), state.shard_count
    if first < state.next_sequence:
        raise Damage(f"jobs from sequence {first} pushed, which was used before")
    start = first * step + state.shard
    to = WAITING if run_at <= now else DELAYED
    state.next_sequence = first + count
    state.totals.pushed += count
    if count == 1:
        job = Job(
            start, name, data[0], priorities[0], now, run_at, to, 0, options, 0, 0, None, None
        )
        state.add(job, queue)
        state.enqueue(job, queue, known=False)
        return
    if len(priorities) == 1:
        priority = priorities[0]
        jobs = [
            Job(i, name, payload, priority, now, run_at, to, 0, options, 0, 0, None, None)
            for i, payload in zip(range(start, start + count * step, step), data, strict=True)
        ]
    else:
        jobs = [
            Job(i, name, payload, priority, now, run_at, to, 0, options, 0, 0, None, None)
            for i, payload, priority in zip(
                range(start, start + count * step, step), data, priorities, strict=True
            )
        ]
    if to == WAITING and _is_plain(options):
        _file_plain(state, record, jobs)
        return
    for job in jobs:
        state.add(job, queue)
        state.enqueue(job, queue, known=False)


def _is_plain(options: Options | None) -> bool:
    """Tell whether jobs with these options need no index but their page and their lane."""
    return options is None or (
        options.unique_key is None
        and options.custom_id is None
        and not options.ttl
        and not options.lifo
        and options.level != "memory"
    )


def _file_plain(state: ShardState, record: r.Pushed, jobs: list[Job]) -> None:
    """File many ready jobs without options, page by page and lane by lane."""
    queue, count = state.queues[record.queue], len(jobs)
    done = 0
    while done < count:
        page = state.touch(jobs[done].id)
        offset = (record.first + done) % PAGE_SEQUENCES
        chunk = jobs[done : done + PAGE_SEQUENCES - offset]
        if page.aside is not None:
            for place in range(offset, offset + len(chunk)):
                page.aside.setdefault(place, None)
        page.jobs[offset : offset + len(chunk)] = chunk
        page.live += len(chunk)
        done += len(chunk)
    state.index.count += count
    queue.counts[WAITING] += count
    state.counts[WAITING] += count
    state.bytes += JOB_BYTES * count + sum(map(len, record.data))
    if len(record.priorities) == 1:
        queue.ready.lane(record.priorities[0]).extend(jobs)
        return
    lanes: dict[int, list[Job]] = {}
    for job in jobs:
        lanes.setdefault(job.priority, []).append(job)
    for priority, some in lanes.items():
        queue.ready.lane(priority).extend(some)


def _parked(state: ShardState, record: r.Parked) -> None:
    if record.sequence < state.next_sequence:
        raise Damage(f"job of sequence {record.sequence} parked, which was used before")
    queue = state.queue(record.queue)
    job_id = record.sequence * state.shard_count + state.shard
    options = record.options
    job = Job(
        job_id,
        queue.name,
        record.data,
        record.priority,
        state.now_ms,
        record.run_at,
        PENDING,
        0,
        options,
        0,
        0,
        None,
        None,
    )
    extra = job.need_extra()
    if record.children:
        extra.asked = set(range(record.children))
        extra.open = set()
        extra.children = [0] * record.children
    else:
        dependencies = options_of(job).depends_on
        extra.asked = set(dependencies)
        extra.open = set(dependencies)
    state.next_sequence = record.sequence + 1
    state.add(job, queue)


def _awaited(state: ShardState, record: r.Awaited) -> None:
    push = AwaitedPush(
        record.key,
        record.kind,
        list(record.ids),
        list(record.errors),
        record.session,
        record.n,
        len(record.pending),
    )
    state.awaited[record.key] = push
    if record.session:
        state.awaited_requests[record.session, record.n] = record.key
    for job_id in record.pending:
        state.awaiting[job_id] = record.key


def _confirmed(state: ShardState, record: r.Confirmed) -> None:
    """Everything asked about a pending job is known: it exists from now on."""
    job = state.take(record.id)
    queue = state.queues[job.queue]
    is_flow = job.extra is not None and job.extra.children is not None
    state.set_state(job, queue, FLOW if is_flow else PARKED)
    state.totals.pushed += 1
    _settle_awaited(state, job)


def _settle_awaited(state: ShardState, job: Job) -> None:
    """Count a pending job as answered, and note its refusal in its push's answer."""
    key = state.awaiting.pop(job.id, None)
    if key is None:
        return
    push = state.awaited[key]
    push.pending -= 1
    if not push.pending:
        state.answerable.append(key)
    rejected = None if job.extra is None else job.extra.rejected
    if rejected is not None:
        text, code = rejected
        place = push.ids.index(job.id)
        push.ids[place] = None
        push.errors.append((place, text, code))


def _awaited_done(state: ShardState, record: r.AwaitedDone) -> None:
    push = state.awaited.pop(record.key)
    state.answerable.remove(record.key)
    state.awaited_requests.pop((push.session, push.n), None)


def _dependency_known(state: ShardState, record: r.DependencyKnown) -> None:
    extra = state.take(record.id).need_extra()
    if extra.children is None and extra.asked:
        extra.asked.discard(record.dependency)
    if record.settled and extra.open:
        extra.open.discard(record.dependency)
    extra.doomed = record.dooms or extra.doomed
    extra.rejected = record.rejects or extra.rejected


def _child_made(state: ShardState, record: r.ChildMade) -> None:
    extra = state.take(record.parent).need_extra()
    if extra.asked is None or extra.open is None or extra.children is None:
        raise Damage(f"child made for job {record.parent}, which is no flow's parent")
    extra.asked.discard(record.position)
    extra.open.add(record.child)
    extra.children[record.position] = record.child


def _child_done(state: ShardState, record: r.ChildDone) -> None:
    extra = state.take(record.parent).need_extra()
    if extra.open is None or record.child not in extra.open:
        raise Damage(f"child {record.child} of job {record.parent} ended twice")
    extra.open.discard(record.child)
    extra.children_completed += record.completed


def _freed(state: ShardState, record: r.Freed) -> None:
    job = state.take(record.id)
    if record.note is not None:
        logs = job.need_extra().logs or []
        logs.append((state.now_ms, record.note, "info"))
        job.need_extra().logs = logs
    if job.extra is not None:
        job.extra.open = None
    state.enqueue(job, state.queues[job.queue])


def _watched_by(state: ShardState, record: r.WatchedBy) -> None:
    extra = state.take(record.id).need_extra()
    watchers = extra.watchers = extra.watchers or []
    if record.dependent not in watchers:
        watchers.append(record.dependent)


# --- jobs are worked on


def _delivered(state: ShardState, record: r.Delivered) -> None:
    ids, now = record.ids, state.now_ms
    queue = state.queues[record.queue]
    jobs = queue.ready.pop(len(ids))
    if [job.id for job in jobs] != ids:
        raise Damage(f"jobs {ids} delivered, which were not the first of {record.queue}")
    state.touch_many(ids)
    delivery = Delivery(record.token, record.session, jobs, len(jobs))
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
    delivery = Delivery(record.token, record.session, [], 0)
    if record.session:
        deliveries = state.session(record.session).deliveries
        delivery = deliveries.setdefault(record.token, delivery)
    for job_id in record.ids:
        job = state.take(job_id)
        queue = state.queues[job.queue]
        job = state.withdraw(job, queue)
        state.set_state(job, queue, ACTIVE)
        job.started_at = state.now_ms
        job.lease = delivery
        delivery.jobs.append(job)
        delivery.open += 1


def _acked(state: ShardState, record: r.Acked) -> None:
    now, results = state.now_ms, record.results
    jobs = state.take_many(record.ids)
    state.totals.latency_ms_sum += now * len(jobs) - sum([job.created_at for job in jobs])
    state.totals.completed += len(jobs)
    plain = [job for job in jobs if job.options is None and job.lease is not None]
    if len(plain) == len(jobs):
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
    now, open_lease, released = state.now_ms, None, 0
    for job in jobs:
        lease = job.lease
        job.state = COMPLETED
        job.ended_at = now
        job.lease = None
        if lease is not open_lease:
            state.release(open_lease, released)
            open_lease, released = lease, 0
        released += 1
    state.release(open_lease, released)
    for name, run in groupby(jobs, _QUEUE_OF):
        state.file_plain(list(run), state.queues[name])
    state.counts[ACTIVE] -= len(jobs)
    state.counts[COMPLETED] += len(jobs)


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
    state.file_completed(job, queue)


def _failed(state: ShardState, record: r.Failed) -> None:
    job = state.take(record.id)
    queue = state.queues[job.queue]
    _settle_awaited(state, job)
    extra = job.need_extra()
    if job.lease is not None:
        extra.last_token = job.lease.token
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
    if options_of(job).remove_on_fail:
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
    plain: list[Job] = []
    for job in state.take_many(record.ids):
        if job.state == COMPLETED and job.options is None and job.extra is None:
            plain.append(job)
            continue
        outcome = _OUTCOMES.get(job.state, OUTCOME_REMOVED)
        _settle_awaited(state, job)
        state.forget(job, state.queues[job.queue], outcome)
    if plain:
        state.forget_plain(plain)
    totals, count = state.totals, len(record.ids)
    if record.reason == "expired":
        totals.expired += count
    elif record.reason == "cancelled":
        totals.cancelled += count
    elif record.reason in ("evicted", "retention"):
        totals.evicted += count


def _results_dropped(state: ShardState, record: r.ResultsDropped) -> None:
    for job_id in record.ids:
        extra = state.take(job_id).need_extra()
        if extra.result is not None:
            extra.result = None
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
        state.enqueue(job, queue)


def _raised(state: ShardState, record: r.Raised) -> None:
    loader = JobLoader(state)
    image = loader.read(record.image)[0]
    job = state.index.get(image.id)
    if job is not None:
        state.touch(job.id)
        state.volatile_jobs -= 1
        job.options = state.intern(image.options)
        return
    loader.load(record.image)
    loader.finish()
    state.next_sequence = max(state.next_sequence, image.id // state.shard_count + 1)


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
        queue.debounces.clear()
        state.forget_if_idle(queue)


def _debounce_started(state: ShardState, record: r.DebounceStarted) -> None:
    state.start_debounce(state.queue(record.queue), record.debounce_id, record.until)


# --- sessions and mailboxes


def _session_ended(state: ShardState, record: r.SessionEnded) -> None:
    state.sessions.pop(record.session, None)
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


_EVOLVE: Final[dict[type, Callable[[ShardState, Any], None]]] = {
    r.Pushed: _pushed,
    r.Parked: _parked,
    r.Awaited: _awaited,
    r.AwaitedDone: _awaited_done,
    r.Confirmed: _confirmed,
    r.DependencyKnown: _dependency_known,
    r.ChildMade: _child_made,
    r.ChildDone: _child_done,
    r.Freed: _freed,
    r.WatchedBy: _watched_by,
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
    r.QueueSet: _queue_set,
    r.QueueGone: _queue_gone,
    r.DebounceStarted: _debounce_started,
    r.SessionEnded: _session_ended,
    r.Sent: _sent,
    r.MailTaken: _mail_taken,
    r.Received: _received,
}
