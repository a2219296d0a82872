"""Clients: the sans-I/O connection driven as the blocking client drives it, and a rude one.

Owns requests and their outcomes, and tells the witness what the client was told. What a client
wants is its user's (`workload.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from msgspec import Struct

from flashq.client.calls import Call, prepare, verdict_of
from flashq.client.connection import Connection
from flashq.client.happenings import (
    AnyHappening,
    Completed,
    Disconnected,
    LeasesLost,
    Malformed,
    NoticeReceived,
)
from flashq.errors import FlashQError, SessionExpired, ShardUnavailable
from flashq.protocol.codec import encode, encode_msgpack
from flashq.protocol.crons import DeleteCron, SetCron
from flashq.protocol.framing import (
    REPLY,
    ROUTE_ANY,
    ROUTE_ROUTER,
    pack_header,
    pairs,
    unpack_header,
)
from flashq.protocol.leases import Pull, PullBatch
from flashq.protocol.sessions import Hello
from tests.simulation.network import Link, Network
from tests.simulation.processes import ROUTER, Process
from tests.simulation.world import MS, Violation, World

MESSAGES_PER_TURN_MAX: Final = 200
_NOT_COMPARED: Final = (Pull, PullBatch, SetCron, DeleteCron)
"""A repeated pull may be handed other jobs, and the first ones go back; and a coordinator that dies
forgets what it has answered."""
_LEVEL_MEMORY: Final = encode_msgpack("memory")


class Outcome(NamedTuple):
    """How a request ended.

    Args:
        request: what was asked.
        reply: the body; a `Delivered` for pulls; None with an error.
        error: why not.
        sent_us: when it was asked.
        who: names the request.
    """

    request: Any
    reply: Any
    error: FlashQError | None
    sent_us: int
    who: str


Then = Callable[[Outcome], None]


class User(Protocol):
    """Who uses a client."""

    def begin(self, client: ClientProcess) -> None:
        """A client has started, maybe after the death of the one before."""

    def noticed(self, notice: NoticeReceived) -> None:
        """An event has come."""

    def leases_lost(self, ids: list[int]) -> None:
        """Jobs are no longer this client's."""


class _Asked(NamedTuple):
    request: Any
    then: Then
    at_us: int
    deadline_us: int


class ClientProcess(Process):
    """A client with its user.

    Args:
        user: wants something of it.
    """

    def __init__(self, world: World, network: Network, name: str, user: User) -> None:
        super().__init__(world, network, name)
        self._user = user
        self.connection: Connection
        #: from then on the server has to answer in time
        self.calm_from_us: int | None = None

    def boot(self) -> None:
        """Begin as an `IoThread` does."""
        self.connection = Connection(lambda: self.world.chance.randbytes(16), client=self.name)
        #: requests without an outcome
        self._asked: dict[int, _Asked] = {}
        #: requests that change something, and the body of the first reply that was no mere delay
        self._mutations: dict[int, Any] = {}
        self._answers: dict[int, bytes] = {}
        #: it says goodbye
        self.is_closing = False
        self._link = self._open()
        self.connection.opened(self.mono_ms())
        self._user.begin(self)

    def _open(self) -> Link:
        link = Link(self.network, self, "router", ROUTER, kind="client-router")
        return self.network.connect(link)

    # --- for the user

    def ask(self, request: Struct | Call, then: Then, timeout_ms: int = 8000) -> None:
        """Send a request; `then` is told its outcome."""
        call = request if isinstance(request, Call) else prepare(request)
        corr = self.connection.request(call, self.mono_ms(), timeout_ms)
        now_us = self.world.now_us
        deadline_us = now_us + timeout_ms * MS
        self._asked[corr] = _Asked(request, then, now_us, deadline_us)
        is_kept = call.command.mutates and call.command.request not in _NOT_COMPARED
        if is_kept and _LEVEL_MEMORY not in call.body:  # else a crash forgets the answer
            self._mutations[corr] = request
        self.wake(now_us + 10)

    def subscribe(self, queue: str) -> None:
        """Listen to a queue."""
        corr = self.connection.subscribe(queue, frozenset({"*"}), self.mono_ms(), 8000)
        now_us = self.world.now_us
        self._asked[corr] = _Asked(None, lambda _: None, now_us, now_us + 8000 * MS)

    def close(self) -> None:
        """End the session politely."""
        self.is_closing = True
        self.connection.close()
        self.wake(self.world.now_us)

    # --- a turn

    def turn(self) -> int | None:
        """One round of `IoThread._turn`."""
        connection, now_ms = self.connection, self.mono_ms()
        for arrival in self.take("router", MESSAGES_PER_TURN_MAX):
            self._read(arrival.frames)
            connection.receive(arrival.frames, now_ms)
        self._dispatch(connection.events())
        connection.tick(now_ms)
        while True:
            for frames in connection.data_to_send():
                self.say(self._link, frames)
            happened = connection.events()
            if any(type(event) is Disconnected for event in happened):
                self.world.seen["clients reconnected"] += 1
                self._link.close()
                self._link = self._open()
                connection.opened(now_ms)
            elif not happened:
                return connection.next_deadline()
            self._dispatch(happened)

    def _dispatch(self, happened: list[AnyHappening]) -> None:
        for event in happened:
            match event:
                case Completed():
                    self._completed(event)
                case LeasesLost(ids=ids):
                    self._user.leases_lost(ids)
                case NoticeReceived():
                    self._user.noticed(event)
                case Malformed(reason=reason):
                    raise Violation(f"{self.name} was sent garbage: {reason}")
                case _:
                    pass

    def _completed(self, event: Completed) -> None:
        asked = self._asked.pop(event.corr, None)
        if asked is None:
            raise Violation(f"{self.name}: request {event.corr} ended twice")
        who = f"{self.name}/{self.instance}/{event.corr}"
        error = event.error
        if self.world.is_traced:
            told = repr(error or event.reply)
            self.world.tell(f"{who} {asked.request!r:.200} -> {told:.200}")
        self.world.seen[f"outcome {'ok' if error is None else error.code}"] += 1
        late_us = self.world.now_us - asked.deadline_us
        if late_us > 1000 * MS and not self._was_stopped(asked.deadline_us):
            raise Violation(f"{who}: {asked.request!r} was answered {late_us / MS} ms too late")
        self._check_calm(who, asked, error)
        asked.then(Outcome(asked.request, event.reply, error, asked.at_us, who))

    def _was_stopped(self, at_us: int) -> bool:
        return at_us <= self._stopped_until_us

    def _check_calm(self, who: str, asked: _Asked, error: FlashQError | None) -> None:
        """Long after the last fault nothing times out."""
        calm = self.calm_from_us is not None and asked.at_us >= self.calm_from_us
        if calm and error is not None and error.code in ("request_timeout", "session_expired"):
            raise Violation(f"{who}: {asked.request!r} ended with {error!r} long after all faults")

    def _read(self, frames: list[bytes]) -> None:
        """Compare the answers to one change: they may not contradict each other."""
        for head, body in pairs(frames):
            header = unpack_header(head)
            if not header.flags & REPLY or header.corr not in self._mutations:
                continue
            verdict = verdict_of(body)
            if verdict.retryable or isinstance(verdict.error, SessionExpired):
                continue
            if b"missing_shards" in body or isinstance(verdict.error, ShardUnavailable):
                continue  # what a silent shard has done is not in it
            known = self._answers.setdefault(header.corr, body)
            if known != body:
                request = self._mutations[header.corr]
                raise Violation(f"{self.name}: {request!r} got {known!r} and then {body!r}")


class RudeProcess(Process):
    """A client that asks for ever and never reads, with a session and no heartbeats."""

    def __init__(self, world: World, network: Network, name: str, queues: tuple[str, ...]) -> None:
        super().__init__(world, network, name)
        self._queues = queues
        self._corr = 0
        self.is_done = False

    def boot(self) -> None:
        """Say hello, and begin."""
        link = Link(self.network, self, "router", ROUTER, kind="client-router")
        self._link = self.network.connect(link)
        self._session = self.world.chance.randbytes(16)
        self._put(ROUTE_ROUTER, encode(Hello(session=self._session)))
        self.later(100 * MS, self._ask)

    def _put(self, route: int, body: bytes) -> None:
        self._corr += 1
        self.say(self._link, [pack_header(0, route, self._corr), body])

    def _ask(self) -> None:
        if self.is_done:
            return
        queue = self.world.chance.choice(self._queues)
        pull = PullBatch(queue=queue, count=3, timeout=500, session=self._session, n=self._corr)
        self._put(ROUTE_ANY, encode(pull))
        self.world.faults["a client that never reads"] += 1
        self.later(self.world.between(50 * MS, 200 * MS), self._ask)

    def turn(self) -> int | None:
        """It never reads; so it is not even woken."""
        return None

    def receive(self, socket: str, arrival: Any) -> None:
        """Nobody reads this."""
