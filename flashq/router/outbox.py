"""What the router has to send at the end of a turn of its loop: per peer, in few messages.

Owns the lanes to shards and coordinator with their bound on bytes under way, and the boxes of
clients. Knows nothing of commands.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

MESSAGE_FRAMES_MAX: Final = 2000
"""1,000 pairs: more would make the receiver's turn long and its memory jumpy."""
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024

PAIR_OVERHEAD_BYTES: Final = 128
"""What a pair costs beside its body: header, tail, and ZeroMQ's own bookkeeping."""

ERA_MS: Final = 60_000
"""How long an era of a lane lasts."""
ACCOUNT_BYTES: Final = 5
_ACCOUNT: Final = struct.Struct(">BI")
_read_account = _ACCOUNT.unpack_from


class Parcel(NamedTuple):
    """One message to send: to a client by its identity, or to a peer by its routing id."""

    to: bytes
    frames: list[bytes]


class Lane:
    """The way to one shard or to the coordinator.

    Bytes under way are counted without a table of requests: what a pair costs travels in its tail
    and comes back with the reply. Some requests never have a reply (the pulls of a session that
    died, what was lost with a shard), so the count is kept per *era*: eras end by the clock, only
    the running and the last one count, and a reply from an older one settles nothing.
    """

    __slots__ = ("_era", "_previous_bytes", "_running_bytes", "epoch", "frames", "routing_id")

    def __init__(self, routing_id: bytes) -> None:
        #: the peer's address on the router's socket towards shards and coordinator
        self.routing_id: Final = routing_id
        #: headers and bodies for the peer, since the last flush
        self.frames: list[bytes] = []
        #: the shard's epoch as the coordinator said it last; 0 for not ready or not known
        self.epoch = 0
        #: number of the running era, modulo 256
        self._era = 0
        #: bytes under way since the running era began
        self._running_bytes = 0
        #: bytes under way since the era before began and until it ended
        self._previous_bytes = 0

    @property
    def bytes_under_way(self) -> int:
        """What was sent and is not answered yet."""
        return self._running_bytes + self._previous_bytes

    def admit(self, size: int) -> bytes:
        """Count a pair of `size` bytes; its account goes into the tail."""
        self._running_bytes += size
        return _ACCOUNT.pack(self._era, size)

    def take(self) -> Iterator[list[bytes]]:
        """Return what goes to the peer, as messages, and forget it."""
        frames, self.frames = self.frames, []
        return split(frames) if frames else iter(())

    def settle(self, header: bytes, offset: int) -> None:
        """Take a reply's pair out of the count.

        Args:
            header: the reply's header frame.
            offset: where in it the account stands.
        """
        era, size = _read_account(header, offset)
        if era == self._era:
            self._running_bytes -= size
        elif era == (self._era - 1) & 0xFF:
            self._previous_bytes -= size

    def end_era(self) -> None:
        """Begin a new era, and forget what is older than the one that ended."""
        self._era = (self._era + 1) & 0xFF
        self._previous_bytes = self._running_bytes
        self._running_bytes = 0

    def forget_under_way(self) -> None:
        """The peer has lost everything that was under way."""
        self.end_era()
        self.end_era()


def split(frames: list[bytes]) -> Iterator[list[bytes]]:
    """Cut the frames for one peer into messages of bounded size; a pair stays together."""
    if len(frames) <= 2 or (
        len(frames) <= MESSAGE_FRAMES_MAX and sum(map(len, frames)) <= MESSAGE_BYTES_MAX
    ):
        yield frames
        return
    start = size = 0
    for index in range(0, len(frames), 2):
        pair_bytes = len(frames[index]) + len(frames[index + 1])
        if index > start and (
            size + pair_bytes > MESSAGE_BYTES_MAX or index - start >= MESSAGE_FRAMES_MAX
        ):
            yield frames[start:index]
            start, size = index, 0
        size += pair_bytes
    yield frames[start:]
