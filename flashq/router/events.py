"""Events of shards on their way to the clients that listen.

Owns the sequence seen of each shard and what each listener has missed. Published events can be
lost: a hole in a shard's sequence is told to all listeners, and what a slow listener could not take
is told to it as soon as it can. A shard that was started again counts from 1: what was lost between
its lives has no numbers, and its gap is from 1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from flashq.errors import BadMessage
from flashq.protocol.codec import decode, encode, transcode
from flashq.protocol.framing import ALL_QUEUES
from flashq.protocol.objects import Event
from flashq.protocol.sessions import EventNotice, GapNotice
from flashq.router.clients import Client, ClientTable, Subscription

FIRST_SEQ: Final = 1
"""With which a shard's events begin in each epoch."""
RETRY_MS: Final = 1000
"""How long after an event could not be sent its gap is told, if no later event tells it."""

_EVENT_OR_GAP: Final[Any] = EventNotice | GapNotice

Send = Callable[[Client, Subscription, bytes], None]
"""Puts a notice's body into a client's box, under a subscription's `corr`."""


class EventFan:
    """Hands each event to the clients that asked for it.

    Args:
        clients: the table with their subscriptions.
        send: puts a notice into a client's box.
    """

    def __init__(self, clients: ClientTable, send: Send) -> None:
        self._clients = clients
        self._send = send
        #: by shard: epoch and sequence of the last event seen; only shards heard since somebody
        #: began to listen
        self._last: dict[int, tuple[int, int]] = {}
        #: when gaps of slow listeners are told at the latest; None when there are none
        self._retry_at_ms: int | None = None

    def stop(self) -> None:
        """Nobody listens: what comes later does not join on to what was heard."""
        self._last.clear()

    def handle(self, body: bytes) -> None:
        """Fan out one event as its shard published it.

        Raises:
            BadMessage: it is no event.
        """
        event = decode(body, Event)
        first_missed = self._first_missed(event)
        if first_missed is None:
            return
        bodies: dict[bool, bytes] = {}
        for client in self._clients.listeners.values():
            if first_missed < event.seq:
                self._send_gap(client, event.shard, first_missed, event.seq)
            subscription = _wish_for(client, event)
            if subscription is None:
                continue
            if client.missed:
                self._tell_missed(client, event)
            if subscription.json not in bodies:
                bodies[subscription.json] = _notice_of(event, json=subscription.json)
            self._send(client, subscription, bodies[subscription.json])

    def rejoined(self, shard: int, queue: str) -> None:
        """A shard is heard again of a queue, or of all (`*`): tell who listens to it that there may
        be events that nobody heard."""
        for client in self._clients.listeners.values():
            if queue in client.subscriptions:
                self._send_gap(client, shard, FIRST_SEQ, FIRST_SEQ)

    def _first_missed(self, event: Event) -> int | None:
        """Note the event; return the first sequence missed before it (its own for none), or None
        when it is older than what was seen."""
        last = self._last.get(event.shard)
        if last is None:
            first = event.seq
        elif event.epoch != last[0]:
            first = min(FIRST_SEQ, event.seq)
        elif event.seq > last[1]:
            first = last[1] + 1
        else:
            return None
        self._last[event.shard] = event.epoch, event.seq
        return first

    def note_undelivered(self, client: Client, body: bytes, now_ms: int, *, json: bool) -> None:
        """A notice could not be sent to a client that still lives: it will be told of the gap."""
        try:
            notice: EventNotice | GapNotice = decode(body, _EVENT_OR_GAP, json=json)
        except BadMessage:
            return  # a notice of another kind
        if isinstance(notice, EventNotice):
            shard, first = notice.event.shard, notice.event.seq
        else:
            shard, first = notice.shard, notice.first_missed
        client.missed[shard] = min(first, client.missed.get(shard, first))
        if self._retry_at_ms is None:
            self._retry_at_ms = now_ms + RETRY_MS

    def tick(self, now_ms: int) -> None:
        """Tell slow listeners what they have missed, if it is time."""
        if self._retry_at_ms is None or now_ms < self._retry_at_ms:
            return
        self._retry_at_ms = None
        for client in self._clients.listeners.values():
            if client.missed:
                self._tell_missed(client)

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` has something to do."""
        return self._retry_at_ms

    def _tell_missed(self, client: Client, coming: Event | None = None) -> None:
        """Send the client its gaps; `coming` is sent right after and ends its shard's gap."""
        missed, client.missed = client.missed, {}
        for shard, first in missed.items():
            if coming is not None and coming.shard == shard:
                following = coming.seq
            else:
                following = self._last.get(shard, (0, first))[1] + 1
            self._send_gap(client, shard, first, following)

    def _send_gap(self, client: Client, shard: int, first_missed: int, following: int) -> None:
        subscription = next(iter(client.subscriptions.values()))
        notice = GapNotice(shard=shard, first_missed=first_missed, next=following)
        self._send(client, subscription, encode(notice, json=subscription.json))


def _notice_of(event: Event, *, json: bool) -> bytes:
    if not json:
        return encode(EventNotice(event=event))
    try:
        return transcode(encode(EventNotice(event=event)), to_json=True)
    except BadMessage:  # a payload that JSON has no form for: the event itself still counts
        return encode(EventNotice(event=replace(event, data=None)), json=True)


def _wish_for(client: Client, event: Event) -> Subscription | None:
    """Return the subscription under which the client wants the event: the queue's own first."""
    for queue in (event.queue, ALL_QUEUES):
        subscription = client.subscriptions.get(queue)
        if subscription is not None and (
            not subscription.events or event.event in subscription.events
        ):
            return subscription
    return None
