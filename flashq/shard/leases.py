"""Who holds what: sessions, their heartbeats, and the deadlines of deliveries.

A delivery with a session is held as long as the session is heard of and names it. A job whose push
gave a `stall_timeout` is held no longer than that after the last sign that it is worked on: its own
heartbeat or progress. So is one without a session, by the server's time where it has none. Either
way a job's own `timeout` bounds its attempt. A delivery whose reply may still wait for the log to
be safe has reached nobody, and does not get older. Times are on the engine's clock, which does not
count time in which this process did not run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from itertools import chain, islice, repeat
from typing import Final

from msgspec import Struct

from flashq.errors import Busy, SessionExpired
from flashq.protocol import records as r
from flashq.protocol.limits import MIB
from flashq.protocol.records import AnyRecord
from flashq.protocol.sessions import About, Heartbeat, HeartbeatReply
from flashq.shard.core import SLICE_JOBS, Core, Waiter
from flashq.shard.handlers.leasing import is_lost_delivery
from flashq.shard.lifecycle import (
    Delivery,
    Job,
    options_of,
    special_of,
    state_name,
)
from flashq.shard.outbox import Origin

PULLED_QUEUES_MAX: Final = 100
"""Queues remembered of one session as those that it pulls from; the oldest is forgotten first."""
EVICTION_LOOKS_MAX: Final = 64
"""So many sessions are looked at to find one that can be forgotten."""
ANSWERS_BYTES_MAX: Final = 256 * MIB
"""What all answers that are kept for repeats may take in one shard."""
MISSED_MAX: Final = 2
"""A lease that so many heartbeats in a row do not name goes back to its queue."""


class LiveSession(Struct):
    """A session that has been heard of."""

    id: bytes
    heard_ms: int
    check_ms: int
    """When it is looked after next; an earlier deadline of its own no longer counts."""
    has_asked_again: bool = False
    is_silent: bool = False
    leaving: frozenset[int] | None = None
    """It has said goodbye, and has more than can be given back at once: which of its jobs count as
    lost."""
    waiters: dict[Waiter, None] = {}
    """Its parked pulls."""
    open: int = 1
    queues: dict[str, None] = {}
    """Those that it has pulled from, as long as this process knows it."""
    taken: int = 0
    """Jobs that were handed to it in that time."""
    about: About | None = None
    """What it has said of itself."""


class _Watch:
    """A delivery's deadlines."""

    __slots__ = ("delivery", "since_ms")

    def __init__(self, delivery: Delivery, since_ms: int) -> None:
        self.delivery = delivery
        self.since_ms = since_ms

    @property
    def open(self) -> int:
        return self.delivery.open


class _Run:
    """A job whose work has started, under a delivery whose time-outs count from then."""

    __slots__ = ("job", "watch")

    def __init__(self, job: Job, watch: _Watch) -> None:
        self.job = job
        self.watch = watch

    @property
    def open(self) -> int:
        return int(self.job.lease is self.watch.delivery)


class Leases:
    """Sessions and the deadlines of what is handed out.

    Args:
        core: the engine's middle.
        drop: forgets a parked pull whose session is gone.
        release: gives jobs back, by id, that nobody has worked on.
    """

    def __init__(
        self, core: Core, drop: Callable[[Waiter], None], release: Callable[[list[int]], None]
    ) -> None:
        self._core = core
        self._drop = drop
        self._release = release
        self.sessions: dict[bytes, LiveSession] = {}
        #: the same by when they were last heard: those that have asked once, and the others
        self._once: OrderedDict[bytes, LiveSession] = OrderedDict()
        self._again: OrderedDict[bytes, LiveSession] = OrderedDict()

    # --- after a restart

    def resume(self) -> None:
        """Give everybody who held or asked something before a restart the time to say so again."""
        state = self._core.state
        for session_id in state.sessions:
            self._meet(session_id)
        for session_id in state.awaited_of:
            if session_id not in self.sessions and session_id not in state.expired_sessions:
                self._meet(session_id)
        seen: set[int] = set()
        for page in state.index.pages.values():
            for job in page.jobs:
                if job is None or job.lease is None or id(job.lease) in seen:
                    continue
                seen.add(id(job.lease))
                self._watch(job.lease)

    # --- sessions

    def hear(self, session_id: bytes) -> LiveSession:
        """Note that a session lives.

        Raises:
            Busy: it is new, and there are too many.
            SessionExpired: it has said goodbye.
        """
        live = self.sessions.get(session_id)
        if live is not None and live.leaving is not None:
            raise SessionExpired
        if live is None:
            if len(self.sessions) >= self._core.limits.sessions_max and not self._evict():
                raise Busy(detail=f"{len(self.sessions)} sessions are live")
            return self._meet(session_id)
        clock_ms = self._core.clock_ms
        if live.has_asked_again:
            if clock_ms != live.heard_ms:
                self._again.move_to_end(session_id)
        else:
            live.has_asked_again = True
            self._again[session_id] = self._once.pop(session_id)
        live.heard_ms = clock_ms
        if live.is_silent:
            live.is_silent = False
            self._check_at(live, live.heard_ms + self._core.limits.session_timeout_ms)
        return live

    def _meet(self, session_id: bytes) -> LiveSession:
        core = self._core
        live = self.sessions[session_id] = LiveSession(session_id, core.clock_ms, 0)
        self._once[session_id] = live
        self._check_at(live, core.clock_ms + core.limits.session_timeout_ms)
        return live

    def _check_at(self, live: LiveSession, at_ms: int) -> None:
        live.check_ms = at_ms
        self._core.timers.at(at_ms, self._check, live)

    def note_waiter(self, waiter: Waiter) -> None:
        """Note that a pull is parked, to drop it with its session."""
        live = self.sessions.get(waiter.session) if waiter.session else None
        if live is not None:
            live.waiters[waiter] = None

    def forget_waiter(self, waiter: Waiter) -> None:
        """Note that a pull is parked no longer."""
        live = self.sessions.get(waiter.session) if waiter.session else None
        if live is not None:
            live.waiters.pop(waiter, None)

    def note_pull(self, session_id: bytes, queue: str) -> None:
        """Note from which queue a session takes its jobs."""
        live = self.sessions.get(session_id)
        if live is not None and queue not in live.queues:
            if len(live.queues) >= PULLED_QUEUES_MAX:
                del live.queues[next(iter(live.queues))]
            live.queues[queue] = None

    def _check(self, live: LiveSession) -> int:
        """A session's deadline has come: is it silent, and for how long? Return how many jobs and
        waiters that took."""
        core, limits = self._core, self._core.limits
        if core.clock_ms < live.check_ms:
            return 0  # it came back since this deadline was set
        silent = core.clock_ms - live.heard_ms
        if silent < limits.session_timeout_ms and live.leaving is None:
            self._check_at(live, live.heard_ms + limits.session_timeout_ms)
            return 0
        work = self._let_go(live, live.leaving)
        if work >= SLICE_JOBS:
            self._check_at(live, core.clock_ms)  # for the rest
        elif silent < limits.answers_ms and live.leaving is None:
            live.is_silent = True
            self._check_at(live, live.heard_ms + limits.answers_ms)
        else:
            self._forget(live)
        return work

    def _forget(self, live: LiveSession) -> None:
        """Forget a session and its answers: from now on it is expired."""
        core = self._core
        live.open = 0
        del self.sessions[live.id]
        self._once.pop(live.id, None)
        self._again.pop(live.id, None)
        if self._is_known(live.id):
            core.commit([r.SessionEnded(live.id)], durable=core.context.level == "durable")

    def _evict(self) -> bool:
        """Forget the session that has been silent for longest, of those that hold nothing and wait
        for nothing; one that has asked only once goes first, so that a flood of sessions makes room
        for itself.

        Returns:
            Whether there was one, among those that were looked at.
        """
        for silent in (self._once, self._again):
            for live in islice(silent.values(), EVICTION_LOOKS_MAX):
                if not live.waiters and not self._is_bound(live.id):
                    self._forget(live)
                    return True
        return False

    def _is_bound(self, session_id: bytes) -> bool:
        """Tell whether a session holds jobs, or waits for the answer to a push."""
        state = self._core.state
        session = state.sessions.get(session_id)
        return bool(session is not None and session.deliveries) or session_id in state.awaited_of

    def drop_answers(self) -> None:
        """Make room for further answers.

        Raises:
            Busy: there are too many, of sessions that all hold something.
        """
        state = self._core.state
        while state.answer_bytes > ANSWERS_BYTES_MAX:
            if not self._evict():
                raise Busy(detail=f"{state.answer_bytes} bytes of answers are kept for repeats")

    def _is_known(self, session_id: bytes) -> bool:
        """Tell whether a repeat of the session's can be answered, now or when a push is known."""
        state = self._core.state
        return session_id in state.sessions or session_id in state.awaited_of

    def _let_go(self, live: LiveSession, lost: Collection[int] | None) -> int:
        """Drop a session's parked pulls and give its jobs back, SLICE_JOBS of them at most.

        Args:
            live: the session.
            lost: ids of the jobs that count as lost; None for all.

        Returns:
            How many they were.
        """
        core = self._core
        waiters = list(islice(live.waiters, SLICE_JOBS))
        for waiter in waiters:
            self._drop(waiter)
        held = list(islice(self._held(live.id), SLICE_JOBS - len(waiters)))
        gone = [job for job in held if lost is None or job.id in lost]
        if gone:
            records = core.context.losing(gone)
            core.commit(records, durable=core.context.is_any_durable(records))
        if lost is not None and len(gone) < len(held):
            self._release([job.id for job in held if job.id not in lost])
        return len(waiters) + len(held)

    def _held(self, session_id: bytes) -> Iterator[Job]:
        session = self._core.state.sessions.get(session_id)
        for delivery in () if session is None else session.deliveries.values():
            yield from (job for job in delivery.jobs if job.lease is delivery)

    def held(self, session_id: bytes) -> int:
        """Return how many jobs a session holds."""
        session = self._core.state.sessions.get(session_id)
        deliveries = () if session is None else session.deliveries.values()
        return sum(delivery.open for delivery in deliveries)

    def goodbye(self, session_id: bytes, lost: Collection[int]) -> None:
        """End a session on purpose: nobody will repeat anything of it.

        Args:
            session_id: of the session.
            lost: ids of the jobs that count as lost; the others go back uncounted.
        """
        live = self.sessions.get(session_id)
        if live is None:
            return
        leaving = frozenset(lost)
        if self._let_go(live, leaving) < SLICE_JOBS:
            self._forget(live)
        else:
            live.leaving = leaving
            self._check_at(live, self._core.clock_ms)  # for the rest

    # --- heartbeats

    def heartbeat(self, command: Heartbeat, origin: Origin) -> HeartbeatReply:
        """Take in a session's heartbeat and tell it which leases are no longer its own.

        A job handed out before a crash whose record was lost goes to the session that names it, if
        nobody else has had it since.
        """
        session_id, state = command.session, self._core.state
        if session_id in state.expired_sessions:
            return self._losing(command.leases, origin)
        live = self.hear(session_id)
        live.about = command.about or live.about
        lost: list[int] = []
        adopted: dict[int, list[int]] = {}
        named: set[int] = set()
        for job_id, token in zip(command.leases, chain(command.tokens, repeat(None)), strict=False):
            job = self._core.context.job(job_id, origin)
            lease = None if job is None else job.lease
            if lease is not None and lease.session == session_id and token in (None, lease.token):
                named.add(job_id)
            elif job is None or token is None:
                lost.append(job_id)
            elif is_lost_delivery(self._core.context, job, token) and job_id not in named:
                adopted.setdefault(token, []).append(job_id)
                named.add(job_id)
            else:
                lost.append(job_id)
        records: list[AnyRecord] = [
            r.Adopted(ids, token, session_id) for token, ids in adopted.items()
        ]
        missing = self._unnamed(session_id, named)
        if records:
            self._core.commit(records, durable=False)
        if missing:
            self._release(missing)
        for ids in adopted.values():
            self.watch_adopted(ids)
        return self._losing(lost, origin)

    def _losing(self, lost: list[int], origin: Origin) -> HeartbeatReply:
        """Return the answer that says which leases are lost, and what became of their jobs."""
        job = self._core.context.job
        states = [state_name(job(job_id, origin)) for job_id in lost]
        return HeartbeatReply(ok=True, lost=lost, states=states)

    def _unnamed(self, session_id: bytes, named: set[int]) -> list[int]:
        """Return the jobs whose lease has now gone unnamed too often."""
        session = self._core.state.sessions.get(session_id)
        if session is None:
            return []
        missing: list[int] = []
        for delivery in session.deliveries.values():
            if delivery.gate > self._core.safe:
                continue  # its reply may not have left yet
            missed: dict[int, int] = {}
            for job in delivery.jobs:
                if job.lease is not delivery or job.id in named:
                    continue
                times = 1 + (delivery.missed or {}).get(job.id, 0)
                if times >= MISSED_MAX:
                    missing.append(job.id)
                else:
                    missed[job.id] = times
            delivery.missed = missed or None
        return missing

    def beat(self, job_id: int) -> None:
        """Note a sign that a job is worked on: its own heartbeat, or its progress. The first may be
        the start of the work."""
        core, job = self._core, self._core.state.job(job_id)
        if job is not None and job.lease is not None:
            starts = job.lease.starts
            if starts is not None and job_id not in starts:
                starts[job_id] = core.clock_ms
                self._run(_Run(job, _Watch(job.lease, core.clock_ms)))
            delivery = job.lease
            delivery.beats = delivery.beats or {}
            delivery.beats[job_id] = self._core.clock_ms

    # --- deadlines of deliveries

    def watch_adopted(self, job_ids: list[int]) -> None:
        """Set the deadline of jobs that have been adopted together."""
        job = self._core.state.index.get(job_ids[0])
        if job is not None and job.lease is not None:
            self._watch(job.lease)

    def hand_out(self, jobs: list[Job], session_id: bytes, *, starts: bool = False) -> None:
        """Note that jobs have just been handed to a session (empty for none).

        Args:
            starts: whether the session says when it starts with each, and time-outs count from
                then.
        """
        live = self.sessions.get(session_id) if session_id else None
        if live is not None:
            live.taken += len(jobs)
        self._core.context.measures.delivered(jobs, self._core.state.now_ms)
        delivery = jobs[0].lease
        assert delivery is not None, "they were handed out"
        delivery.gate = self._core.state.seq
        if starts and session_id:
            delivery.starts = {}
        self._watch(delivery)

    def _watch(self, delivery: Delivery) -> None:
        """Set the deadline of the jobs that are held under one delivery, counted from now."""
        held: list[Job] = [job for job in delivery.jobs if job.lease is delivery]
        if delivery.session:
            held = special_of(held)  # only the session's silence ends its hold on plain ones
        watch = _Watch(delivery, self._core.clock_ms)
        deadlines = [at for job in held if (at := self._deadline(job, watch)) is not None]
        if deadlines:
            self._core.timers.at(min(deadlines), self._due, watch)

    def _deadline(self, job: Job, watch: _Watch) -> int | None:
        options, delivery = job.options, watch.delivery
        at: int | None = None
        if delivery.starts is not None and job.id not in delivery.starts:
            return None  # its worker has not started with it
        if options is not None and options.timeout:
            at = watch.since_ms + options.timeout
        has_own = options is not None and options.stall_timeout
        if has_own or (at is None and not delivery.session):
            stall = self._stall_at(job, watch)
            at = stall if at is None else min(at, stall)
        return at

    def _stall_at(self, job: Job, watch: _Watch) -> int:
        beats = watch.delivery.beats
        since = watch.since_ms if beats is None else beats.get(job.id, watch.since_ms)
        own = options_of(job).stall_timeout
        return since + (own or self._core.limits.stall_timeout_ms)

    def _run(self, run: _Run) -> int:
        """Watch a job that is worked on; its time may be up already."""
        core, at = self._core, self._deadline(run.job, run.watch)
        if at is None:
            return 0
        if at > core.clock_ms:
            core.timers.at(at, self._run, run)
            return 0
        records = self._ending(run.job, run.watch)
        core.commit(records, durable=core.context.is_any_durable(records))
        return 1

    def _ending(self, job: Job, watch: _Watch) -> list[AnyRecord]:
        """Return what ends an attempt that is too long, or of which too little is heard."""
        timeout = options_of(job).timeout
        if timeout and watch.since_ms + timeout <= self._core.clock_ms:
            return self._core.context.failing(job, "timeout", "Job timed out")
        return self._core.context.failing(job, "stalled", "Job stalled")

    def _due(self, watch: _Watch) -> int:
        """A delivery's first deadline has come: end the attempts that are too long, and return how
        many jobs they are of."""
        core, delivery, ended = self._core, watch.delivery, 0
        records: list[AnyRecord] = []
        again: int | None = None
        if delivery.gate > core.safe:
            watch.since_ms = core.clock_ms  # its reply may not have left yet
        for job in delivery.jobs:
            if job.lease is not delivery:
                continue
            at = self._deadline(job, watch)
            if at is None:
                continue
            if at > core.clock_ms:
                again = at if again is None else min(again, at)
                continue
            if ended >= SLICE_JOBS:
                again = core.clock_ms
                break
            ended += 1
            records += self._ending(job, watch)
        if again is not None:
            core.timers.at(again, self._due, watch)
        if records:
            core.commit(records, durable=core.context.is_any_durable(records))
        return ended
