"""What the coordinator has to write and to send, and in which order.

Owns the gate: what may only be said once something is safe waits in the group that writes it. A
group has either the coordinator's own parts, those of one message, or log and checkpoints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from flashq.errors import FlashQError
from flashq.protocol.framing import INTERNAL, ROUTE_COORDINATOR, pack_header
from flashq.protocol.internal import Append, CheckpointSlice, Internal, encode_internal
from flashq.protocol.limits import MIB
from flashq.storage.port import Put, Write

_INTERNAL_HEADER: Final = pack_header(INTERNAL, ROUTE_COORDINATOR, 0)


GROUP_BYTES: Final = MIB
"""A group with so much log is full; what storage writes at once is several of them."""


class Parcel(NamedTuple):
    """One message: headers and bodies for the peer with this routing id."""

    to: bytes
    frames: list[bytes]


class Group:
    """Writes that are committed together, and what follows from that."""

    __slots__ = ("appended", "awaited", "has_parts", "log_bytes", "otherwise", "then", "writes")

    def __init__(self) -> None:
        self.writes: Final[list[Write]] = []
        #: by shard: epoch and sequence up to which this group brings its log
        self.appended: Final[dict[int, tuple[int, int]]] = {}
        #: the shards in which something is held back until that is safe
        self.awaited: Final[set[int]] = set()
        #: there are parts of the coordinator's own in `writes` that somebody may be told of
        self.has_parts = False
        #: how much log is in `writes`
        self.log_bytes = 0
        #: called in order once the writes are safe
        self.then: Final[list[Callable[[], None]]] = []
        #: called instead if storage refuses them for what is in them
        self.otherwise: Final[list[Callable[[FlashQError], None]]] = []

    @property
    def size(self) -> int:
        """How many bytes are in `writes`."""
        return sum(map(_size_of, self.writes))


def _size_of(write: Write) -> int:
    match write:
        case Append():
            return len(write.records)
        case Put():
            return len(write.content)
        case CheckpointSlice():
            contents = [*(content for _, content in write.parts)]
            contents += (content for _, content in write.pages)
            return sum(map(len, contents))
        case _:
            return 0


class Outbox:
    """Collects a turn's writes and messages."""

    def __init__(self) -> None:
        self._boxes: dict[bytes, list[bytes]] = {}
        self._group = Group()
        #: groups that are full, before that
        self._ready: deque[Group] = deque()
        #: the last thing that was written is a part of the coordinator's own
        self._has_puts = False
        #: groups with parts of the coordinator's own that are not committed yet
        self._unsafe_parts = 0

    def send(self, to: bytes, message: Internal) -> None:
        """Say something to a peer at the end of the turn."""
        self.send_pair(to, _INTERNAL_HEADER, encode_internal(message))

    def send_pair(self, to: bytes, header: bytes, body: bytes) -> None:
        """Send a pair at the end of the turn."""
        self._boxes.setdefault(to, []).extend((header, body))

    def write(self, write: Write, *, is_told: bool = True) -> None:
        """Let the turn's group write something.

        Args:
            is_told: if it is a part, whoever is told of parts has to wait for it.
        """
        if self._group.writes and isinstance(write, Put) != self._has_puts:
            self.cut()
        self._has_puts = isinstance(write, Put)
        self._group.writes.append(write)
        if self._has_puts and is_told:
            self._group.has_parts = True

    def cut(self) -> None:
        """Begin another group: storage may take the one and refuse the other.

        What has only log is also cut when it is large, so that it can be written in several
        transactions.
        """
        if self._group.writes or self._group.then:
            self._ready.append(self._group)
            self._unsafe_parts += self._group.has_parts
            self._group = Group()

    def cut_parts(self) -> None:
        """Begin another group after a message that has put parts of the coordinator's own."""
        if self._has_puts and self._group.writes:
            self.cut()

    @property
    def is_safe(self) -> bool:
        """Whether everything is stored that somebody could be told of the coordinator's parts."""
        return not (self._group.has_parts or self._unsafe_parts)

    def committed(self, group: Group) -> None:
        """A group that was taken is stored."""
        self._unsafe_parts -= group.has_parts

    def append(self, shard: int, epoch: int, seq: int, size: int, *, awaited: bool) -> None:
        """Note how far the group brings a shard's log, by how much, and if that is awaited."""
        self._group.appended[shard] = epoch, seq
        self._group.log_bytes += size
        if awaited:
            self._group.awaited.add(shard)
        if self._group.log_bytes >= GROUP_BYTES:
            self.cut()

    def then(self, action: Callable[[], None]) -> None:
        """Do something once everything that was written until now is safe."""
        self._group.then.append(action)

    def otherwise(self, action: Callable[[FlashQError], None]) -> None:
        """Do something if storage refuses what was written since the last cut."""
        self._group.otherwise.append(action)

    def take_group(self) -> Group | None:
        """Return the next group to commit, if there is one."""
        self.cut()
        return self._ready.popleft() if self._ready else None

    def take_parcels(self) -> list[Parcel]:
        """Return what has to be sent, and forget it."""
        boxes, self._boxes = self._boxes, {}
        return [Parcel(to, frames) for to, frames in boxes.items()]
