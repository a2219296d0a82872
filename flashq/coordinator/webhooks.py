"""The table of webhooks, and what each of them is still to be told.

Owns validation, matching, the bounds of queues and of dead letters, retries and what is stored of
all that. Who delivers at present is its neighbour's business (`deliverers`). A webhook is told of
things in the order in which they came here; the one whose turn it is holds up those behind it until
it was told or is dead. Pure.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Raw, Struct
from msgspec.structs import replace

from flashq.addresses import is_local_name, is_public, read_address
from flashq.coordinator.outbox import Outbox
from flashq.coordinator.parts import Form
from flashq.errors import (
    BadMessage,
    LimitReached,
    StorageDamaged,
    WebhookInvalid,
    WebhookNotFound,
)
from flashq.protocol import webhooks as w
from flashq.protocol.codec import transcode
from flashq.protocol.internal import Happened
from flashq.protocol.limits import WebhookLimits
from flashq.protocol.names import check_queue_name
from flashq.protocol.objects import EVENTS, NULL_JSON
from flashq.protocol.paging import Listed, page

URL_CHARS_MAX: Final = 2048
_NO_HOST: Final = re.compile(r"[^A-Za-z0-9._:-]")
"""What no host has in it: names are ASCII here, and addresses stand without a scope."""
SECRET_BYTES_MAX: Final = 1024
REASON_CHARS_MAX: Final = 300
BACKOFF_DOUBLINGS_MAX: Final = 10
"""Delays between attempts grow up to 1024 times the first."""
DEAD_LISTED: Final = 100
FULL: Final = "the queue of the webhook was full"

_ID: Final = "wh_"
_OLDER_PREFIX: Final = "job."
_OLDER_NAMES: Final = {"started": "active"}
_NUMBERS_PER_MS: Final = 1024
"""Deliveries are numbered from the clock on, so that no number is used again after a restart."""


class Webhook(Struct, array_like=True):
    """A webhook as it is stored. `number` is that of its id, and was never another's."""

    number: int
    url: str
    events: list[str]
    queue: str | None
    secret: str | None
    created_at: int

    @property
    def id(self) -> str:
        """What clients call it."""
        return id_of(self.number)


class Delivery(Struct, array_like=True):
    """What has to be told, as it is stored. `data` is MessagePack."""

    number: int
    event: str
    queue: str
    job_id: int
    at: int
    error: str | None
    data: bytes | None
    attempts: int = 0
    reason: str = ""
    died_at: int = 0

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return 200 + len(self.data or b"") + len(self.error or "") + len(self.queue)


WEBHOOKS: Final = Form("webhook.", Webhook)
QUEUES: Final = Form("webhook-queue.", Delivery)
DEAD: Final = Form("webhook-dead.", Delivery)


class Endpoint:
    """A webhook with everything that belongs to it."""

    __slots__ = (
        "blocked_until_ms",
        "bytes",
        "dead",
        "dead_bytes",
        "delivered",
        "dropped",
        "evicted",
        "failed",
        "last_error",
        "leased_upto",
        "names",
        "queue",
        "retried",
        "webhook",
    )

    def __init__(self, webhook: Webhook) -> None:
        #: what is to be told, by number, in order
        self.queue: Final[OrderedDict[int, Delivery]] = OrderedDict()
        self.bytes = 0
        #: what could not be told, in the order in which it died
        self.dead: Final[OrderedDict[int, Delivery]] = OrderedDict()
        self.dead_bytes = 0
        #: no attempt before this, on the monotonic clock
        self.blocked_until_ms = 0
        #: what is in the hands of who delivers: everything up to this number; 0 for nothing
        self.leased_upto = 0
        #: moved to the dead by a full queue, and forgotten of the dead by their bound
        self.evicted = 0
        self.dropped = 0
        #: deliveries that were told, attempts that failed, and those of them that were repeated
        self.delivered = 0
        self.failed = 0
        self.retried = 0
        self.last_error: str | None = None
        self.define(webhook)

    def define(self, webhook: Webhook) -> None:
        """Be another webhook of the same id."""
        self.webhook = webhook
        #: names of the events that it wants
        self.names: frozenset[str] = frozenset(event_name(event) for event in webhook.events)

    def wants(self, event: str, queue: str) -> bool:
        """Tell whether it has to be told of an event."""
        if self.webhook.queue not in (None, queue):
            return False
        return event in self.names or w.EVERY_EVENT in self.names


class WebhookTable:
    """All webhooks.

    Args:
        limits: the bounds.
        queue_name_bytes_max: of queues.
        outbox: where writes go.
    """

    def __init__(self, limits: WebhookLimits, queue_name_bytes_max: int, outbox: Outbox) -> None:
        self._limits = limits
        self._queue_name_bytes_max = queue_name_bytes_max
        self._outbox = outbox
        #: by number
        self._endpoints: dict[int, Endpoint] = {}
        #: those whose queues are not empty; the one whose turn was longest ago comes first
        self.waiting: Final[OrderedDict[int, Endpoint]] = OrderedDict()
        self._number_last = 0
        #: no webhook has a higher number
        self._id_last = 0

    # --- storage

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Take up what was stored.

        Raises:
            ConfigError: a part cannot be read.
            StorageDamaged: nor that, or it belongs to no webhook.
        """
        for _, webhook in WEBHOOKS.stored(parts):
            self._endpoints[webhook.number] = Endpoint(webhook)
            self._id_last = max(self._id_last, webhook.number)
        for form in (QUEUES, DEAD):
            for name, delivery in sorted(form.stored(parts), key=lambda part: part[1].number):
                endpoint = self._endpoints.get(int(name.split(".")[0]))
                if endpoint is None:
                    raise StorageDamaged(
                        detail=f"coordinator's part {form.prefix}{name}: of no webhook"
                    )
                self._number_last = max(self._number_last, delivery.number)
                if form is QUEUES:
                    self._add(endpoint, delivery)
                else:
                    endpoint.dead[delivery.number] = delivery
                    endpoint.dead_bytes += delivery.size

    def _write(self, endpoint: Endpoint) -> None:
        webhook = endpoint.webhook
        self._outbox.write(WEBHOOKS.put(webhook.number, webhook))

    def _put(self, form: Form[Delivery], endpoint: Endpoint, delivery: Delivery) -> None:
        self._outbox.write(form.put(f"{endpoint.webhook.number}.{delivery.number}", delivery))

    def _drop(self, form: Form[Delivery], endpoint: Endpoint, number: int) -> None:
        self._outbox.write(form.drop(f"{endpoint.webhook.number}.{number}"))

    # --- the table

    def define(self, request: w.SetWebhook, now_ms: int) -> int:
        """Add a webhook or replace one, and return its number.

        Raises:
            WebhookNotFound: there is none to replace.
            FlashQError: the request is refused.
        """
        self._check(request)
        if request.webhook is not None:
            endpoint = self.find(request.webhook)
            old = endpoint.webhook
            secret = old.secret if request.secret is None else request.secret or None
            fresh = replace(
                old, url=request.url, events=request.events, queue=request.queue, secret=secret
            )
            if fresh == old:
                return old.number
            endpoint.define(fresh)
            endpoint.blocked_until_ms = 0
        else:
            if len(self._endpoints) >= self._limits.webhooks_max:
                raise LimitReached(detail=f"{self._limits.webhooks_max} webhooks")
            self._id_last = number = max(now_ms, self._id_last + 1)
            secret = request.secret or None
            endpoint = Endpoint(
                Webhook(number, request.url, request.events, request.queue, secret, now_ms)
            )
            self._endpoints[number] = endpoint
        self._write(endpoint)
        return endpoint.webhook.number

    def _check(self, request: w.SetWebhook) -> None:
        check_url(request.url, allow_private=self._limits.webhook_private_targets)
        if not request.events:
            raise WebhookInvalid("Webhook must name at least one event")
        for event in request.events:
            if event_name(event) not in (*EVENTS, w.EVERY_EVENT):
                known = ", ".join(EVENTS)
                raise WebhookInvalid(f"Unknown event '{event[:64]}'. Use: {known}, or *")
        if request.queue is not None:
            check_queue_name(request.queue, bytes_max=self._queue_name_bytes_max)
        if len((request.secret or "").encode()) > SECRET_BYTES_MAX:
            raise WebhookInvalid(f"Webhook secret too long (max {SECRET_BYTES_MAX} bytes)")

    def find(self, webhook_id: str) -> Endpoint:
        """Return the webhook of an id.

        Raises:
            WebhookNotFound: there is none.
        """
        text = webhook_id.removeprefix(_ID)
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else 0
        endpoint = self._endpoints.get(number)
        if endpoint is None or endpoint.webhook.id != webhook_id:
            raise WebhookNotFound
        return endpoint

    def get(self, number: int) -> Endpoint | None:
        """Return the webhook of a number."""
        return self._endpoints.get(number)

    def delete(self, webhook_id: str) -> int:
        """Remove a webhook with all that belongs to it, and return its number.

        Raises:
            WebhookNotFound: there is none.
        """
        endpoint = self.find(webhook_id)
        number = endpoint.webhook.number
        for delivery_number in list(endpoint.queue):
            self._remove(endpoint, delivery_number)
        for delivery_number in list(endpoint.dead):
            self._forget(endpoint, delivery_number)
        del self._endpoints[number]
        self._outbox.write(WEBHOOKS.drop(number))
        return number

    def wanted(self) -> set[tuple[str | None, str]]:
        """Return the pairs of queue and event that some webhook wants."""
        return {
            (endpoint.webhook.queue, name)
            for endpoint in self._endpoints.values()
            for name in endpoint.names
        }

    def view(self, limit: int | None = None, after: str | None = None) -> Listed:
        """Return a page of webhooks by id."""
        listed = page(
            self._endpoints.values(),
            lambda endpoint: endpoint.webhook.id,
            limit=limit,
            after=after,
        )
        return Listed([_view(endpoint) for endpoint in listed.entries], listed.next)

    # --- what is to be told

    def take(self, happened: Happened, now_ms: int) -> bool:
        """Queue what a shard tells for each webhook that wants it; False when none does."""
        wanting = [
            endpoint
            for endpoint in self._endpoints.values()
            if endpoint.wants(happened.event, happened.queue)
        ]
        for endpoint in wanting:
            for place, job_id in enumerate(happened.ids):
                data = None if happened.data is None else happened.data[place]
                delivery = Delivery(
                    self._number(now_ms),
                    happened.event,
                    happened.queue,
                    job_id,
                    happened.at,
                    happened.error,
                    data,
                )
                self._enqueue(endpoint, delivery)
            self._make_room(endpoint, now_ms)
        return bool(wanting)

    def _number(self, now_ms: int) -> int:
        self._number_last = max(self._number_last + 1, now_ms * _NUMBERS_PER_MS)
        return self._number_last

    def _enqueue(self, endpoint: Endpoint, delivery: Delivery) -> None:
        self._add(endpoint, delivery)
        self._put(QUEUES, endpoint, delivery)

    def _add(self, endpoint: Endpoint, delivery: Delivery) -> None:
        endpoint.queue[delivery.number] = delivery
        endpoint.bytes += delivery.size
        self.waiting.setdefault(endpoint.webhook.number, endpoint)

    def _remove(self, endpoint: Endpoint, number: int) -> Delivery:
        delivery = endpoint.queue.pop(number)
        endpoint.bytes -= delivery.size
        if not endpoint.queue:
            self.waiting.pop(endpoint.webhook.number, None)
        self._drop(QUEUES, endpoint, number)
        return delivery

    def _has_room(self, endpoint: Endpoint) -> bool:
        limits = self._limits
        return (
            len(endpoint.queue) < limits.webhook_queue_deliveries_max
            and endpoint.bytes < limits.webhook_queue_bytes_max
        )

    def _make_room(self, endpoint: Endpoint, now_ms: int) -> None:
        """Move the oldest of a queue above its bounds to the dead, but what is being told."""
        limits = self._limits
        movable = [number for number in endpoint.queue if number > endpoint.leased_upto]
        for number in movable:
            if (
                len(endpoint.queue) <= limits.webhook_queue_deliveries_max
                and endpoint.bytes <= limits.webhook_queue_bytes_max
            ):
                break
            endpoint.evicted += 1
            self._bury(endpoint, self._remove(endpoint, number), FULL, now_ms)

    def delivered(self, endpoint: Endpoint, upto: int) -> None:
        """A webhook was told everything up to a number."""
        told = []
        for number in endpoint.queue:
            if number > upto:
                break
            told.append(number)
        for number in told:
            self._remove(endpoint, number)
            endpoint.delivered += 1
            endpoint.last_error = None

    def failed(
        self, endpoint: Endpoint, number: int, reason: str, now_ms: int, mono_ms: int
    ) -> None:
        """An attempt to tell the first of a webhook's queue has failed."""
        if next(iter(endpoint.queue), 0) != number:
            return
        delivery = endpoint.queue[number]
        delivery.attempts += 1
        endpoint.failed += 1
        delivery.reason = endpoint.last_error = reason[:REASON_CHARS_MAX]
        if delivery.attempts >= self._limits.webhook_attempts_max:
            self._bury(endpoint, self._remove(endpoint, number), delivery.reason, now_ms)
            return
        endpoint.retried += 1
        self._put(QUEUES, endpoint, delivery)
        delay_ms = backoff_ms(self._limits.webhook_backoff_ms, delivery.attempts)
        endpoint.blocked_until_ms = mono_ms + delay_ms

    # --- what could not be told

    def _bury(self, endpoint: Endpoint, delivery: Delivery, reason: str, now_ms: int) -> None:
        limits = self._limits
        delivery.reason, delivery.died_at = reason, now_ms
        endpoint.dead[delivery.number] = delivery
        endpoint.dead_bytes += delivery.size
        self._put(DEAD, endpoint, delivery)
        while endpoint.dead and (
            len(endpoint.dead) > limits.webhook_dead_deliveries_max
            or endpoint.dead_bytes > limits.webhook_queue_bytes_max
        ):
            self._forget(endpoint, next(iter(endpoint.dead)))
            endpoint.dropped += 1

    def _forget(self, endpoint: Endpoint, number: int) -> Delivery:
        delivery = endpoint.dead.pop(number)
        endpoint.dead_bytes -= delivery.size
        self._drop(DEAD, endpoint, number)
        return delivery

    def view_dead(self, webhook_id: str | None, limit: int | None) -> w.DeadDeliveriesReply:
        """Return what could not be told, oldest first.

        Raises:
            WebhookNotFound: there is no such webhook.
        """
        found = [
            _view_dead(endpoint.webhook, delivery)
            for endpoint in self._chosen(webhook_id)
            for delivery in endpoint.dead.values()
        ]
        found.sort(key=lambda dead: (dead.died_at, dead.delivery))
        wanted = DEAD_LISTED if limit is None else limit
        return w.DeadDeliveriesReply(deliveries=found[:wanted], total=len(found))

    def retry(self, webhook_id: str | None, number: int | None, now_ms: int) -> int:
        """Queue dead deliveries again, behind all others, and return how many.

        Raises:
            WebhookInvalid: a delivery is named without its webhook.
            WebhookNotFound: there is no such webhook.
        """
        if number is not None and webhook_id is None:
            raise WebhookInvalid("Webhook missing: a delivery is one of a webhook")
        count = 0
        for endpoint in self._chosen(webhook_id):
            for dead in [key for key in endpoint.dead if number in (None, key)]:
                if not self._has_room(endpoint):
                    break
                old = self._forget(endpoint, dead)
                again = replace(old, number=self._number(now_ms), attempts=0, reason="", died_at=0)
                self._enqueue(endpoint, again)
                count += 1
        return count

    def _chosen(self, webhook_id: str | None) -> Iterable[Endpoint]:
        return list(self._endpoints.values()) if webhook_id is None else [self.find(webhook_id)]


def id_of(number: int) -> str:
    """Return a webhook's id as clients write it."""
    return f"{_ID}{number}"


def event_name(event: str) -> str:
    """Return an event's name by which older documents call it otherwise: `job.started`."""
    name = event.removeprefix(_OLDER_PREFIX)
    return name if name == event else _OLDER_NAMES.get(name, name)


def backoff_ms(first_ms: int, attempts: int) -> int:
    """Return how long to wait after so many failed attempts: twice as long after each."""
    return int(first_ms * 2 ** min(attempts - 1, BACKOFF_DOUBLINGS_MAX))


def check_url(url: str, *, allow_private: bool) -> None:
    """Refuse what cannot be told anything.

    Args:
        url: where to.
        allow_private: let it lead to addresses that are not public.

    Raises:
        WebhookInvalid: it is no HTTP address, or one that nothing is ever sent to.
    """
    if len(url) > URL_CHARS_MAX:
        raise WebhookInvalid(f"Webhook URL too long (max {URL_CHARS_MAX} chars)")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_good = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise WebhookInvalid("Webhook URL must be an ASCII http:// or https:// URL with a host")
    if "@" in parts.netloc:
        raise WebhookInvalid("Webhook URL must not hold a user name or password")
    if _NO_HOST.search(host):
        raise WebhookInvalid("Webhook URL names a host that no name or address can be")
    if not allow_private and _is_private(host):
        raise WebhookInvalid(
            f"Webhook URL leads to {host[:256]}, which is not a public address; the setting "
            "webhook_private_targets allows it"
        )


def _is_private(host: str) -> bool:
    """Tell whether a host is by its spelling alone none of the internet at large; other names are
    resolved, and judged, for each delivery."""
    address = read_address(host)
    return is_local_name(host) if address is None else not is_public(address)


def told(delivery: Delivery, *, json: bool) -> w.Delivery:
    """Return a delivery as who delivers it gets it."""
    data = None if delivery.data is None else Raw(delivery.data)
    if data is not None and json:
        try:
            data = Raw(transcode(bytes(data), to_json=True))
        except BadMessage:  # JSON has no form for it; the rest still counts
            data = Raw(NULL_JSON)
    return w.Delivery(
        delivery=delivery.number,
        event=delivery.event,
        queue=delivery.queue,
        job_id=delivery.job_id,
        timestamp=delivery.at,
        data=data,
        error=delivery.error,
    )


def _view(endpoint: Endpoint) -> w.WebhookView:
    webhook = endpoint.webhook
    return w.WebhookView(
        id=webhook.id,
        url=webhook.url,
        events=webhook.events,
        queue=webhook.queue,
        secret=None,
        created_at=webhook.created_at,
        signed=webhook.secret is not None,
        pending=len(endpoint.queue),
        dead=len(endpoint.dead),
        evicted=endpoint.evicted,
        dropped=endpoint.dropped,
        delivered=endpoint.delivered,
        failed=endpoint.failed,
        retried=endpoint.retried,
        last_error=endpoint.last_error,
    )


def _view_dead(webhook: Webhook, delivery: Delivery) -> w.DeadDelivery:
    return w.DeadDelivery(
        webhook=webhook.id,
        delivery=delivery.number,
        event=delivery.event,
        queue=delivery.queue,
        job_id=delivery.job_id,
        timestamp=delivery.at,
        error=delivery.error,
        attempts=delivery.attempts,
        reason=delivery.reason,
        died_at=delivery.died_at,
    )
