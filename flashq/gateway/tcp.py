"""The door for the older protocol: TCP and a Unix socket, JSON lines and MessagePack.

Owns listening sockets, connections and their number, and back-pressure: a client that does not read
is not read from, and one that asks more than it may waits. What is said on a connection is the
conversation's (`session`).

Who holds what, and for how long:

* A *stranger* has not shown its token, or on a server without tokens has not said anything.
  Strangers have a share of the places; where tokens are asked for, few seconds and few bytes too.
* What all clients have sent of requests that are not complete, and what they have not read of their
  replies, is bounded in bytes; above a bound the client with the most of it is let go.
* A client that reads nothing of what waits for it, or that is idle for too long, is let go.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from flashq.clock import SystemClock
from flashq.errors import ConfigError
from flashq.gateway.bridge import Bridge
from flashq.gateway.http_places import strangers_max
from flashq.gateway.listening import address_of
from flashq.gateway.session import Conversation
from flashq.keepalive import probe
from flashq.places import Places
from flashq.tokens import Guard

WRITE_BYTES_MAX: Final = 1024 * 1024
"""Unread replies above which a connection's requests wait."""
UNREAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""Unread replies of all connections above which the one with the most is closed."""
UNFINISHED_BYTES_MAX: Final = 256 * 1024 * 1024
"""The same of requests that are not complete, or wait for room."""
UNREAD_S: Final = 60.0
"""How long a client may take nothing of a reply that waits for it."""
LOOK_S: Final = 1.0
"""How often the door looks for connections that have to go."""
BACKLOG: Final = 1024
GRACE_S: Final = 0.2
"""How long a pull of a client that has stopped sending may still bring something."""
LAST_REPLIES_S: Final = 5.0
"""How long such a client's other requests may take."""

_FULL_LINE: Final = b'{"ok":false,"error":"busy: too many connections"}\n'
_SLOW_LINE: Final = b'{"ok":false,"error":"Authentication required: no token came in time"}\n'
_NOT_HTTP: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"This port speaks flashQ's own protocol. HTTP has a port of its own.\n"
)
_HTTP_METHODS: Final = (
    b"GET ",
    b"POST",
    b"PUT ",
    b"HEAD",
    b"DELE",
    b"OPTI",
    b"PATC",
    b"CONN",
    b"PRI ",
)
"""How a request of HTTP begins: a page can send one here, with commands in its body."""


class Connection(asyncio.Protocol):
    """One client.

    Args:
        door: the door it came through.
    """

    def __init__(self, door: TcpDoor) -> None:
        self._door: Final = door
        self._loop: Final = asyncio.get_running_loop()
        self._talk: Final = door.conversation(self._soon)
        self._transport: asyncio.Transport | None = None
        self._flush_due = False
        self._reading = True
        #: what the door has counted of it: requests that are not complete, replies that are unread
        self.unfinished_bytes = 0
        self.unread_bytes = 0
        #: since when, in s of the loop's clock: it reads nothing; None while nothing waits for it
        self.unread_since_s: float | None = None
        #: when it last said something
        self.heard_s = self._loop.time()
        self._is_stranger = True
        self._begin = b""
        #: what is still done after the client has stopped sending
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the client in, if there is room."""
        transport = cast("asyncio.Transport", transport)  # uvloop's has all of it, but is none
        if not self._door.admit(self):
            transport.write(_FULL_LINE)
            transport.close()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        connected = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            peer = transport.get_extra_info("peername")
            self._talk.come_from(*(peer[:2] if peer else ("", 0)))
            probe(connected)

    def data_received(self, data: bytes) -> None:
        """Take in what the client sends."""
        if self._transport is None or self._is_http(data):
            return
        self.heard_s = self._loop.time()
        self._talk.receive(data)
        if self._is_stranger and not self._talk.is_stranger:
            self._is_stranger = False
            self._door.know(self)
        self._flush()
        self._count_unfinished()

    def _is_http(self, data: bytes) -> bool:
        """Refuse a client that begins as one of HTTP does."""
        if len(self._begin) >= len(_HTTP_METHODS[0]):
            return False
        self._begin += data[: len(_HTTP_METHODS[0]) - len(self._begin)]
        if self._begin not in _HTTP_METHODS:
            return False
        self._say_and_close(_NOT_HTTP)
        return True

    def _say_and_close(self, text: bytes) -> None:
        transport = self._transport
        if transport is not None:
            transport.write(text)
            transport.close()

    def give_way(self) -> None:
        """Make room for another client."""
        self._say_and_close(_FULL_LINE)

    def be_overdue(self) -> None:
        """Go, since no token came in time."""
        self._say_and_close(_SLOW_LINE)

    def abort(self) -> None:
        """Go at once, and forget what waits for the client."""
        if self._transport is not None:
            self._transport.abort()

    def is_due(self, now_s: float, idle_s: float) -> bool:
        """Tell whether the client has read nothing, or was idle, for too long.

        Args:
            now_s: the loop's time.
            idle_s: how long it may be idle.
        """
        if self._transport is not None:
            self._count_unread(self._transport)
        if self.unread_since_s is not None and now_s - self.unread_since_s > UNREAD_S:
            return True
        return now_s - self.heard_s > idle_s and self._talk.is_idle

    def _count_unfinished(self) -> None:
        pending = 0 if self._transport is None else self._talk.pending_bytes
        if pending != self.unfinished_bytes:
            grown, self.unfinished_bytes = pending - self.unfinished_bytes, pending
            self._door.count_unfinished(grown)

    def _count_unread(self, transport: asyncio.Transport) -> None:
        """Note how much waits for the client, and since when it has taken nothing of it."""
        unread = 0 if self._transport is None else transport.get_write_buffer_size()
        if not unread:
            self.unread_since_s = None
        elif unread < self.unread_bytes or self.unread_since_s is None:
            self.unread_since_s = self._loop.time()
        grown, self.unread_bytes = unread - self.unread_bytes, unread
        self._door.count_unread(grown)

    def eof_received(self) -> bool:
        """The client sends nothing more; keep the connection for what it still gets."""
        if self._transport is None:
            return False
        self.finish(GRACE_S if self._talk.is_waiting else 0.0, is_lost=True)
        return not self._talk.is_finished

    def finish(self, grace_s: float, *, is_lost: bool) -> None:
        """Take no more requests, answer those that are open, and close.

        Args:
            grace_s: how long pulls may still bring something.
            is_lost: the client ended it, so jobs that it holds count as lost.
        """
        self._talk.eof()
        if grace_s and self._talk.is_waiting:
            self._timers.append(self._loop.call_later(grace_s, self._give_up))
        else:
            self._talk.give_up(is_lost=is_lost)
        self._timers.append(self._loop.call_later(LAST_REPLIES_S, self.close))
        self._flush()

    def _give_up(self) -> None:
        self._talk.give_up(is_lost=True)
        self._flush()

    def close(self) -> None:
        """Close, after what was written has been sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone: give back what it held."""
        for timer in self._timers:
            timer.cancel()
        transport = self._transport
        if transport is not None:
            self._transport = None
            self._count_unread(transport)
            self._count_unfinished()
            self._door.forget(self)
            self._talk.lost()

    def pause_writing(self) -> None:
        """The client does not read: stop listening to it."""
        self._talk.is_output_blocked = True
        self._read_or_not()

    def resume_writing(self) -> None:
        """The client has read: go on."""
        self._talk.is_output_blocked = False
        if self._transport is not None:
            self._count_unread(self._transport)
        self._flush()

    def _soon(self) -> None:
        """Write after everything that is ready to run now, so that replies share a packet."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        transport = self._transport
        if transport is None:
            return
        self._talk.proceed()
        output = self._talk.data_to_send()
        if output:
            transport.write(b"".join(output))
            self._count_unread(transport)
        self._read_or_not()
        if self._talk.is_finished:
            transport.close()

    def _read_or_not(self) -> None:
        """Read on while there is room for more requests."""
        transport, wanted = self._transport, self._talk.wants_more
        if transport is not None and wanted != self._reading and not transport.is_closing():
            self._reading = wanted
            if wanted:
                transport.resume_reading()
            elif not self._talk.is_ended:
                transport.pause_reading()


class TcpDoor:
    """The listening sockets, and everybody who came in through them.

    Args:
        bridge: who carries requests out.
        guard: who may ask what.
        connections_max: most connections at a time.
        bytes_max: the largest request.
        unauthenticated_ms: how long a client may take to show a token, where one is asked for.
        idle_ms: how long a client that waits for nothing may say nothing.
    """

    def __init__(
        self,
        bridge: Bridge,
        guard: Guard,
        connections_max: int,
        bytes_max: int,
        *,
        unauthenticated_ms: int,
        idle_ms: int,
    ) -> None:
        self._bridge: Final = bridge
        self._guard: Final = guard
        self._bytes_max: Final = bytes_max
        self._mono_ms: Final = SystemClock().mono_ms
        stranger_ms = sys.maxsize if guard.is_open else unauthenticated_ms
        self._places: Final[Places[Connection]] = Places(
            connections_max, strangers_max(connections_max), stranger_ms
        )
        self._idle_s: Final = idle_ms / 1000
        self._connections: Final[set[Connection]] = set()
        #: of all connections
        self._unfinished_bytes = 0
        self._unread_bytes = 0
        self._look_timer: asyncio.TimerHandle | None = None
        self._servers: Final[list[asyncio.Server]] = []
        #: set when the last connection is gone; None before the drain
        self._empty: asyncio.Event | None = None
        #: the Unix socket, to be removed at the end
        self._path: str | None = None

    async def listen_tcp(self, host: str, port: int) -> str:
        """Listen on a TCP port (0 for a free one), and return the endpoint for people.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: Connection(self),
                address_of(host),
                port,
                backlog=BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on tcp {host}:{port}: {error.strerror}") from error
        self._servers.append(server)
        name, bound, *_ = server.sockets[0].getsockname()
        return f"json://{f'[{name}]' if ':' in name else name}:{bound}"

    async def listen_unix(self, path: str) -> str:
        """Listen on a Unix socket, in the place of a stale one, and return the endpoint.

        Raises:
            ConfigError: the path cannot be listened on, or somebody else does.
        """
        loop = asyncio.get_running_loop()
        try:
            _remove_stale(path)
            server = await loop.create_unix_server(lambda: Connection(self), path, backlog=BACKLOG)
            os.chmod(path, 0o660)
        except OSError as error:
            raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from error
        self._servers.append(server)
        self._path = path
        return f"json+unix://{path}"

    def conversation(self, wake: Callable[[], None]) -> Conversation:
        """Return what is said on a new connection.

        Args:
            wake: called when there is something to send that nobody waits for.
        """
        return Conversation(self._bridge, self._guard, wake, self._bytes_max, self._mono_ms)

    def admit(self, connection: Connection) -> bool:
        """Give a connection a place, for which a stranger may have to go; False for none."""
        if self._places.is_full:
            return False
        leaver = self._places.enter(connection, self._mono_ms())
        if leaver is not None:
            leaver.give_way()
        self._connections.add(connection)
        if self._look_timer is None:
            self._look_timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        return True

    def know(self, connection: Connection) -> None:
        """A client is no stranger any more."""
        self._places.know(connection)

    def count_unfinished(self, grown: int) -> None:
        """Take in by how much the requests that are not complete have grown."""
        self._unfinished_bytes += grown
        if self._unfinished_bytes > UNFINISHED_BYTES_MAX:
            max(self._connections, key=lambda one: one.unfinished_bytes).abort()

    def count_unread(self, grown: int) -> None:
        """Take in by how much the unread replies have grown."""
        self._unread_bytes += grown
        if grown > 0 and self._unread_bytes > UNREAD_BYTES_MAX:
            max(self._connections, key=lambda one: one.unread_bytes).abort()

    def _look(self) -> None:
        """Let go who has been a stranger, has read nothing or was idle for too long."""
        loop = asyncio.get_running_loop()
        for connection in self._places.overdue(self._mono_ms()):
            connection.be_overdue()
        now_s = loop.time()
        for connection in list(self._connections):
            if connection.is_due(now_s, self._idle_s):
                connection.abort()
        is_empty = not self._connections
        self._look_timer = None if is_empty else loop.call_later(LOOK_S, self._look)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._places.leave(connection)
        if self._empty is not None and not self._connections:
            self._empty.set()

    async def drain(self, timeout_s: float) -> None:
        """Let nobody in any more, answer what was asked, and close every connection."""
        for server in self._servers:
            server.close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        for connection in list(self._connections):
            connection.finish(0.0, is_lost=False)
        if self._connections:
            self._empty = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout_s)
        for connection in list(self._connections):
            connection.close()
        if self._look_timer is not None:
            self._look_timer.cancel()


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more.

    Raises:
        ConfigError: somebody does, or it is no socket.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen on {path}: it is there, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ConfigError(f"cannot listen on {path}: another process does")
