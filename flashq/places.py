"""Who has a place at a door: how many peers there may be, and for how long they may stay unknown.

Pure: the time is an argument. A *stranger* is a peer that has not finished its handshake or, on a
server with tokens, has not shown one. Strangers have a share of the places and a few seconds; when
their share is taken, the one that came first makes room for the next, so that nobody who holds
connections open keeps others out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Peer = TypeVar("Peer", bound=Hashable)


class Places(Generic[Peer]):
    """The places at one listening socket.

    Args:
        peers_max: most peers.
        strangers_max: most strangers among them.
        stranger_ms: how long a peer may stay one.
    """

    def __init__(self, peers_max: int, strangers_max: int, stranger_ms: int) -> None:
        self.peers_max: Final = peers_max
        self._strangers_max: Final = min(strangers_max, peers_max)
        self._stranger_ms: Final = stranger_ms
        #: all peers
        self._peers: set[Peer] = set()
        #: when each of them came; in that order
        self._strangers: OrderedDict[Peer, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def strangers(self) -> int:
        """How many of the peers are strangers."""
        return len(self._strangers)

    @property
    def is_full(self) -> bool:
        """Whether nobody can come in: every place is taken by a peer that is known."""
        return len(self._peers) >= self.peers_max and not self._strangers

    def enter(self, peer: Peer, now_ms: int) -> Peer | None:
        """Give a place to a new peer, a stranger; call it only while this is not full.

        Returns:
            The peer that has to go for it, if there is one; it has no place any more.
        """
        leaver = None
        if len(self._strangers) >= self._strangers_max or len(self._peers) >= self.peers_max:
            leaver = self.oldest_stranger()
            if leaver is not None:
                self.leave(leaver)
        self._peers.add(peer)
        self._strangers[peer] = now_ms
        return leaver

    def know(self, peer: Peer) -> None:
        """A peer is no stranger any more."""
        self._strangers.pop(peer, None)

    def doubt(self, peer: Peer, now_ms: int) -> None:
        """A peer is a stranger again."""
        self._strangers[peer] = now_ms

    def leave(self, peer: Peer) -> None:
        """A peer is gone."""
        self._peers.discard(peer)
        self._strangers.pop(peer, None)

    def oldest_stranger(self) -> Peer | None:
        """Return the stranger that came first."""
        return next(iter(self._strangers), None)

    def overdue(self, now_ms: int) -> list[Peer]:
        """Return the peers that have been strangers for too long."""
        found = []
        for peer, came_ms in self._strangers.items():
            if now_ms - came_ms < self._stranger_ms:
                break
            found.append(peer)
        return found

    def next_deadline_ms(self) -> int | None:
        """Return when the next stranger has been one for too long."""
        for came_ms in self._strangers.values():
            return came_ms + self._stranger_ms
        return None
