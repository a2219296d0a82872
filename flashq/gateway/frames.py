"""Where one request ends and the next begins, in a stream of bytes.

Owns the two framings of the older protocol, JSON lines and length-prefixed MessagePack, and the
bound on the size of one request. What is too large is skipped without being kept. Pure.
"""

from __future__ import annotations

from typing import Final, Protocol

REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
SKIPPED_BYTES_MAX: Final = 64 * 1024 * 1024
"""A frame that says it is longer than this is no frame, but something of another protocol."""
LENGTH_BYTES: Final = 4
_JSON_STARTS: Final = b"{\n\r"


class TooLarge:
    """Stands for a request that was skipped.

    Args:
        head: how it begins, up to the bound, as far as it is known.
        is_fatal: where the next one begins is not known.
    """

    __slots__ = ("head", "is_fatal")

    def __init__(self, head: bytes, *, is_fatal: bool = False) -> None:
        self.head: Final = head
        self.is_fatal: Final = is_fatal


Item = bytes | TooLarge


def size_of(item: Item) -> int:
    """Return how many bytes of a request are kept."""
    return len(item.head) if isinstance(item, TooLarge) else len(item)


class Reader(Protocol):
    """Cuts a stream into requests."""

    json: bool
    bytes_max: int
    """The largest request."""

    def feed(self, data: bytes) -> list[Item]:
        """Return the requests that are complete with these bytes."""
        ...

    def finish(self) -> list[Item]:
        """Return what is complete because the stream has ended."""
        ...


class LineReader:
    """JSON lines: a request ends at a line feed, the last one at the end of the stream."""

    json = True

    def __init__(self, bytes_max: int = REQUEST_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        #: the line that is not complete yet, in pieces, and its size
        self._pieces: list[bytes] = []
        self._size = 0
        #: the rest of the line was already answered for
        self._skipping = False

    def feed(self, data: bytes) -> list[Item]:
        """Return the lines that are complete with these bytes, without their ends."""
        first, *rest = data.split(b"\n")
        found: list[Item] = []
        self._add(first, found)
        for line in rest:
            self._end(found)
            self._add(line, found)
        return found

    @property
    def pending_bytes(self) -> int:
        """The size of the line that is not complete yet."""
        return self._size

    def finish(self) -> list[Item]:
        """Return the last line, if it did not end."""
        found: list[Item] = []
        if self._size or self._skipping:
            self._end(found)
        return found

    def _add(self, piece: bytes, found: list[Item]) -> None:
        if self._skipping or not piece:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > self.bytes_max:
            found.append(TooLarge(b"".join(self._pieces)[: self.bytes_max]))
            self._skipping = True
            self._pieces, self._size = [], 0

    def _end(self, found: list[Item]) -> None:
        if self._skipping:
            self._skipping = False
            return
        pieces = self._pieces
        found.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._pieces, self._size = [], 0


class FrameReader:
    """Frames: four bytes of length, then so many bytes of MessagePack."""

    json = False

    def __init__(self, bytes_max: int = REQUEST_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._unread = bytearray()
        #: bytes of a skipped frame that are still to come
        self._skip = 0

    def feed(self, data: bytes) -> list[Item]:
        """Return the frames that are complete with these bytes."""
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        unread = self._unread
        unread += data
        found: list[Item] = []
        start = 0
        while len(unread) - start >= LENGTH_BYTES:
            length = int.from_bytes(unread[start : start + LENGTH_BYTES], "big")
            begin = start + LENGTH_BYTES
            if length > self.bytes_max:
                found.append(TooLarge(b"", is_fatal=length > SKIPPED_BYTES_MAX))
                start = min(begin + length, len(unread))
                self._skip = begin + length - start
                if self._skip:
                    break
                continue
            if len(unread) - begin < length:
                break
            start = begin + length
            found.append(bytes(unread[begin:start]))
        del unread[:start]
        return found

    @property
    def pending_bytes(self) -> int:
        """The size of the frame that is not complete yet, as far as it has come."""
        return len(self._unread)

    def finish(self) -> list[Item]:
        """Return nothing: half a frame is none."""
        return []


def reader_for(first: int, bytes_max: int = REQUEST_BYTES_MAX) -> LineReader | FrameReader:
    """Return the reader of a connection whose first byte is this."""
    return LineReader(bytes_max) if first in _JSON_STARTS else FrameReader(bytes_max)
