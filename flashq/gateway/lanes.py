"""Who asks the shards, as the shards see it: sessions, one for each pair of a holder and a shard.

Owns session ids, request numbers and the leases held. Pure.

A *holder* is a downstream connection that jobs are handed to. It has a session of its own on each
shard that it pulls from, so that its end gives back its jobs and nobody else's. Requests that hand
nothing out run under sessions of the gateway itself, again one for each route: a pull that is
parked for a minute must not keep a shard from forgetting the answers to everything else.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from flashq.gateway.asking import Ask
from flashq.gateway.splicing import append_members, append_pairs

_N_KEY: Final = b"\xa1n\xcf"
_BELOW_KEY: Final = b"\xaadone_below\xcf"
_STAMP_PAIRS: Final = 3


class Holder:
    """A downstream connection that jobs are handed to."""

    __slots__ = ("lanes", "name", "session", "waiting")

    def __init__(self, name: str | None = None) -> None:
        #: who it is, for people who look at the server
        self.name = name
        #: as whom all shards know it at first, so that it is one worker in their lists; None until
        #: it pulls
        self.session: bytes | None = None
        #: by route
        self.lanes: Final[dict[int, Lane]] = {}
        #: the corr of each of its requests that wait for something
        self.waiting: Final[set[int]] = set()

    @property
    def leases(self) -> int:
        """How many jobs it holds."""
        return sum(len(lane.leases) for lane in self.lanes.values())


class Lane:
    """One session with one shard (or with several, for requests that the router divides).

    Args:
        session: its 16 bytes.
        route: where its requests go.
        holder: whose it is; None for the gateway's own.
    """

    __slots__ = (
        "_below",
        "_json",
        "_msgpack",
        "_n",
        "_open",
        "holder",
        "leases",
        "parked",
        "route",
        "session",
    )

    def __init__(self, session: bytes, route: int, holder: Holder | None) -> None:
        self.route: Final = route
        self.holder: Final = holder
        #: token of each job that the holder has and has not settled
        self.leases: dict[int, int] = {}
        #: pulls without an answer
        self.parked = 0
        #: the number given last; it goes on rising when the session is renewed
        self._n = 0
        #: numbers without an answer yet
        self._open: set[int] = set()
        #: none of them is below this
        self._below = 1
        self.renew(session)

    def renew(self, session: bytes) -> None:
        """Go on as another session, because the shard has forgotten this one."""
        self.session = session
        self._msgpack = b"\xa7session\xc4\x10" + session + _N_KEY
        self._json = b'"session":"' + b64encode(session) + b'","n":'

    @property
    def is_live(self) -> bool:
        """Whether the shard has to hear of this session: it holds jobs, or waits for some."""
        return bool(self.leases) or self.parked > 0

    def number(self) -> int:
        """Return a number for the next request."""
        self._n = n = self._n + 1
        self._open.add(n)
        return n

    def end(self, n: int) -> None:
        """Note that a request has its outcome: its answer need not be kept."""
        self._open.discard(n)

    def stamp(self, body: bytes, n: int, *, json: bool) -> bytes:
        """Return a request's body with session, number and what is done."""
        running, below = self._open, self._below
        while below not in running and below <= self._n:
            below += 1
        self._below = below
        if json:
            return append_members(body, b'%b%d,"done_below":%d' % (self._json, n, below))
        number = n.to_bytes(8, "big") + _BELOW_KEY + below.to_bytes(8, "big")
        return append_pairs(body, self._msgpack, number, count=_STAMP_PAIRS)


class Lanes:
    """All sessions of a gateway, and who holds which job.

    Args:
        new_session: gives 16 fresh random bytes.
    """

    def __init__(self, new_session: Callable[[], bytes]) -> None:
        self._new_session: Final = new_session
        #: the gateway's own, by route
        self._own: dict[int, Lane] = {}
        #: all that shards have to hear of, and some that have nothing left
        self._live: set[Lane] = set()
        #: by job id
        self._held: dict[int, Lane] = {}

    def own(self, route: int) -> Lane:
        """Return the gateway's own session for a route."""
        lane = self._own.get(route)
        if lane is None:
            lane = self._own[route] = Lane(self._new_session(), route, None)
        return lane

    def park(self, holder: Holder, route: int) -> Lane:
        """Return a holder's session on a shard that it is about to pull from."""
        lane = holder.lanes.get(route)
        if lane is None:
            if holder.session is None:
                holder.session = self._new_session()
            lane = holder.lanes[route] = Lane(holder.session, route, holder)
        lane.parked += 1
        self._live.add(lane)
        return lane

    def name_leases(self, ask: Ask, holder: Holder, route: int) -> bool:
        """Say in a request by which deliveries its asker holds the jobs it is about.

        Returns:
            Whether there was something to say.
        """
        if not holder.lanes:
            return False
        if route in holder.lanes:
            return ask.name_leases(holder.lanes[route].leases)
        ids = ask.outline.ids or ()
        tokens = {
            job_id: lane.leases[job_id]
            for job_id in ids
            if (lane := self._held.get(job_id)) is not None and lane.holder is holder
        }
        return bool(tokens) and ask.name_leases(tokens)

    def take(self, lane: Lane, leases: Iterable[tuple[int, int]]) -> None:
        """Note that jobs were handed out, as pairs of id and token."""
        for job_id, token in leases:
            lane.leases[job_id] = token
            self._held[job_id] = lane
        self._live.add(lane)

    def holds(self, job_id: int, token: int) -> bool:
        """Tell whether this very delivery of the job is in somebody's hands."""
        lane = self._held.get(job_id)
        return lane is not None and lane.leases.get(job_id) == token

    def settle(self, job_ids: Iterable[int]) -> None:
        """Let go of jobs that nobody holds any more."""
        held = self._held
        if held:
            for job_id in job_ids:
                lane = held.pop(job_id, None)
                if lane is not None:
                    lane.leases.pop(job_id, None)

    def lose(
        self,
        lane: Lane,
        job_ids: Iterable[int],
        named: Mapping[int, int],
        being_settled: Collection[int],
    ) -> None:
        """Let go of what a shard says is no longer the session's.

        Args:
            job_ids: the shard's answer to a heartbeat.
            named: what that heartbeat named. A job handed out anew since then is not meant.
            being_settled: ids with an answer under way. It decides about them, not the heartbeat,
                which may have overtaken it.
        """
        for job_id in job_ids:
            if job_id not in being_settled and lane.leases.get(job_id) == named.get(job_id):
                lane.leases.pop(job_id, None)
                if self._held.get(job_id) is lane:
                    del self._held[job_id]

    def live(self) -> list[Lane]:
        """Return the sessions that shards have to hear of."""
        self._live = {lane for lane in self._live if lane.is_live}
        return list(self._live)

    def leave(self, holder: Holder) -> list[Lane]:
        """Let go of everything a holder has, and return its sessions, which shards can forget."""
        lanes = list(holder.lanes.values())
        for lane in lanes:
            self._live.discard(lane)
            for job_id in lane.leases:
                if self._held.get(job_id) is lane:
                    del self._held[job_id]
            lane.leases.clear()
        return lanes
