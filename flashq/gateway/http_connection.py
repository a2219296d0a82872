"""One connection to the HTTP door, with bounds on what a client may do before it has asked.

Owns how long a request may take to arrive, how large its head may be, and how many connections
there are. The server's protocol knows of none of these: a client that sends a byte now and then
would hold a connection for ever, and one that sends headers without end the memory. What a request
says, and what its answer is, is the protocol's; but head and body of it leave in one piece here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flashq.errors import Busy, FlashQError, MessageTooLarge, RequestTimeout
from flashq.gateway.http_replies import error_body

HEAD_S: Final = 10.0
"""How long a request's head may take to arrive, and a connection to begin with the first."""
REQUEST_S: Final = 60.0
"""How long all of a request may take."""
HEAD_BYTES_MAX: Final = 64 * 1024
HELD_BYTES_MAX: Final = 64 * 1024
"""Above it what is written leaves at once, so that the protocol is told when nobody reads it."""
HEAD_TOO_LARGE_STATUS: Final = 431

_PHRASES: Final = {
    408: b"Request Timeout",
    503: b"Service Unavailable",
    HEAD_TOO_LARGE_STATUS: b"Request Header Fields Too Large",
}


class JoiningTransport:
    """A transport that sends in one piece what is written in one turn of the loop: the protocol
    writes head and body of an answer apart, which would cost a system call and a packet each.

    Args:
        transport: what it sends over, and what does everything else.
        loop: whose turns count.
    """

    __slots__ = ("_held", "_held_bytes", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this before the loop waits again."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES_MAX:
            self._flush()

    def close(self) -> None:
        """Close, once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if not self._held:
            return
        held, self._held, self._held_bytes = self._held, [], 0
        if not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))


class BoundedProtocol(HttpToolsProtocol):
    """The server's protocol, with these bounds."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: when the request that is arriving has begun; None while none is
        self._begun_s: float | None = self.loop.time()
        #: its head is not complete
        self._is_in_head = True
        self._head_bytes = 0

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Let the client in, if there is room."""
        super().connection_made(cast("asyncio.Transport", JoiningTransport(transport, self.loop)))
        limit = self.limit_concurrency
        if limit is not None and len(self.connections) >= limit:
            self._refuse(Busy(detail="too many connections"), Busy.http_status)

    def data_received(self, data: bytes) -> None:
        """Take in what the client sends."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_in_head and self._begun_s is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(MessageTooLarge(), HEAD_TOO_LARGE_STATUS)

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        super().on_message_begin()
        if self._begun_s is None:
            self._begun_s = self.loop.time()
        self._is_in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Its head has arrived."""
        super().on_headers_complete()
        self._is_in_head = False

    def on_message_complete(self) -> None:
        """All of it has arrived."""
        super().on_message_complete()
        self._begun_s = None

    def look_at(self, now_s: float) -> None:
        """Close the connection if its client is too slow.

        Args:
            now_s: the loop's time.
        """
        if self._begun_s is None or self.transport.is_closing():
            return
        limit_s = HEAD_S if self._is_in_head else REQUEST_S
        if now_s - self._begun_s < limit_s or self.flow.read_paused:
            return  # who is not read from at present cannot send
        self._refuse(RequestTimeout(timeout=int(limit_s * 1000), detail="the request"), 408)

    def _refuse(self, error: FlashQError, status: int) -> None:
        """Say why, unless an answer to something else is under way, and close."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        if cycle is None or cycle.response_complete:
            body = error_body(error)
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, _PHRASES[status], len(body), body)
            )
        self.transport.close()


def close_slow(connections: Iterable[object], now_s: float) -> None:
    """Close the connections of clients that are too slow.

    Args:
        connections: of the server; those that are WebSockets by now are let be.
        now_s: the loop's time.
    """
    for connection in list(connections):
        if isinstance(connection, BoundedProtocol):
            connection.look_at(now_s)
