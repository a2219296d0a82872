"""Webhooks on the wire: the table, what could not be told, and the conversation of deliverers."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from tests.contract.dealer import JSON, Dealer
from tests.contract.refusals import refused
from tests.contract.states import push

URL = f"http://{'x' * 64}.invalid/hook"
"""Nobody listens there, and the server may not tell it anything."""


def listed(dealer: Dealer, webhook: str) -> dict[str, Any]:
    """Return a webhook as the list has it."""
    reply = dealer.ask("WEBHOOKLIST")
    assert list(reply) == ["ok", "webhooks"]
    (found,) = [one for one in reply["webhooks"] if one["id"] == webhook]
    assert isinstance(found, dict)
    return found


@pytest.mark.covers("WEBHOOK", "WEBHOOKLIST", "WEBHOOKDELETE")
def test_a_webhook_is_listed_without_its_secret_and_removed_by_id(
    dealer: Dealer, queue: str
) -> None:
    """Whoever may read the list must not be able to sign in the server's name."""
    made = {"url": URL, "events": ["job.completed", "failed"], "queue": queue}
    reply = dealer.ask("WEBHOOK", **made, secret="tell nobody")
    webhook = reply["id"]
    assert reply == {"ok": True, "id": webhook}
    assert webhook.startswith("wh_")
    found = listed(dealer, webhook)
    assert found.pop("created_at") > 0
    assert found == made | {
        "id": webhook, "secret": None, "signed": True, "pending": 0, "dead": 0, "evicted": 0,
        "dropped": 0, "last_error": None, "delivered": 0, "failed": 0, "retried": 0,
    }  # fmt: skip
    assert dealer.ask("WEBHOOK", url=URL, events=["*"], webhook=webhook)["id"] == webhook
    found = listed(dealer, webhook)
    assert (found["events"], found["queue"], found["signed"]) == (["*"], None, True)
    assert dealer.ask("WEBHOOKDELETE", webhook=webhook) == {"ok": True}
    assert refused(dealer, "WEBHOOKDELETE", webhook=webhook) == "Webhook not found"


@pytest.mark.covers("WEBHOOK")
def test_a_webhook_that_could_never_be_told_anything_is_refused(dealer: Dealer) -> None:
    """No address, no event, an event that does not exist, one that is not there to replace."""
    for url in ("", "x", "ftp://x/", "http://", "http://x:99999/", "http://x/ y", "http://é/"):
        text = refused(dealer, "WEBHOOK", url=url, events=["*"])
        assert text == "Webhook URL must be an ASCII http:// or https:// URL with a host"
    text = refused(dealer, "WEBHOOK", url="http://user:word@x/", events=["*"])
    assert text == "Webhook URL must not hold a user name or password"
    text = refused(dealer, "WEBHOOK", url=URL, events=[])
    assert text == "Webhook must name at least one event"
    text = refused(dealer, "WEBHOOK", url=URL, events=["finished"])
    assert text.startswith("Unknown event 'finished'. Use: pushed, ")
    text = refused(dealer, "WEBHOOK", url=URL, events=["*"], webhook="wh_7")
    assert text == "Webhook not found"


@pytest.mark.covers("WEBHOOKPULL", "WEBHOOKDONE", "WEBHOOKDEAD", "WEBHOOKRETRY")
def test_who_delivers_is_refused_what_is_not_its_own(dealer: Dealer, queue: str) -> None:
    """A report without a lease changes nothing; nothing was told, so nothing is dead."""
    webhook = dealer.ask("WEBHOOK", url=URL, events=["failed"], queue=queue)["id"]
    raw = os.urandom(16)
    holder: Any = base64.b64encode(raw).decode() if dealer.flags & JSON else raw
    push(dealer, queue)
    reply = dealer.ask("WEBHOOKPULL", holder=holder, call=1, timeout=0, renew_only=True)
    assert reply == {"ok": True, "lease": None}
    text = refused(dealer, "WEBHOOKDONE", token=1, delivered=2)
    assert text == "lease lost: the webhook is no longer yours"
    reply = dealer.ask("WEBHOOKDEAD", webhook=webhook)
    assert reply == {"ok": True, "deliveries": [], "total": 0}
    assert dealer.ask("WEBHOOKRETRY", webhook=webhook) == {"ok": True, "count": 0}
    text = refused(dealer, "WEBHOOKRETRY", delivery=1)
    assert text == "Webhook missing: a delivery is one of a webhook"
    for word in ("WEBHOOKDEAD", "WEBHOOKRETRY"):
        assert refused(dealer, word, webhook="wh_7") == "Webhook not found"
    dealer.ask("WEBHOOKDELETE", webhook=webhook)
