"""The door for the older protocol: TCP and a Unix socket, JSON lines and MessagePack.

Owns listening sockets, connections and their number, and back-pressure: a client that does not read
is not read from, and one that asks more than it may waits. What is said on a connection is the
conversation's (`session`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from flashq.clock import SystemClock
from flashq.errors import ConfigError
from flashq.gateway.bridge import Bridge
from flashq.gateway.listening import address_of
from flashq.gateway.session import Conversation
from flashq.tokens import Guard

WRITE_BYTES_MAX: Final = 1024 * 1024
"""Unread replies above which a connection's requests wait."""
UNREAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""Unread replies above which a connection is closed."""
BACKLOG: Final = 1024
GRACE_S: Final = 0.2
"""How long a pull of a client that has stopped sending may still bring something."""
LAST_REPLIES_S: Final = 5.0
"""How long such a client's other requests may take."""

_FULL_LINE: Final = b'{"ok":false,"error":"busy: too many connections"}\n'


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
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Take in what the client sends."""
        if self._transport is not None:
            self._talk.receive(data)
            self._flush()

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
        if self._transport is not None:
            self._transport = None
            self._door.forget(self)
            self._talk.lost()

    def pause_writing(self) -> None:
        """The client does not read: stop listening to it."""
        self._talk.is_output_blocked = True
        self._read_or_not()

    def resume_writing(self) -> None:
        """The client has read: go on."""
        self._talk.is_output_blocked = False
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
            if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
                transport.abort()
                return
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
    """

    def __init__(self, bridge: Bridge, guard: Guard, connections_max: int, bytes_max: int) -> None:
        self._bridge: Final = bridge
        self._guard: Final = guard
        self._bytes_max: Final = bytes_max
        self._mono_ms: Final = SystemClock().mono_ms
        self._connections_max: Final = connections_max
        self._connections: Final[set[Connection]] = set()
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
        """Note a connection; False when there are too many."""
        if len(self._connections) >= self._connections_max:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
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
