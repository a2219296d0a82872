"""The delivery to webhooks: which are leased at present, and what each is told, in order.

Owns the calls to the coordinator, which hands out webhooks and is told what became of each
delivery before the next one is sent. So a gateway that is killed leaves one delivery in doubt for
each webhook that it held, and no more; whoever gets the lease next sends that one again, under the
same name. Retries and dead deliveries are the coordinator's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from msgspec import Struct

from flashq.config import Settings
from flashq.errors import FlashQError, WebhookLeaseLost
from flashq.gateway.asking import read_ask
from flashq.gateway.bridge import Bridge
from flashq.gateway.webhook_post import NotPublic, PostFailed, post
from flashq.gateway.webhooks import body_of, headers_of, target_of
from flashq.observability.logging import log_of
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode_reply, encode
from flashq.protocol.webhooks import (
    DeliveriesDone,
    Delivery,
    PullDeliveries,
    PullDeliveriesReply,
    WebhookLease,
)

HELD_MAX: Final = 64
"""How many webhooks one gateway tells something at a time."""
CALLS_PER_LEASE: Final = 3
"""How often a lease is renewed while it would last."""
RETRY_S: Final = 0.5
"""Time until a call that has failed is made again."""
FAREWELL_S: Final = 1.0
"""How long a gateway that ends waits to be heard; unheard, its leases end by themselves."""


class WebhookDelivery:
    """All deliveries of one gateway.

    Args:
        bridge: the way to the coordinator.
        settings: for bounds.
        holder: 16 random bytes that say who this is.
        wall_ms: the wall clock.
    """

    def __init__(
        self, bridge: Bridge, settings: Settings, holder: bytes, wall_ms: Callable[[], int]
    ) -> None:
        self._bridge: Final = bridge
        self._settings: Final = settings
        self._holder: Final = holder
        self._wall_ms: Final = wall_ms
        self._log: Final = log_of("flashq-gateway")
        self._call = 0
        #: what is told to the webhook of each lease, by token
        self._held: dict[int, asyncio.Task[None]] = {}
        self._is_closing = False
        self._pulling: asyncio.Task[None] | None = None

    # --- its life

    def start(self) -> None:
        """Begin to ask for webhooks that have to be told something."""
        self._pulling = asyncio.ensure_future(self._pull_for_ever())

    async def drain(self, timeout_s: float) -> None:
        """Take nothing more, and give every webhook back after the delivery under way.

        Args:
            timeout_s: how long that may take.
        """
        self._is_closing = True
        ends_at = asyncio.get_running_loop().time() + timeout_s
        if self._pulling is not None:
            self._pulling.cancel()
            with suppress(asyncio.CancelledError):
                await self._pulling
            # The parked call ends; a lease it was just given is void. A server that ends as well,
            # or never was there, does not hear it, and is not waited for.
            with suppress(FlashQError, TimeoutError):
                last = self._next_call(timeout_ms=0, renew_only=True)
                await asyncio.wait_for(
                    self._ask(last, PullDeliveriesReply), min(timeout_s, FAREWELL_S)
                )
        tasks = list(self._held.values())
        if tasks:
            left_s = max(0.0, ends_at - asyncio.get_running_loop().time())
            _, late = await asyncio.wait(tasks, timeout=left_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- calls to the coordinator

    async def _ask(self, request: PullDeliveries | DeliveriesDone, kind: type[Struct]) -> Struct:
        """Return the coordinator's answer.

        Raises:
            FlashQError: it refuses, or says nothing.
        """
        answer = await self._bridge.carry_out(read_ask(encode(request), json=False))
        return decode_reply(answer.body, kind)

    async def _pull_for_ever(self) -> None:
        timeout_ms = self._settings.webhook_lease_ms // CALLS_PER_LEASE
        while True:
            request = self._next_call(timeout_ms, renew_only=len(self._held) >= HELD_MAX)
            try:
                reply = await self._ask(request, PullDeliveriesReply)
            except FlashQError as error:
                self._log.debug("asked for webhooks in vain", reason=error.text)
                await asyncio.sleep(RETRY_S)
                continue
            assert isinstance(reply, PullDeliveriesReply)
            if reply.lease is not None:
                self._begin(reply.lease)

    def _next_call(self, timeout_ms: int, *, renew_only: bool) -> PullDeliveries:
        self._call += 1
        return PullDeliveries(
            holder=self._holder,
            call=self._call,
            held=list(self._held),
            timeout=timeout_ms,
            renew_only=renew_only,
        )

    def _begin(self, lease: WebhookLease) -> None:
        if lease.token in self._held:
            return  # a second copy of the answer
        task = asyncio.ensure_future(self._deliver_all(lease))
        self._held[lease.token] = task
        task.add_done_callback(lambda _: self._held.pop(lease.token, None))

    # --- one webhook

    async def _deliver_all(self, lease: WebhookLease) -> None:
        """Tell a webhook what its lease covers, in order, up to the first failure."""
        try:
            last = lease.deliveries[-1].delivery if lease.deliveries else 0
            for delivery in lease.deliveries:
                reason = await self._deliver(lease, delivery)
                number = delivery.delivery
                more = number != last and not self._is_closing
                if reason is None:
                    done = DeliveriesDone(token=lease.token, delivered=number, more=more)
                else:
                    done = DeliveriesDone(token=lease.token, failed=number, reason=reason)
                await self._report(done)
                if reason is not None or not more:
                    return
            await self._report(DeliveriesDone(token=lease.token))
        except WebhookLeaseLost:
            self._log.info("a webhook went to another gateway", webhook=lease.webhook)

    async def _deliver(self, lease: WebhookLease, delivery: Delivery) -> str | None:
        """Make one attempt, and return why it failed; None when it did not."""
        body = body_of(delivery)
        headers = headers_of(lease, delivery, body, self._wall_ms() // 1000)
        try:
            status = await post(
                target_of(lease.url),
                headers,
                body,
                timeout_s=self._settings.webhook_timeout_ms / 1000,
                allow_private=self._settings.webhook_private_targets,
            )
        except NotPublic as error:
            self._log.warning("a webhook may not be told", webhook=lease.webhook, reason=str(error))
            return str(error)
        except PostFailed as error:
            return str(error)
        return None if 200 <= status < 300 else f"answered with status {status}"

    async def _report(self, done: DeliveriesDone) -> None:
        """Report, again and again until it is heard.

        Raises:
            WebhookLeaseLost: it is another's business by now.
        """
        while True:
            try:
                await self._ask(done, Reply)
                return
            except WebhookLeaseLost:
                raise
            except FlashQError as error:
                self._log.debug("a report on a webhook was not heard", reason=error.text)
                await asyncio.sleep(RETRY_S)
