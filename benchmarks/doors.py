"""The figures of the gateway's doors, with clients that cost as little as a client can.

Each is one thread over plain sockets that sends bytes made beforehand and looks at no more of a
reply than where it ends: what is measured is the server, on the same cores.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter, sleep
from typing import Final

import msgpack

from benchmarks import figures
from benchmarks.server import Server
from flashq import Client

LISTENERS: Final = 1000
RECEIVE_BYTES: Final = 1 << 18
_LENGTH: Final = struct.Struct(">I")

Replies = Callable[[bytes], int]
"""Counts the complete replies in what one connection has received, which it keeps between calls."""


def _connect(address: tuple[str, int]) -> socket.socket:
    found = socket.create_connection(address)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


# --- where replies end


def _lines() -> Replies:
    return lambda data: data.count(b"\n")


def _frames() -> Replies:
    rest = b""

    def count(data: bytes) -> int:
        nonlocal rest
        rest += data
        at = done = 0
        while len(rest) >= at + 4 and len(rest) >= at + 4 + _LENGTH.unpack_from(rest, at)[0]:
            at += 4 + _LENGTH.unpack_from(rest, at)[0]
            done += 1
        rest = rest[at:]
        return done

    return count


def _responses() -> Replies:
    rest = b""

    def count(data: bytes) -> int:
        nonlocal rest
        rest += data
        done = 0
        while (end := rest.find(b"\r\n\r\n")) >= 0:
            head = rest[:end].lower()
            assert head.startswith(b"http/1.1 200 "), rest[:200]
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(rest) < end + 4 + size:
                break
            rest = rest[end + 4 + size :]
            done += 1
        return done

    return count


# --- requests a second


def _rate(
    address: tuple[str, int],
    request: bytes,
    replies: Callable[[], Replies],
    connections: int,
    in_flight: int,
) -> float:
    """Return requests a second.

    Args:
        address: of the door.
        request: what is sent again and again.
        replies: makes what counts a connection's replies.
        connections: how many.
        in_flight: requests without a reply on each of them.
    """
    done = 0
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(connections):
            one = stack.enter_context(_connect(address))
            selector.register(one, selectors.EVENT_READ, replies())
        started = perf_counter()
        for key in selector.get_map().values():
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.sendall(request * in_flight)
        while (elapsed := perf_counter() - started) < figures.SECONDS:
            for key, _ in selector.select(figures.SECONDS):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(RECEIVE_BYTES)
                assert data, "the server has closed the connection"
                found = key.data(data)
                if found:
                    done += found
                    key.fileobj.sendall(request * found)
    return done / elapsed


def _line(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def line_batches(server: Server) -> float:
    """Jobs a second: PUSHB of 1,000, JSON lines, one connection, four in flight."""
    request = _line(cmd="PUSHB", queue="lines", jobs=figures.entries())
    return figures.BATCH * _rate(server.address("json"), request, _lines, 1, 4)


def frame_batches(server: Server) -> float:
    """Jobs a second: the same in MessagePack."""
    body = msgpack.packb({"cmd": "PUSHB", "queue": "frames", "jobs": figures.entries()})
    request = _LENGTH.pack(len(body)) + body
    return figures.BATCH * _rate(server.address("json"), request, _frames, 1, 4)


def line_pushes(server: Server, connections: int, in_flight: int) -> float:
    """Single pushes a second, JSON lines; those in flight together name a request id."""
    name = {"reqId": "r1"} if in_flight > 1 else {}
    request = _line(cmd="PUSH", queue="single", data=figures.PAYLOAD, **name)
    return _rate(server.address("json"), request, _lines, connections, in_flight)


def http_pushes(server: Server, connections: int = 64) -> float:
    """Pushes a second over HTTP, one in flight on each connection, as `wrk` does it."""
    body = json.dumps({"data": figures.PAYLOAD}).encode()
    head = (
        "POST /queues/http/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return _rate(server.address("http"), head.encode() + body, _responses, connections, 1)


# --- idle listeners


@contextmanager
def _listeners(address: tuple[str, int], count: int) -> Iterator[None]:
    """Have so many WebSocket connections follow a queue in which nothing happens."""
    key = b64encode(os.urandom(16)).decode()
    request = (
        f"GET /ws/quiet HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\nupgrade: websocket\r\n"
        f"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(_connect(address))
            one.sendall(request)
            answer = one.recv(4096)
            assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield


def _rates(server: Server) -> tuple[float, float]:
    """Return the rates of pushes in batches and one by one, and leave nothing of them waiting."""
    rates = figures.push_batches(server), line_pushes(server, 1, 100)
    with Client(server.url) as client:
        for queue in client.list_queues():
            client.obliterate(queue.name)
    return rates


def listeners(server: Server, rounds: int = 3) -> tuple[float, float, float]:
    """Return what 1,000 idle WebSocket listeners cost: MB, and the shares of the rate of pushes
    that are left, in batches over ZeroMQ and one by one over TCP.

    Both are measured with and without listeners by turns, as the machine may change meanwhile.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    address = server.address("http")
    megabytes: list[float] = []
    batches: list[float] = []
    singles: list[float] = []
    with _listeners(address, 1):  # so that what the first one brings is there before
        pass
    for _ in range(rounds):
        before = server.memory_bytes("flashq-gateway")
        alone = _rates(server)
        with _listeners(address, LISTENERS):
            megabytes.append((server.memory_bytes("flashq-gateway") - before) / 1e6)
            beside = _rates(server)
        batches.append(beside[0] / alone[0])
        singles.append(beside[1] / alone[1])
        sleep(1)  # the connections are closed
    return megabytes[0], median(batches), median(singles)
