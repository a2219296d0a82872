"""One connection: its socket, and what its peer has not read yet.

Owns the writing. A message counts as unread until the kernel has taken all of it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from typing import Final

from flashq.zmtp.stream import Stream, pack

JOIN_BYTES_MAX: Final = 262_144
"""A message up to this size is copied into one piece before it is sent."""
PIECES_MAX: Final = 512
"""Pieces that are sent at once; Linux takes 1,024."""

_Unsent = tuple[list[bytes], int, bytes]
"""A message's frames (none for what the protocol itself says), its size, and in that case what."""


class Peer:
    """One connection.

    Args:
        name: what it is called here.
        connection: its socket, which does not block.
        address: the host that it comes from; None for a program of this host at a Unix socket.
        now_ms: the monotonic clock.
    """

    __slots__ = (
        "_pieces",
        "address",
        "heard_ms",
        "is_gone",
        "is_held",
        "is_stranger",
        "mask",
        "name",
        "read_ms",
        "socket",
        "stream",
        "unread",
        "unread_bytes",
    )

    stream: Stream

    def __init__(
        self, name: bytes, connection: socket.socket, address: str | None, now_ms: int
    ) -> None:
        self.name: Final = name
        self.socket: Final = connection
        self.address: Final = address
        #: when something came from it last, and when it took something last
        self.heard_ms = now_ms
        self.read_ms = now_ms
        #: messages that were not sent whole, oldest first
        self.unread: deque[_Unsent] = deque()
        #: what is left to send of the first of them; empty before its beginning
        self._pieces: list[bytes | memoryview] = []
        self.unread_bytes = 0
        #: it has not shown a token, or its handshake is not over
        self.is_stranger = True
        #: nothing is read from it for now
        self.is_held = False
        #: its connection is closed
        self.is_gone = False
        #: what it is watched for
        self.mask = 0

    def queue(self, frames: list[bytes], size: int) -> None:
        """Add a message of so many bytes to what has to be sent."""
        self.unread.append((frames, size, b""))
        self.unread_bytes += size

    def queue_bytes(self, data: bytes) -> None:
        """Add what the protocol itself says."""
        self.unread.append(([], 0, data))

    def write_at_once(self, frames: list[bytes], size: int) -> bool:
        """Send a message of so many bytes while nothing else is unread, and tell whether the kernel
        took all of it. If not, the rest is queued."""
        if size <= JOIN_BYTES_MAX:
            data = b"".join(pack(frames))
            try:
                sent = self.socket.send(data)
            except OSError:
                sent = 0  # `write` finds out why
            if sent == len(data):
                return True
            self._pieces = [memoryview(data)[sent:]]
        self.queue(frames, size)
        return False

    def write(self) -> bool:
        """Send as much as the kernel takes, and tell whether that was anything.

        Raises:
            OSError: the connection is broken.
        """
        unread = self.unread
        is_read = False
        while unread:
            frames, size, data = unread[0]
            pieces = self._pieces
            if not pieces:
                packed: list[bytes] = pack(frames) if frames else [data]
                pieces = [b"".join(packed)] if size <= JOIN_BYTES_MAX else [*packed]
            try:
                if len(pieces) == 1:
                    sent = self.socket.send(pieces[0])
                else:
                    sent = self.socket.sendmsg(pieces[:PIECES_MAX])
            except BlockingIOError:
                sent = 0
            self._pieces = pieces = _behind(pieces, sent)
            is_read = is_read or sent > 0
            if not pieces:
                unread.popleft()
                self.unread_bytes -= size
            elif not sent:
                break
        return is_read

    def take_unread(self) -> Iterator[list[bytes]]:
        """Return the messages that were not sent whole, and forget them."""
        unread, self.unread = self.unread, deque()
        self._pieces = []
        self.unread_bytes = 0
        return (frames for frames, _, _ in unread if frames)


def _behind(pieces: list[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """Return what is left of pieces of which so many bytes are sent."""
    for index, piece in enumerate(pieces):
        size = len(piece)
        if sent < size:
            return [memoryview(piece)[sent:] if sent else piece, *pieces[index + 1 :]]
        sent -= size
    return []
