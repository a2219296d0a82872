"""What the HTTP door asks before a command is carried out."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from flashq.errors import WebhookInvalid
from flashq.gateway.asking import read_ask
from flashq.gateway.http_commands import check_target


def webhook(url: str) -> bytes:
    """Return a request for a webhook."""
    return json.dumps({"cmd": "WEBHOOK", "url": url, "events": ["*"]}).encode()


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    async def resolve(*_args: object, **_more: object) -> list[object]:
        return [(0, 0, 0, "", (address, 80)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)


@pytest.mark.parametrize("addresses", [["10.0.0.5"], ["127.0.0.1", "::1"], ["64:ff9b:1::1"]])
async def test_a_name_that_leads_to_private_addresses_is_refused(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """As names in a network of containers do: nothing would ever be told there."""
    resolves_to(monkeypatch, *addresses)
    with pytest.raises(WebhookInvalid, match="webhook_private_targets"):
        await check_target(read_ask(webhook("http://receiver/hook"), json=True))


async def test_a_name_with_a_public_address_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only public ones of its addresses are connected to."""
    resolves_to(monkeypatch, "10.0.0.5", "8.8.8.8")
    await check_target(read_ask(webhook("http://receiver/hook"), json=True))


async def test_a_name_that_has_no_address_now_may_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judgement is made again for each delivery."""

    async def resolve(*_args: object, **_more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    await check_target(read_ask(webhook("http://receiver/hook"), json=True))


@pytest.mark.parametrize("url", ["", "x", "ftp://x/", "http://x:port/", "http://[::1", "http:///"])
async def test_what_is_no_url_is_somebody_elses_to_refuse(url: str) -> None:
    """The coordinator says what is wrong with it."""
    await check_target(read_ask(webhook(url), json=True))
