"""What clients have not read yet, beyond what their connections hold: the twin of a door's own.

Pure: sending is a function that is given. What does not fit into a connection waits here, and is
bounded in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

RETRY_MS: Final = 5
RETRY_MS_MAX: Final = 100
"""How soon a client that could take no more is tried again: doubled each time that nobody could."""


class Sent(Enum):
    """What became of a message to a client."""

    SENT = auto()
    FULL = auto()
    """The client has to read first."""
    GONE = auto()
    """There is no such client any more."""


class _Unread:
    """The messages for one client, oldest first."""

    __slots__ = ("bytes", "parcels")

    def __init__(self) -> None:
        self.bytes = 0
        self.parcels: deque[list[bytes]] = deque()


class Backlog:
    """Sends to clients what they can take, and keeps the rest for a while.

    Args:
        bytes_max: most that is kept for one client.
        send: sends one message to a client, without waiting.
        give_up: told of a message that cannot be sent: client, frames, time, and whether the client
            is `gone`.
        unread: told how much is kept for a client, whenever that has changed.
    """

    def __init__(
        self,
        bytes_max: int,
        send: Callable[[bytes, list[bytes]], Sent],
        give_up: Callable[..., None],
        unread: Callable[[bytes, int], None],
    ) -> None:
        self._bytes_max: Final = bytes_max
        self._send: Final = send
        self._give_up: Final = give_up
        self._tell_unread: Final = unread
        #: by client; all and only those with something unread
        self._unread: dict[bytes, _Unread] = {}
        self._pause_ms = RETRY_MS
        #: when the next try is due; None when nothing waits
        self.retry_at_ms: int | None = None

    def offer(self, to: bytes, frames: list[bytes], now_ms: int) -> None:
        """Send a message, or keep it behind those that wait already, or give it up."""
        unread = self._unread.get(to)
        if unread is None:
            outcome = self._send(to, frames)
            if outcome is Sent.SENT:
                return
            if outcome is Sent.GONE:
                self._give_up(to, frames, now_ms, gone=True)
                return
            unread = self._unread[to] = _Unread()
            if self.retry_at_ms is None:
                self._pause_ms = RETRY_MS
                self.retry_at_ms = now_ms + RETRY_MS
        size = sum(map(len, frames))
        if unread.parcels and unread.bytes + size > self._bytes_max:
            self._give_up(to, frames, now_ms, gone=False)
            return
        unread.parcels.append(frames)
        unread.bytes += size
        self._tell_unread(to, unread.bytes)

    def retry(self, now_ms: int) -> None:
        """Try again what waits, if it is time."""
        if self.retry_at_ms is None or now_ms < self.retry_at_ms:
            return
        progress = [self._retry_one(to, unread, now_ms) for to, unread in [*self._unread.items()]]
        self._pause_ms = RETRY_MS if any(progress) else min(2 * self._pause_ms, RETRY_MS_MAX)
        self.retry_at_ms = now_ms + self._pause_ms if self._unread else None

    def _retry_one(self, to: bytes, unread: _Unread, now_ms: int) -> bool:
        """Send a client as much as it takes; tell whether that was anything."""
        before = len(unread.parcels)
        gone = False
        while unread.parcels:
            outcome = Sent.GONE if gone else self._send(to, unread.parcels[0])
            if outcome is Sent.FULL:
                self._tell_unread(to, unread.bytes)
                return len(unread.parcels) < before
            frames = unread.parcels.popleft()
            unread.bytes -= sum(map(len, frames))
            if outcome is Sent.GONE:
                gone = True
                self._give_up(to, frames, now_ms, gone=True)
        del self._unread[to]
        self._tell_unread(to, 0)
        return True
