"""What the coordinator has to write and to send, and in which order.

Owns the gate: what may only be said once something is safe waits in the group that writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from flashq.protocol.framing import INTERNAL, ROUTE_COORDINATOR, pack_header
from flashq.protocol.internal import Internal, encode_internal
from flashq.storage.port import Put, Write

_INTERNAL_HEADER: Final = pack_header(INTERNAL, ROUTE_COORDINATOR, 0)


class Parcel(NamedTuple):
    """One message: headers and bodies for the peer with this routing id."""

    to: bytes
    frames: list[bytes]


class Group:
    """Writes that are committed together, and what follows from that."""

    __slots__ = ("appended", "awaited", "has_parts", "log_bytes", "then", "writes")

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


class Outbox:
    """Collects a turn's writes and messages."""

    def __init__(self) -> None:
        self._boxes: dict[bytes, list[bytes]] = {}
        self._group = Group()
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
        self._group.writes.append(write)
        if isinstance(write, Put) and is_told:
            self._group.has_parts = True

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

    def then(self, action: Callable[[], None]) -> None:
        """Do something once everything that was written until now is safe."""
        self._group.then.append(action)

    def take_group(self) -> Group | None:
        """Return the group to commit, if there is one, and begin the next."""
        group = self._group
        if not group.writes and not group.then:
            return None
        self._group = Group()
        self._unsafe_parts += group.has_parts
        return group

    def take_parcels(self) -> list[Parcel]:
        """Return what has to be sent, and forget it."""
        boxes, self._boxes = self._boxes, {}
        return [Parcel(to, frames) for to, frames in boxes.items()]
