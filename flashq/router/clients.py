"""The clients the router knows: who said hello, who showed a token, who listens to events.

Owns the table of clients and its bounds. A client is known by the name that the door has given to
its connection; what was granted to it holds for this connection and no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from flashq.errors import Busy, NotAllowed
from flashq.tokens import Shown

SUBSCRIPTIONS_MAX: Final = 1000
"""Queues that one client can listen to."""


class Subscription:
    """One client's wish for events of one queue (`*` for all)."""

    __slots__ = ("corr", "events", "json")

    def __init__(self, corr: int, events: frozenset[str], *, json: bool) -> None:
        self.corr: Final = corr
        #: names of events; empty for all
        self.events: Final = events
        self.json: Final = json


class Client:
    """What is known of one client."""

    __slots__ = (
        "identity",
        "json",
        "missed",
        "name",
        "session",
        "shown",
        "subscriptions",
        "worker_id",
    )

    def __init__(self, identity: bytes) -> None:
        self.identity: Final = identity
        #: said in its hello; None before one, and then it gets no notices
        self.session: bytes | None = None
        #: what it called itself there, and what its session is called in lists
        self.name = ""
        self.worker_id = ""
        #: it said its hello in JSON, and reads notices in it
        self.json = False
        #: the token that it has shown, on a server that asks for one
        self.shown: Shown | None = None
        #: by queue
        self.subscriptions: dict[str, Subscription] = {}
        #: by shard: the first event that could not be sent to it since the last one that could
        self.missed: dict[int, int] = {}


class ClientTable:
    """All clients, by the names of their connections.

    Args:
        clients_max: most clients.
    """

    def __init__(self, clients_max: int) -> None:
        self._clients_max = clients_max
        self._clients: dict[bytes, Client] = {}
        #: by session; all and only clients that have said one
        self._sessions: dict[bytes, Client] = {}
        #: all and only clients with subscriptions
        self.listeners: dict[bytes, Client] = {}
        #: how many clients listen to each queue; all and only those with one
        self._heard: Counter[str] = Counter()
        #: queues whose number has been or become 0 since the last look
        self._changed: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._clients.values()))

    def get(self, identity: bytes) -> Client | None:
        """Return the client, if it is known."""
        return self._clients.get(identity)

    def admit(self, identity: bytes) -> Client:
        """Return the client, made known if it was not.

        Raises:
            Busy: there are too many.
        """
        client = self._clients.get(identity)
        if client is None:
            if len(self._clients) >= self._clients_max:
                raise Busy(detail=f"{self._clients_max} clients are connected")
            client = self._clients[identity] = Client(identity)
        return client

    def greet(self, client: Client, session: bytes) -> None:
        """Note which session the client is. One that it had before is over here; one that another
        connection said is its own now.

        Raises:
            NotAllowed: that connection has shown another token.
        """
        if client.session == session:
            return
        other = self._sessions.get(session)
        if other is not None:
            if _principal(other) != _principal(client):
                raise NotAllowed(detail="the session was begun with another token")
            self._end_session(other)
        self._end_session(client)
        client.session = session
        self._sessions[session] = client

    def _end_session(self, client: Client) -> None:
        """The client is no session any more: it gets no notices, and listens to nothing."""
        if client.session is not None:
            del self._sessions[client.session]
            client.session = None
        for queue in list(client.subscriptions):
            self.unsubscribe(client, queue)

    def forget(self, identity: bytes) -> None:
        """Drop all that is known of a client."""
        client = self._clients.pop(identity, None)
        if client is not None:
            self._end_session(client)

    def subscribe(self, client: Client, queue: str, subscription: Subscription) -> None:
        """Let the client listen to a queue; a second wish for it replaces the first.

        Raises:
            Busy: the client listens to too many.
        """
        if queue not in client.subscriptions and len(client.subscriptions) >= SUBSCRIPTIONS_MAX:
            raise Busy(detail=f"a client can listen to {SUBSCRIPTIONS_MAX} queues")
        if queue not in client.subscriptions:
            self._heard[queue] += 1
            if self._heard[queue] == 1:
                self._changed[queue] = None
        client.subscriptions[queue] = subscription
        self.listeners[client.identity] = client

    def unsubscribe(self, client: Client, queue: str) -> None:
        """End the client's wish for a queue, if there is one."""
        if client.subscriptions.pop(queue, None) is not None:
            self._leave(queue)
        if not client.subscriptions:
            client.missed.clear()
            self.listeners.pop(client.identity, None)

    def _leave(self, queue: str) -> None:
        self._heard[queue] -= 1
        if not self._heard[queue]:
            del self._heard[queue]
            self._changed[queue] = None

    def take_changed_queues(self) -> list[tuple[str, bool]]:
        """Return the queues to which somebody began or ceased to listen since the last time, and
        whether somebody does now."""
        changed, self._changed = self._changed, {}
        return [(queue, queue in self._heard) for queue in changed]


def _principal(client: Client) -> bytes | None:
    """Return what tells whose client this is: the digest of its token."""
    return None if client.shown is None else client.shown.digest
