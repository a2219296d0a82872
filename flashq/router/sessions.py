"""The router's own commands: hello, heartbeat, auth, subscriptions.

Owns what the router knows of its clients and the events they listen to. It sees decoded requests
and gives replies; sending is the engine's.

A token that was shown counts for the identity and the session said under it: another session's
hello under the same identity ends it. Identities are no secrets, but nobody is told another's.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from flashq.errors import AuthenticationRequired, InvalidRequest, TokenInvalid
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
)
from flashq.router.clients import Client, ClientTable, Subscription
from flashq.router.events import ALL, EventFan
from flashq.router.settings import RouterSettings

SILENT_SESSIONS: Final = 3
"""A client is forgotten after so many session time-outs of silence."""


class Asker(NamedTuple):
    """Where a reply goes: the client's identity, and the request's correlation and flags."""

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
        send_notice: puts a notice into a client's box: identity, corr, body, and `json`.
    """

    def __init__(self, settings: RouterSettings, send_notice: Callable[..., None]) -> None:
        self._settings = settings
        limits = settings.limits
        silence_ms_max = SILENT_SESSIONS * limits.session_timeout_ms
        self._send_notice = send_notice
        self._clients = ClientTable(limits.sessions_max, silence_ms_max)
        self._events = EventFan(self._clients, self._send_to_listener)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody listens to events."""
        return bool(self._clients.listeners)

    def greeted(self) -> Iterator[Client]:
        """Return the clients that have said hello, who get notices."""
        return (client for client in self._clients if client.session is not None)

    def is_authenticated(self, identity: bytes, now_ms: int) -> bool:
        """Tell whether the client has shown a token, and note that it lives."""
        client = self._clients.see(identity, now_ms)
        return client is not None and client.authenticated

    def handle(self, request: Struct, asker: Asker, now_ms: int, epochs: list[int]) -> Reply:
        """Carry out a request.

        Args:
            epochs: each shard's.

        Raises:
            FlashQError: it is refused.
        """
        match request:
            case Hello():
                return self._greet(request, asker, now_ms, epochs)
            case Heartbeat():
                client = self._clients.see(asker.identity, now_ms)
                known = client is not None and client.session == request.session
                boot = self._settings.boot
                return HeartbeatReply(ok=True, boot=boot, epochs=epochs, known=known)
            case Auth():
                self._authenticate(request, asker, now_ms)
            case Subscribe():
                self._subscribe(request, asker, now_ms)
            case Unsubscribe():
                client = self._clients.see(asker.identity, now_ms)
                if client is not None:
                    self._clients.unsubscribe(client, request.queue)
                    self._stop_if_unheard()
            case _:
                raise AssertionError(f"{type(request).__name__} is not the router's own")
        return Reply()

    def _authenticate(self, request: Auth, asker: Asker, now_ms: int) -> None:
        tokens = self._settings.tokens
        if not tokens:
            return
        shown = request.token.encode()
        # All are compared, so that the time taken does not tell which one nearly fits.
        fits = [hmac.compare_digest(shown, token.encode()) for token in tokens]
        if not any(fits):
            raise TokenInvalid
        self._clients.admit(asker.identity, now_ms).authenticated = True

    def _greet(self, request: Hello, asker: Asker, now_ms: int, epochs: list[int]) -> HelloReply:
        client = self._clients.get(asker.identity)
        if client is not None and client.session not in (None, request.session):
            # Another client has come under this identity: nothing of the first one is its own.
            self.forget(asker.identity)
            if self._settings.tokens:
                raise AuthenticationRequired
        client = self._clients.admit(asker.identity, now_ms)
        client.session = request.session
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

    def _subscribe(self, request: Subscribe, asker: Asker, now_ms: int) -> None:
        unknown = [name for name in request.events if name != ALL and name not in EVENTS]
        if unknown:
            raise InvalidRequest(detail=f"unknown event '{unknown[0][:64]}'")
        client = self._clients.see(asker.identity, now_ms)
        if client is None or client.session is None:
            raise InvalidRequest(detail="SUBSCRIBE needs a HELLO before it")
        if not request.events:
            raise InvalidRequest(detail="`events` is empty")
        events = frozenset[str]() if ALL in request.events else frozenset(request.events)
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

    def _send_to_listener(self, client: Client, wish: Subscription, body: bytes) -> None:
        self._send_notice(client.identity, wish.corr, body, json=wish.json)

    def note_undelivered(self, identity: bytes, body: bytes, now_ms: int, *, json: bool) -> None:
        """A notice could not be sent to a client that reads too slowly."""
        client = self._clients.get(identity)
        if client is not None and client.subscriptions:
            self._events.note_undelivered(client, body, now_ms, json=json)

    def tick(self, now_ms: int) -> None:
        """Forget silent clients; tell slow ones what they have missed."""
        self._clients.forget_silent(now_ms)
        self._stop_if_unheard()
        self._events.tick(now_ms)

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` has something to do."""
        clients_ms, events_ms = self._clients.next_deadline_ms(), self._events.next_deadline_ms()
        if clients_ms is None or events_ms is None:
            return clients_ms if events_ms is None else events_ms
        return min(clients_ms, events_ms)
