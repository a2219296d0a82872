"""A shard's node that shows the witness what it decides and what it has recovered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flashq.protocol.framing import BOUNCED
from flashq.protocol.internal import CheckpointSlice, Happened, Internal, Mail, MailAck
from flashq.protocol.records import Answer, AnyRecord, Entry, Sent, encode_entries
from flashq.shard.core import Core
from flashq.shard.identity import Identity
from flashq.shard.journal import ASYNC_LAG_MS
from flashq.shard.lifecycle import ACTIVE
from flashq.shard.node import Node
from flashq.shard.outbox import Origin, Reply
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.checkers import Witness


def _is_for_webhooks(record: AnyRecord) -> bool:
    """Tell whether a record was added to what was decided, since a webhook wants to be told."""
    return isinstance(record, Sent) and isinstance(record.body, Happened)


class WatchedNode(Node):
    """A node whose engine's decisions are seen as they are made.

    Args:
        identity: who it is.
        witness: sees them.
    """

    def __init__(self, identity: Identity, witness: Witness) -> None:
        self._witness = witness
        self._grounds = witness.shards[identity.shard].grounds
        self._is_flushing = False
        #: the last durable change of the log, and the one before each reply on its way
        self._durable_seq = 0
        self._needed: dict[int, int] = {}
        super().__init__(identity)

    def _recovered(self) -> None:
        super()._recovered()
        self._witness.recovered(self._identity.shard, self._epoch, self._state)
        self._watch(self.engine._core)

    def receive_front(self, peer: bytes, frames: list[bytes]) -> None:
        """Take one message from the front socket, and count what a router sends back."""
        before = self._state.counts[ACTIVE]
        super().receive_front(peer, frames)
        if any(header[1] & BOUNCED for header in frames[::2]):
            self._witness.came_back(before - self._state.counts[ACTIVE])

    # --- what leaves, and what it stands on

    def _confirm(self, seq: int) -> None:
        super()._confirm(seq)
        self._grounds.stands_on(self._journal.safe, "takes its log for safe")

    def _begin_checkpoint(self, *, full: bool = False) -> None:
        super()._begin_checkpoint(full=full)
        name = self._epoch, self._checkpoints._generation
        self._witness.began_checkpoint(name, self._state)

    def _tell(self, message: Internal) -> None:
        if isinstance(message, CheckpointSlice) and not self._resyncing:
            self._grounds.stands_on(message.seq, "sends a checkpoint")
        super()._tell(message)

    def _post(self, peer: int, mail: Mail) -> None:
        pending = self._state.mailboxes[peer].pending
        seq = next(seq for number, seq, _ in pending if number == mail.number)
        self._grounds.stands_on(seq, f"sends mail {mail.number} for {peer}")
        self._witness.sends(self._identity.shard, peer, mail)
        super()._post(peer, mail)

    def _take_mail(self, mail: Mail, answer: Callable[[MailAck], None]) -> None:
        def confirm(ack: MailAck) -> None:
            self._grounds.confirms(mail.sender, ack.incarnation, ack.number)
            answer(ack)

        super()._take_mail(mail, confirm)

    def _send_reply(self, reply: Reply) -> None:
        oldest_ms = self._journal.oldest_ms()
        is_late = oldest_ms is not None and self._mono_ms - oldest_ms > ASYNC_LAG_MS
        if self._is_flushing and is_late and reply.seq > self._journal.safe:
            raise Violation(
                f"shard {self._identity.shard} answers at {reply.seq}, and its log has lagged at "
                f"{self._journal.safe} for more than {ASYNC_LAG_MS} ms"
            )
        needed = self._needed.pop(id(reply), 0)
        # The refusal of a read tells of nothing, and may be where the read's own answer was.
        self._grounds.stands_on(needed if reply.seq else 0, "answers")
        super()._send_reply(reply)

    def flush(self) -> None:
        """Turn what was decided into frames. No reply leaves while the log lags behind."""
        self._is_flushing = True
        super().flush()
        self._is_flushing = False

    def _watch(self, core: Core) -> None:
        """Put the witness behind every decision and every reply."""
        commit, witness, shard = core.commit, self._witness, self._identity.shard
        reply = core.reply

        def commit_and_show(
            records: list[AnyRecord], *, durable: bool, answer: Answer | None = None
        ) -> None:
            before = core.state.seq
            at = core.state.now_ms
            commit(records, durable=durable, answer=answer)
            logged = core.state.seq > before
            kept = core.outbox.entries[-1].records if logged else []
            blob = encode_entries(core.outbox.entries[-1:]) if logged else b""
            told = [record for record in kept if _is_for_webhooks(record)]
            entry = Entry(at, [*records, *told], answer)
            seq = core.state.seq if logged else None
            if durable and seq is not None:
                self._durable_seq = seq
            witness.decided(shard, seq, entry, kept, blob, core.clock_ms)

        def reply_and_note(
            origin: Origin, body: Any, *, delivery: bool = False, is_read: bool = False
        ) -> None:
            reply(origin, body, delivery=delivery, is_read=is_read)
            self._needed[id(core.outbox.replies[-1])] = self._durable_seq

        core.commit = commit_and_show  # type: ignore[method-assign]
        core.reply = reply_and_note  # type: ignore[method-assign]
