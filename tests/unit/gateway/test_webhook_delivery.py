"""How a gateway delivers: one after the other, each reported before the next is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from msgspec import msgpack

from flashq.config import Settings
from flashq.errors import Busy, FlashQError, WebhookLeaseLost
from flashq.gateway import webhook_delivery
from flashq.gateway.asking import Ask
from flashq.gateway.bridge import Answer, Bridge
from flashq.gateway.webhook_delivery import HELD_MAX, WebhookDelivery
from flashq.gateway.webhook_post import PostFailed
from flashq.protocol.codec import encode, error_reply
from flashq.protocol.webhooks import Delivery, PullDeliveriesReply, WebhookLease

HOLDER = b"0123456789abcdef"
PATIENCE_S = 10.0


class Coordinator:
    """What a gateway takes for the bridge: it gives out leases and notes reports."""

    def __init__(self) -> None:
        #: leases to give out; a call that finds none is parked
        self.leases: asyncio.Queue[WebhookLease | FlashQError] = asyncio.Queue()
        self.calls: list[dict[str, Any]] = []
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        #: how the next reports are refused
        self.refusals: list[FlashQError] = []
        #: cleared, nothing is answered
        self.hears = asyncio.Event()
        self.hears.set()

    async def carry_out(self, ask: Ask) -> Answer:
        """Answer one request."""
        await self.hears.wait()
        said = msgpack.decode(ask.body)
        if said.pop("cmd") == "WEBHOOKPULL":
            self.calls.append(said)
            given = None if said.get("timeout") == 0 else await self.leases.get()
            if isinstance(given, FlashQError):
                return Answer(encode(error_reply(given)), False)
            return Answer(encode(PullDeliveriesReply(lease=given)), True)
        if self.refusals:
            return Answer(encode(error_reply(self.refusals.pop(0))), False)
        self.reports.put_nowait(said)
        return Answer(encode({"ok": True}), True)

    async def report(self) -> dict[str, Any]:
        """Return the next report."""
        return await asyncio.wait_for(self.reports.get(), PATIENCE_S)


class Receiver:
    """Stands in for the sending of one request."""

    def __init__(self) -> None:
        #: what was sent, by its delivery's name
        self.sent: asyncio.Queue[str] = asyncio.Queue()
        #: statuses of the next answers; 200 when there are none
        self.answers: list[int | PostFailed] = []
        #: set, requests are answered
        self.open = asyncio.Event()
        self.open.set()

    async def post(self, _target: Any, headers: Any, _body: bytes, **_: Any) -> int:
        """Take one request."""
        self.sent.put_nowait(dict(headers)["X-FlashQ-Delivery"])
        await self.open.wait()
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, PostFailed):
            raise answer
        return answer


def lease(token: int, *numbers: int) -> WebhookLease:
    """A webhook, and what it has to be told."""
    deliveries = [
        Delivery(delivery=number, event="failed", queue="q", job_id=number, timestamp=1)
        for number in numbers
    ]
    return WebhookLease(
        token=token, webhook=f"wh_{token}", url="http://x/", secret=None, lease_ms=1000,
        deliveries=deliveries,
    )  # fmt: skip


@asynccontextmanager
async def at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[WebhookDelivery, Coordinator, Receiver]]:
    """A gateway that delivers, for the length of a block."""
    coordinator, receiver = Coordinator(), Receiver()
    monkeypatch.setattr(webhook_delivery, "post", receiver.post)
    monkeypatch.setattr(webhook_delivery, "RETRY_S", 0)
    bridge = cast(Bridge, coordinator)
    delivery = WebhookDelivery(bridge, Settings(), HOLDER, lambda: 5000)
    delivery.start()
    try:
        yield delivery, coordinator, receiver
    finally:
        receiver.open.set()
        await delivery.drain(PATIENCE_S)


async def test_each_delivery_is_reported_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a gateway that is killed leaves one in doubt; the last report gives the webhook back."""
    async with at_work(monkeypatch) as (_, coordinator, receiver):
        coordinator.leases.put_nowait(lease(7, 1, 2))
        assert await coordinator.report() == {"token": 7, "delivered": 1, "more": True}
        assert await coordinator.report() == {"token": 7, "delivered": 2, "more": False}
        assert [receiver.sent.get_nowait() for _ in range(2)] == ["wh_7-1", "wh_7-2"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (500, "answered with status 500"),
        (302, "answered with status 302"),
        (PostFailed("no answer within 10 s"), "no answer within 10 s"),
    ],
    ids=["error", "redirect", "nothing"],
)
async def test_a_failure_ends_the_lease(
    monkeypatch: pytest.MonkeyPatch, answer: int | PostFailed, reason: str
) -> None:
    """What is behind it waits: the coordinator decides when it is tried again."""
    async with at_work(monkeypatch) as (_, coordinator, receiver):
        receiver.answers = [204, answer]
        coordinator.leases.put_nowait(lease(7, 1, 2, 3))
        await coordinator.report()
        assert await coordinator.report() == {"token": 7, "failed": 2, "reason": reason}
        assert receiver.sent.qsize() == 2


async def test_a_report_is_made_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator was away; nothing more is sent before it knows of what was."""
    async with at_work(monkeypatch) as (_, coordinator, _receiver):
        coordinator.refusals = [Busy(detail="x"), Busy(detail="x")]
        coordinator.leases.put_nowait(lease(7, 1, 2))
        assert (await coordinator.report())["delivered"] == 1
        assert coordinator.refusals == []


async def test_who_has_lost_the_lease_sends_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another gateway is at it by now."""
    async with at_work(monkeypatch) as (_, coordinator, receiver):
        coordinator.refusals = [WebhookLeaseLost()]
        coordinator.leases.put_nowait(lease(7, 1, 2))
        coordinator.leases.put_nowait(lease(8, 5))
        assert await coordinator.report() == {"token": 8, "delivered": 5, "more": False}
        names = sorted(receiver.sent.get_nowait() for _ in range(receiver.sent.qsize()))
        assert names == ["wh_7-1", "wh_8-5"]


async def test_webhooks_are_told_beside_each_other_and_named_in_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow receiver holds up nobody else; its lease is renewed. With very many of them, nothing
    new is asked for."""
    async with at_work(monkeypatch) as (_, coordinator, receiver):
        receiver.open.clear()
        for token in range(1, HELD_MAX + 1):
            coordinator.leases.put_nowait(lease(token, 1))
        for _ in range(HELD_MAX):
            await asyncio.wait_for(receiver.sent.get(), PATIENCE_S)
        assert coordinator.calls[1]["held"] == [1]
        last = coordinator.calls[-1]
        assert (len(last["held"]), last["renew_only"]) == (HELD_MAX, True)
        assert [call["call"] for call in coordinator.calls] == list(range(1, HELD_MAX + 2))
        assert last["timeout"] * 3 == Settings().webhook_lease_ms


async def test_a_call_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router or the coordinator is away."""
    async with at_work(monkeypatch) as (_, coordinator, _receiver):
        coordinator.leases.put_nowait(Busy(detail="x"))
        coordinator.leases.put_nowait(lease(7, 1))
        assert (await coordinator.report())["delivered"] == 1


async def test_a_drain_ends_after_the_delivery_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The webhook is given back with the report, and the parked call is taken back, so that another
    gateway has both at once."""
    async with at_work(monkeypatch) as (delivery, coordinator, receiver):
        receiver.open.clear()
        coordinator.leases.put_nowait(lease(7, 1, 2))
        await asyncio.wait_for(receiver.sent.get(), PATIENCE_S)
        draining = asyncio.ensure_future(delivery.drain(PATIENCE_S))
        await asyncio.sleep(0)
        receiver.open.set()
        await draining
        assert await coordinator.report() == {"token": 7, "delivered": 1, "more": False}
        assert receiver.sent.empty()
        assert (coordinator.calls[-1]["timeout"], coordinator.calls[-1]["renew_only"]) == (0, True)


async def test_a_drain_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a receiver has not answered by then is told again by another gateway."""
    async with at_work(monkeypatch) as (delivery, coordinator, receiver):
        receiver.open.clear()
        coordinator.leases.put_nowait(lease(7, 1))
        await asyncio.wait_for(receiver.sent.get(), PATIENCE_S)
        await delivery.drain(0)
        assert coordinator.reports.empty()


async def test_a_server_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all programs are told to end at once, or the router never came up, nobody hears that the
    gateway ends; it once waited all of its time for that."""
    monkeypatch.setattr(webhook_delivery, "FAREWELL_S", 0)
    async with at_work(monkeypatch) as (delivery, coordinator, _):
        coordinator.hears.clear()
        await asyncio.wait_for(delivery.drain(1000 * PATIENCE_S), PATIENCE_S)
