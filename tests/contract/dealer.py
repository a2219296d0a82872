"""A client of pyzmq and msgpack alone, as somebody without flashq would write it.

Owns the frames of docs/PROTOCOL.md in their shortest form. It imports nothing of flashq, so that a
mistake that server and client share cannot hide.
"""

from __future__ import annotations

import itertools
import json
import struct
from typing import Any, Final

import msgpack
import zmq

VERSION: Final = 1
JSON, FULL, REPLY, NOTICE, DELIVERY = 0x01, 0x02, 0x04, 0x08, 0x10
ANY, COORDINATOR, ROUTER = 0xFFFF, 0xFFFE, 0xFFFD
TIMEOUT_MS: Final = 20_000
"""For what has to come; only a broken server makes a test wait so long."""


class Silence(AssertionError):
    """Nothing came in time."""


class Dealer:
    """One connection.

    Args:
        url: where to.
        flags: of every request: JSON, FULL.
        identity: the ZeroMQ routing id; the server gives one when it is empty.
        reconnects: whether it comes again by itself when its connection has ended.
    """

    def __init__(
        self, url: str, *, flags: int = 0, identity: bytes = b"", reconnects: bool = True
    ) -> None:
        self.flags = flags
        self.url = url
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20 if reconnects else -1)
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(url)
        self._corrs = itertools.count(1)
        #: replies that have come, and nobody has taken yet
        self.answers: dict[int, dict[str, Any]] = {}
        #: what came that nobody asked for, and nobody has taken yet
        self.notices: list[dict[str, Any]] = []
        #: flags and route of each reply's header
        self.headers: dict[int, tuple[int, int]] = {}

    def send(self, cmd: str, **fields: Any) -> int:
        """Send one request; return the number that its reply will carry. The field `route` goes
        into the header."""
        corr, route = next(self._corrs), fields.pop("route", ANY)
        self.socket.send_multipart(self.pair(corr, {"cmd": cmd, **fields}, route=route))
        return corr

    def pair(self, corr: int, body: Any, *, route: int = ANY) -> list[bytes]:
        """Return the two frames of a request."""
        data = json.dumps(body).encode() if self.flags & JSON else msgpack.packb(body)
        return [struct.pack(">BBHQ", VERSION, self.flags, route, corr), data]

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """Send one request and return its reply."""
        return self.answer(self.send(cmd, **fields))

    def answer(self, corr: int, timeout_ms: int = TIMEOUT_MS) -> dict[str, Any]:
        """Return the reply to a request."""
        while corr not in self.answers:
            self._receive(timeout_ms)
        return self.answers.pop(corr)

    def notice(self, timeout_ms: int = TIMEOUT_MS) -> dict[str, Any]:
        """Return the next message that nobody asked for."""
        while not self.notices:
            self._receive(timeout_ms)
        return self.notices.pop(0)

    def _receive(self, timeout_ms: int) -> None:
        if not self.socket.poll(timeout_ms):
            raise Silence(f"nothing within {timeout_ms} ms")
        frames = self.socket.recv_multipart()
        for header, body in zip(frames[::2], frames[1::2], strict=True):
            version, flags, route, corr = struct.unpack(">BBHQ", header)
            assert version == VERSION
            assert flags & (REPLY | NOTICE)
            assert flags & JSON == self.flags & JSON, "a reply comes in the encoding of its request"
            message = json.loads(body) if flags & JSON else msgpack.unpackb(body)
            self.headers[corr] = (flags, route)
            if flags & NOTICE:
                self.notices.append(message)
            else:
                self.answers[corr] = message

    def close(self) -> None:
        """Vanish: nothing is said, nothing is waited for."""
        self.socket.close(0)
        self._context.term()
