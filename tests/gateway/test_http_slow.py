"""The HTTP door before clients that hold connections and ask nothing, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from flashq.config import Settings
from flashq.gateway import http_connection
from flashq.gateway.bridge import Bridge
from flashq.gateway.http import HttpDoor
from tests.server import Server


@pytest.fixture
async def address(doors: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, int]]:
    """Return where a door is that often looks for slow clients, with room for three of them."""
    monkeypatch.setattr(http_connection, "TICKS_PER_LOOK", 1)
    bridge = Bridge(doors.ipc_url, 4)
    bridge.start()
    door = HttpDoor(bridge, Settings(storage="memory:", gateway_connections_max=3))
    where = urlsplit(await door.listen("127.0.0.1", 0))
    yield where.hostname or "", where.port or 0
    await door.drain(5)
    await bridge.close()


POST = b"POST /queues/q/jobs HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 99\r\n"


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nx: y\r\n", POST])
async def test_a_slow_client_is_let_go(
    address: tuple[str, int], said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as many as want to: each makes room for the next."""
    monkeypatch.setattr(http_connection, "HEAD_S", 0.05)
    for _ in range(3):
        clients = [await asyncio.open_connection(*address) for _ in range(3)]
        for reader, writer in clients:
            writer.write(said)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request_timeout"
            writer.close()


async def test_a_slow_body_is_not_waited_for(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends; the request that it was part of is not carried out."""
    monkeypatch.setattr(http_connection, "REQUEST_S", 0.05)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(POST + b"\r\n{")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
