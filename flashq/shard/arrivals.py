"""How records change the state when jobs come: pushed, parked, confirmed, freed.

A part of `evolve`; see there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, Final

from flashq.protocol import records as r
from flashq.protocol.records import Options
from flashq.shard.holdings import AwaitedPush
from flashq.shard.indexes import PAGE_SEQUENCES
from flashq.shard.lifecycle import (
    DELAYED,
    FLOW,
    PARKED,
    PENDING,
    WAITING,
    Damage,
    Job,
    is_retained,
    options_of,
)
from flashq.shard.state import JOB_BYTES, ShardState


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
    ids = range(start, start + count * step, step)
    if len(priorities) not in (1, count):
        raise Damage(f"{count} jobs pushed with {len(priorities)} priorities")
    each = repeat(priorities[0]) if len(priorities) == 1 else priorities
    # Without a line of Python for each job this takes a fifth less.
    zero, none = repeat(0), repeat(None)
    fields = (repeat(name), data, each, repeat(now), repeat(run_at), repeat(to), zero)
    jobs = list(map(Job, ids, *fields, repeat(options), zero, zero, none, none))
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
    )


def _file_plain(state: ShardState, record: r.Pushed, jobs: list[Job]) -> None:
    """File many ready jobs without options, page by page and lane by lane."""
    queue, count = state.queues[record.queue], len(jobs)
    done = 0
    while done < count:
        page = state.touch(jobs[done].id)
        number, offset = divmod(record.first + done, PAGE_SEQUENCES)
        chunk = jobs[done : done + PAGE_SEQUENCES - offset]
        if number in state.cut_pages or page.aside is not None:
            for job in chunk:
                state.touch(job.id)
        page.jobs[offset : offset + len(chunk)] = chunk
        page.live += len(chunk)
        done += len(chunk)
    if record.options is not None and record.options.level == "memory":
        state.volatile_jobs += count
    if is_retained(jobs[0]):
        state.retained += count
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
        extra.asked = set(range(len(record.children)))
        extra.open = set()
        extra.children = [0] * len(record.children)
        extra.children_queues = list(record.children)
    else:
        dependencies = options_of(job).depends_on
        extra.asked = set(dependencies)
        extra.open = set(dependencies)
    state.next_sequence = record.sequence + 1
    state.add(job, queue)


def await_request(state: ShardState, push: AwaitedPush) -> None:
    """Note a push whose answer waits for other shards, by the request that a repeat names."""
    if push.session:
        state.awaited_requests[push.session, push.n] = push.key
        state.awaited_of[push.session] += 1


def answer_request(state: ShardState, push: AwaitedPush) -> None:
    """Note that such a push waits no longer."""
    if state.awaited_requests.pop((push.session, push.n), None) is not None:
        state.awaited_of[push.session] -= 1
        if not state.awaited_of[push.session]:
            del state.awaited_of[push.session]


def _awaited(state: ShardState, record: r.Awaited) -> None:
    push = AwaitedPush(
        record.key,
        record.kind,
        list(record.ids),
        list(record.errors),
        record.session,
        record.n,
        len(record.pending),
        record.done_below,
    )
    state.awaited[record.key] = push
    await_request(state, push)
    for job_id in record.pending:
        state.awaiting[job_id] = record.key


def _confirmed(state: ShardState, record: r.Confirmed) -> None:
    """Everything asked about a pending job is known: it exists from now on."""
    job = state.take(record.id)
    queue = state.queues[job.queue]
    is_flow = job.extra is not None and job.extra.children is not None
    state.set_state(job, queue, FLOW if is_flow else PARKED)
    state.totals.pushed += 1
    settle_awaited(state, job)


def settle_awaited(state: ShardState, job: Job) -> None:
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
    answer_request(state, push)


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
    key = state.awaiting.get(record.parent)
    if key is not None:
        state.awaited[key].ids[1 + record.position] = record.child


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
    watchers.append(record.dependent)  # which asks after each job it waits for once


ARRIVALS: Final[dict[type, Callable[[ShardState, Any], None]]] = {
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
}
