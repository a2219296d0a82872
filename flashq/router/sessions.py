"""The router's own commands: hello, heartbeat, auth, subscriptions.

Owns what the router knows of its clients and the events they listen to. It sees decoded requests
and gives replies; sending is the engine's.

Everything that is known of a client is known of its connection and ends with it. A session belongs
to the token under which it was said: nobody takes it over with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from flashq.errors import InvalidRequest, NotAllowed
from flashq.protocol.base import Reply
from flashq.protocol.framing import JSON
from flashq.protocol.objects import EVENTS
from flashq.protocol.sessions import (
    Auth,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    Subscribe,
    Unsubscribe,
    worker_id,
)
from flashq.router.clients import Client, ClientTable, Subscription
from flashq.router.events import EventFan
from flashq.router.settings import RouterSettings
from flashq.tokens import Grant, Guard

NAME_CHARS_MAX: Final = 256
ALL_EVENTS: Final = "*"
"""Stands for all events where a listener names one."""


class Asker(NamedTuple):
    """Where a reply goes: the client's connection, and the request's correlation and flags."""

    identity: bytes
    corr: int
    flags: int

    @property
    def json(self) -> bool:
        """Whether the reply is JSON."""
        return bool(self.flags & JSON)


class Sessions:
    """What the router knows of its clients.

    Args:
        settings: the router's.
        guard: who may come in.
        send_notice: puts a notice into a client's box: identity, corr, body, and `json`.
    """

    def __init__(
        self, settings: RouterSettings, guard: Guard, send_notice: Callable[..., None]
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._send_notice = send_notice
        self._clients = ClientTable(settings.limits.sessions_max)
        #: connections whose standing has changed, and whether they have shown a token now
        self._changed: dict[bytes, bool] = {}
        self._events = EventFan(self._clients, self._send_to_listener)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody listens to events."""
        return bool(self._clients.listeners)

    def take_changed_queues(self) -> list[tuple[str, bool]]:
        """Return the queues, or `*`, to which somebody began or ceased to listen since the last
        time, and whether somebody does now."""
        return self._clients.take_changed_queues()

    def greeted(self) -> Iterator[Client]:
        """Return the clients that have said hello, who get notices."""
        return (client for client in self._clients if client.session is not None)

    def names(self) -> dict[str, str]:
        """Return what clients call themselves, by what their sessions are called in lists."""
        return {client.worker_id: client.name for client in self._clients if client.name}

    def grant_of(self, identity: bytes) -> Grant | None:
        """Return what the token allows that the client has shown. None for a client that has shown
        none, or one that is no token any more."""
        client = self._clients.get(identity)
        if client is None or client.shown is None:
            return None
        return client.shown.grant(self._guard)

    def recheck(self) -> None:
        """The tokens are others: forget who has shown one that is none any more, and the wishes for
        queues that it is no longer for."""
        for client in self._clients:
            grant = None if client.shown is None else client.shown.grant(self._guard)
            if grant is None:
                self.forget(client.identity)
                self._changed[client.identity] = False
                continue
            for queue in list(client.subscriptions):
                try:
                    grant.check_queue(queue)
                except NotAllowed:
                    self._clients.unsubscribe(client, queue)
        self._stop_if_unheard()

    def handle(
        self,
        request: Struct,
        asker: Asker,
        now_ms: int,
        epochs: list[int],
        address: str | None = None,
    ) -> Reply:
        """Carry out a request.

        Args:
            epochs: each shard's.
            address: where it comes from, for AUTH.

        Raises:
            FlashQError: it is refused.
        """
        match request:
            case Hello():
                return self._greet(request, asker, epochs)
            case Heartbeat():
                client = self._clients.get(asker.identity)
                known = client is not None and client.session == request.session
                boot = self._settings.boot
                return HeartbeatReply(ok=True, boot=boot, epochs=epochs, known=known)
            case Auth():
                self.authenticate(asker.identity, request.token, now_ms, address)
            case Subscribe():
                self._subscribe(request, asker)
            case Unsubscribe():
                client = self._clients.get(asker.identity)
                if client is not None:
                    self._clients.unsubscribe(client, request.queue)
                    self._stop_if_unheard()
            case _:
                raise AssertionError(f"{type(request).__name__} is not the router's own")
        return Reply()

    def authenticate(
        self, identity: bytes, token: str | bytes, now_ms: int, address: str | None
    ) -> None:
        """Take a token that a client shows.

        Raises:
            FlashQError: it is none, or may not be tried now.
        """
        if self._guard.is_open:
            return
        shown = self._guard.show(token, address, now_ms)
        self._clients.admit(identity).shown = shown
        self._changed[identity] = True

    def take_changed(self) -> dict[bytes, bool]:
        """Return the connections that have shown a token since the last time (True), or whose token
        is none any more (False)."""
        changed, self._changed = self._changed, {}
        return changed

    def _greet(self, request: Hello, asker: Asker, epochs: list[int]) -> HelloReply:
        client = self._clients.admit(asker.identity)
        self._clients.greet(client, request.session)
        self._stop_if_unheard()
        client.name = (request.client or "")[:NAME_CHARS_MAX]
        client.worker_id = worker_id(request.session)
        client.json = asker.json
        limits = self._settings.limits
        return HelloReply(
            version=self._settings.version,
            boot=self._settings.boot,
            shard_count=self._settings.shard_count,
            epochs=epochs,
            heartbeat_interval=limits.heartbeat_interval_ms,
            session_timeout=limits.session_timeout_ms,
            batch_jobs_max=limits.batch_jobs_max,
            payload_bytes_max=limits.payload_bytes_max,
            message_bytes_max=self._settings.message_bytes_max,
        )

    def _subscribe(self, request: Subscribe, asker: Asker) -> None:
        unknown = [name for name in request.events if name != ALL_EVENTS and name not in EVENTS]
        if unknown:
            raise InvalidRequest(detail=f"unknown event '{unknown[0][:64]}'")
        client = self._clients.get(asker.identity)
        if client is None or client.session is None:
            raise InvalidRequest(detail="SUBSCRIBE needs a HELLO before it")
        if not request.events:
            raise InvalidRequest(detail="`events` is empty")
        events = frozenset[str]() if ALL_EVENTS in request.events else frozenset(request.events)
        wish = Subscription(asker.corr, events, json=asker.json)
        self._clients.subscribe(client, request.queue, wish)

    def forget(self, identity: bytes) -> None:
        """Drop all that is known of a client."""
        self._clients.forget(identity)
        self._stop_if_unheard()

    def _stop_if_unheard(self) -> None:
        if not self._clients.listeners:
            self._events.stop()

    def handle_event(self, body: bytes) -> None:
        """Fan out an event as its shard published it.

        Raises:
            BadMessage: it is none.
        """
        self._events.handle(body)

    def rejoined(self, shard: int, queue: str) -> None:
        """A shard is heard again of a queue, or late: what it did before may be missed."""
        self._events.rejoined(shard, queue)

    def _send_to_listener(self, client: Client, wish: Subscription, body: bytes) -> None:
        self._send_notice(client.identity, wish.corr, body, json=wish.json)

    def note_undelivered(self, identity: bytes, body: bytes, now_ms: int, *, json: bool) -> None:
        """A notice could not be sent to a client that reads too slowly."""
        client = self._clients.get(identity)
        if client is not None and client.subscriptions:
            self._events.note_undelivered(client, body, now_ms, json=json)

    def tick(self, now_ms: int) -> None:
        """Tell slow listeners what they have missed."""
        self._events.tick(now_ms)

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` has something to do."""
        return self._events.next_deadline_ms()
