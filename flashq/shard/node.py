"""A shard without its sockets: frames and time in, frames out.

Pure. Owns the conversations around the engine: with routers and direct clients (requests, replies,
bounces), with the coordinator (hello, recovery, log, checkpoints, sequence blocks) and with peers
(mail). The phases of its life:

    HELLO ── granted ──> RECOVERING ── all fetched ──> RESERVING ── block granted ──> SERVING
      ^ every second                                                                    │
                                                          stop ──> DRAINING <───────────┘
    any ── refused ──> DEAD                                           │ log safe, replies out, or time up
                                                                      v
                                                                     DEAD

Until SERVING every request is answered `starting`. What leaves and when:

* A reply leaves when the log is safe up to its gate (`gate.py`), or, if the level is async and storage
  lags, up to the sequence it was computed at.
* Mail leaves when its record is safe, and again every second until the peer has confirmed it; the
  confirmation of mail leaves when the record of its taking is safe.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from msgspec import Struct

from flashq.errors import Busy, FlashQError, ShuttingDown, Starting
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
    pairs,
    unpack_header,
)
from flashq.protocol.internal import (
    COORDINATOR,
    CheckpointSafe,
    CheckpointSlice,
    Fetch,
    Granted,
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
    decode_internal,
    encode_internal,
)
from flashq.protocol.leases import PullBatchReply, PullReply
from flashq.protocol.limits import EngineLimits
from flashq.protocol.records import decode_entries
from flashq.protocol.server import ShardStats, Stats
from flashq.protocol.sessions import Hello, HelloReply
from flashq.shard.checkpoint import Checkpoint, JobLoader, load_part, mark_clean
from flashq.shard.engine import Engine
from flashq.shard.evolve import evolve
from flashq.shard.gate import Gate
from flashq.shard.journal import Journal
from flashq.shard.lifecycle import Damage
from flashq.shard.outbox import Origin, Reply
from flashq.shard.state import ShardState

REPEAT_MS: Final = 1000
"""After so long without an answer a hello, a log blob or mail is sent again."""
KEEPALIVE_MS: Final = 2000
"""So often an idle shard greets the coordinator, which may have been started anew."""
ASYNC_LAG_MS: Final = 50
"""Level async: with an older unwritten record replies wait as they do for durable."""
SLICE_JOBS_MAX: Final = 2000
"""So many jobs are encoded at a time for a checkpoint: about 3 ms of a shard's time."""
MESSAGE_PAIRS_MAX: Final = 1000
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Replies to one peer share a message up to these bounds."""


class Phase(Enum):
    HELLO = "hello"
    RECOVERING = "recovering"
    RESERVING = "reserving"
    SERVING = "serving"
    DRAINING = "draining"
    DEAD = "dead"


class Identity(Struct, frozen=True):
    """What a shard process is told about itself and the rest.

    Args:
        shard, shard_count: its number, of how many.
        config_hash: of the settings that all processes share.
        limits: the bounds of its engine.
        level: the server's durability level.
        version: of the program.
        checkpoint_log_bytes: log bytes after which a checkpoint begins.
        message_bytes_max: the largest message, told to clients.
        drain_timeout_ms: how long a drain may take.
    """

    shard: int
    shard_count: int
    config_hash: str
    limits: EngineLimits
    level: str
    version: str
    checkpoint_log_bytes: int
    message_bytes_max: int
    drain_timeout_ms: int


class Outgoing:
    """Frames on their way out, by link; emptied by whoever owns the sockets."""

    __slots__ = ("coordinator", "events", "front", "shards")

    def __init__(self) -> None:
        #: messages for peers of the front socket: (routing id, frames)
        self.front: list[tuple[bytes, list[bytes]]] = []
        self.coordinator: list[list[bytes]] = []
        #: mail for other shards: (shard, frames)
        self.shards: list[tuple[int, list[bytes]]] = []
        #: events: (topic, body)
        self.events: list[tuple[bytes, bytes]] = []


class Node:
    """One shard and its conversations.

    Args:
        identity: who it is.
    """

    _front_bytes = 0

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
        self._state = self._fresh_state()
        self._loader: JobLoader | None = JobLoader(self._state)
        # serving
        self._engine: Engine | None = None
        self._journal = Journal(identity.shard, 0, 0)
        self._replies: Gate[Reply] = Gate()
        self._gated_events: Gate[tuple[bytes, bytes]] = Gate()
        self._acks: Gate[Callable[[], None]] = Gate()
        self._reserving_ms: int | None = None
        self._checkpoint: Checkpoint | None = None
        self._generation = 0
        self._slice_sent_ms = 0
        self._last_slice: CheckpointSlice | None = None
        self._full_next = False
        self._resyncing = False
        self._mail_sent: dict[int, tuple[int, int]] = {}

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
        if self._hello_ms is None or (
            mono - max(self._hello_ms, self._heard_ms) >= self._patience_ms()
        ):
            self._greet()
        if self._reserving_ms is not None and mono - self._reserving_ms >= REPEAT_MS:
            self._reserve()
        if self._last_slice is not None and mono - self._slice_sent_ms >= REPEAT_MS:
            self._send_slice(self._last_slice)
        if self.phase is Phase.DRAINING and (self._is_drained() or mono >= self._drain_until_ms):
            self.phase = Phase.DEAD

    def tidy(self) -> None:
        """Do what nobody waits for, after the replies are out."""
        if self.phase is Phase.SERVING:
            self.engine.tidy()
            self._consider_checkpoint()
            self._ship()

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` is due, on the monotonic clock."""
        if self.phase is Phase.DEAD:
            return None
        due = [max(self._hello_ms or 0, self._heard_ms) + self._patience_ms()]
        if self.is_serving:
            engine_due = self.engine.next_deadline_ms()
            if engine_due is not None:
                due.append(engine_due)
            due += [sent + REPEAT_MS for _, sent in self._mail_sent.values()]
        if self._reserving_ms is not None:
            due.append(self._reserving_ms + REPEAT_MS)
        if self._last_slice is not None:
            due.append(self._slice_sent_ms + REPEAT_MS)
        if self.phase is Phase.DRAINING:
            due.append(self._drain_until_ms)
        return min(due)

    def _patience_ms(self) -> int:
        idle = self.is_serving and self._journal.oldest_ms() is None
        return KEEPALIVE_MS if idle else REPEAT_MS

    def stop(self) -> None:
        """Drain: take on no more changes, wait for the log to be safe, and end."""
        if self.phase is Phase.SERVING:
            self.phase = Phase.DRAINING
            self._drain_until_ms = self._mono_ms + self._identity.drain_timeout_ms
            self.engine.refusal = ShuttingDown()
        elif self.phase is not Phase.DRAINING:
            self.phase = Phase.DEAD

    def _is_drained(self) -> bool:
        return not (self._journal.unsafe_bytes or len(self._replies) or len(self._acks))

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
        if not self.is_serving:
            error = Starting(shard=self._identity.shard)
            self._send_reply(Reply(origin, codec.error_reply(error), 0, 0))
            return
        try:
            command = codec.decode_request(body, json=origin.json)
        except FlashQError as error:
            self._send_reply(Reply(origin, codec.error_reply(error), 0, 0))
            return
        if isinstance(command, Hello):
            self._send_reply(Reply(origin, self._hello_reply(), 0, 0))
            return
        engine = self.engine
        engine.handle(command, origin, self._now_ms, self._mono_ms)
        if isinstance(command, Stats):
            engine.outbox.replies[-1].body.shards = [self._condition()]

    def _hello_reply(self) -> HelloReply:
        identity, limits = self._identity, self._identity.limits
        epochs = [0] * identity.shard_count
        epochs[identity.shard] = self._epoch
        return HelloReply(
            version=identity.version,
            boot=self._epoch,
            shard_count=identity.shard_count,
            epochs=epochs,
            heartbeat_interval=limits.heartbeat_interval_ms,
            session_timeout=limits.session_timeout_ms,
            batch_jobs_max=limits.batch_jobs_max,
            payload_bytes_max=limits.payload_bytes_max,
            message_bytes_max=identity.message_bytes_max,
        )

    def _condition(self) -> ShardStats:
        state, engine = self._state, self.engine
        return ShardStats(
            shard=state.shard,
            epoch=self._epoch,
            jobs=state.index.count,
            bytes=state.bytes,
            sessions=engine.sessions,
            waiters=engine.waiters,
            unsafe_bytes=self._journal.unsafe_bytes,
            log_seq=state.seq,
            safe_seq=self._journal.safe,
            mailbox_out=sum(len(box.pending) for box in state.mailboxes.values()),
        )

    def _bounced(self, body: bytes, *, json: bool) -> None:
        """A reply with jobs came back: nobody is there to read it."""
        if not self.is_serving:
            return
        try:
            jobs = codec.decode(body, PullBatchReply, json=json).jobs
        except FlashQError:
            try:
                one = codec.decode(body, PullReply, json=json).job
            except FlashQError:
                return
            jobs = [] if one is None else [one]
        held = [(job.id, job.token) for job in jobs if job.token is not None]
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
        if isinstance(message, MailAck) and self.is_serving:
            self._mail_confirmed(message)
        elif isinstance(message, Mail) and answer is not None:
            self._take_mail(message, answer)

    def _mail_confirmed(self, ack: MailAck) -> None:
        self.engine.mail_taken(ack.receiver, ack.incarnation, ack.number)
        if not self._state.mailbox(ack.receiver).pending:
            self._mail_sent.pop(ack.receiver, None)

    def _take_mail(self, mail: Mail, answer: Callable[[MailAck], None]) -> None:
        if self.phase is not Phase.SERVING:
            return  # it will be sent again
        taken = self.engine.take_mail(
            mail.sender,
            mail.incarnation,
            mail.number,
            mail.body,
            self._now_ms,
            self._mono_ms,
        )
        if taken:
            ack = MailAck(
                receiver=self._identity.shard, incarnation=mail.incarnation, number=mail.number
            )
            send = _Later(answer, ack)
            if self._acks.pass_or_wait(self._state.seq, send):
                send()

    def _ack_to_front(self, peer: bytes, ack: MailAck) -> None:
        header = pack_header(INTERNAL, self._identity.shard, 0)
        self.out.front.append((peer, [header, encode_internal(ack)]))

    def _send_mail(self) -> None:
        """Send mail whose record is safe, and again what a peer has not confirmed for long."""
        state, safe, mono = self._state, self._journal.safe, self._mono_ms
        for peer, mailbox in state.mailboxes.items():
            if peer == state.shard or not mailbox.pending:
                continue
            sent, sent_ms = self._mail_sent.get(peer, (0, mono))
            if sent and mono - sent_ms >= REPEAT_MS:
                sent = 0
            last = sent
            for number, seq, body in mailbox.pending:
                if number <= sent:
                    continue
                if seq > safe:
                    break
                mail = Mail(
                    sender=state.shard,
                    incarnation=state.incarnation,
                    number=number,
                    body=body,
                )
                self._post(peer, mail)
                last = number
            if last != sent:
                self._mail_sent[peer] = (last, mono)

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
                incarnation=self._state.incarnation,
                reserved=self._reserved,
            )
        )

    def receive_coordinator(self, frames: list[bytes]) -> None:
        """Take one message from the coordinator.

        Raises:
            Damage: what storage holds does not fit together.
        """
        self._heard_ms = self._mono_ms
        for _, body in pairs(frames):
            message = decode_internal(body)
            handler = _FROM_COORDINATOR.get(type(message))
            if handler is not None:
                handler(self, message)

    def _begin_recovery(self) -> None:
        """Start from nothing, also when a coordinator that died had given some of it already."""
        self._state = self._fresh_state()
        self._loader = JobLoader(self._state)

    def _fresh_state(self) -> ShardState:
        identity = self._identity
        return ShardState(identity.shard, identity.shard_count, identity.limits.outcomes_max)

    def _on_granted(self, message: Granted) -> None:
        if self.is_serving or self.phase is Phase.DEAD or message.epoch == self._epoch:
            return
        self._begin_recovery()
        self.phase = Phase.RECOVERING
        self._epoch = message.epoch
        self._reserved = message.reserved
        self._state.incarnation = message.incarnation
        self._tell(Fetch(epoch=self._epoch, cursor=0))

    def _on_refused(self, message: Refused) -> None:
        self.refused = message.reason
        self.phase = Phase.DEAD

    def _on_recovered(self, message: Recovered) -> None:
        if self.phase is not Phase.RECOVERING:
            return
        for _, content in message.parts:
            load_part(self._state, content)
        for _, content in message.pages:
            assert self._loader is not None, "pages come before the log"
            self._loader.load(content)
        for first, last, records in message.log:
            self._finish_pages()
            self._replay(first, last, records)
        if message.cursor:
            self._tell(Fetch(epoch=self._epoch, cursor=message.cursor))
            return
        self._finish_pages()
        self._recovered()

    def _finish_pages(self) -> None:
        if self._loader is not None:
            self._loader.finish()
            self._loader = None
            mark_clean(self._state)

    def _replay(self, first: int, last: int, records: bytes) -> None:
        state = self._state
        if last <= state.seq:
            return
        if first != state.seq + 1:
            raise Damage(f"log goes on at {first} after {state.seq}")
        for entry in decode_entries(records):
            evolve(state, entry)
        if state.seq != last:
            raise Damage(f"log blob {first} to {last} ends at {state.seq}")

    def _recovered(self) -> None:
        """Everything is here: take the sequences that nobody has used, and ask for a block."""
        identity, state = self._identity, self._state
        state.next_sequence = max(state.next_sequence, self._reserved + 1)
        self._journal = Journal(identity.shard, self._epoch, state.seq)
        self._release(state.seq)
        self._engine = Engine(state, identity.limits, epoch=self._epoch, level=identity.level)
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
            self.engine.start(self._now_ms, self._mono_ms)
            self._tell(ShardReady(shard=self._identity.shard, epoch=self._epoch))

    def _on_resumed(self, message: Resumed) -> None:
        if not self.is_serving:
            return
        if message.resync:  # also while one is on its way: a new coordinator lacks its beginning
            self._drop_checkpoint()
            self._resyncing = True
            self._begin_checkpoint(full=True)
            return
        if self._resyncing:
            return
        self._confirm(message.last_seq)
        for append in self._journal.unconfirmed():
            self._tell(append)
        self._tell(ShardReady(shard=self._identity.shard, epoch=self._epoch))

    def _on_safe(self, message: Safe) -> None:
        if message.epoch == self._epoch and not self._resyncing:
            self._confirm(message.seq)

    def _confirm(self, seq: int) -> None:
        self._journal.confirm(seq)
        self._release(self._journal.safe)

    def _release(self, safe: int) -> None:
        for reply in self._replies.release(safe):
            self._send_reply(reply)
        self.out.events += self._gated_events.release(safe)
        for send in self._acks.release(safe):
            send()

    # --- checkpoints

    def _consider_checkpoint(self) -> None:
        if self._checkpoint is not None or self._resyncing:
            return
        if self._journal.bytes_written >= self._identity.checkpoint_log_bytes:
            self._begin_checkpoint(full=self._full_next)

    def _begin_checkpoint(self, *, full: bool) -> None:
        self._ship()
        self._checkpoint = Checkpoint(self._state, full=full)
        self._full_next = False
        self._generation = max(self._generation + 1, self._checkpoint.seq)
        self._journal.restart_count()
        self._next_slice()

    def _drop_checkpoint(self) -> None:
        """Give up a checkpoint under way; the next one writes everything."""
        if self._checkpoint is not None:
            self._checkpoint.abandon()
            self._checkpoint = None
            self._full_next = True
        self._last_slice = None

    def _next_slice(self) -> None:
        """Send the next slice, once the log up to the checkpoint is safe."""
        checkpoint = self._checkpoint
        if checkpoint is None or self._last_slice is not None:
            return
        if checkpoint.seq > self._journal.safe and not self._resyncing:
            return
        parts = checkpoint.take_part()
        pages = checkpoint.next_pages(SLICE_JOBS_MAX)
        self._last_slice = CheckpointSlice(
            shard=self._identity.shard,
            epoch=self._epoch,
            generation=self._generation,
            seq=checkpoint.seq,
            full=checkpoint.full,
            parts=parts,
            pages=pages,
            last=checkpoint.is_done,
        )
        self._send_slice(self._last_slice)

    def _send_slice(self, piece: CheckpointSlice) -> None:
        self._slice_sent_ms = self._mono_ms
        self._tell(piece)

    def _on_checkpoint_safe(self, message: CheckpointSafe) -> None:
        piece = self._last_slice
        if piece is None or message.generation != piece.generation or message.last != piece.last:
            return
        self._last_slice = None
        if not piece.last:
            self._next_slice()
            return
        self._checkpoint = None
        if self._resyncing:
            self._resyncing = False
            self._confirm(piece.seq)
            for append in self._journal.unconfirmed():
                self._tell(append)
            self._tell(ShardReady(shard=self._identity.shard, epoch=self._epoch))

    def _on_mail(self, mail: Mail) -> None:
        self._take_mail(mail, self._tell)

    def _on_mail_ack(self, ack: MailAck) -> None:
        if self.is_serving:
            self._mail_confirmed(ack)

    # --- out

    def listen(self, wanted: bool) -> None:
        """Say whether anybody listens to this shard's events."""
        if self._engine is not None:
            self._engine.listen(wanted)

    def flush(self) -> None:
        """Turn everything decided since the last flush into frames, where it may leave."""
        if self._engine is None:
            return
        self._ship()
        outbox, lagging = self._engine.outbox, self._is_lagging()
        replies, outbox.replies = outbox.replies, []
        for reply in replies:
            gate = reply.seq if lagging and reply.gate else reply.gate
            if self._replies.pass_or_wait(gate, reply):
                self._send_reply(reply)
        events, outbox.events = outbox.events, []
        for gate, event in events:
            frames = (event.queue.encode(), codec.encode_msgpack(event))
            if self._gated_events.pass_or_wait(gate, frames):
                self.out.events.append(frames)
        self._send_mail()
        self._next_slice()
        self._watch_bounds()

    def _ship(self) -> None:
        """Write the new log entries, and send them."""
        entries = self.engine.outbox.entries
        if entries:
            self.engine.outbox.entries = []
            append = self._journal.write(entries, self._mono_ms)
            if not self._resyncing:
                self._tell(append)

    def _is_lagging(self) -> bool:
        oldest = self._journal.oldest_ms()
        return oldest is not None and self._mono_ms - oldest > ASYNC_LAG_MS

    def _watch_bounds(self) -> None:
        """Refuse changes while too much is not safe yet; ask for job ids in time."""
        engine, limits = self.engine, self._identity.limits
        full = self._journal.unsafe_bytes > limits.unsafe_bytes_max
        if full and engine.refusal is None:
            engine.refusal = Busy(detail=f"{limits.unsafe_bytes_max} bytes wait for storage")
        elif not full and isinstance(engine.refusal, Busy):
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
        self._append_front(origin.peer, header, body)

    def _append_front(self, peer: bytes, header: bytes, body: bytes) -> None:
        """Add a pair to the peer's last message, as long as there is room in it."""
        front = self.out.front
        if front and front[-1][0] == peer:
            frames = front[-1][1]
            if len(frames) < 2 * MESSAGE_PAIRS_MAX and self._front_bytes < MESSAGE_BYTES_MAX:
                frames += (header, body)
                self._front_bytes += len(body)
                return
        front.append((peer, [header, body]))
        self._front_bytes = len(body)


class _Later:
    """A call with its argument, made when the gate opens."""

    __slots__ = ("_argument", "_call")

    def __init__(self, call: Callable[[MailAck], None], argument: MailAck) -> None:
        self._call = call
        self._argument = argument

    def __call__(self) -> None:
        self._call(self._argument)


_FROM_COORDINATOR: Final[dict[type, Callable[[Node, Any], None]]] = {
    Granted: Node._on_granted,
    Refused: Node._on_refused,
    Recovered: Node._on_recovered,
    ReservedUpTo: Node._on_reserved,
    Resumed: Node._on_resumed,
    Safe: Node._on_safe,
    CheckpointSafe: Node._on_checkpoint_safe,
    Mail: Node._on_mail,
    MailAck: Node._on_mail_ack,
}
