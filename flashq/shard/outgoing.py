"""Frames on their way out of a shard, by link; emptied by whoever owns the sockets."""

from __future__ import annotations

from typing import Final

MESSAGE_PAIRS_MAX: Final = 1000
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What goes to one peer shares a message up to these bounds."""


class Outgoing:
    """What a node has put out."""

    __slots__ = ("_front_bytes", "coordinator", "events", "front", "shards")

    def __init__(self) -> None:
        #: messages for peers of the front socket: (routing id, frames)
        self.front: list[tuple[bytes, list[bytes]]] = []
        self.coordinator: list[list[bytes]] = []
        #: mail for other shards: (shard, frames)
        self.shards: list[tuple[int, list[bytes]]] = []
        #: events: (topic, body)
        self.events: list[tuple[bytes, bytes]] = []
        self._front_bytes = 0

    def add_front(self, peer: bytes, header: bytes, body: bytes) -> None:
        """Add a pair to the peer's last message, as long as there is room in it."""
        front = self.front
        if front and front[-1][0] == peer:
            frames = front[-1][1]
            if len(frames) < 2 * MESSAGE_PAIRS_MAX and self._front_bytes < MESSAGE_BYTES_MAX:
                frames += (header, body)
                self._front_bytes += len(body)
                return
        front.append((peer, [header, body]))
        self._front_bytes = len(body)
