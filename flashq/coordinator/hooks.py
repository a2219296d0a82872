"""The requests about webhooks, of operators and of those who deliver.

Owns which part does what of a request, and what a repeat of it is answered. The table, the leases
and what shards have to know are its neighbours' business. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from flashq.coordinator.deliverers import Deliverers
from flashq.coordinator.outbox import Outbox
from flashq.coordinator.repeats import Repeats
from flashq.coordinator.wanting import Wanting
from flashq.coordinator.webhooks import WebhookTable, id_of
from flashq.errors import FlashQError
from flashq.protocol import webhooks as w
from flashq.protocol.base import CountReply, Mutation, Reply
from flashq.protocol.internal import Happened

if TYPE_CHECKING:
    from flashq.coordinator.engine import CoordinatorSettings

Answer = Callable[[Struct], None]


class Hooks:
    """All of the coordinator that is about webhooks.

    Args:
        settings: the server's.
        outbox: where writes go.
        repeats: how protected requests ended.
        wanting: tells shards what is wanted.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        outbox: Outbox,
        repeats: Repeats,
        wanting: Wanting,
        now_ms: int,
    ) -> None:
        limits = settings.webhooks
        self._table = WebhookTable(limits, settings.limits.queue_name_bytes_max, outbox)
        self._deliverers = Deliverers(self._table, limits, outbox, now_ms)
        self._repeats = repeats
        self._wanting = wanting

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Take up what was stored.

        Raises:
            StorageDamaged: it contradicts itself.
        """
        self._table.load(parts)
        self._deliverers.load(parts)
        self._wanting.change(self._table.wanted())

    def take(self, happened: Happened, now_ms: int) -> bool:
        """Take what a shard tells; False when no webhook wants it."""
        return self._table.take(happened, now_ms)

    def tick(self, mono_ms: int) -> None:
        """Do what is due."""
        self._deliverers.tick(mono_ms)

    def next_at_ms(self) -> int | None:
        """Return when `tick` has something to do, on the monotonic clock."""
        return self._deliverers.next_at_ms()

    def handle(
        self, request: Struct, answer: Answer, now_ms: int, mono_ms: int, *, json: bool
    ) -> bool:
        """Carry a request out if it is about webhooks, and tell whether it is.

        Args:
            answer: takes the reply, now or later.
            json: how the reply is encoded.

        Raises:
            FlashQError: it is refused.
        """
        match request:
            case w.SetWebhook():
                number = self._once(request, lambda: self._table.define(request, now_ms))
                self._wanting.change(self._table.wanted())
                reply = w.WebhookReply(id=id_of(number))
                self._wanting.when_heeded(partial(answer, reply), mono_ms)
            case w.DeleteWebhook():
                self._once(request, lambda: self._delete(request.webhook))
                answer(Reply())
            case w.RetryDeadDeliveries():
                count = self._once(
                    request,
                    lambda: self._table.retry(request.webhook, request.delivery, now_ms),
                )
                answer(CountReply(count=count))
            case w.ListWebhooks(limit=limit, after=after):
                listed = self._table.view(limit, after)
                answer(w.WebhooksReply(ok=True, webhooks=listed.entries, next=listed.next))
            case w.GetDeadDeliveries():
                answer(self._table.view_dead(request.webhook, request.limit))
            case w.PullDeliveries():
                self._deliverers.pull(request, answer, mono_ms, json=json)
            case w.DeliveriesDone():
                self._deliverers.done(request, now_ms, mono_ms)
                answer(Reply())
            case _:
                return False
        return True

    def _delete(self, webhook_id: str) -> int:
        number = self._table.delete(webhook_id)
        self._deliverers.end(number)
        self._wanting.change(self._table.wanted())
        return number

    def _once(self, request: Mutation, carry_out: Callable[[], int]) -> int:
        """Carry a request out, and return the number it gives; or that of its first copy."""
        if self._repeats.has(request):
            return self._repeats.number_of(request)
        try:
            number = carry_out()
        except FlashQError as error:
            self._repeats.note(request, error)
            raise
        self._repeats.note(request, number=number)
        return number
