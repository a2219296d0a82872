"""The places at the HTTP door: how many connections there may be, and who gives way.

Owns which connections no request has let in yet. Those get a share of the places only, and the one
among them that came first makes room for the next: so a flood of connections that ask nothing, or
nothing that they may, keeps nobody out. Pure.
"""

from __future__ import annotations

from typing import Final, Protocol

STRANGERS_SHARE: Final = 8
"""One of so many places is for connections that have not been let in yet."""
STRANGERS_MIN: Final = 16
"""With fewer than this, where there are so many places, clients could not even arrive together."""


def strangers_max(places_max: int) -> int:
    """Return how many of a door's places are for connections that have not been let in yet."""
    return min(places_max, max(STRANGERS_MIN, places_max // STRANGERS_SHARE))


class Guest(Protocol):
    """A connection, as its place knows it."""

    def give_way(self) -> None:
        """Make room: say why, and close."""
        ...


class Places:
    """All places of one door.

    Args:
        places_max: how many connections there may be.
    """

    def __init__(self, places_max: int) -> None:
        self._max: Final = places_max
        self._strangers_max: Final = strangers_max(places_max)
        #: those that no request has let in yet, the first first
        self._strangers: Final[dict[Guest, None]] = {}

    def come(self, guest: Guest, connections: int) -> bool:
        """Give a connection a place, for which a stranger may have to go.

        Args:
            guest: the new one.
            connections: how many there are, this one among them.

        Returns:
            False when there is none: all have been let in.
        """
        if connections > self._max or len(self._strangers) >= self._strangers_max:
            if not self._strangers:
                return False
            first = next(iter(self._strangers))
            del self._strangers[first]
            first.give_way()
        self._strangers[guest] = None
        return True

    def forget(self, guest: Guest) -> None:
        """Count a connection among the strangers no more: a request let it in, or it is gone."""
        self._strangers.pop(guest, None)

    def is_stranger(self, guest: Guest) -> bool:
        """Tell whether no request has let a connection in yet."""
        return guest in self._strangers
