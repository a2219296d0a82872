"""The socket of an asyncio client, read and written by the event loop itself.

Owns the socket, the timer, and the turns in which messages move. While the loop is blocked, the
pulse's thread moves messages in its place, so that leases live on; what happened then waits for the
loop. Whoever touches socket or connection holds the lock.

The loop keeps this object alive as long as it watches the socket, and this object does not keep its
client alive: a client that nobody closed, and that nobody has any more, is let go of, and its
session ended.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Final

import zmq

from flashq.client.calls import prepare
from flashq.client.connection import Connection
from flashq.client.happenings import AnyHappening, Disconnected
from flashq.client.io_thread import FAREWELL_MS, MESSAGES_PER_TURN_MAX, now_ms
from flashq.client.outages import Outages
from flashq.client.pulse import Pulse, look_every_ms
from flashq.client.results import Job
from flashq.client.sockets import open_socket
from flashq.protocol.leases import HeartbeatJob
from flashq.wire import descriptor, readable, receive, send_frames

REQUESTS_HELD_MAX: Final = 32
"""With so many requests made in one turn they are sent at once, so that the server works while the
rest is still being made."""
LAST_WORD_MS: Final = 100
"""How long the goodbye of a client has to leave, whose event loop is closed already."""


_open: Final[set[LoopIo]] = set()
"""All that have a socket. Garbage of which a client and its closed loop are part must not have the
socket in it too: that would then be finalised before the client has said goodbye on it."""


class LoopIo:
    """Moves messages between a connection and its socket in one event loop.

    Args:
        url: the server.
        connection: what to say.
        loop: the running event loop.
        dispatch: a method told in the loop, without the lock, what happened, as long as its object
            lives.
        outages: hears that the server is away.
        timeout: ms that a request of its own may take.
    """

    def __init__(
        self,
        url: str,
        connection: Connection,
        loop: asyncio.AbstractEventLoop,
        dispatch: Callable[[list[AnyHappening]], None],
        outages: Outages,
        timeout: int,
    ) -> None:
        self.loop: Final = loop
        self._url: Final = url
        self._connection: Final = connection
        self._dispatch: Final = weakref.WeakMethod(dispatch)
        self._outages: Final = outages
        self._timeout: Final = timeout
        #: guards connection and socket
        self.lock: Final = threading.RLock()
        self._context: Final = zmq.Context[zmq.Socket[bytes]]()
        #: None once it is over
        self._socket: zmq.Socket[bytes] | None = None
        self.pulse: Pulse | None = None
        #: what happened while the loop was blocked, and sockets that were replaced then
        self._postponed: list[AnyHappening] = []
        self._outdated: list[zmq.Socket[bytes]] = []
        #: whether the pulse has asked for a turn that has not come yet
        self._turn_asked = False
        #: requests made since something was sent
        self._unsent = 0
        #: done once the goodbye is answered
        self._farewell: asyncio.Future[None] | None = None
        #: a turn that is about to come, because something was asked for
        self._turn_due = False
        #: the timer for the connection's next deadline, and when it rings
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        #: jobs whose beginning is still to be told. Loop and pulse change it without the lock, one
        #: step at a time
        self.beginning: Final[dict[int, Job]] = {}

    # --- life

    def open(self) -> None:
        """Begin on a fresh socket; the connection says hello."""
        _open.add(self)
        with self.lock:
            self._socket = open_socket(self._context, self._url)
            self.loop.add_reader(descriptor(self._socket), self._turn)
            self._connection.opened(now_ms())
        self.soon()

    async def close(self) -> None:
        """Say goodbye, wait a while for the answer, and let go of everything."""
        self._stop_pulse(wait=True)
        with self.lock:
            self._connection.close()
        self._farewell = self.loop.create_future()
        self._turn()
        try:
            await asyncio.wait_for(self._farewell, FAREWELL_MS / 1000)
        except TimeoutError:
            pass  # the server finds out by our silence
        finally:
            self._let_go()

    def abandon(self) -> None:
        """Say goodbye and let go of everything, since there is no client any more. A finaliser
        calls it, in any thread; it waits for next to nothing."""
        self._stop_pulse(wait=False)
        try:
            self.loop.call_soon_threadsafe(self._bid_farewell)
        except RuntimeError:  # the loop is closed
            self.bury(goodbye=True)

    def _bid_farewell(self) -> None:
        if self._socket is None:
            return
        with self.lock:
            self._connection.close()
        self._farewell = self.loop.create_future()
        self._farewell.add_done_callback(lambda _: self._let_go())
        self.loop.call_later(FAREWELL_MS / 1000, self._let_go)
        self._turn()

    def bury(self, *, goodbye: bool) -> None:
        """Let go of everything where the event loop is closed.

        Args:
            goodbye: whether the session ends. Otherwise it goes on in another event loop.
        """
        self._stop_pulse(wait=not goodbye)
        _open.discard(self)
        with self.lock:
            socket, self._socket = self._socket, None
            for outdated in self._outdated:
                outdated.close(0)
            self._outdated.clear()
            if socket is None:
                return
            if goodbye:
                self._connection.close()
                for frames in self._connection.data_to_send():
                    send_frames(socket, frames)
            socket.close(LAST_WORD_MS if goodbye else 0)
        self._context.term()

    def leave_to_parent(self) -> None:
        """Touch nothing any more: this process is a child, and the socket the parent's."""
        self._socket = None

    def _stop_pulse(self, *, wait: bool) -> None:
        if self.pulse is not None:
            self.pulse.stop(wait=wait)

    def _close_socket(self) -> None:
        with self.lock:
            if self._outdated:
                self._watch_newest_socket()
            if self._socket is not None:
                self.loop.remove_reader(descriptor(self._socket))
                self._socket.close(0)
                self._socket = None

    def _let_go(self) -> None:
        _open.discard(self)
        self._close_socket()
        if not self._context.closed:
            self._context.term()
        if self._timer is not None:
            self._timer.cancel()

    # --- turns

    def expect(self) -> None:
        """Have what was just asked of the connection sent."""
        self._unsent += 1
        if self._unsent >= REQUESTS_HELD_MAX:
            with self.lock:
                self._send_pending()
        self.soon()

    def soon(self) -> None:
        """Have a turn after everything that is ready to run now, so that requests share it."""
        if not self._turn_due:
            self._turn_due = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Take in what there is, send what there is, and see when to look again."""
        self._turn_due = False
        if self._socket is None:
            return
        connection = self._connection
        with self.lock:
            self._turn_asked = False
            if self._outdated:
                self._watch_newest_socket()
            now = now_ms()
            self._exchange(now)
            happened = connection.events()
            if self._postponed:
                happened = [*self._postponed, *happened]
                self._postponed.clear()
        if happened:
            self._tell(happened)
        if self._farewell is not None and not connection.farewell_pending:
            if not self._farewell.done():
                self._farewell.set_result(None)
            return
        if self._has_more():
            self.soon()
        self._set_timer(now)

    def _tell(self, happened: list[AnyHappening]) -> None:
        for event in happened:
            if isinstance(event, Disconnected):
                self._outages.gone(event.reason, now_ms())
                self._close_socket()
                self.open()
        dispatch = self._dispatch()
        if dispatch is not None:
            dispatch(happened)

    def _send_pending(self) -> None:
        """Send what there is; the lock is held."""
        socket, self._unsent = self._socket, 0
        if socket is not None:
            for frames in self._connection.data_to_send():
                send_frames(socket, frames)

    def _has_more(self) -> bool:
        with self.lock:
            return self._socket is not None and readable(self._socket)

    def _exchange(self, now: int) -> None:
        """Receive, let time go by, and send; the lock is held."""
        socket, connection = self._socket, self._connection
        assert socket is not None
        for _ in range(MESSAGES_PER_TURN_MAX):
            frames = receive(socket) if readable(socket) else None
            if frames is None:
                break
            connection.receive(frames, now)
        connection.tick(now)
        while self.beginning:
            _, job = self.beginning.popitem()
            beginning = prepare(HeartbeatJob(id=job.id, token=job.token))
            connection.request(beginning, now, self._timeout)
        self._send_pending()

    def _set_timer(self, now: int) -> None:
        due = self._connection.next_deadline()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return  # a timer that rings early only looks, and is set anew
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self.loop.call_later(max(0, due - now) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._turn()

    # --- while the loop is blocked

    def start_pulse(self, name: str, stuck_timeout: int, logger: logging.Logger) -> None:
        """Have a thread see to the connection while the loop is blocked."""
        self.pulse = Pulse(
            self.loop, name, self._stand_in, self._look_every_ms, stuck_timeout, logger
        )
        self.pulse.start()

    def _look_every_ms(self) -> float:
        server = self._connection.server
        return look_every_ms(server.heartbeat_interval if server else None)

    def _stand_in(self) -> None:
        """Exchange messages in the pulse's thread, and have the loop look at what came of it."""
        reasons: list[str] = []
        with self.lock:
            if self._socket is None or self._farewell is not None:
                return
            now = now_ms()
            self._exchange(now)
            for event in self._connection.events():
                if isinstance(event, Disconnected):
                    reasons.append(event.reason)
                    self._replace_socket(now)
                else:
                    self._postponed.append(event)
            asked, self._turn_asked = self._turn_asked, True
        for reason in reasons:  # without the lock: a log handler may do anything
            self._outages.gone(reason, now)
        if not asked:
            self.loop.call_soon_threadsafe(self._turn)

    def _replace_socket(self, now: int) -> None:
        """Open a new socket; the loop, which watches the old one, closes that. The lock is held."""
        assert self._socket is not None
        self._outdated.append(self._socket)
        self._socket = open_socket(self._context, self._url)
        self._connection.opened(now)
        self._send_pending()

    def _watch_newest_socket(self) -> None:
        """Close sockets that the pulse has replaced, in the loop; the lock is held."""
        assert self._socket is not None
        self.loop.remove_reader(descriptor(self._outdated[0]))  # the others were never watched
        for socket in self._outdated:
            socket.close(0)
        self._outdated.clear()
        self.loop.add_reader(descriptor(self._socket), self._turn)
