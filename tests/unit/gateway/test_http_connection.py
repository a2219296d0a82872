"""Connections of clients that are slow, or say too much before they ask anything."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from flashq.gateway import http_connection
from flashq.gateway.http_commands import Handed
from flashq.gateway.http_connection import (
    DISCARDED_BYTES_MAX,
    HEAD_BYTES_MAX,
    HEAD_S,
    LET_IN,
    PEER,
    REQUEST_S,
    STRANGER_S,
    TESTED_UVICORN,
    UNREAD_BYTES_MAX,
    UNREAD_S,
    BoundedProtocol,
    BoundedServer,
    ServerWords,
    bounded_protocol,
    close_slow,
)
from flashq.gateway.http_places import STRANGERS_MIN, STRANGERS_SHARE, Places


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.9", 4711), "sockname": ("10.0.0.1", 6790)})
        self.written = b""
        self.is_closed = False
        self.is_paused = False
        #: what the client has not taken yet
        self.unread = 0

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += bytes(data)

    def close(self) -> None:
        """Note it."""
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        """Tell it."""
        return self.is_closed

    def pause_reading(self) -> None:
        """Note it."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Note it."""
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        """Tell it."""
        return self.unread

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Nobody asks for it."""


class Connection:
    """One connection to a server that answers every request as soon as all of it is there.

    Those that say `secret` in their address are let in first, those that say `refused` are answered
    before anything of their body was read.
    """

    def __init__(
        self,
        state: ServerState,
        protocol: type[BoundedProtocol] | None = None,
        answer: Any = None,
    ) -> None:
        self.asked: list[str] = []
        config = uvicorn.Config(
            answer or self._answer, interface="asgi3", log_config=None, proxy_headers=False
        )
        self.protocol = (protocol or bounded_protocol(Places(10)))(config, state, {})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)
        self._state = state

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if "secret" in scope["path"]:
            scope["extensions"][PEER][LET_IN]()
        while "refused" not in scope["path"] and (await receive()).get("more_body"):
            pass
        self.asked.append(scope["path"])
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
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
    await client.say(b"POST /secret HTTP/1.1\r\ncontent-length: 9\r\n\r\n123")
    client.pass_time(REQUEST_S - 1)
    assert not client.transport.is_closed
    client.pass_time(REQUEST_S + 1)
    assert client.transport.is_closed
    assert client.transport.written == b""


async def test_one_who_has_asked_may_take_its_time(state: ServerState) -> None:
    """Between requests the keep-alive counts, and a second request has time of its own."""
    client = Connection(state)
    await client.say(b"GET /secret HTTP/1.1\r\n\r\n")
    client.pass_time(REQUEST_S * 10)
    assert not client.transport.is_closed
    await client.say(b"GET /2 HTTP/1.1\r\n")
    await client.say(b"\r\n")
    assert client.asked == ["/secret", "/2"]
    await client.say(b"GET /3 HTTP/1.1\r\n")
    client.pass_time(HEAD_S + 1)
    assert client.refusal == (408, "request_timeout")


@pytest.mark.parametrize("line", [b"x: %b\r\n" % (b"y" * 1000), b"z" * 1000])
async def test_a_head_without_end_is_cut_off(state: ServerState, line: bytes) -> None:
    """Or it would take all memory."""
    client = Connection(state)
    await client.say(b"GET / HTTP/1.1\r\n")
    for _ in range(HEAD_BYTES_MAX // 1000 + 10):
        if not client.transport.is_closed:
            await client.say(line)
    assert client.refusal == (431, "message_too_large")
    assert client.asked == []


@pytest.mark.parametrize("path", [b"/", b"/" + b"p" * (HEAD_BYTES_MAX // 2)])
@pytest.mark.parametrize("excess", [-100, 1])
@pytest.mark.parametrize("lines", [1, 50])
async def test_the_bound_of_a_head_is_the_bound(
    state: ServerState, path: bytes, excess: int, lines: int
) -> None:
    """Also where all of it comes in one packet, and a second request behind it."""
    client = Connection(state)
    line = (HEAD_BYTES_MAX + excess - len(path)) // lines - len(b"x: \r\n")
    head = b"GET %b HTTP/1.1\r\n" % path + (b"x: %b\r\n" % (b"y" * (line + 1))) * lines
    await client.say(head + b"\r\nGET /2 HTTP/1.1\r\n\r\n")
    if excess > 0:
        assert client.refusal == (431, "message_too_large")
        assert client.asked == []
    else:
        assert client.asked == [path.decode(), "/2"]


async def test_a_large_body_is_no_large_head(state: ServerState) -> None:
    """It may come in the same packet."""
    client = Connection(state)
    size = 2 * HEAD_BYTES_MAX
    await client.say(b"POST /1 HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
    await client.say(b"GET /2 HTTP/1.1\r\n\r\n")
    assert client.asked == ["/1", "/2"]


CHUNKED = b"POST /secret HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "endless", [b"1;x=" + b"y" * 100_000, b"1\r\nx\r\n0\r\nx: " + b"y" * 100_000]
)
async def test_what_stands_around_a_body_has_a_bound_too(
    state: ServerState, endless: bytes
) -> None:
    """Extensions of chunks and headers behind a body are read by nobody, and still take memory."""
    client = Connection(state)
    await client.say(CHUNKED)
    await client.say(endless)
    await client.say(b"y" * HEAD_BYTES_MAX)
    await client.say(b"y")
    assert client.transport.is_closed
    assert client.asked == []


async def test_headers_behind_a_body_mean_nothing(state: ServerState) -> None:
    """Whoever reads headers later must not find others than before."""
    client = Connection(state)
    await client.say(CHUNKED + b"1\r\nx\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert client.asked == ["/secret"]
    assert client.protocol.headers == [(b"transfer-encoding", b"chunked")]


# --- those whom nobody knows yet


async def test_a_stranger_has_less_time_for_all_of_a_request(state: ServerState) -> None:
    """And for the next one after an answer, which ends without a word: there is no question."""
    client = Connection(state)
    await client.say(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n123")
    client.pass_time(STRANGER_S + 1)
    assert client.transport.is_closed
    idle = Connection(state)
    await idle.say(b"GET / HTTP/1.1\r\n\r\n")
    said = idle.transport.written
    idle.pass_time(STRANGER_S - 1)
    assert not idle.transport.is_closed
    idle.pass_time(STRANGER_S + 1)
    assert idle.transport.is_closed
    assert idle.transport.written == said


async def test_a_strangers_body_is_not_collected(state: ServerState) -> None:
    """It is not read before somebody asks for it; what comes behind an answer is read off, up to
    a bound."""
    client = Connection(state)
    client.protocol.data_received(b"POST /refused HTTP/1.1\r\ncontent-length: 99999999\r\n\r\nx")
    assert client.transport.is_paused
    await client.say(b"x")
    assert client.asked == ["/refused"]
    assert not client.transport.is_paused
    assert client.protocol.cycle.body == b""
    piece = b"x" * 100_000
    for _ in range(DISCARDED_BYTES_MAX // len(piece)):
        await client.say(piece)
        assert client.protocol.cycle.body == b""
    assert not client.transport.is_closed
    await client.say(piece)
    assert client.transport.is_closed


async def test_a_body_that_is_asked_for_is_read(state: ServerState) -> None:
    """Whether it comes with its head or later."""
    client = Connection(state)
    client.protocol.data_received(b"POST /secret HTTP/1.1\r\ncontent-length: 3\r\n\r\nx")
    assert client.transport.is_paused
    await client.say(b"")
    assert not client.transport.is_paused
    await client.say(b"yz")
    assert client.asked == ["/secret"]


async def test_a_flood_of_strangers_keeps_nobody_out(state: ServerState) -> None:
    """They share an eighth of the places; the first of them makes room for the next that comes,
    who has its time to ask."""
    protocol = bounded_protocol(Places(STRANGERS_MIN * STRANGERS_SHARE * 2))
    strangers = [Connection(state, protocol) for _ in range(STRANGERS_MIN * 2)]
    assert not any(client.transport.is_closed for client in strangers)
    friends = []
    for n in range(STRANGERS_MIN):
        friend = Connection(state, protocol)
        assert strangers[n].refusal == (503, "busy")
        await friend.say(b"GET /secret HTTP/1.1\r\n\r\n")
        friends.append(friend)
        strangers.append(Connection(state, protocol))
    assert all(client.asked == ["/secret"] for client in friends)
    assert not any(client.transport.is_closed for client in friends)
    assert not strangers[STRANGERS_MIN].transport.is_closed


async def test_when_all_places_are_taken_a_stranger_goes_first(state: ServerState) -> None:
    """And nobody that was let in: then the next one is refused, before it has asked anything."""
    protocol = bounded_protocol(Places(3))
    friends = [Connection(state, protocol) for _ in range(2)]
    for client in friends:
        await client.say(b"GET /secret HTTP/1.1\r\n\r\n")
    stranger, third = Connection(state, protocol), Connection(state, protocol)
    assert stranger.refusal == (503, "busy")
    stranger.protocol.connection_lost(None)
    await third.say(b"GET /secret HTTP/1.1\r\n\r\n")
    assert third.asked == ["/secret"]
    fourth = Connection(state, protocol)
    assert fourth.refusal == (503, "busy")
    assert not any(client.transport.is_closed for client in (*friends, third))


async def test_a_websocket_is_no_stranger_for_long(state: ServerState) -> None:
    """Whether it may be one is seen at once, by others; it never has to make room."""
    protocol = bounded_protocol(Places(1))
    socket = Connection(state, protocol)
    await socket.say(
        b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert socket.protocol not in state.connections
    socket.transport.is_closed = False
    assert Connection(state, protocol).refusal == (503, "busy")


# --- answers that nobody reads


async def test_one_who_takes_nothing_of_its_answer_is_let_go(state: ServerState) -> None:
    """As long as it takes something, it may take its time."""
    client = Connection(state)
    await client.say(b"GET /secret HTTP/1.1\r\n\r\n")
    for n, unread in enumerate((5000, 4000, 3000)):
        client.transport.unread = unread
        client.pass_time(n * UNREAD_S)
        assert not client.transport.is_closed
    client.pass_time(2.5 * UNREAD_S)
    assert not client.transport.is_closed
    client.pass_time(3.1 * UNREAD_S)
    assert client.transport.is_closed


async def test_all_unread_answers_have_a_bound_together(state: ServerState) -> None:
    """Who leaves most goes first, and no more than have to."""
    clients = [Connection(state) for _ in range(3)]
    for client, share in zip(clients, (3, 2, 1), strict=True):
        client.transport.unread = UNREAD_BYTES_MAX * share // 5
    clients[0].pass_time(0)
    assert [client.transport.is_closed for client in clients] == [True, False, False]


# --- the server underneath


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **more: Any) -> None:
        """Keep it."""
        self.lines.append(("debug", more))

    def error(self, event: str, **more: Any) -> None:
        """Keep it."""
        self.lines.append(("error", more))


def test_what_clients_do_wrong_is_no_line_for_everybody() -> None:
    """Anybody could fill the log, and a trace of the stack helps nobody; what is the server's own
    fault is told with it. The address of a WebSocket, with its token, is told at no level."""
    log = Log()
    words = logging.getLogger("uvicorn.error")
    before = words.handlers, words.level, words.propagate
    ServerWords.install(cast("Any", log))
    try:
        words.info('%s - "WebSocket %s" [accepted]', "x", "/ws?token=secret")
        words.warning("Invalid HTTP request received.")
        try:
            b"\xff".decode()
        except UnicodeDecodeError:
            words.exception("Invalid UTF-8 sequence received from client.")
        words.error("Exception in ASGI application\n", exc_info=KeyError("x"))
    finally:
        words.handlers, words.propagate = before[0], before[2]
        words.setLevel(before[1])
    assert [level for level, _ in log.lines] == ["debug", "debug", "error"]
    assert all("exc_info" not in more for level, more in log.lines if level == "debug")
    assert isinstance(log.lines[2][1]["exc_info"], KeyError)
    assert "secret" not in str(log.lines)


def test_the_server_is_one_that_the_connection_was_written_for() -> None:
    """uvicorn promises nothing of its protocol's inside. With another version, look at what
    `http_connection` overrides and reads, and then name that version there."""
    assert uvicorn.__version__.rpartition(".")[0] == TESTED_UVICORN


def test_nobody_else_knows_the_server_from_the_inside() -> None:
    """Another module may make its configuration, and nothing more."""
    root = Path(http_connection.__file__).parents[1]
    found = {
        str(path.relative_to(root)): set(re.findall(r"uvicorn[.\w]*", path.read_text()))
        for path in root.rglob("*.py")
        if re.search(r"^\s*(import|from) uvicorn", path.read_text(), re.MULTILINE)
    }
    assert set(found) == {"gateway/http.py", "gateway/http_connection.py"}
    assert found["gateway/http.py"] == {"uvicorn", "uvicorn.Config"}
    assert "server_state" not in (root / "gateway/http.py").read_text()


async def test_the_server_begins_and_ends_as_is_relied_on() -> None:
    """What is overridden is called, and what is set is heeded."""
    for name in ("startup", "on_tick", "capture_signals"):
        assert name in vars(BoundedServer)
        assert callable(getattr(uvicorn.Server, name))
    listening = socket.create_server(("127.0.0.1", 0))
    server = BoundedServer(
        uvicorn.Config(lambda *_: None, interface="asgi3", lifespan="off", log_config=None)
    )
    serving = asyncio.ensure_future(server.serve([listening]))
    await server.accepting(serving)
    assert server.connections == 0
    _, writer = await asyncio.open_connection(*listening.getsockname())
    writer.close()
    server.config.timeout_graceful_shutdown = 1
    server.should_exit = True
    await serving


async def test_a_server_that_cannot_begin_says_why() -> None:
    """It is not waited for in vain."""
    server = BoundedServer(uvicorn.Config("no.such:module", log_config=None))
    serving = asyncio.ensure_future(server.serve([]))
    with pytest.raises(ImportError):
        await server.accepting(serving)


async def test_the_server_has_inside_what_is_relied_on(state: ServerState) -> None:
    """By name and by kind: what is overridden is called by it, and what is read is there."""
    overridden = [
        name
        for name, value in vars(BoundedProtocol).items()
        if callable(value) and hasattr(HttpToolsProtocol, name) and not name.startswith("__")
    ]
    assert sorted(overridden) == [
        "connection_lost", "connection_made", "data_received", "handle_websocket_upgrade",
        "on_body", "on_header", "on_headers_complete", "on_message_begin", "on_message_complete",
        "on_response_complete", "on_url",
    ]  # fmt: skip
    client = Connection(state)
    protocol = client.protocol
    assert protocol.connections is state.connections
    assert protocol in state.connections
    assert protocol.cycle is None
    await client.say(b"POST /secret HTTP/1.1\r\ncontent-length: 2\r\n\r\nx")
    assert isinstance(protocol.flow, FlowControl)
    assert protocol.flow.read_paused is False
    assert isinstance(protocol.cycle, RequestResponseCycle)
    assert protocol.cycle.response_complete is False
    assert protocol.cycle.scope is protocol.scope
    assert PEER in protocol.scope["extensions"]
    await client.say(b"x")
    assert protocol.cycle.response_complete is True
    protocol.connection_lost(None)
    assert protocol not in state.connections


@pytest.mark.parametrize("goes", [True, False])
async def test_jobs_of_a_client_that_went_before_its_answer_go_back(
    state: ServerState, goes: bool
) -> None:
    """Story: the client reads slowly, so its answer waits; then it is gone, and the server drops
    the answer without a word."""
    given_back: list[bool] = []
    client = Connection(state, answer=Handed(b"{}", lambda: given_back.append(True)))
    client.protocol.pause_writing()
    await client.say(b"GET / HTTP/1.1\r\n\r\n")
    assert not client.transport.written
    if goes:
        client.protocol.connection_lost(None)
    else:
        client.protocol.resume_writing()
    await asyncio.gather(*state.tasks)
    assert bool(given_back) is goes
