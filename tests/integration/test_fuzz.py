"""Noise at every door: whatever comes, the server serves on within its memory and descriptors.

The seeds are fixed, so that a failure can be repeated. After each test the programs are those from
before it, each door serves, and what the noise took has been given back.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import grpc
import httpx
import pytest

from tests.contract.dealer import ANY, COORDINATOR, JSON, ROUTER, VERSION
from tests.integration.noise import as_json, as_msgpack, messages, spoilt
from tests.integration.serving import Witness
from tests.server import PATIENT, Server, eventually, resident_bytes

MIB: Final = 1024 * 1024
GROWTH_BYTES_MAX: Final = 96 * MIB
"""Of each program: allocators keep some of what they had, and jobs were made."""
DESCRIPTORS_MAX: Final = 4
"""How many more a program may hold afterwards: a libzmq socket takes a moment to close."""
MESSAGES: Final = 1500
READ_S: Final = 10.0
FIRST_ANSWER_S: Final = 0.1

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a server that only this module disturbs."""
    server = Server("--shards", "2", *PATIENT)
    try:
        server.wait_ready()
        yield server
        assert server.terminate() == 0, server.log()
        assert "Traceback" not in server.log()
    finally:
        server.close()


def port_of(server: Server, scheme: str) -> tuple[str, int]:
    """Return host and port of the door whose endpoint begins with a scheme."""
    (line,) = (line for line in server.lines if line.startswith(f"{scheme}://"))
    host, port = line.removeprefix(f"{scheme}://").split(":")
    return host, int(port)


def descriptors(pid: int) -> int:
    """Return how many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture(autouse=True)
def _serves_on(server: Server) -> Iterator[None]:
    """Look at programs, memory and descriptors before and after."""
    witness = Witness(server)
    witness.check()
    pids = server.pids()
    memory = {title: resident_bytes(pid) for title, pid in pids.items()}
    held = {title: descriptors(pid) for title, pid in pids.items()}
    yield
    witness.check()
    for title, pid in pids.items():
        assert resident_bytes(pid) - memory[title] < GROWTH_BYTES_MAX, title
        eventually(
            lambda pid=pid, title=title: descriptors(pid) <= held[title] + DESCRIPTORS_MAX,  # type: ignore[misc]
            f"the descriptors of {title} back at {held[title]}",
        )


@pytest.fixture
def connect() -> Iterator[Callable[[tuple[str, int]], socket.socket]]:
    """Return what makes a raw connection to a door."""
    made: list[socket.socket] = []

    def connected(address: tuple[str, int]) -> socket.socket:
        made.append(socket.create_connection(address, READ_S))
        return made[-1]

    yield connected
    for each in made:
        each.close()


def read_some(connection: socket.socket) -> bytes:
    """Return what comes next; nothing once the connection has ended."""
    with suppress(ConnectionError):
        return connection.recv(65_536)
    return b""


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Send what the server takes, say that it was all once it has had time to answer, and return
    what it says up to its end."""
    said = b""
    connection.settimeout(FIRST_ANSWER_S)
    with suppress(OSError):
        connection.sendall(data)
        with suppress(TimeoutError):
            said = connection.recv(65_536)
        connection.settimeout(READ_S)
        connection.shutdown(socket.SHUT_WR)
        while some := read_some(connection):
            said += some
    connection.close()
    return said


Connect = Callable[[tuple[str, int]], socket.socket]


# --- ZeroMQ


@pytest.mark.parametrize(("flags", "encode"), [(0, as_msgpack), (JSON, as_json)])
def test_requests_with_mistakes_over_zeromq(
    server: Server, flags: int, encode: Callable[[dict[str, Any]], bytes]
) -> None:
    """Each gets one answer under its own number, on whatever route it came; a pull may wait."""
    dealer = server.dealer(flags=flags)
    routes = (ANY, ANY, ANY, 0, 1, 7, COORDINATOR, ROUTER)
    try:
        for corr, data in enumerate(messages(11 + flags, MESSAGES, encode), 1):
            route = routes[corr % len(routes)]
            head = struct.pack(">BBHQ", VERSION, flags, route, corr)
            dealer.socket.send_multipart([head, data])
            if b"PULL" in data:
                continue
            reply = dealer.answer(corr)
            assert reply["ok"] in (True, False)
            assert reply["ok"] or reply["error"]
    finally:
        dealer.close()


GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 1 + 31)
READY: Final = b"\x04\x19\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
PAIR: Final = b"\x01\x0c" + struct.pack(">BBHQ", VERSION, 0, ANY, 1)
BODY: Final = as_msgpack({"cmd": "COUNT", "queue": "noise-a"})
STREAM: Final = GREETING + READY + (PAIR + bytes((0, len(BODY))) + BODY) * 3


def test_streams_of_zmtp_with_mistakes(server: Server, connect: Connect) -> None:
    """Greetings, handshakes, commands and frames that are cut, flipped or longer than they say."""
    chance = random.Random(21)
    address = port_of(server, "tcp")
    for _ in range(200):
        start = chance.choice((0, 0, len(GREETING), len(GREETING) + len(READY)))
        connection = connect(address)
        connection.settimeout(0.05)  # libzmq waits for the rest of what never comes
        data = STREAM[:start] + spoilt(chance, STREAM[start : chance.randrange(len(STREAM))])
        with suppress(OSError):
            connection.sendall(data)
            connection.recv(4096)
        connection.close()


# --- JSON lines and MessagePack frames over TCP


def as_line(request: dict[str, Any]) -> bytes:
    """Return a line."""
    return as_json(request) + b"\n"


def as_frame(request: dict[str, Any]) -> bytes:
    """Return a frame."""
    data = as_msgpack(request)
    return struct.pack(">I", len(data)) + data


@pytest.mark.parametrize("encode", [as_line, as_frame])
def test_requests_with_mistakes_over_tcp(
    server: Server, connect: Connect, encode: Callable[[dict[str, Any]], bytes]
) -> None:
    """Many to a connection: where one makes the rest unreadable, the connection ends."""
    address = port_of(server, "json")
    data = messages(31, MESSAGES, encode)
    said = b"".join(
        exchange(connect(address), b"".join(data[first : first + 50]))
        for first in range(0, MESSAGES, 50)
    )
    assert said.count(b'"ok":true') + said.count(b"\xa2ok\xc3") > 20
    assert said.count(b'"ok":false') + said.count(b"\xa2ok\xc2") > 20


# --- HTTP and WebSocket


def test_requests_with_mistakes_over_http(server: Server) -> None:
    """Bodies of every kind at routes that take one: an answer in JSON, never a 500."""
    host, port = port_of(server, "http")
    chance = random.Random(41)
    paths = (
        *("/queues/noise-a/jobs", "/queues/noise-a/jobs/batch", "/queues/noise-a/flows"),
        *("/jobs/5/ack", "/jobs/5/fail", "/jobs/ack", "/jobs/get", "/jobs/5/progress"),
        *("/crons/noise", "/queues/noise-a/rate-limit", "/queues/noise-a/clean", "/webhooks"),
    )
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=30.0) as client:
        for data in messages(42, MESSAGES // 3, as_json):
            response = client.post(
                chance.choice(paths), content=data, headers={"content-type": "application/json"}
            )
            assert response.status_code < 500 or response.json()["retryable"], response.text
            assert "ok" in response.json()


REQUEST: Final = (
    b"POST /queues/noise-a/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 10\r\n\r\n{"data":1}'
)
UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAMES: Final = (
    b"\x81\x85\x01\x02\x03\x04" + bytes((0x68 ^ 1, 0x65 ^ 2, 0x6C ^ 3, 0x6C ^ 4, 0x6F ^ 1))
    + b"\x81\x82\0\0\0\0\xff\xfe\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8"
)  # fmt: skip


@pytest.mark.parametrize("whole", [REQUEST, UPGRADE + FRAMES])
def test_streams_of_http_with_mistakes(server: Server, connect: Connect, whole: bytes) -> None:
    """Heads and bodies that are cut, doubled or flipped, and frames after an upgrade."""
    chance = random.Random(51)
    address = port_of(server, "http")
    statuses = set()
    for _ in range(150):
        intact = chance.choice((0, 0, len(UPGRADE))) if whole.startswith(UPGRADE) else 0
        end = chance.choice((len(whole), chance.randrange(len(whole)) + 1))
        data = whole[:intact] + spoilt(chance, whole[intact:end])
        statuses.add(exchange(connect(address), data)[:12])
    assert b"HTTP/1.1 400" in statuses
    assert statuses & {b"HTTP/1.1 200", b"HTTP/1.1 101"}


# --- gRPC

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


def test_streams_of_http2_with_mistakes(server: Server, connect: Connect) -> None:
    """Frames of HTTP/2 with any type, flags, stream and length."""
    chance = random.Random(61)
    address = port_of(server, "grpc")
    for _ in range(100):
        frames = PREFACE
        for _ in range(chance.randrange(12)):
            body = chance.randbytes(chance.randrange(60))
            kind = bytes((chance.randrange(11), chance.randrange(256)))
            frames += (
                struct.pack(">I", len(body))[1:]
                + kind
                + struct.pack(">I", chance.randrange(8))
                + body
            )
        connection = connect(address)
        connection.settimeout(0.05)
        with suppress(OSError):
            connection.sendall(spoilt(chance, frames))
            connection.recv(4096)
        connection.close()


def test_messages_of_protobuf_with_mistakes(server: Server) -> None:
    """Bytes where a message should be: the call fails with a status, and the next one works."""
    codes = set()
    host, port = port_of(server, "grpc")
    chance = random.Random(71)
    push = b'\n\x07noise-a\x12\x08{"a": 1}\x18\x05'
    methods = ("Push", "PushBatch", "Pull", "Ack", "AckBatch", "Fail", "GetState", "Stats")
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for _ in range(MESSAGES // 3):
            method = f"/flashq.QueueService/{chance.choice(methods)}"
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            codes.add(_code_of(call, spoilt(chance, push)))
    assert grpc.StatusCode.OK in codes
    assert grpc.StatusCode.UNKNOWN not in codes


def _code_of(call: grpc.UnaryUnaryMultiCallable[bytes, bytes], data: bytes) -> grpc.StatusCode:
    """Return the status that a call ends with."""
    try:
        call(data, timeout=1.0)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK
