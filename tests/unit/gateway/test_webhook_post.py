"""One request to a webhook: what counts as an answer, and what is never connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from flashq.gateway.webhook_post import HEAD_BYTES_MAX, NotPublic, PostFailed, post
from flashq.gateway.webhooks import Target

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SOON_S = 0.05
LATE_S = 10.0


@asynccontextmanager
async def receiver(handle: Handler) -> AsyncIterator[Target]:
    """Listen on loopback for the length of a block."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Target("127.0.0.1", port, False, f"127.0.0.1:{port}", "/hook?a=b")
    finally:
        server.close()
        await server.wait_closed()


def saying(answer: bytes, heard: list[bytes] | None = None) -> Handler:
    """Answer each request so, and close."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(head + await reader.readexactly(2))
        writer.write(answer)
        writer.close()

    return handle


async def status_of(answer: bytes) -> int:
    """Post to a receiver that answers so."""
    async with receiver(saying(answer)) as target:
        return await post(target, [], b"{}", timeout_s=LATE_S, allow_private=True)


async def test_the_request_is_plain_http() -> None:
    """One connection for one request: nothing of an answer can be taken for that of the next."""
    heard: list[bytes] = []
    async with receiver(saying(b"HTTP/1.1 204 No Content\r\n\r\n", heard)) as target:
        status = await post(target, [("X-One", "1")], b"{}", timeout_s=LATE_S, allow_private=True)
    assert status == 204
    head, body = heard[0].split(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /hook?a=b HTTP/1.1"
    assert lines[1] == f"Host: {target.host_header}"
    assert lines[3:] == ["Content-Length: 2", "Connection: close", "X-One: 1"]
    assert body == b"{}"


async def test_the_status_is_what_counts_and_redirects_are_not_followed() -> None:
    """Whoever follows a redirect can be led to where no webhook may lead."""
    assert await status_of(b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello") == 201
    found = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n"
    assert await status_of(found) == 302
    assert await status_of(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n") == 500


async def test_a_redirect_leads_nowhere() -> None:
    """Neither to the receiver's own other address, nor to anybody: its status is the answer."""
    heard: list[bytes] = []
    async with receiver(saying(b"HTTP/1.1 204 No\r\n\r\n", heard)) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            answer = b"HTTP/1.1 %d X\r\nLocation: http://127.0.0.1:%d/\r\n\r\n"
            assert await status_of(answer % (status, elsewhere.port)) == status
    assert not heard


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "the connection was closed without an answer"),
        (b"HTTP/1.1 200", "the connection was closed without an answer"),
        (b"SSH-2.0-x\r\n\r\n", "."),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX, "the head of the answer is larger"),
    ],
    ids=["nothing", "half", "no HTTP", "endless"],
)
async def test_what_is_no_answer_is_a_failure(answer: bytes, text: str) -> None:
    """And says so, for whoever reads the list of dead deliveries."""
    with pytest.raises(PostFailed, match=text):
        await status_of(answer)


async def test_a_receiver_that_says_nothing_is_given_up() -> None:
    """It must not hold up everything behind it for ever. On a slow machine the time may be up
    before it is reached: then it is given more."""
    reached, gone = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readline()
        if head:
            reached.set()
        await reader.read()  # until the other end is gone
        if head:
            gone.set()
        writer.close()

    timeout_s = SOON_S
    async with receiver(handle) as target:
        while not reached.is_set():
            with pytest.raises(PostFailed, match="no answer within"):
                await post(target, [], b"{}", timeout_s=timeout_s, allow_private=True)
            timeout_s *= 2
        await gone.wait()


async def test_nobody_is_there() -> None:
    """A refused connection is a failure like others."""
    async with receiver(saying(b"")) as target:
        pass
    with pytest.raises(PostFailed):
        await post(target, [], b"{}", timeout_s=LATE_S, allow_private=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "2130706433", "0x7f.1", "0"])
async def test_a_private_address_is_not_connected_to(host: str) -> None:
    """Neither by number nor by a name or a spelling that leads there."""
    heard: list[bytes] = []
    async with receiver(saying(b"", heard)) as target:
        there = Target(host, target.port, False, host, "/")
        with pytest.raises(PostFailed, match="not a public address"):
            await post(there, [], b"{}", timeout_s=LATE_S, allow_private=False)
    assert not heard


async def test_the_address_connected_to_is_the_one_that_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that resolves to a public address when asked first, and to loopback a moment later,
    is asked only once."""
    connected: list[str] = []

    async def connect(address: str, _port: int) -> None:
        connected.append(address)
        raise ConnectionRefusedError("nobody")

    async def resolve(*_args: object, **_more: object) -> list[object]:
        return [(0, 0, 0, "", (address, 80)) for address in ("10.0.0.1", "8.8.8.8", "8.8.8.8")]

    monkeypatch.setattr(asyncio, "open_connection", connect)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    target = Target("example.com", 80, False, "example.com", "/")
    with pytest.raises(PostFailed, match="nobody"):
        await post(target, [], b"{}", timeout_s=LATE_S, allow_private=False)
    assert connected == ["8.8.8.8"]


async def test_a_public_name_that_resolves_to_private_addresses_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody can give a name of his own any address."""
    private = ("10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fec0::1", "64:ff9b:1::1")

    async def resolve(*_args: object, **_more: object) -> list[object]:
        return [(0, 0, 0, "", (address, 80)) for address in private]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    target = Target("example.com", 80, False, "example.com", "/")
    with pytest.raises(NotPublic, match=r"10\.0\.0\.1.*webhook_private_targets"):
        await post(target, [], b"{}", timeout_s=LATE_S, allow_private=False)


async def test_a_name_that_does_not_exist_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names it."""

    async def resolve(*_args: object, **_more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    target = Target("nowhere.invalid", 80, False, "nowhere.invalid", "/")
    with pytest.raises(PostFailed, match=r"nowhere\.invalid cannot be resolved"):
        await post(target, [], b"{}", timeout_s=LATE_S, allow_private=False)
