"""The shard engine: commands and time in; replies, log entries and events out.

Pure and deterministic: no I/O, no clock, no randomness. Handlers decide by reading; `evolve`
alone changes the durable state; what is volatile (parked requests, deadlines, when a session was
last heard of, how full a token bucket is) belongs to the engine and is made anew after a restart.

Invariants, beyond those of the state:

* A request is answered once for each time it was asked, or parked with a deadline at which it is.
* A job is handed out only while its queue is not paused, below its concurrency and within its rate,
  and only jobs that are handed out spend tokens of the rate.
* When the engine is done with an input, every queue in which something became deliverable has been
  served: no job is ready while somebody waits for it and may have it, and of those that wait
  without taking as many have been told as there are such jobs.
* Input comes before expiry: what has arrived is handled before `tick` lets anything expire.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from flashq.errors import FlashQError, InvalidRequest, SessionExpired
from flashq.protocol import jobs, leases, queues, server
from flashq.protocol import records as r
from flashq.protocol.base import CountReply
from flashq.protocol.base import Reply as OkReply
from flashq.protocol.codec import encode_msgpack, error_reply
from flashq.protocol.internal import AnyPeerMessage, Mail, Sampled
from flashq.protocol.limits import EngineLimits
from flashq.protocol.names import check_queue_name
from flashq.protocol.records import Answer, AnyRecord
from flashq.protocol.registry import BY_REQUEST
from flashq.protocol.sessions import Goodbye, Heartbeat
from flashq.shard import retention
from flashq.shard.audience import Audience
from flashq.shard.core import SLICE_JOBS, Core, Waiter
from flashq.shard.handlers import inspecting, peers, producing
from flashq.shard.handlers.table import HANDLERS
from flashq.shard.hooks import Hooks
from flashq.shard.leases import ANSWERS_BYTES_MAX, Leases
from flashq.shard.lifecycle import ACTIVE, DELAYED, WAITING, expires_at
from flashq.shard.outbox import Origin
from flashq.shard.pulling import Pulling
from flashq.shard.sight import Sight
from flashq.shard.state import ShardState
from flashq.shard.sweeps import Running, Sweeps
from flashq.shard.workers import list_workers
from flashq.walltime import WallTime

SETTLED_MAX: Final = 256
"""So many waiters are served, and messages of this shard to itself taken, before others get their
turn: some ms of work."""

_UNGATED: Final = frozenset({server.Stats, server.GetMetrics})
"""Answered at once: they also say how much is not safe yet."""

_MUTATING: Final = frozenset(
    kind for kind, command in BY_REQUEST.items() if command.mutates and kind is not Goodbye
) | {jobs.PlainPush, jobs.PlainPushBatch, jobs.PayloadBatch}
"""What may be protected by a session, and makes it known. A goodbye must not make one known."""

_PUSHES: Final = frozenset({jobs.Push, jobs.PlainPush})

_CHANGING_RATE: Final = frozenset({queues.SetRateLimit, queues.ClearRateLimit, queues.Obliterate})


def _answer(command: Any, reply: Any) -> Answer | None:
    """Return what repeats of a request are answered from; None for one that is not protected."""
    if type(command) not in _MUTATING or command.session is None or command.n is None:
        return None
    return Answer(command.session, command.n, command.done_below or 0, encode_msgpack(reply))


class Engine:
    """One shard's engine.

    Args:
        state: what recovery gave, or a fresh one.
        limits: the bounds.
        epoch: under which this process runs; part of every lease token.
        level: the server's durability level: durable, async or memory.
    """

    def __init__(
        self, state: ShardState, limits: EngineLimits, *, epoch: int, level: str = "async"
    ) -> None:
        self._core = core = Core(state, limits, epoch, level)
        self.state: Final = state
        #: what is to be sent and logged; the reader empties its lists
        self.outbox: Final = core.outbox
        self._leases = Leases(core, self._drop_waiter, self._release)
        self._pulling = Pulling(core, self._leases)
        self._sweeps = Sweeps(core, self._end_sweep)
        self._gap_ms = 0
        self._mono_ms = 0
        #: goes on from the log's last moment, also where a wall clock was set back since then
        self._wall_time = WallTime(state.now_ms)
        #: who waits for the answer of an awaited push, by its key
        self._awaiting: dict[int, list[Origin]] = {}
        self._rate_mark = (0, 0)
        #: more is beyond the bounds of what is kept than has gone
        self._is_untidy = False
        #: why no change is taken on at present: storage lags, or the process drains
        self.refusal: FlashQError | None = None

    def _drop_waiter(self, waiter: Waiter) -> None:
        self._pulling.drop(waiter)

    # --- what surrounds the engine

    @property
    def gate(self) -> int:
        """The log sequence of the last durable change."""
        return self._core.gate

    def confirm(self, safe: int) -> None:
        """Say up to which sequence the log is safe; without a word all of it counts as safe."""
        self._core.safe = safe

    @property
    def sessions(self) -> int:
        """How many sessions are live."""
        return len(self._leases.sessions)

    @property
    def waiters(self) -> int:
        """How many requests are parked."""
        return self._core.waiters

    def listen(self, audience: Audience) -> None:
        """Say whose events somebody listens to, now and as it changes; no others are made."""
        self._core.audience = audience

    def tell(self, hooks: Hooks) -> None:
        """Say what webhooks want to be told of, from now on."""
        self._core.hooks = hooks or None

    def start(self, now_ms: int, mono_ms: int, incarnation: int = 0) -> None:
        """Begin, after recovery: what was under way gets its time anew.

        Args:
            incarnation: that was granted; 0 to go on with the one the state has.
        """
        self._observe(now_ms, mono_ms)
        self._core.gate = self.state.seq
        if incarnation:
            self._core.commit([r.Begun(incarnation)], durable=False)
        self._leases.resume()
        self._pulling.start()
        self._settle()

    def stretch(self, gap_ms: int) -> None:
        """Do not count `gap_ms` in which this process did not run (stopped, swapped out)."""
        self._gap_ms += gap_ms

    # --- input

    def handle(self, command: Any, origin: Origin, now_ms: int, mono_ms: int) -> None:
        """Carry out one request.

        Args:
            command: an instance of a command's request Struct.
            origin: where the answer goes.
            now_ms: the wall clock; never less than before.
            mono_ms: the monotonic clock.
        """
        self._observe(now_ms, mono_ms)
        try:
            if command.within is not None:
                origin = replace(origin, sight=Sight(command.within))
            self._dispatch(command, origin)
        except FlashQError as error:
            self._refuse(command, origin, error)
        self._settle()

    def _refuse(self, command: Any, origin: Origin, error: FlashQError) -> None:
        """Answer with an error, and a repeat with the same one: whoever was told that nothing
        happened must not find that a second copy was carried out."""
        answer = None
        if not error.retryable and not isinstance(error, SessionExpired):
            answer = _answer(command, error_reply(error))
            if answer is not None:
                self._core.commit([], durable=self._core.context.is_durable(None), answer=answer)
        self._core.refuse(origin, error, is_read=answer is None)

    def take_mail(self, mail: Mail, now_ms: int, mono_ms: int) -> bool:
        """Take a peer's message, if it is the next one.

        Returns:
            False when one before it is missing; True when it is taken, now or earlier.
        """
        self._observe(now_ms, mono_ms)
        last = self.state.inboxes.get(mail.sender, (0, 0))
        taken = mail.is_had(*last)
        if not taken and mail.is_next(*last):
            self._take(mail.sender, mail.incarnation, mail.number, mail.body)
            taken = True
        self._settle()
        return taken

    def mail_taken(self, peer: int, incarnation: int, number: int) -> None:
        """A peer has safely taken our message of that number and incarnation, and all before it.

        What it says of a message that is lost, whose number there is again, counts nothing.
        """
        pending = self.state.mailbox(peer).pending
        place = number - pending[0][0] if pending else -1
        if 0 <= place < len(pending) and incarnation == self.state.incarnation_at(
            pending[place][1]
        ):
            self._core.commit([r.MailTaken(peer, number)], durable=False)

    def bounced(self, held: list[tuple[int, int]], now_ms: int, mono_ms: int) -> None:
        """Take back jobs (id, token) whose delivery could not be delivered."""
        self._observe(now_ms, mono_ms)
        back = []
        for job_id, token in dict.fromkeys(held):
            job = self.state.index.get(job_id)
            if job is not None and job.lease is not None and job.lease.token == token:
                back.append(job_id)
        if back:
            self._release(back)
        self._settle()

    def _release(self, back: list[int]) -> None:
        """Give jobs back that nobody has worked on."""
        self._pulling.give_back(back)
        self._core.commit([r.Requeued(back, "released", 0)], durable=False)

    def tick(self, now_ms: int, mono_ms: int) -> None:
        """Let what is due happen: delays, time-outs, leases, waiters."""
        self._observe(now_ms, mono_ms)
        core, state = self._core, self.state
        if state.due_mark is not None:
            core.woken.update(state.advance(state.now_ms, most=SLICE_JOBS))
        if core.is_expiring:
            self._expire_jobs()
        core.timers.run_due(core.clock_ms, SLICE_JOBS)
        if self.refusal is None:
            self._sweeps.turn()
        self._settle()

    def tidy(self) -> None:
        """Let go of ended jobs and results beyond their bounds.

        Apart from `tick`, because nobody waits for it: it is done when the replies are out.
        """
        core = self._core
        self._is_untidy = False
        for excess in (retention.beyond_bounds, retention.beyond_age):
            # The second, as the first has left the state.
            records, is_all = excess(core.context, SLICE_JOBS)
            if records:
                core.commit(records, durable=False)
                self._settle()
            self._is_untidy = self._is_untidy or not is_all

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` is due on the monotonic clock, None for never."""
        state, core = self.state, self._core
        if self._is_unsettled or self._is_untidy:
            return self._mono_ms
        wall = [
            at
            for at in (
                state.delayed.first_ms(),
                state.expiring.first_ms(),
                state.ages.first_ms(),
                state.debounces.next_end_ms(),
            )
            if at is not None
        ]
        deadlines = [self._mono_ms + max(0, at - state.now_ms) for at in wall]
        timer = core.timers.next_ms()
        if timer is not None:
            deadlines.append(timer + self._gap_ms)
        return min(deadlines) if deadlines else None

    # --- one input, step by step

    def _observe(self, now_ms: int, mono_ms: int) -> None:
        """Take in the time, and what came due by it."""
        core, state = self._core, self.state
        self._mono_ms = mono_ms
        core.clock_ms = mono_ms - self._gap_ms
        now_ms = self._wall_time.advance(now_ms, mono_ms)
        if now_ms > state.now_ms:
            # Where more is due than one slice, the next ones are for `tick`.
            most = SLICE_JOBS if state.due_mark is None else 0
            core.woken.update(state.advance(now_ms, most=most))
            if not core.is_expiring:
                self._expire_jobs()

    def _expire_jobs(self) -> None:
        """Remove the jobs that are too old to be handed out, a slice of them at most."""
        state, core = self.state, self._core
        first = state.expiring.first_ms()
        if first is None or first > state.now_ms:
            core.is_expiring = False
            return
        expired = []
        due = state.expiring.pop_until(state.now_ms, SLICE_JOBS)
        core.is_expiring = len(due) == SLICE_JOBS
        for at, job_id in due:
            job = state.index.get(job_id)
            if job is None or job.state not in (WAITING, DELAYED):
                continue
            if expires_at(job) == at:
                expired.append(job)
        unique = list({job.id: job for job in expired}.values())
        if unique:
            records = core.context.removing(unique, "expired")
            core.commit(records, durable=core.context.is_any_durable(records))
            # What stood behind them may be handed out now.
            core.woken.update({job.queue for job in unique} & core.pulls.keys())

    def _dispatch(self, command: Any, origin: Origin) -> None:
        kind = type(command)
        if kind in _MUTATING:
            if command.session is not None and self._is_repeat(command, origin):
                return
            if self.refusal is not None:
                # It tells nothing of the state, so it need not wait until that is safe.
                self._core.reply_now(origin, error_reply(self.refusal))
                return
        queue = getattr(command, "queue", None)
        if queue is not None and queue not in self.state.queues:  # one that exists has passed
            check_queue_name(queue, bytes_max=self._core.limits.queue_name_bytes_max)
        handler = HANDLERS.get(kind)
        if handler is None:
            self._dispatch_own(command, origin)
            return
        if kind is server.GetMetrics:
            self._measure_rate()
        decision = handler(self._core.context, command, origin)
        if decision.sweep is not None:
            self._sweeps.begin(decision.sweep, command, origin)
            return
        reply = decision.reply
        answer = None if reply is None else _answer(command, reply)
        if not decision.records and answer is None:
            if kind in _UNGATED:
                self._core.reply_now(origin, reply)
            else:
                self._core.reply(origin, reply, is_read=True)
            return
        is_shown = kind in _PUSHES and command.view and type(reply) is jobs.PushReply
        if answer is not None and not origin.flags and not is_shown:
            reply = answer.body
        if kind is leases.Release:
            for record in decision.records:
                if isinstance(record, r.Requeued):
                    self._pulling.give_back(record.ids)
        self._core.commit(decision.records, durable=decision.durable, answer=answer)
        if decision.records:
            self._after(kind, command, decision.records, origin)
        if reply is not None:
            if is_shown:
                reply = inspecting.shown(self._core.context, reply, origin)
            self._core.reply(origin, reply)

    def _end_sweep(self, running: Running, reply: Any, records: list[AnyRecord]) -> None:
        command, durable = running.command, running.sweep.durable
        self._core.commit(records, durable=durable, answer=_answer(command, reply))
        if records:
            self._after(type(command), command, records, running.origin)
        self._core.reply(running.origin, reply)

    def _after(self, kind: type, command: Any, records: list[AnyRecord], origin: Origin) -> None:
        """Keep what is volatile in step with what was just decided."""
        first, last = records[0], records[-1]
        if isinstance(first, r.Adopted):
            self._leases.watch_adopted(first.ids)
        if kind in _CHANGING_RATE:
            self._pulling.change_rate(command.queue)
        elif kind is leases.HeartbeatJob:
            self._leases.beat(command.id if command.id is not None else command.job_id)
        elif kind is leases.SetProgress:
            self._leases.beat(command.id)
        if isinstance(last, r.Awaited):
            self._awaiting[last.key] = [origin]

    def _dispatch_own(self, command: Any, origin: Origin) -> None:
        if isinstance(command, leases.Pull | leases.PullBatch):
            if command.session is not None:
                self._leases.note_pull(command.session, command.queue)
            self._pulling.pull(command, origin)
        elif isinstance(command, jobs.WaitJob):
            self._pulling.wait(command, origin)
        elif isinstance(command, leases.Withdraw):
            count = int(self._pulling.withdraw(command.ticket))
            self._core.reply_now(origin, CountReply(count=count))
        elif isinstance(command, Heartbeat):
            self._core.reply_now(origin, self._leases.heartbeat(command, origin))
        elif isinstance(command, server.ListWorkers):
            self._core.reply_now(origin, list_workers(self._core, self._leases, command))
        elif isinstance(command, Goodbye):
            if command.session is None:
                raise InvalidRequest(detail="missing field `session`")
            self._leases.goodbye(command.session, command.lost)
            self._core.reply_now(origin, OkReply())
        else:
            word = BY_REQUEST[type(command)].word
            raise InvalidRequest(detail=f"{word} is not for a shard")

    # --- repeats

    def _is_repeat(self, command: Any, origin: Origin) -> bool:
        """Note that the session lives, and answer a request that was carried out before.

        Raises:
            SessionExpired: what the session has asked before is no longer known.
        """
        session_id, n, state = command.session, command.n, self.state
        if session_id in state.expired_sessions:
            raise SessionExpired
        self._leases.hear(session_id)
        if n is None:
            return False
        session = state.sessions.get(session_id)
        if session is not None:
            answer = session.answers.get(n)
            if answer is not None:
                if not answer.token:
                    self._core.reply(origin, answer.body)
                    return True
                return self._pulling.answer_again(command, answer, origin)
        key = state.awaited_requests.get((session_id, n))
        if key is not None:
            self._awaiting[key] = [origin]
            return True
        if self._pulling.rejoin(session_id, n, origin):
            return True
        if self._sweeps and self._sweeps.rejoin(session_id, n, origin):
            return True
        if session is not None and n < session.done_below:
            raise SessionExpired
        if state.answer_bytes > ANSWERS_BYTES_MAX:
            self._leases.drop_answers()
        return False

    # --- mail

    def _take(self, peer: int, incarnation: int, number: int, body: AnyPeerMessage) -> None:
        core = self._core
        records: list[AnyRecord] = [r.Received(peer, incarnation, number)]
        records += peers.take_mail(core.context, body)
        if peer == self.state.shard:
            records.append(r.MailTaken(peer, number))
        core.commit(records, durable=core.context.is_any_durable(records))

    def _take_own_mail(self) -> bool:
        """Take the next message that this shard sent to itself; False when there is none."""
        state = self.state
        mailbox = state.mailboxes.get(state.shard)
        if mailbox is None or not mailbox.pending:
            return False
        number, seq, body = mailbox.pending[0]
        self._take(state.shard, state.incarnation_at(seq), number, body)
        return True

    def _finish_awaited(self) -> bool:
        """Answer a push that no longer waits for other shards; False when there is none."""
        state = self.state
        if not state.answerable:
            return False
        key = state.answerable[0]
        push = state.awaited[key]
        outcome = producing.awaited_reply(self._core.context, key)
        answer = None
        if push.session in self._leases.sessions:
            said = error_reply(outcome) if isinstance(outcome, FlashQError) else outcome
            answer = Answer(push.session, push.n, push.done_below, encode_msgpack(said))
        jobs = [state.index.get(job_id) for job_id in push.ids if job_id is not None]
        is_durable = self._core.context.is_durable
        durable = any(is_durable(job) for job in jobs if job is not None)
        self._core.commit([r.AwaitedDone(key)], durable=durable or is_durable(None), answer=answer)
        for origin in self._awaiting.pop(key, ()):
            if isinstance(outcome, FlashQError):
                self._core.refuse(origin, outcome)
            else:
                self._core.reply(origin, outcome)
        return True

    # --- afterwards

    def _settle(self) -> None:
        """Do what follows from an input, until nothing more does. Of very much, a part is done, and
        the rest with the next input, or tick: which is due at once."""
        core, work = self._core, 0
        while work < SETTLED_MAX:
            if not core.is_expiring:
                self._expire_jobs()  # those that came back after their end
            if self._take_own_mail() or self._finish_awaited():
                work += 1
            elif core.ended:
                ended, core.ended = core.ended, []
                for end in ended:
                    work += self._pulling.tell_end(end, max(0, SETTLED_MAX - work))
            elif core.woken:
                woken, core.woken = core.woken, set()
                if self.refusal is None:
                    for name in sorted(woken & (core.pulls.keys() | core.watches.keys())):
                        work += self._pulling.serve(name, max(0, SETTLED_MAX - work))
            else:
                return

    @property
    def _is_unsettled(self) -> bool:
        core, state = self._core, self.state
        mailbox = state.mailboxes.get(state.shard)
        has_mail = mailbox is not None and bool(mailbox.pending)
        has_sweeps = len(self._sweeps) > 0 and self.refusal is None
        return has_mail or has_sweeps or bool(core.ended or core.woken or state.answerable)

    def reserve(self, sequence: int) -> None:
        """Say up to which sequence job ids are this shard's own for good."""
        self._core.context.reserved = sequence

    def sample(self, at: int) -> Sampled:
        """Return the figures for a point of the history; `at` names it."""
        state = self.state
        counts, totals = state.counts, state.totals
        return Sampled(
            shard=state.shard,
            at=at,
            queued=counts[WAITING],
            processing=counts[ACTIVE],
            completed=totals.completed,
            failed=totals.failed,
            latency_ms_sum=totals.latency_ms_sum,
        )

    def accept(self) -> None:
        """Take on changes again after a refusal, and serve those that waited."""
        self.refusal = None
        self._core.woken.update(self._core.pulls, self._core.watches)
        self._settle()

    def _measure_rate(self) -> None:
        """Bring the throughput up to date: completions a second since it was last asked for."""
        core, done = self._core, self.state.totals.completed
        since_ms, before = self._rate_mark
        elapsed = core.clock_ms - since_ms
        if elapsed >= 1000:
            core.context.throughput = (done - before) * 1000 / elapsed if since_ms else 0.0
            self._rate_mark = (core.clock_ms, done)
