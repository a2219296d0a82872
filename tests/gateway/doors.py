"""Every door of a server behind one interface, so that a scenario is written once.

Owns the interface, in the words and replies of the command protocol, and the doors that speak it:
the sockets of the older clients and ZeroMQ. HTTP and gRPC, which have to be put into those words,
are in modules of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

from tests.contract.dealer import FULL, Dealer
from tests.contract.test_job_keys import KEYS
from tests.gateway.clients import CLIENTS, BinaryTypeScriptClient, LineClient, Reply, ServerSaid
from tests.gateway.site import address_of, path_of
from tests.server import Server

JOB_KEYS: Final = frozenset(KEYS)
"""What a job object has wherever it is JSON or MessagePack."""

Event = dict[str, Any]


class Listener(Protocol):
    """Somebody who hears what happens to the jobs of one queue."""

    def next(self) -> Event:
        """Wait for the next event and return it, in the form of the older protocol."""
        ...


class Door(Protocol):
    """One connection through one door."""

    @property
    def job_keys(self) -> frozenset[str]:
        """The keys that a job has here."""
        ...

    @property
    def shows_all_children(self) -> bool:
        """Whether GETCHILDREN has the bodies of all children, not only of those that the parent's
        own shard has."""
        ...

    @property
    def is_older(self) -> bool:
        """Whether its clients speak the older protocols, which have no cancelled jobs."""
        ...

    def ask(self, cmd: str, **fields: Any) -> Reply:
        """Have a command carried out and return its reply, without `ok`.

        Raises:
            ServerSaid: with the text of an error.
            ConnectionError: the door is gone. Whether the command was carried out is not known.
        """
        ...

    def listen(self, queue: str) -> AbstractContextManager[Listener]:
        """Listen to a queue for the length of a block, over a connection of its own."""
        ...

    def close(self) -> None:
        """Go."""
        ...


OpenDoor = Callable[[Server], Door]


class SocketDoor:
    """TCP or the Unix socket, as one of the older clients uses it.

    Args:
        kind: the client's name in `CLIENTS`.
        address: host and port, or a path.
    """

    job_keys = JOB_KEYS
    shows_all_children = True
    is_older = True

    def __init__(self, kind: str, address: tuple[str, int] | str) -> None:
        self.client: Final = CLIENTS[kind](address)

    def ask(self, cmd: str, **fields: Any) -> Reply:
        """Have a command carried out."""
        reply = self.client.ask(cmd, **fields)
        del reply["ok"]
        reply.pop("reqId", None)
        return reply

    @contextmanager
    def listen(self, queue: str) -> Iterator[Listener]:
        """Listen on another connection, in the same encoding."""
        is_binary = isinstance(self.client, BinaryTypeScriptClient)
        kind = BinaryTypeScriptClient if is_binary else LineClient
        listener = SocketListener(kind(self.client.address))
        try:
            listener.client.ask("SUBSCRIBE", queue=queue, events=["*"])
            yield listener
        finally:
            listener.client.close()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


class SocketListener:
    """A connection that has subscribed."""

    def __init__(self, client: LineClient) -> None:
        self.client: Final = client

    def next(self) -> Event:
        """Return the next event; each is a message with one key."""
        if isinstance(self.client, BinaryTypeScriptClient):
            (event,) = self.client.read().items()
        else:
            (event,) = self.client.read_line().items()
        assert event[0] == "event"
        return dict(event[1])


class ZmqDoor:
    """ZeroMQ, by a program that has read no more than the protocol's description."""

    job_keys = JOB_KEYS
    shows_all_children = False
    is_older = False

    def __init__(self, server: Server) -> None:
        self._server: Final = server
        self._dealer: Final = server.dealer(flags=FULL)

    def ask(self, cmd: str, **fields: Any) -> Reply:
        """Have a command carried out."""
        reply = self._dealer.ask(cmd, **fields)
        if not reply.pop("ok"):
            assert list(reply) == ["error", "code", "retryable"]
            raise ServerSaid(reply["error"])
        if cmd == "PUSHB":  # here they are in line with the jobs
            reply["ids"] = [job_id for job_id in reply["ids"] if job_id is not None]
        return reply

    @contextmanager
    def listen(self, queue: str) -> Iterator[Listener]:
        """Listen on a connection of its own."""
        dealer = self._server.dealer()
        try:
            assert dealer.ask("HELLO", session=os.urandom(16))["ok"]
            assert dealer.ask("SUBSCRIBE", queue=queue, events=["*"])["ok"]
            yield ZmqListener(dealer)
        finally:
            dealer.close()

    def close(self) -> None:
        """Close the socket."""
        self._dealer.close()


class ZmqListener:
    """A connection that has subscribed; one event may be of many jobs."""

    def __init__(self, dealer: Dealer) -> None:
        self._dealer: Final = dealer
        self._events: Final[list[Event]] = []

    def next(self) -> Event:
        """Return the next event in the form that older clients read."""
        while not self._events:
            event = self._dealer.notice()["event"]
            for place, job_id in enumerate(event["ids"]):
                told = {"event_type": event["event"], "queue": event["queue"], "job_id": job_id}
                told["timestamp"] = event["at"]
                if event.get("data") is not None:
                    told["data"] = event["data"][place]
                told |= {key: event[key] for key in ("error", "progress") if key in event}
                self._events.append(told)
        return self._events.pop(0)


def over_tcp(kind: str) -> OpenDoor:
    """Return what opens a door over TCP, as a client of that kind does."""
    return lambda server: SocketDoor(kind, address_of(server))


def over_unix(kind: str) -> OpenDoor:
    """Return what opens a door over the Unix socket, as a client of that kind does."""
    return lambda server: SocketDoor(kind, path_of(server))
