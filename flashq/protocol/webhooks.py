"""Commands about webhooks: addresses that are told over HTTP of what happens to jobs.

The coordinator keeps what is to be told, and hands one webhook at a time to one who delivers: a
gateway, which asks with WEBHOOKPULL and reports with WEBHOOKDONE. A webhook's secret goes to who
delivers, and is never shown to anybody else again.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from flashq.protocol.base import (
    CountReply,
    Ids,
    Mutation,
    Name,
    OptionalRaw,
    Reply,
    Request,
    SessionId,
    Text,
    Unsigned,
)
from flashq.protocol.command import Role, Scope, command
from flashq.protocol.paging import Limit

EVERY_EVENT = "*"


class SetWebhook(Mutation, kw_only=True, omit_defaults=True, tag="WEBHOOK"):
    """Adds a webhook, or replaces the one with the id `webhook`.

    `url` is http or https. `events` names what is told (`*` for everything), of `queue` or, without
    one, of all queues. With `secret` each request is signed; a replaced webhook keeps its secret
    where none is given, and loses it to an empty one.
    """

    url: Text
    events: Annotated[list[Name], Meta(max_length=100)]
    queue: str | None = None
    secret: Text | None = None
    webhook: Name | None = None


class WebhookReply(Reply, kw_only=True):
    id: str


class DeleteWebhook(Mutation, kw_only=True, tag="WEBHOOKDELETE"):
    """Removes a webhook, and everything that it was still to be told."""

    webhook: Name


class ListWebhooks(Request, kw_only=True, omit_defaults=True, tag="WEBHOOKLIST"):
    """Gives webhooks by id, at most `limit` (1,000) of those behind `after`."""

    limit: Limit | None = None
    after: Text | None = None


class WebhookView(Struct, kw_only=True):
    """A webhook. `secret` is always null; `signed` tells whether there is one. `pending` and `dead`
    count deliveries; `evicted` those that its full queue moved to the dead ones, `dropped` those
    that its full list of dead ones forgot, `delivered` those that were told; `failed` counts failed
    attempts, `retried` those of them that were followed by another. These five are since the
    coordinator was started. `last_error` is why the last attempt failed, null after one that did
    not."""

    id: str
    url: str
    events: list[str]
    queue: str | None
    secret: str | None
    created_at: int
    signed: bool
    pending: int
    dead: int
    evicted: int
    dropped: int
    delivered: int
    failed: int
    retried: int
    last_error: str | None


class WebhooksReply(Reply, kw_only=True, omit_defaults=True):
    """The next page is behind `next`, which is absent with the last one."""

    ok: bool
    webhooks: list[WebhookView]
    next: str | None = None


class GetDeadDeliveries(Request, kw_only=True, omit_defaults=True, tag="WEBHOOKDEAD"):
    """Gives the dead deliveries of `webhook`, or of all, oldest first; at most `limit` (100)."""

    webhook: Name | None = None
    limit: Limit | None = None


class DeadDelivery(Struct, kw_only=True):
    """What a webhook could not be told, and why not: `reason`. `error` is that of the job."""

    webhook: str
    delivery: int
    event: str
    queue: str
    job_id: int
    timestamp: int
    error: str | None
    attempts: int
    reason: str
    died_at: int


class DeadDeliveriesReply(Reply, kw_only=True):
    deliveries: list[DeadDelivery]
    total: int


class RetryDeadDeliveries(Mutation, kw_only=True, omit_defaults=True, tag="WEBHOOKRETRY"):
    """Puts dead deliveries back to be told after all others, as far as there is room: one, all of
    `webhook`, or all. `delivery` needs `webhook`."""

    webhook: Name | None = None
    delivery: Unsigned | None = None


class PullDeliveries(Request, kw_only=True, omit_defaults=True, tag="WEBHOOKPULL"):
    """Asks for a webhook to deliver to, and waits `timeout` ms for one.

    `holder` is who asks, 16 random bytes, and `call` rises with each of its calls. `held`
    names the leases that it works on: they are renewed, and others of it are void. With
    `renew_only` nothing new is given.
    """

    holder: SessionId
    call: Unsigned
    held: Ids | None = None
    timeout: Unsigned | None = None
    renew_only: bool | None = None


class Delivery(Struct, kw_only=True, omit_defaults=True):
    """One thing to tell. `data` is the payload (pushed), the result (completed), or progress."""

    delivery: int
    event: str
    queue: str
    job_id: int
    timestamp: int
    data: OptionalRaw = None
    error: str | None = None


class WebhookLease(Struct, kw_only=True):
    """A webhook that is the asker's alone for `lease_ms` from the answer on, and again from each
    call that names `token`. `deliveries` are told in their order."""

    token: int
    webhook: str
    url: str
    secret: str | None
    lease_ms: int
    deliveries: list[Delivery]


class PullDeliveriesReply(Reply, kw_only=True):
    lease: WebhookLease | None


class DeliveriesDone(Request, kw_only=True, omit_defaults=True, tag="WEBHOOKDONE"):
    """Reports on a lease: everything up to `delivered` was told, and telling `failed` did not
    succeed, because of `reason`. With `more` the lease goes on; a failure ends it."""

    token: Unsigned
    delivered: Unsigned | None = None
    failed: Unsigned | None = None
    reason: str | None = None
    more: bool | None = None


COMMANDS: Final = (
    command(
        SetWebhook,
        WebhookReply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "add_webhook",
        "Adds or replaces a webhook: an address that is told of what happens to jobs.",
        ("POST", "/webhooks"),
    ),
    command(
        DeleteWebhook,
        Reply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "delete_webhook",
        "Removes a webhook.",
        ("DELETE", "/webhooks/{webhook}"),
    ),
    command(
        ListWebhooks,
        WebhooksReply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "list_webhooks",
        "Lists all webhooks, without their secrets.",
        ("GET", "/webhooks"),
        mutates=False,
    ),
    command(
        GetDeadDeliveries,
        DeadDeliveriesReply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "webhook_dead",
        "Lists what webhooks could not be told.",
        ("GET", "/webhooks/dead"),
        mutates=False,
    ),
    command(
        RetryDeadDeliveries,
        CountReply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "retry_webhook",
        "Has webhooks told again what they could not be told.",
        ("POST", "/webhooks/dead/retry"),
    ),
    command(
        PullDeliveries,
        PullDeliveriesReply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "pull_deliveries",
        "Leases a webhook that has to be told something, and waits for one.",
        mutates=False,
        waits=True,
    ),
    command(
        DeliveriesDone,
        Reply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "deliveries_done",
        "Reports what a leased webhook was told.",
        mutates=False,
    ),
)
