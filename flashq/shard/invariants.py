"""What must always be true of a shard's state, and its durable part as a value to compare.

Tests call `validate` after every step, and compare `canonical` of a live state, of its log
replayed and of its checkpoint recovered. Reads everything, the inner order of lanes included;
changes nothing.
"""

from __future__ import annotations

from collections import Counter
from copy import copy, deepcopy
from typing import Any

from flashq.ids import JOB_ID_MAX
from flashq.shard.holdings import DEFAULT_SETTINGS, Queue, Session, size_of_answer
from flashq.shard.indexes import PAGE_SEQUENCES, DueHeap, Lane
from flashq.shard.lifecycle import (
    ACTIVE,
    ASIDE,
    CANCELLED,
    COMPLETED,
    DELAYED,
    FAILED,
    FLOW,
    GONE,
    KEPT,
    PARKED,
    PENDING,
    STATES,
    WAITING,
    Job,
    expires_at,
    is_aged,
    is_retained,
    is_volatile,
    options_of,
)
from flashq.shard.pages import decode_page, encode_page, image_of
from flashq.shard.state import JOB_BYTES, ShardState


def validate(state: ShardState) -> None:
    """Check that all indexes of the state agree with its jobs and with each other.

    Raises:
        AssertionError: they do not; the text tells what and where.
    """
    jobs = _jobs_by_id(state)
    _check_counts(state, jobs)
    windows = sum(len(queue.debounces) for queue in state.queues.values())
    assert state.debounces.count == windows, f"debounce windows: found {windows}"
    for queue in state.queues.values():
        _check_queue(state, queue, [job for job in jobs.values() if job.queue == queue.name])
    orphans = {job.queue for job in jobs.values()} - state.queues.keys()
    assert not orphans, f"jobs of queues {orphans}, which are not there"
    for job in jobs.values():
        _check_job(state, job)
    _check_times(state, jobs)
    _check_completed(state, jobs)
    _check_sessions(state, jobs)
    _check_awaited(state, jobs)
    _check_mailboxes(state)


def _jobs_by_id(state: ShardState) -> dict[int, Job]:
    """Return all jobs, having checked the pages that hold them."""
    jobs: dict[int, Job] = {}
    for number, page in state.index.pages.items():
        assert len(page.jobs) == PAGE_SEQUENCES, f"page {number} has {len(page.jobs)} places"
        held = list(filter(None, page.jobs))
        for job in held:
            where, offset = state.index.place(job.id)
            assert where == number, f"{job!r} is on page {number}"
            assert page.jobs[offset] is job, f"{job!r} is not in its place"
            assert job.id % state.shard_count == state.shard, f"{job!r} is another shard's"
            assert page.outcomes is None or not page.outcomes[offset], f"{job!r} has an outcome"
            jobs[job.id] = job
        live = len(held)
        assert live == page.live, f"page {number} counts {page.live} jobs and holds {live}"
        listed = number in state.outcome_pages
        assert (page.outcomes is not None) == listed, f"outcomes of page {number} are not listed"
        assert not page.dirty or number in state.dirty_pages, f"dirty page {number} is not listed"
        assert live or page.outcomes is not None or page.dirty or page.is_to_be_written, (
            f"page {number} is kept for nothing"
        )
    marks = [state.index.pages[number].ended_mark for number in state.outcome_pages]
    assert marks == sorted(marks), (
        f"pages with outcomes are not in the order of their ends: {marks}"
    )
    assert not marks or marks[-1] <= state.ended, f"more ends noted than the {state.ended} counted"
    last = max(jobs, default=0) // state.shard_count
    assert last < state.next_sequence, f"job {max(jobs, default=0)} has a sequence still to come"
    return jobs


def _check_counts(state: ShardState, jobs: dict[int, Job]) -> None:
    assert state.index.count == len(jobs), f"{state.index.count} counted, {len(jobs)} held"
    by_state = Counter(job.state for job in jobs.values())
    found = [by_state[code] for code in range(STATES)]
    assert state.counts == found, f"states counted {state.counts}, found {found}"
    size = sum(JOB_BYTES + len(job.data) for job in jobs.values())
    assert state.bytes == size, f"{state.bytes} bytes counted, {size} found"
    volatile = sum(map(is_volatile, jobs.values()))
    assert state.volatile_jobs == volatile, f"{state.volatile_jobs} volatile, found {volatile}"


def _check_queue(state: ShardState, queue: Queue, jobs: list[Job]) -> None:
    name = queue.name
    assert state.queues[name] is queue
    assert not queue.is_idle(), f"queue {name} is kept for nothing"
    settled = queue.settings is DEFAULT_SETTINGS or queue.settings != DEFAULT_SETTINGS
    assert settled, f"queue {name} has a copy of the default settings"
    by_state = Counter(job.state for job in jobs)
    found = [by_state[code] for code in range(STATES)]
    assert queue.counts == found, f"queue {name} counts {queue.counts}, found {found}"
    _check_ready(queue, [job for job in jobs if job.state == WAITING])
    dead = sorted(job.id for job in jobs if job.state == FAILED)
    assert sorted(queue.dlq) == dead, f"queue {name} lists dead {sorted(queue.dlq)}, found {dead}"
    assert all(state.index.get(key) is job for key, job in queue.dlq.items())
    ends = [job.ended_at for job in queue.dlq.values()]
    assert ends == sorted(ends), f"dead letters of {name} are not oldest first: {ends}"
    _check_keys(queue, jobs)
    aside = {job.id: job for job in jobs if job.state in ASIDE}
    assert queue.aside == aside, f"queue {name} has aside {sorted(queue.aside)}, not {aside}"
    leases = {id(job.lease) for job in jobs if job.lease is not None}
    listed = {id(delivery) for delivery in queue.deliveries if delivery.open}
    assert leases <= listed, f"queue {name} does not list a delivery of its jobs"
    assert all(delivery.open for delivery in queue.deliveries), f"{name} lists a closed delivery"
    for debounce_id, until in queue.debounces.items():
        ends_at = (until, name, debounce_id)
        assert ends_at in state.debounces, f"debounce {ends_at} never ends"


def _check_keys(queue: Queue, jobs: list[Job]) -> None:
    unique: dict[str, int] = {}
    custom: dict[str, int] = {}
    for job in jobs:
        options = options_of(job)
        if options.unique_key is not None and job.state not in KEPT:
            assert options.unique_key not in unique, f"two jobs hold key {options.unique_key}"
            unique[options.unique_key] = job.id
        if options.custom_id is not None and job.state != CANCELLED:
            assert options.custom_id not in custom, f"two jobs have id {options.custom_id}"
            custom[options.custom_id] = job.id
    assert queue.unique_keys == unique, f"unique keys {queue.unique_keys}, found {unique}"
    assert queue.custom_ids == custom, f"custom ids {queue.custom_ids}, found {custom}"


def _check_ready(queue: Queue, waiting: list[Job]) -> None:
    lanes = queue.ready.lanes()
    order = [-priority for priority in sorted(lanes, reverse=True)]
    assert queue.ready._order == order, f"lanes {list(lanes)} in order {queue.ready._order}"
    assert len(queue.ready) == len(waiting), f"{len(queue.ready)} ready, {len(waiting)} waiting"
    filed: set[int] = set()
    for priority, lane in lanes.items():
        assert lane.live, f"an empty lane of priority {priority}"
        _check_lane(lane)
        for job in lane.entries():
            if job.state == WAITING:
                assert job.priority == priority, f"{job!r} is in lane {priority}"
                assert job.id not in filed, f"{job!r} is filed twice"
                filed.add(job.id)
    missing = {job.id for job in waiting} ^ filed
    assert not missing, f"filed in {queue.name} or waiting, but not both: {missing}"


def _rank(job: Job) -> tuple[int, int, int]:
    """Where a job stands in its lane."""
    return (0, -job.id, 0) if options_of(job).lifo else (1, job.run_at, job.id)


def _check_lane(lane: Lane) -> None:
    live = sum(job.state == WAITING for job in lane.entries())
    dead = len(lane.entries()) - live
    assert (lane.live, lane.dead) == (live, dead), f"{lane.live}, {lane.dead} are {live}, {dead}"
    for run in (lane._staged, lane._fifo):
        ranks = [_rank(job) for job in run]
        assert ranks == sorted(ranks), f"jobs out of order: {ranks}"
    assert all(options_of(entry[2]).lifo for entry in lane._lifo)
    assert not any(options_of(job).lifo for job in lane._fifo)
    assert not any(options_of(entry[3]).lifo for entry in lane._side)
    for heap in (lane._side, lane._lifo):
        for place in range(1, len(heap)):
            assert heap[(place - 1) // 2][:2] <= heap[place][:2], f"no heap: {heap!r}"
    if lane._staged:
        last = _rank(lane._staged[-1])
        staged = {id(job) for job in lane._staged}
        for job in lane.entries():
            if id(job) not in staged and job.state == WAITING:
                assert _rank(job) > last, f"{job!r} belongs before the staged {last}"


def _check_job(state: ShardState, job: Job) -> None:
    assert job.state != GONE, f"{job!r} is gone and yet here"
    lease, extra = job.lease, job.extra
    if job.state == ACTIVE:
        assert lease is not None, f"active without a lease: {job!r}"
        assert any(held is job for held in lease.jobs), f"its lease does not list {job!r}"
    else:
        assert lease is None, f"a lease on {job!r}"
    if job.state == WAITING:
        assert job.run_at <= state.now_ms, f"waiting before its time {job!r}"
    if job.state == DELAYED:
        passed = (state.now_ms, JOB_ID_MAX) if state.due_mark is None else state.due_mark
        assert (job.run_at, job.id) > passed, f"delayed beyond its time {job!r}"
    assert (job.ended_at > 0) == (job.state in (*KEPT, FAILED)), f"ended when? {job!r}"
    if job.state in (PENDING, PARKED, FLOW):
        assert extra is not None, f"waits for others without an extra: {job!r}"
        assert extra.open is not None, f"waits for nothing: {job!r}"
        is_flow = extra.children is not None
        assert job.state == PENDING or is_flow == (job.state == FLOW), f"the wrong wait: {job!r}"
        assert job.state == PENDING or (extra.open and not extra.asked), f"should go on: {job!r}"
    assert (job.state == PENDING) == (job.id in state.awaiting), f"pending for no push: {job!r}"


def _entries(heap: DueHeap) -> set[tuple[int, int]]:
    return set(heap._heap)


def _check_times(state: ShardState, jobs: dict[int, Job]) -> None:
    delayed, expiring, ages = map(_entries, (state.delayed, state.expiring, state.ages))
    for job in jobs.values():
        options = options_of(job)
        if job.state == DELAYED:
            assert (job.run_at, job.id) in delayed, f"never due: {job!r}"
        if job.state in (WAITING, DELAYED) and options.ttl:
            end = (expires_at(job), job.id)
            assert end in expiring, f"never expires: {job!r}"
        if job.state in KEPT and options.keep_completed_age:
            end = (job.ended_at + options.keep_completed_age, job.id)
            assert end in ages, f"kept for ever: {job!r}"


def _check_completed(state: ShardState, jobs: dict[int, Job]) -> None:
    completed = [job for job in jobs.values() if job.state in KEPT]
    retained = sum(map(is_retained, jobs.values()))
    assert state.retained == retained, f"{state.retained} to be kept, found {retained}"
    loose = {job.id for job in completed if not is_retained(job)}
    kept = len(completed) - len(loose)
    assert state.retained_ended == kept, f"{state.retained_ended} kept, found {kept}"
    _check_filed([job for job in state.kept if job.state in KEPT], loose, jobs)
    for name, queue in state.queues.items():
        listed = [job for job in queue.kept if job.state in KEPT]
        mine = [job for job in completed if job.queue == name]
        _check_filed(listed, {job.id for job in mine if not is_aged(job)}, jobs)
        aged = sum(map(is_aged, mine))
        assert queue.aged_count == aged, f"queue {name} counts {queue.aged_count} aged, not {aged}"
        filed = [job for job in queue.aged if job.state in KEPT]
        _check_filed(filed, {job.id for job in mine if is_aged(job)}, jobs)
    with_result = [
        job.id
        for job in state.with_result
        if job.state == COMPLETED and job.extra is not None and job.extra.result is not None
    ]
    found = {
        job.id
        for job in jobs.values()
        if job.extra is not None and job.extra.result is not None and not is_retained(job)
    }
    assert set(with_result) == found, f"results filed {with_result}, found {found}"
    assert len(with_result) == len(found) == state.results, f"{state.results} results counted"


def _check_filed(filed: list[Job], ids: set[int], jobs: dict[int, Job]) -> None:
    assert {job.id for job in filed} == ids, f"completed jobs {ids} are not all filed: {filed}"
    assert len(filed) == len(ids), "completed jobs are filed twice"
    assert all(jobs[job.id] is job for job in filed), "an older object of a job is filed"
    ends = [job.ended_at for job in filed]
    assert ends == sorted(ends), f"completed jobs are not oldest first: {ends}"


def _check_sessions(state: ShardState, jobs: dict[int, Job]) -> None:
    held: dict[int, int] = {}
    for job in jobs.values():
        if job.lease is not None:
            held[id(job.lease)] = held.get(id(job.lease), 0) + 1
            assert job.lease.open > 0, f"its delivery is closed: {job!r}"
    for job in jobs.values():
        delivery = job.lease
        if delivery is None:
            continue
        count = held[id(delivery)]
        assert delivery.open == count, f"delivery {delivery.token}: {delivery.open} of {count} held"
        if delivery.session:
            session = state.sessions.get(delivery.session)
            assert session is not None, f"held by a session that is not there: {job!r}"
            known = session.deliveries.get(delivery.token)
            assert known is delivery, f"its session does not know the delivery of {job!r}"
    kept = sum(session.bytes for session in state.sessions.values())
    assert state.answer_bytes == kept, f"{state.answer_bytes} bytes of answers, found {kept}"
    for name, session in state.sessions.items():
        assert name, "a session without a name"
        assert name not in state.expired_sessions, f"session {name!r} lives and is expired"
        for token, delivery in session.deliveries.items():
            assert (delivery.token, delivery.session) == (token, name)
            assert delivery.open, f"session {name!r} lists delivery {token}, which is closed"
        numbers = list(session.answers)
        assert numbers == sorted(numbers), f"answers of {name!r} out of order: {numbers}"
        size = sum(map(size_of_answer, session.answers.values()))
        assert session.bytes == size, f"answers of {name!r} take {size} bytes, not {session.bytes}"
        stale = [n for n in numbers if n < session.done_below]
        assert not stale, f"answers of {name!r} that nobody needs: {stale}"


def _check_awaited(state: ShardState, jobs: dict[int, Job]) -> None:
    pending = Counter(state.awaiting.values())
    for key, push in state.awaited.items():
        assert push.key == key
        assert push.pending == pending[key], f"push {key} waits for {push.pending}, not {pending}"
        assert (not push.pending) == (key in state.answerable), f"push {key} can be answered or not"
        if push.session:
            assert state.awaited_requests[push.session, push.n] == key
    assert set(pending) <= state.awaited.keys(), f"jobs {state.awaiting} wait for no push"
    assert set(state.awaited_requests.values()) <= state.awaited.keys()
    assert state.awaited_of == Counter(name for name, _ in state.awaited_requests)
    missing = state.awaiting.keys() - jobs.keys()
    assert not missing, f"pending jobs {missing} are not there"


def _check_mailboxes(state: ShardState) -> None:
    assert state.lives == sorted(set(state.lives)), f"lives {state.lives}"
    for peer, mailbox in state.mailboxes.items():
        numbers = [number for number, _, _ in mailbox.pending]
        end = mailbox.next_number
        expected = list(range(end - len(numbers), end))
        assert numbers == expected, f"mail for {peer} is numbered {numbers}, next {end}"
        sequences = [seq for _, seq, _ in mailbox.pending]
        assert sequences == sorted(sequences), f"mail for {peer} is of {sequences}"
        assert not sequences or sequences[-1] <= state.seq, f"mail for {peer} of the future"


def canonical(state: ShardState) -> dict[str, Any]:
    """Return the complete durable state as a value that can be compared.

    Jobs of level memory are left out, and so is what is derived or made anew after a restart.
    Jobs that ended in the same millisecond have no order among themselves: the stored fields do
    not tell it.
    """
    jobs = {
        job.id: job
        for page in state.index.pages.values()
        for job in filter(None, page.jobs)
        if not is_volatile(job)
    }
    return {
        "shard": (state.shard, state.shard_count, state.incarnation, list(state.lives)),
        "moment": (state.seq, state.now_ms, state.next_sequence),
        "jobs": {key: decode_page(encode_page([image_of(job)]))[0] for key, job in jobs.items()},
        "queues": _canonical_queues(state, jobs),
        "totals": copy(state.totals),
        "results": sorted(
            key for key, job in jobs.items() if job.extra is not None and job.extra.result
        ),
        "sessions": {
            name: (
                session.done_below,
                dict(session.answers),
                _canonical_deliveries(session, jobs),
            )
            for name, session in state.sessions.items()
        },
        "expired_sessions": list(state.expired_sessions),
        "awaited": deepcopy(
            (state.awaited, state.awaited_requests, state.awaiting, state.answerable)
        ),
        "mailboxes": {
            peer: (mailbox.next_number, list(mailbox.pending))
            for peer, mailbox in state.mailboxes.items()
        },
        "inboxes": dict(state.inboxes),
        "ended": state.ended,
        "due_mark": state.due_mark,
        "outcomes": [
            (number, page.ended_mark, bytes(page.outcomes or b""))
            for number, page in ((key, state.index.pages[key]) for key in state.outcome_pages)
        ],
    }


def _canonical_deliveries(session: Session, jobs: dict[int, Job]) -> dict[int, list[int]]:
    held = {
        token: sorted(job.id for job in delivery.jobs if job.lease is delivery and job.id in jobs)
        for token, delivery in session.deliveries.items()
    }
    return {token: ids for token, ids in held.items() if ids}


def _canonical_queues(state: ShardState, jobs: dict[int, Job]) -> dict[str, Any]:
    def ids(some: list[Job]) -> list[int]:
        some.sort(key=lambda job: (job.ended_at, job.run_at, job.id))
        return [job.id for job in some]

    queues: dict[str, Any] = {}
    for name, queue in state.queues.items():
        mine = [job for job in jobs.values() if job.queue == name]
        if not mine and not queue.debounces and queue.settings == DEFAULT_SETTINGS:
            continue
        queues[name] = {
            "settings": queue.settings,
            "debounces": dict(queue.debounces),
            "unique_keys": {key: job for key, job in queue.unique_keys.items() if job in jobs},
            "custom_ids": {key: job for key, job in queue.custom_ids.items() if job in jobs},
            "dlq": ids([job for job in queue.dlq.values() if job.id in jobs]),
            "kept": ids([job for job in mine if job.state in KEPT]),
        }
    return queues
