"""The coordinator's durable mailboxes: firings to shards, and what shards tell it.

Owns numbers, what is not acknowledged yet, and when it is sent again. A message leaves only after
its record is safe; an acknowledgement leaves only after what the message caused is safe. Numbers
count from 1 per shard; with each goes the incarnation in which it was posted (see `Mail`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.parts import Form
from flashq.errors import StorageDamaged
from flashq.protocol.internal import (
    COORDINATOR,
    Mail,
    MailAck,
    PeerMessage,
)

RESEND_MS: Final = 1000
RESENT_AT_ONCE_MAX: Final = 100
PENDING_MAX: Final = 1000
"""Messages for one shard that wait for it; above it nothing fires there."""


class _Counters(NamedTuple):
    """What is stored of a mailbox besides its messages."""

    posted: int
    """Number of the last message posted."""
    taken_incarnation: int
    taken: int
    """Number of the shard's last message that was carried out, written in that incarnation."""


COUNTERS: Final = Form("mailbox.", _Counters)
MESSAGES: Final = Form("mail.", Mail, version=3)


class _Mailbox:
    """Both directions with one shard."""

    __slots__ = ("counters", "pending", "resend_at_ms", "safe")

    def __init__(self) -> None:
        self.counters = _Counters(0, 0, 0)
        #: by number, in order: posted and not acknowledged
        self.pending: OrderedDict[int, Mail] = OrderedDict()
        #: messages up to this number are stored, so they may leave
        self.safe = 0
        self.resend_at_ms = 0


class Mailboxes:
    """The mailboxes with all shards.

    Args:
        shard_count: how many there are.
        incarnation: the coordinator's; each is a new one.
        outbox: where writes go.
    """

    def __init__(self, shard_count: int, incarnation: int, outbox: Outbox) -> None:
        self._incarnation = incarnation
        self._outbox = outbox
        self._boxes = [_Mailbox() for _ in range(shard_count)]
        #: the shards that have messages pending
        self._waiting: set[int] = set()

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Take up what was stored.

        Raises:
            ConfigError: it cannot be read.
            StorageDamaged: nor that, or it contradicts itself.
        """
        for name, counters in COUNTERS.stored(parts):
            box = self._boxes[int(name)]
            box.counters = counters
            box.safe = counters.posted
        for name, mail in MESSAGES.stored(parts):
            shard = int(name.split(".")[0])
            if mail.number > self._boxes[shard].safe:
                raise StorageDamaged(detail=f"coordinator's mail {name} has not been posted")
            self._boxes[shard].pending[mail.number] = mail
            self._waiting.add(shard)
        for box in self._boxes:
            box.pending = OrderedDict(sorted(box.pending.items()))

    # --- to shards

    def is_full(self, shard: int) -> bool:
        """Tell whether nothing more can be posted to a shard for now."""
        return len(self._boxes[shard].pending) >= PENDING_MAX

    def post(self, shard: int, body: PeerMessage) -> int:
        """Write a message for a shard, and return its number; `confirm` it once it is safe."""
        box = self._boxes[shard]
        number = box.counters.posted + 1
        mail = Mail(
            sender=COORDINATOR,
            incarnation=self._incarnation,
            number=number,
            body=body,  # type: ignore[arg-type]
        )
        box.counters = box.counters._replace(posted=number)
        box.pending[number] = mail
        self._waiting.add(shard)
        self._outbox.write(MESSAGES.put(f"{shard}.{number}", mail))
        self._write_counters(shard)
        return number

    def confirm(self, shard: int, number: int) -> None:
        """The message is safe, so it may leave."""
        self._boxes[shard].safe = number

    def send(self, shard: int, to: bytes, mono_ms: int, *, after: int = 0) -> None:
        """Send what is safe and not acknowledged.

        Args:
            after: only what is numbered above this.
        """
        box = self._boxes[shard]
        confirmed = next(iter(box.pending), 1) - 1
        before = 0
        if after <= confirmed:  # what is new must not put off the repeat of what is older
            box.resend_at_ms = mono_ms + RESEND_MS
        left = RESENT_AT_ONCE_MAX
        for number, mail in box.pending.items():
            if number > box.safe or not left:
                break
            if number > after:
                previous = 0 if before == mail.incarnation else before
                self._outbox.send(to, replace(mail, previous=previous, confirmed=confirmed))
                left -= 1
            before = mail.incarnation

    def resends(self) -> list[tuple[int, int]]:
        """Return the shards that have messages pending, and when these are due again."""
        return [(shard, self._boxes[shard].resend_at_ms) for shard in sorted(self._waiting)]

    def acknowledge(self, shard: int, ack: MailAck) -> None:
        """The shard has a message and everything before it. Of one that is lost, whose number
        there is again, that says nothing."""
        box = self._boxes[shard]
        taken = box.pending.get(ack.number)
        if taken is None or taken.incarnation != ack.incarnation:
            return
        while box.pending and (number := next(iter(box.pending))) <= ack.number:
            del box.pending[number]
            self._outbox.write(MESSAGES.drop(f"{shard}.{number}"))
        if not box.pending:
            self._waiting.discard(shard)

    # --- from shards

    def take(self, shard: int, mail: Mail) -> bool:
        """Note a shard's message, and tell whether it has to be carried out."""
        counters = self._boxes[shard].counters
        last = counters.taken_incarnation, counters.taken
        if mail.is_had(*last) or not mail.is_next(*last):
            return False
        self._boxes[shard].counters = counters._replace(
            taken_incarnation=mail.incarnation, taken=mail.number
        )
        self._write_counters(shard)
        return True

    def has(self, shard: int, mail: Mail) -> bool:
        """Tell whether a shard's message was carried out, now or earlier."""
        _posted, incarnation, number = self._boxes[shard].counters
        return mail.is_had(incarnation, number)

    def _write_counters(self, shard: int) -> None:
        self._outbox.write(COUNTERS.put(shard, self._boxes[shard].counters))
