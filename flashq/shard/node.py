"""A shard without its sockets: frames and time in, frames out.

Pure. Owns the conversations around the engine: with routers and direct clients (requests, replies,
bounces), with the coordinator (hello, recovery, log, checkpoints, sequence blocks) and with peers
(mail). The phases of its life:

    HELLO ── granted ──> RECOVERING ── all fetched ──> RESERVING ── block granted ──> SERVING
      ^ every second                                                                    │
                                                          stop ──> DRAINING <───────────┘
    any ── refused ──> DEAD                                           │
                                                                      │ log safe and replies out,
                                                                      v or time is up
                                                                     DEAD

Until SERVING every request is answered `starting`. What leaves waits for its gate (`gate.py`); a
reply, when storage lags behind an async level, for the sequence at which it was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from flashq.errors import FlashQError, InvalidRequest, ShuttingDown, Starting
from flashq.ids import shard_of_queue
from flashq.protocol import codec
from flashq.protocol.framing import (
    BOUNCED,
    CLIENT_FLAGS,
    DELIVERY,
    INTERNAL,
    JSON,
    REPLY,
    ROUTE_COORDINATOR,
    Header,
    pack_header,
    pack_heard,
    pairs,
    unpack_header,
)
from flashq.protocol.internal import (
    COORDINATOR,
    CheckpointSafe,
    Granted,
    Heeded,
    Internal,
    Mail,
    MailAck,
    Recovered,
    Refused,
    Reserve,
    ReservedUpTo,
    Resumed,
    Safe,
    ShardHello,
    ShardReady,
    TakeSample,
    Wanted,
    decode_internal,
    encode_internal,
)
from flashq.protocol.leases import HandedOut
from flashq.protocol.server import Stats, StatsReply
from flashq.protocol.sessions import Hello
from flashq.shard.audience import Audience
from flashq.shard.checkpointing import Checkpointing
from flashq.shard.condition import condition_of
from flashq.shard.engine import Engine
from flashq.shard.gate import Gate, ReplyGate
from flashq.shard.hooks import Hooks
from flashq.shard.identity import Identity, Phase
from flashq.shard.journal import JOURNAL_REFUSALS, READ_WAIT_MS, Journal
from flashq.shard.mailing import Mailing
from flashq.shard.outbox import Origin, Reply
from flashq.shard.outgoing import Outgoing
from flashq.shard.recovery import Recovery
from flashq.shard.state import ShardState

REPEAT_MS: Final = 1000
"""After so long without an answer a hello, a request for job ids, or log is sent again."""
KEEPALIVE_MS: Final = 2000
"""So often an idle shard greets the coordinator, which may have begun anew with its storage."""


class Node:
    """One shard and its conversations.

    Args:
        identity: who it is.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.phase = Phase.HELLO
        #: why the coordinator does not let this shard run, in DEAD
        self.refused: str | None = None
        self.out = Outgoing()
        self._now_ms = 0
        self._mono_ms = 0
        self._hello_ms: int | None = None
        self._heard_ms = 0
        self._drain_until_ms = 0
        # recovery
        self._epoch = 0
        self._reserved = 0
        self._incarnation = 0
        self._state = self._fresh_state()
        self._recovery = Recovery(self._state)
        # serving
        self._engine: Engine | None = None
        #: who listens to which events; that may be known before there is an engine
        self._audience = Audience()
        #: what webhooks want to be told of; that may be known before there is an engine
        self._hooks = Hooks(())
        self._journal = Journal(identity.shard, 0, 0)
        self._replies = ReplyGate()
        self._gated_events: Gate[tuple[bytes, bytes]] = Gate()
        self._mailing = Mailing(self._state, self._post)
        self._checkpoints = Checkpointing(self._state, 0, self._tell)
        self._reserving_ms: int | None = None
        #: what asks the parts of a shard that serves when something is due there
        self._deadlines: tuple[Callable[[], int | None], ...] = ()
        #: storage has less than it had acknowledged: a full checkpoint takes the log's place
        self._resyncing = False

    @property
    def engine(self) -> Engine:
        """The engine of a shard that serves."""
        assert self._engine is not None, "no engine before recovery"
        return self._engine

    @property
    def epoch(self) -> int:
        """The epoch granted, 0 before."""
        return self._epoch

    @property
    def is_serving(self) -> bool:
        return self.phase in (Phase.SERVING, Phase.DRAINING)

    @property
    def decided(self) -> Sequence[Reply]:
        """The replies that wait for `flush`."""
        return () if self._engine is None else self._engine.outbox.replies

    # --- time

    def observe(self, now_ms: int, mono_ms: int) -> None:
        """Take in the time before frames are received."""
        self._now_ms = now_ms
        self._mono_ms = mono_ms

    def stretch(self, gap_ms: int) -> None:
        """Do not count time in which this process did not run."""
        if self._engine is not None:
            self._engine.stretch(gap_ms)

    def tick(self) -> None:
        """Let happen what is due."""
        mono = self._mono_ms
        if self.is_serving:
            self.engine.tick(self._now_ms, mono)
        if self._hello_ms is None or mono >= self._greeting_due_ms():
            self._greet()
        if self._reserving_ms is not None and mono - self._reserving_ms >= REPEAT_MS:
            self._reserve()
        self._checkpoints.tick(mono)
        if self.phase is Phase.DRAINING and (self._is_drained() or mono >= self._drain_until_ms):
            self.phase = Phase.DEAD

    def tidy(self) -> None:
        """Do what nobody waits for, after the replies are out."""
        if self.is_serving:
            self.engine.tidy()
            if self.phase is Phase.SERVING:
                self._consider_checkpoint()
            self._ship()

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` is due, on the monotonic clock."""
        if self.phase is Phase.DEAD:
            return None
        due = self._greeting_due_ms()
        if self._reserving_ms is not None:
            due = min(due, self._reserving_ms + REPEAT_MS)
        if self.phase is Phase.DRAINING:
            due = min(due, self._drain_until_ms)
        if self._replies.reads and (oldest_ms := self._journal.oldest_ms()) is not None:
            due = min(due, oldest_ms + READ_WAIT_MS + 1)
        for next_deadline_ms in self._deadlines:
            at = next_deadline_ms()
            if at is not None and at < due:
                due = at
        return due

    def _greeting_due_ms(self) -> int:
        """When a hello is due: nothing was heard, or log was not confirmed, whatever was heard."""
        hello_ms = self._hello_ms or 0
        if not self.is_serving:
            return max(hello_ms, self._heard_ms) + REPEAT_MS
        oldest_ms = self._journal.oldest_ms()
        if oldest_ms is None:
            return max(hello_ms, self._heard_ms) + KEEPALIVE_MS
        return max(hello_ms, oldest_ms) + REPEAT_MS

    def stop(self) -> None:
        """Drain: take on no more changes, wait for the log to be safe, and end."""
        if self.phase is Phase.SERVING:
            self.phase = Phase.DRAINING
            self._drain_until_ms = self._mono_ms + self._identity.drain_timeout_ms
            self.engine.refusal = ShuttingDown()
        elif self.phase is not Phase.DRAINING:
            self.phase = Phase.DEAD

    def _is_drained(self) -> bool:
        waiting = self._mailing.is_waiting or len(self._replies)
        return not (self._journal.unsafe_bytes or waiting)

    # --- the front: routers, direct clients, peers' mail

    def receive_front(self, peer: bytes, frames: list[bytes]) -> None:
        """Take one message from the front socket."""
        try:
            split = list(pairs(frames))
        except FlashQError:
            return  # nothing in it says whom to answer
        for head, body in split:
            try:
                header = unpack_header(head)
            except FlashQError:
                continue
            if header.flags & INTERNAL:
                self._receive_mail_frame(body, lambda ack: self._ack_to_front(peer, ack))
            elif header.flags & BOUNCED:
                self._bounced(body, json=bool(header.flags & JSON))
            else:
                self._request(peer, header, body)

    def _request(self, peer: bytes, header: Header, body: bytes) -> None:
        origin = Origin(peer, header.corr, header.tail, header.flags & CLIENT_FLAGS)
        engine = self._engine
        if engine is None or not self.is_serving:
            error = Starting(shard=self._identity.shard)
            self._send_reply(Reply(origin, codec.error_reply(error), 0, 0))
            return
        try:
            command = codec.decode_request(body, json=origin.json)
            queue = getattr(command, "queue", None)
            if queue is not None and queue not in engine.state.queues:
                self._check_owner(queue)
        except FlashQError as error:
            self._send_reply(Reply(origin, codec.error_reply(error), 0, 0))
            return
        if isinstance(command, Hello):
            self._send_reply(Reply(origin, self._identity.hello_reply(self._epoch), 0, 0))
            return
        engine.handle(command, origin, self._now_ms, self._mono_ms)
        if isinstance(command, Stats):
            self._complete_stats()

    def _complete_stats(self) -> None:
        """Add what only the node knows. The engine may have answered waiters after the request."""
        for reply in reversed(self.engine.outbox.replies):
            if isinstance(reply.body, StatsReply):
                reply.body.shards = [condition_of(self.engine, self._journal, self._epoch)]
                return

    def _check_owner(self, queue: str) -> None:
        """Refuse a queue of another shard, which nobody would look for here.

        Raises:
            InvalidRequest: whoever chose the route has counted wrongly.
        """
        owner = shard_of_queue(queue, self._identity.shard_count)
        if owner != self._identity.shard:
            raise InvalidRequest(detail=f"queue '{queue[:64]}' belongs to shard {owner}")

    def _bounced(self, body: bytes, *, json: bool) -> None:
        """A reply with jobs came back: nobody is there to read it."""
        if not self.is_serving:
            return
        try:
            held = codec.decode(body, HandedOut, json=json).leases()
        except FlashQError:
            return
        self.engine.bounced(held, self._now_ms, self._mono_ms)

    def undeliverable(self, frames: list[bytes]) -> None:
        """A message could not be sent to its peer: take back the jobs in it."""
        for head, body in pairs(frames):
            header = unpack_header(head)
            if header.flags & DELIVERY:
                self._bounced(body, json=bool(header.flags & JSON))

    # --- mail

    def receive_shard(self, frames: list[bytes]) -> None:
        """Take what another shard answers to our mail."""
        for _, body in pairs(frames):
            self._receive_mail_frame(body, None)

    def _receive_mail_frame(self, body: bytes, answer: Callable[[MailAck], None] | None) -> None:
        try:
            message = decode_internal(body)
        except FlashQError:
            return
        if isinstance(message, MailAck):
            self._on_mail_ack(message)
        elif isinstance(message, Mail) and answer is not None:
            self._take_mail(message, answer)

    def _on_mail_ack(self, ack: MailAck) -> None:
        if self.is_serving:
            self.engine.mail_taken(ack.receiver, ack.incarnation, ack.number)
            self._mailing.confirmed(ack.receiver, self._mono_ms)

    def _take_mail(self, mail: Mail, answer: Callable[[MailAck], None]) -> None:
        if self.phase is not Phase.SERVING:
            return  # it will be sent again
        if self.engine.take_mail(mail, self._now_ms, self._mono_ms):
            self._mailing.confirm(mail, answer)

    def _ack_to_front(self, peer: bytes, ack: MailAck) -> None:
        header = pack_header(INTERNAL, self._identity.shard, 0)
        self.out.add_front(peer, header, encode_internal(ack))

    def _post(self, peer: int, mail: Mail) -> None:
        if peer == COORDINATOR:
            self._tell(mail)
        else:
            header = pack_header(INTERNAL, peer, 0)
            self.out.shards.append((peer, [header, encode_internal(mail)]))

    # --- the coordinator

    def _tell(self, message: Internal) -> None:
        header = pack_header(INTERNAL, ROUTE_COORDINATOR, 0)
        self.out.coordinator.append([header, encode_internal(message)])

    def _greet(self) -> None:
        self._hello_ms = self._mono_ms
        self._tell(
            ShardHello(
                shard=self._identity.shard,
                config_hash=self._identity.config_hash,
                epoch=self._epoch if self.is_serving else 0,
                safe_seq=self._journal.safe,
                incarnation=self._incarnation,
                reserved=self._reserved,
            )
        )

    def disconnected(self) -> None:
        """There is no coordinator: what is written reaches nobody before there is one again."""
        self._journal.is_cut_off = True

    def connected(self) -> None:
        """The socket has connected to a coordinator, which may be a new one."""
        if self.is_serving:  # else it greets until it is answered
            self._greet()

    def receive_coordinator(self, frames: list[bytes]) -> None:
        """Take one message from the coordinator.

        Raises:
            Damage: what storage holds does not fit together.
        """
        self._heard_ms = self._mono_ms
        self._journal.is_cut_off = False
        for _, body in pairs(frames):
            message = decode_internal(body)
            handler = _FROM_COORDINATOR.get(type(message))
            if handler is not None:
                handler(self, message)

    def _fresh_state(self) -> ShardState:
        identity = self._identity
        return ShardState(identity.shard, identity.shard_count, identity.limits.outcomes_max)

    def _on_granted(self, message: Granted) -> None:
        if self.is_serving or self.phase is Phase.DEAD:
            return
        if message.epoch == self._epoch:
            if self.phase is Phase.RECOVERING:  # nothing was heard: a piece has got lost
                self._tell(self._recovery.fetch())
            return
        # From nothing, also when a coordinator that died had given some of it already.
        self._state = self._fresh_state()
        self._recovery = Recovery(self._state, message.epoch)
        self.phase = Phase.RECOVERING
        self._epoch = message.epoch
        self._reserved = message.reserved
        self._incarnation = message.incarnation
        self._tell(self._recovery.fetch())

    def _on_refused(self, message: Refused) -> None:
        self.refused = message.reason
        self.phase = Phase.DEAD

    def _on_recovered(self, message: Recovered) -> None:
        if self.phase is not Phase.RECOVERING or not self._recovery.is_next(message):
            return
        self._recovery.take(message)
        if message.cursor:
            self._tell(self._recovery.fetch())
        else:
            self._recovered()

    def _recovered(self) -> None:
        """Everything is here: take the sequences that nobody has used, and ask for a block."""
        identity, state = self._identity, self._state
        state.next_sequence = max(state.next_sequence, self._reserved + 1)
        self._journal = Journal(identity.shard, self._epoch, state.seq, self._recovery.log_bytes)
        self._mailing = Mailing(state, self._post)
        self._checkpoints = Checkpointing(state, self._epoch, self._tell)
        self._engine = Engine(state, identity.limits, epoch=self._epoch, level=identity.level)
        self._confirm(state.seq)
        self._engine.listen(self._audience)
        self._engine.tell(self._hooks)
        self.phase = Phase.RESERVING
        self._reserve()

    def _reserve(self) -> None:
        self._reserving_ms = self._mono_ms
        block = self._identity.limits.sequence_block
        upto = max(self._reserved, self._state.next_sequence) + block
        self._tell(Reserve(shard=self._identity.shard, epoch=self._epoch, upto=upto))

    def _on_reserved(self, message: ReservedUpTo) -> None:
        if message.epoch != self._epoch or message.upto <= self._reserved:
            return
        self._reserved = message.upto
        self._reserving_ms = None
        self.engine.reserve(message.upto)
        if self.phase is Phase.RESERVING:
            self.phase = Phase.SERVING
            self._deadlines = (
                self.engine.next_deadline_ms,
                self._mailing.next_deadline_ms,
                self._checkpoints.next_deadline_ms,
            )
            # Greater than those in the log also if storage has forgotten the last of them.
            self._incarnation = max(self._incarnation, self._state.incarnation + 1)
            self.engine.start(self._now_ms, self._mono_ms, self._incarnation)
            self._tell(ShardReady(shard=self._identity.shard, epoch=self._epoch))

    def _on_resumed(self, message: Resumed) -> None:
        if not self.is_serving:
            return
        self._journal.log_full = message.log_full
        if message.resync:  # also while one is on its way: a new coordinator lacks its beginning
            self._resyncing = True
            self._begin_checkpoint(full=True)
            return
        if self._resyncing:
            return
        self._go_on(message.last_seq)

    def _go_on(self, last_seq: int) -> None:
        """Storage has the log up to here and takes the rest: send it again."""
        self._confirm(last_seq)
        for append in self._journal.unconfirmed():
            self._tell(append)
        self._tell(ShardReady(shard=self._identity.shard, epoch=self._epoch))

    def _on_safe(self, message: Safe) -> None:
        if message.epoch == self._epoch and self._engine is not None:
            self._journal.log_full = message.log_full
            self._confirm(self._journal.safe if self._resyncing else message.seq)

    def _confirm(self, seq: int) -> None:
        self._journal.confirm(seq)
        safe = self._journal.safe
        self.engine.confirm(safe)
        for reply in self._replies.release(safe):
            self._send_reply(reply)
        self.out.events += self._gated_events.release(safe)
        self._mailing.release(safe)

    # --- checkpoints

    def _consider_checkpoint(self) -> None:
        is_due = self._journal.is_checkpoint_due(self._identity)
        if is_due and not (self._checkpoints.is_under_way or self._resyncing):
            self._begin_checkpoint()

    def _begin_checkpoint(self, *, full: bool = False) -> None:
        self._ship()
        self._checkpoints.begin(full=full)
        self._journal.restart_count()
        self._next_slice()

    def _next_slice(self) -> None:
        safe = None if self._resyncing else self._journal.safe
        self._checkpoints.send_next(self._mono_ms, safe)

    def _on_checkpoint_safe(self, message: CheckpointSafe) -> None:
        seq = self._checkpoints.confirmed(message)
        if seq is not None and self._resyncing:
            self._resyncing = False
            self._go_on(seq)
        self._next_slice()

    def _on_wanted(self, message: Wanted) -> None:
        self._hooks = Hooks(message.pairs)
        if self._engine is not None:
            self._engine.tell(self._hooks)
        self._tell(Heeded(shard=self._identity.shard, version=message.version))

    def _on_take_sample(self, message: TakeSample) -> None:
        if self.is_serving:
            self._tell(self.engine.sample(message.at))

    def _on_mail(self, mail: Mail) -> None:
        self._take_mail(mail, self._tell)

    # --- out

    def subscribed(self, message: bytes) -> None:
        """Take a subscription, or its end. Who asks is told so; no event behind that is missed."""
        heeded = self._audience.take(message)
        self.out.events += [pack_heard(self._identity.shard, wish) for wish in heeded]

    def flush(self) -> None:
        """Turn everything decided since the last flush into frames, where it may leave."""
        engine = self._engine
        if engine is None:
            return
        self._ship()
        outbox, journal, waiting = engine.outbox, self._journal, self._replies
        lagging, is_late = journal.is_lagging(self._mono_ms), journal.is_late(self._mono_ms)
        replies, outbox.replies = outbox.replies, []
        for reply in replies:
            leaving = waiting.admit(reply, reply.seq if lagging else reply.gate, is_late=is_late)
            if leaving is not None:
                self._send_reply(leaving)
        for refusal in waiting.refuse_reads() if is_late else ():
            self._send_reply(refusal)
        events, outbox.events = outbox.events, []
        for gate, event in events:
            frames = (event.queue.encode(), codec.encode_msgpack(event))
            if self._gated_events.pass_or_wait(gate, frames):
                self.out.events.append(frames)
        self._mailing.send(self._mono_ms, self._journal.safe)
        self._next_slice()
        self._watch_bounds()

    def _ship(self) -> None:
        """Write the new log entries, and send them."""
        engine = self.engine
        entries = engine.outbox.entries
        if entries:
            engine.outbox.entries = []
            awaited = engine.gate > self._journal.safe or self._mailing.has_mail
            appends = self._journal.write(entries, self._mono_ms, awaited=awaited)
            for append in () if self._resyncing else appends:
                self._tell(append)

    def _watch_bounds(self) -> None:
        """Refuse changes while too much is not safe yet; ask for job ids in time."""
        engine, limits = self.engine, self._identity.limits
        refusal = self._journal.refusal(limits, self._mono_ms)
        if refusal is not None and engine.refusal is None:
            engine.refusal = refusal
        elif refusal is None and isinstance(engine.refusal, JOURNAL_REFUSALS):
            engine.accept()
        left = self._reserved - self._state.next_sequence
        if self._reserving_ms is None and left < limits.sequence_block // 2:
            self._reserve()

    def _send_reply(self, reply: Reply) -> None:
        origin, body = reply.origin, reply.body
        if not isinstance(body, bytes):
            body = codec.encode(body, json=origin.json)
        elif origin.json:
            body = codec.transcode(body, to_json=True)
        flags = REPLY | origin.flags & JSON
        if reply.delivery:
            flags |= DELIVERY
        header = pack_header(flags, self._identity.shard, origin.corr, origin.tail)
        self.out.add_front(origin.peer, header, body)


_FROM_COORDINATOR: Final[dict[type, Callable[[Node, Any], None]]] = {
    Granted: Node._on_granted,
    Refused: Node._on_refused,
    Recovered: Node._on_recovered,
    ReservedUpTo: Node._on_reserved,
    Resumed: Node._on_resumed,
    Safe: Node._on_safe,
    CheckpointSafe: Node._on_checkpoint_safe,
    Wanted: Node._on_wanted,
    TakeSample: Node._on_take_sample,
    Mail: Node._on_mail,
    MailAck: Node._on_mail_ack,
}
