"""The heartbeats of one connection: when the next is due, and which have no answer yet. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from flashq.protocol.framing import ROUTE_ROUTER

UNANSWERED_MAX: Final = 2
"""So many heartbeats to the router without an answer end the socket."""


class Beat(NamedTuple):
    """A heartbeat under way: to which route, when, and which leases it named."""

    route: int
    at: int
    named: dict[int, int]


class Heartbeats:
    """All heartbeats of one connection. Times are monotonic ms."""

    def __init__(self) -> None:
        #: when the next is due; None while there is nobody to send it to
        self.due: int | None = None
        #: heartbeats without an answer yet, by corr
        self._under_way: dict[int, Beat] = {}
        #: heartbeats to the router since its last answer
        self.unanswered = 0

    def restart(self) -> None:
        """Forget those of an older socket."""
        self._under_way.clear()
        self.unanswered = 0

    def said(self, corr: int, beat: Beat) -> None:
        """Note that one is sent."""
        self._under_way[corr] = beat
        if beat.route == ROUTE_ROUTER:
            self.unanswered += 1

    def forget(self, oldest: int) -> None:
        """Wait no longer for answers to those from before `oldest`."""
        for corr in [corr for corr, beat in self._under_way.items() if beat.at < oldest]:
            del self._under_way[corr]

    def answered(self, corr: int) -> Beat | None:
        """Return the one that an answer is for."""
        beat = self._under_way.pop(corr, None)
        if beat is not None and beat.route == ROUTE_ROUTER:
            self.unanswered = 0
        return beat
