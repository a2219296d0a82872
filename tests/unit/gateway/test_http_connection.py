"""Connections of clients that are slow, or say too much before they ask anything."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from flashq.gateway.http_connection import (
    HEAD_BYTES_MAX,
    HEAD_S,
    REQUEST_S,
    BoundedProtocol,
    close_slow,
)


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.9", 4711), "sockname": ("10.0.0.1", 6790)})
        self.written = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += bytes(data)

    def close(self) -> None:
        """Note it."""
        self.is_closed = True

    def is_closing(self) -> bool:
        """Tell it."""
        return self.is_closed

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


class Connection:
    """One connection to a server that answers every request as soon as all of it is there."""

    def __init__(self, state: ServerState, connections_max: int = 10) -> None:
        self.asked: list[str] = []
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            limit_concurrency=connections_max + 1,
            log_config=None,
            proxy_headers=False,
        )
        self.protocol = BoundedProtocol(config, state, {})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)
        self._state = state

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})

    async def say(self, data: bytes) -> None:
        """Send bytes, and let the server do what it can."""
        self.protocol.data_received(data)
        for _ in range(10):
            await asyncio.sleep(0)

    def pass_time(self, seconds: float) -> None:
        """Let the server look for slow clients at a time that is so much later than now."""
        close_slow(self._state.connections, asyncio.get_running_loop().time() + seconds)

    @property
    def refusal(self) -> tuple[int, str]:
        """The status and the code of what it was refused with."""
        head, _, body = self.transport.written.rpartition(b"\r\n\r\n")
        assert b"connection: close" in head
        return int(head.rpartition(b"HTTP/1.1 ")[2][:3]), json.loads(body)["code"]


@pytest.fixture
def state() -> ServerState:
    """Return what the connections of one server share."""
    return ServerState()


async def test_one_who_says_nothing_is_let_go(state: ServerState) -> None:
    """A connection costs memory and a descriptor."""
    client = Connection(state)
    client.pass_time(HEAD_S / 2)
    assert not client.transport.is_closed
    client.pass_time(HEAD_S + 1)
    assert client.transport.is_closed
    assert client.refusal == (408, "request_timeout")


async def test_one_who_drips_headers_is_let_go(state: ServerState) -> None:
    """The time counts from the request's first byte, whatever comes after it."""
    client = Connection(state)
    await client.say(b"GET / HTTP/1.1\r\n")
    for _ in range(20):
        await client.say(b"x: y\r\n")
    client.pass_time(HEAD_S + 1)
    assert client.refusal == (408, "request_timeout")


async def test_one_who_drips_a_body_is_let_go(state: ServerState) -> None:
    """It has longer, as a body may be large; nothing is said into an answer under way."""
    client = Connection(state)
    await client.say(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n123")
    client.pass_time(HEAD_S + 1)
    assert not client.transport.is_closed
    client.pass_time(REQUEST_S + 1)
    assert client.transport.is_closed
    assert client.transport.written == b""


async def test_one_who_has_asked_may_take_its_time(state: ServerState) -> None:
    """Between requests the keep-alive counts, and a second request has time of its own."""
    client = Connection(state)
    await client.say(b"GET /1 HTTP/1.1\r\n\r\n")
    client.pass_time(REQUEST_S * 10)
    assert not client.transport.is_closed
    await client.say(b"GET /2 HTTP/1.1\r\n")
    await client.say(b"\r\n")
    assert client.asked == ["/1", "/2"]
    await client.say(b"GET /3 HTTP/1.1\r\n")
    client.pass_time(HEAD_S + 1)
    assert client.refusal == (408, "request_timeout")


@pytest.mark.parametrize("line", [b"x: %b\r\n" % (b"y" * 1000), b"z" * 1000])
async def test_a_head_without_end_is_cut_off(state: ServerState, line: bytes) -> None:
    """Or it would take all memory."""
    client = Connection(state)
    await client.say(b"GET / HTTP/1.1\r\n")
    for _ in range(HEAD_BYTES_MAX // 1000):
        if not client.transport.is_closed:
            await client.say(line)
    await client.say(line)
    assert client.refusal == (431, "message_too_large")
    assert client.asked == []


async def test_a_large_body_is_no_large_head(state: ServerState) -> None:
    """It may come in the same packet."""
    client = Connection(state)
    size = 2 * HEAD_BYTES_MAX
    await client.say(b"POST /1 HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
    await client.say(b"GET /2 HTTP/1.1\r\n\r\n")
    assert client.asked == ["/1", "/2"]


async def test_more_connections_than_there_may_be_are_refused(state: ServerState) -> None:
    """At once, before they have asked anything."""
    clients = [Connection(state, 2) for _ in range(3)]
    assert [client.transport.is_closed for client in clients] == [False, False, True]
    assert clients[2].refusal == (503, "busy")
