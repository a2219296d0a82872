"""One connection to the HTTP door, with bounds on what a client may do with it.

Owns how long a request may take to arrive, how large its head may be, how long its answer may stay
unread, and what of the server's own words is logged. The server's protocol knows of none of these:
a client that sends a byte now and then would hold a connection for ever, and one that sends headers
without end the memory. What a request says, and what its answer is, is the protocol's; but head and
body of it leave in one piece here.

This module alone knows uvicorn from the inside, which uvicorn promises nobody. It was
written for the versions of `TESTED_UVICORN`; a test looks at everything that is relied on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flashq.errors import Busy, FlashQError, MessageTooLarge, RequestTimeout
from flashq.gateway.http_places import Places
from flashq.gateway.http_replies import error_body
from flashq.keepalive import probe

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

TESTED_UVICORN: Final = "0.54"
PEER: Final = "flashq.peer"
LET_IN: Final = "let_in"
IS_GONE: Final = "is_gone"
"""The extension of a request's scope; in it, what is called once the client was let in, and what
tells whether its connection is lost."""

TICKS_PER_LOOK: Final = 10
"""The server ticks every 0.1 s; how often it looks for slow clients."""
HEAD_S: Final = 10.0
"""How long a request's head may take to arrive, and a connection to begin with the first."""
REQUEST_S: Final = 60.0
"""How long all of a request may take."""
STRANGER_S: Final = 10.0
"""How long all of a request may take, and a connection may be idle, that was not let in yet."""
UNREAD_S: Final = 60.0
"""How long a client may take nothing of an answer that waits for it."""
UNREAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""What all clients together may leave unread; above it, who leaves most is let go."""
HEAD_BYTES_MAX: Final = 64 * 1024
HEAD_PIECE_BYTES: Final = 4096
"""How much of a head is read at a time."""
DISCARDED_BYTES_MAX: Final = 16 * 1024 * 1024
"""How much is read off of a body whose request was answered before it had arrived."""
SERVER_LOG: Final = "uvicorn.error"
HELD_BYTES_MAX: Final = 64 * 1024
"""Above it what is written leaves at once, so that the protocol is told when nobody reads it."""
HEAD_TOO_LARGE_STATUS: Final = 431
SLOW_STATUS: Final = 408

_PHRASES: Final = {
    SLOW_STATUS: b"Request Timeout",
    413: b"Content Too Large",
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
    """The server's protocol, with these bounds. Each door has a class of its own, which knows its
    places: see `bounded_protocol`."""

    places: ClassVar[Places] = Places(sys.maxsize)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: tells who reads a request to whom it belongs
        self._extensions: dict[str, dict[object, object]] = {
            PEER: {LET_IN: self.let_in, IS_GONE: self.is_gone}
        }
        self._is_lost = False
        #: when the request that is arriving has begun, or a stranger's last one was answered
        self._begun_s: float | None = self.loop.time()
        #: a request is arriving, or a first one is awaited
        self._is_arriving = True
        #: its head is not complete
        self._is_in_head = True
        #: of the head's complete lines
        self._head_bytes = 0
        #: received since the last complete line of a head, or piece of a body
        self._pending_bytes = 0
        #: of a body whose request was answered already
        self._discarded_bytes = 0
        #: refused, or a WebSocket by now: nothing more is read here
        self._is_over = False
        #: what waits for the client since it last took something, and since when
        self._unread_bytes = 0
        self._unread_since_s: float | None = None

    # --- its life

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Let the client in, if there is room."""
        super().connection_made(cast("asyncio.Transport", JoiningTransport(transport, self.loop)))
        if (connected := transport.get_extra_info("socket")) is not None:
            probe(connected)
        if not self.places.come(self, len(self.connections)):
            self._refuse(Busy(detail="too many connections"), Busy.http_status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self.places.forget(self)
        self._extensions = {}
        self._is_lost = True
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over: who may open a WebSocket is seen at once."""
        self._is_over = True
        self.places.forget(self)
        super().handle_websocket_upgrade()

    def let_in(self) -> None:
        """Note that a request of this client was let in."""
        self.places.forget(self)

    def is_gone(self) -> bool:
        """Tell whether the connection is lost, so that what was written last reaches nobody."""
        return self._is_lost

    def give_way(self) -> None:
        """Make room for another client; this one has asked nothing yet that it may."""
        self._refuse(Busy(detail="too many connections without a request"), Busy.http_status)

    # --- what arrives

    def data_received(self, data: bytes) -> None:
        """Take in what the client sends: heads in small pieces, whose size is looked at."""
        at = 0
        while at < len(data) and not self._is_over and not self.transport.is_closing():
            piece = data[at : at + HEAD_PIECE_BYTES] if self._is_in_head else data[at:]
            at += len(piece)
            self._pending_bytes += len(piece)
            super().data_received(piece)
            if self._pending_bytes > HEAD_BYTES_MAX or self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(MessageTooLarge(), HEAD_TOO_LARGE_STATUS)
        if self._is_arriving and not self._is_in_head and self.places.is_stranger(self):
            self.flow.pause_reading()  # until the door asks for the body, or has answered without

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        if not self._is_arriving:
            self._begun_s = self.loop.time()
        self._is_arriving = self._is_in_head = True
        self._head_bytes = self._discarded_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of its address has arrived."""
        self._head_bytes += len(url)
        if self._head_bytes <= HEAD_BYTES_MAX:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers has arrived; those behind a body mean nothing here."""
        if not self._is_in_head:
            return
        self._pending_bytes = 0
        self._head_bytes += len(name) + len(value) + len(b": \r\n")
        if self._head_bytes <= HEAD_BYTES_MAX:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head has arrived."""
        self._pending_bytes = 0
        self._is_in_head = False
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(MessageTooLarge(), HEAD_TOO_LARGE_STATUS)
        elif not self._is_over:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body has arrived."""
        self._pending_bytes = 0
        if self._is_over:
            return
        if self.cycle.response_complete:
            self._discarded_bytes += len(body)
            if self._discarded_bytes > DISCARDED_BYTES_MAX:
                self._refuse(MessageTooLarge(), MessageTooLarge.http_status)
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it has arrived."""
        self._pending_bytes = 0
        if self._is_over:
            return
        super().on_message_complete()
        self._is_arriving = False
        self._begun_s = None

    def on_response_complete(self) -> None:
        """It was answered."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self.cycle.body = bytearray()  # what nobody has read of it
        if self.places.is_stranger(self) and not self._is_arriving:
            self._begun_s = self.loop.time()

    # --- clients that are too slow

    def look_at(self, now_s: float) -> int:
        """Close the connection if its client is too slow.

        Args:
            now_s: the loop's time.

        Returns:
            How many bytes wait for the client.
        """
        if self.transport.is_closing():
            return 0
        unread = self._look_at_answers(now_s)
        limit_s = self._limit_s()
        if self._begun_s is None or limit_s is None or now_s - self._begun_s < limit_s:
            return unread
        if self._is_arriving:
            error = RequestTimeout(timeout=int(limit_s * 1000), detail="the request")
            self._refuse(error, SLOW_STATUS)
        else:
            self.transport.close()
        return unread

    def _limit_s(self) -> float | None:
        """Return how long what is awaited of the client may take; None for ever."""
        if self._is_in_head:
            return HEAD_S
        if self.places.is_stranger(self):
            return STRANGER_S
        return None if self.flow.read_paused else REQUEST_S  # one that is not read cannot send

    def _look_at_answers(self, now_s: float) -> int:
        """Abort the connection if its client takes nothing of what waits for it."""
        unread = self.transport.get_write_buffer_size()
        if not unread:
            self._unread_since_s = None
        elif self._unread_since_s is None or unread < self._unread_bytes:
            self._unread_bytes, self._unread_since_s = unread, now_s
        elif now_s - self._unread_since_s >= UNREAD_S:
            self.transport.abort()
            return 0
        return unread

    def _refuse(self, error: FlashQError, status: int) -> None:
        """Say why, unless an answer to something else is under way, and close."""
        if self._is_over:
            return
        self._is_over = True
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        if cycle is None or cycle.response_complete:
            body = error_body(error)
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, _PHRASES[status], len(body), body)
            )
        self.transport.close()


class ServerWords(logging.Handler):
    """Takes what the server says itself: its own failures go into the log, and what clients do
    wrong only where everything is logged, without a trace of the stack.

    Args:
        log: the program's.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log: Final = log

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        error = None if record.exc_info is None else record.exc_info[1]
        said = record.getMessage().strip()
        if record.levelno < logging.ERROR or isinstance(error, UnicodeDecodeError):
            self._log.debug("an HTTP client does what it may not", said=said)
        else:
            self._log.error("the HTTP server has failed", said=said, exc_info=error)

    @classmethod
    def install(cls, log: FilteringBoundLogger) -> None:
        """Take all that the server says from now on. What it would say of every WebSocket, with
        its address and so with its token, is below the level that is taken."""
        words = logging.getLogger(SERVER_LOG)
        words.handlers = [cls(log)]
        words.setLevel(logging.WARNING)
        words.propagate = False


def bounded_protocol(places: Places) -> type[BoundedProtocol]:
    """Return the protocol of a door with these places."""
    return type("BoundedProtocol", (BoundedProtocol,), {"places": places})


def close_slow(connections: Iterable[object], now_s: float) -> None:
    """Close the connections of clients that are too slow.

    Args:
        connections: of the server; those that are WebSockets by now are let be.
        now_s: the loop's time.
    """
    unread: list[tuple[int, BoundedProtocol]] = []
    for connection in list(connections):
        if isinstance(connection, BoundedProtocol):
            waiting = connection.look_at(now_s)
            if waiting:
                unread.append((waiting, connection))
    excess = sum(waiting for waiting, _ in unread) - UNREAD_BYTES_MAX
    if excess > 0:
        for waiting, connection in sorted(unread, key=lambda one: -one[0]):
            connection.transport.abort()
            excess -= waiting
            if excess <= 0:
                return


class BoundedServer(uvicorn.Server):
    """The server itself. It leaves the signals to its process, says when it accepts connections,
    and does not wait for slow clients."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._accepts: Final = asyncio.Event()

    @property
    def connections(self) -> int:
        """How many connections there are, those of WebSockets included."""
        return len(self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._accepts.set()

    async def accepting(self, serving: asyncio.Task[None]) -> None:
        """Wait until connections are accepted.

        Args:
            serving: what it runs in, and may fail in.
        """
        waiting = asyncio.ensure_future(self._accepts.wait())
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            serving.result()

    async def on_tick(self, counter: int) -> bool:
        """Let clients go that are too slow, and say whether it is time to end."""
        if counter % TICKS_PER_LOOK == 0:
            close_slow(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
