"""Mail between peers: sent when its record is safe, and again until it is confirmed.

Pure. What has to be sent is in the state's mailboxes, so it survives a restart; this module only
knows what of it is on its way. The confirmation of mail that came in leaves when the record of
its taking is safe.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from flashq.protocol.internal import Mail, MailAck
from flashq.shard.gate import Gate
from flashq.shard.holdings import Mailbox
from flashq.shard.state import ShardState

REPEAT_MS: Final = 1000
"""Mail that is not confirmed for so long is sent again."""

Answer = Callable[[MailAck], None]


class Mailing:
    """The mail of one shard.

    Args:
        state: whose mailboxes are emptied.
        post: sends a message to a peer.
    """

    def __init__(self, state: ShardState, post: Callable[[int, Mail], None]) -> None:
        self._state = state
        self._post = post
        #: (number of the last message sent, since when nothing was confirmed or sent again), by
        #: peer, until everything that was sent is confirmed
        self._sent: dict[int, tuple[int, int]] = {}
        self._acks: Gate[tuple[Answer, MailAck]] = Gate()

    # --- out

    def send(self, mono_ms: int, safe_seq: int) -> None:
        """Send what is safe and has not been sent, or not been confirmed for long."""
        for peer, mailbox in self._state.mailboxes.items():
            if mailbox.pending and peer != self._state.shard:
                self._send_to(peer, mailbox, mono_ms, safe_seq)

    def _send_to(self, peer: int, mailbox: Mailbox, mono_ms: int, safe_seq: int) -> None:
        state = self._state
        sent, sent_ms = self._sent.get(peer, (0, mono_ms))
        if sent and mono_ms - sent_ms >= REPEAT_MS:
            sent = 0
        last, first = sent, mailbox.pending[0][0]
        place = max(0, sent - first + 1)
        before = state.incarnation_at(mailbox.pending[place - 1][1]) if place else 0
        for number, seq, body in islice(mailbox.pending, place, None):
            if seq > safe_seq:
                break
            incarnation = state.incarnation_at(seq)
            mail = Mail(
                sender=state.shard,
                incarnation=incarnation,
                number=number,
                body=body,
                previous=0 if before == incarnation else before,
                confirmed=first - 1,
            )
            self._post(peer, mail)
            last, before = number, incarnation
        if last != sent:
            # New mail must not put off the repeat of older mail, or a steady stream would do so
            # for ever.
            self._sent[peer] = (last, sent_ms if sent else mono_ms)
        elif not sent:
            self._sent.pop(peer, None)  # storage has lost what was safe: nothing may be repeated

    def confirmed(self, peer: int, mono_ms: int) -> None:
        """A peer has confirmed mail; the state's mailbox knows how much."""
        last, _ = self._sent.pop(peer, (0, 0))
        pending = self._state.mailbox(peer).pending
        if pending and pending[0][0] <= last:
            self._sent[peer] = (last, mono_ms)

    def next_deadline_ms(self) -> int | None:
        """Return when mail has to be sent again, on the monotonic clock."""
        if not self._sent:
            return None
        return REPEAT_MS + min([at for _, at in self._sent.values()])

    # --- in

    def confirm(self, mail: Mail, answer: Answer) -> None:
        """Confirm mail that has been taken, as soon as the log is safe up to now."""
        ack = MailAck(receiver=self._state.shard, incarnation=mail.incarnation, number=mail.number)
        if self._acks.pass_or_wait(self._state.seq, (answer, ack)):
            answer(ack)

    def release(self, safe_seq: int) -> None:
        """The log is safe up to here: send the confirmations that waited for it."""
        for answer, ack in self._acks.release(safe_seq):
            answer(ack)

    @property
    def has_mail(self) -> bool:
        """Whether there is mail, or a confirmation, that may have to wait for the log."""
        if self._acks:
            return True
        own, boxes = self._state.shard, self._state.mailboxes
        return bool([peer for peer, box in boxes.items() if box.pending and peer != own])

    @property
    def is_waiting(self) -> bool:
        """Whether confirmations wait for the log."""
        return bool(self._acks)
