"""Requests whose replies may be large: how many are under way, for one client and for all.

Pure. Owns the count of bytes that replies are expected to have before they are made: a client that
does not read what it asked for has no more of it made. Requests above the bound wait here in their
order; other requests of the client go on.

What a reply will have is not known beforehand, so each counts as the most that is usual. When it
has come, what the client has not read of it counts instead.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, NamedTuple

from flashq.errors import Busy
from flashq.protocol.codec import request_word
from flashq.protocol.framing import JSON
from flashq.protocol.limits import MIB
from flashq.protocol.registry import COMMANDS, WORD_ALIASES

HELD_BYTES_MAX: Final = 4 * MIB
"""Requests of one client that wait here; above it they are answered `busy`."""
HELD_OVERHEAD_BYTES: Final = 256
"""What one of them takes beside its body."""
READS_SHARE: Final = 4
"""One part in so many of what a client may leave unread is for what it has asked to read."""
READ_MS_MAX: Final = 60_000
"""An answer that has not come after so long does not count any more: its shard is gone."""

NUMBER_BYTES: Final = 8
"""How long the number of a read is, where it travels."""

JOB_BYTES: Final = MIB
"""What a reply with one job counts."""
JOBS_BYTES: Final = 8 * MIB
"""What a reply with a list counts: as much as a shard puts into one."""

_COSTS: Final[dict[str, int]] = {
    **dict.fromkeys(("GETJOB", "GETRESULT", "GETJOBBYCUSTOMID", "GETLOGS"), JOB_BYTES),
    **dict.fromkeys(
        (
            *("GETJOBS", "GETJOBSBATCH", "GETCHILDREN", "DLQ", "LISTQUEUES", "LISTWORKERS"),
            *("CRONLIST", "WEBHOOKLIST", "WEBHOOKDEAD"),
        ),
        JOBS_BYTES,
    ),
}
"""By command. Those that wait for something (PULL, WAITJOB) do not count: they may have no reply
for long. What they bring is bounded where it is kept."""

_WORD_AT, _WORD_END = 1, 9


def _head(word: str) -> bytes:
    """Return the bytes behind the first of a MessagePack body that begins with this command."""
    return (b"\xa3cmd" + bytes([0xA0 | len(word)]) + word.encode())[: _WORD_END - _WORD_AT]


LIGHT_HEADS: Final = frozenset(_head(command.word) for command in COMMANDS) - frozenset(
    map(_head, _COSTS)
)
"""How MessagePack bodies go on behind their first byte whose replies are small for sure."""


def cost_of(header: bytes, body: bytes) -> int:
    """Return how many bytes the reply to a request counts; 0 for small ones."""
    if body[_WORD_AT:_WORD_END] in LIGHT_HEADS:
        return 0
    word = request_word(body, json=len(header) > 1 and bool(header[1] & JSON))
    return _COSTS.get(WORD_ALIASES.get(word, word), 0)


class Held(NamedTuple):
    """A request that waits."""

    identity: bytes
    header: bytes
    body: bytes
    cost: int


class _UnderWay(NamedTuple):
    """A request whose reply has not come."""

    identity: bytes
    cost: int
    asked_ms: int


class _Account:
    """What one client has asked for and not read."""

    __slots__ = ("expected", "held", "held_bytes", "limit", "ready_bytes", "unread")

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        #: bytes that replies under way count
        self.expected = 0
        #: bytes of replies that have come in this turn, and of those that it has not read
        self.ready_bytes = 0
        self.unread = 0
        self.held: deque[Held] = deque()
        self.held_bytes = 0

    def has_room(self, cost: int) -> bool:
        """Tell whether a reply of so many bytes may be made: always when there is nothing else."""
        used = self.expected + self.ready_bytes + self.unread
        return not used or used + cost <= self.limit

    @property
    def is_empty(self) -> bool:
        return not (self.expected or self.ready_bytes or self.unread or self.held)


class Reads:
    """All of them.

    Args:
        unread_bytes_max: what is kept for a client that does not read. A program of this host, such
            as a gateway, may have asked for so much, and others for a share of it.
        all_bytes_max: what may be expected for all of them.
    """

    def __init__(self, unread_bytes_max: int, all_bytes_max: int) -> None:
        self._client_bytes_max: Final = unread_bytes_max // READS_SHARE
        self._local_bytes_max: Final = unread_bytes_max
        self._all_bytes_max: Final = all_bytes_max
        self._accounts: dict[bytes, _Account] = {}
        #: by number, in the order in which they were asked
        self._under_way: OrderedDict[int, _UnderWay] = OrderedDict()
        self._numbered = 0
        self._expected = 0
        #: clients that hold something and may have room for it; in the order of their turns
        self._line: OrderedDict[bytes, None] = OrderedDict()
        #: clients with replies that have come in this turn
        self._answered: set[bytes] = set()

    @property
    def expected_bytes(self) -> int:
        """What replies under way count, over all clients."""
        return self._expected

    def begin(
        self, identity: bytes, cost: int, now_ms: int, *, is_local: bool = False
    ) -> bytes | None:
        """Count a request as under way, if there is room and none of its client waits.

        Returns:
            The number that `end` takes; None when it has to wait.
        """
        account = self._accounts.get(identity)
        if account is None:
            limit = self._local_bytes_max if is_local else self._client_bytes_max
            account = self._accounts[identity] = _Account(limit)
        if account.held or not (account.has_room(cost) and self._has_room(cost)):
            return None
        return self._count(identity, account, cost, now_ms)

    def hold(self, held: Held) -> None:
        """Let a request wait that could not begin.

        Raises:
            Busy: too much of its client waits.
        """
        account = self._accounts[held.identity]
        size = len(held.body) + HELD_OVERHEAD_BYTES
        if account.held_bytes + size > HELD_BYTES_MAX:
            raise Busy(detail="too many requests wait until you read the replies to others")
        account.held.append(held)
        account.held_bytes += size
        self._line[held.identity] = None

    def take_next(self, now_ms: int) -> tuple[Held, bytes] | None:
        """Return the next request that waited and may go now, and its number."""
        while self._line:
            identity = next(iter(self._line))
            account = self._accounts.get(identity)
            if account is None or not account.held or not account.has_room(account.held[0].cost):
                del self._line[identity]  # it comes back when it has read
                continue
            if not self._has_room(account.held[0].cost):
                return None
            held = account.held.popleft()
            account.held_bytes -= len(held.body) + HELD_OVERHEAD_BYTES
            self._line.move_to_end(identity)
            return held, self._count(identity, account, held.cost, now_ms)
        return None

    def end(self, number: bytes, reply_bytes: int) -> None:
        """A reply has come, or will never: what it has counts now."""
        found = self._under_way.pop(int.from_bytes(number, "big"), None)
        if found is not None:
            self._expected -= found.cost
            account = self._accounts.get(found.identity)
            if account is not None:
                account.expected -= found.cost
                account.ready_bytes += reply_bytes
                self._answered.add(found.identity)

    def sent(self) -> None:
        """The replies that have come are on their way to their clients: what those do not take at
        once is told as unread."""
        for identity in self._answered:
            account = self._accounts.get(identity)
            if account is not None:
                account.ready_bytes = 0
                self._settle(identity, account)
        self._answered.clear()

    def unread(self, identity: bytes, unread_bytes: int) -> None:
        """A client has left so much unread."""
        account = self._accounts.get(identity)
        if account is not None:
            account.unread = unread_bytes
            self._settle(identity, account)

    def leave(self, identity: bytes) -> None:
        """A client is gone; what it asked for is still on its way, and counts for all."""
        self._accounts.pop(identity, None)
        self._line.pop(identity, None)

    def forget_under_way(self) -> None:
        """A shard has begun anew, and what it was asked has no reply: nobody knows which those are,
        so that all count as over."""
        for number in list(self._under_way):
            self.end(number.to_bytes(NUMBER_BYTES, "big"), 0)
        self.sent()

    def tick(self, now_ms: int) -> None:
        """Give up replies that have not come for too long."""
        while (due_ms := self.next_deadline_ms()) is not None and due_ms <= now_ms:
            self.end(next(iter(self._under_way)).to_bytes(NUMBER_BYTES, "big"), 0)
            self.sent()

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` has something to do."""
        for found in self._under_way.values():
            return found.asked_ms + READ_MS_MAX
        return None

    def _has_room(self, cost: int) -> bool:
        return not self._expected or self._expected + cost <= self._all_bytes_max

    def _count(self, identity: bytes, account: _Account, cost: int, now_ms: int) -> bytes:
        self._numbered += 1
        self._under_way[self._numbered] = _UnderWay(identity, cost, now_ms)
        self._expected += cost
        account.expected += cost
        return self._numbered.to_bytes(NUMBER_BYTES, "big")

    def _settle(self, identity: bytes, account: _Account) -> None:
        if account.held:
            self._line[identity] = None
        elif account.is_empty:
            del self._accounts[identity]
