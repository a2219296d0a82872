"""The asyncio client: the socket is read and written by the event loop itself.

Owns the socket, the timer and the waiting of coroutines; every decision is the connection's. While
the loop is blocked, the pulse's thread moves messages in its place, so that leases live on; what
happened then waits for the loop. Whoever touches socket or connection holds the lock. The client
does without `zmq.asyncio`, which costs three times as much a message: the loop watches ZeroMQ's
descriptor, and what all coroutines ask for in one turn of the loop leaves in one message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import zmq
from msgspec import Struct

from flashq.client.async_methods import AsyncMethods
from flashq.client.async_subscription import AsyncSubscription
from flashq.client.calls import DELIVERING, Call, prepare
from flashq.client.connection import Connection
from flashq.client.endpoint import client_name, resolve_url
from flashq.client.happenings import (
    AnyHappening,
    Completed,
    Connected,
    Disconnected,
    EventsInterrupted,
    LeasesLost,
    Malformed,
    NoticeReceived,
    SubscriptionRefused,
    TokenRefused,
)
from flashq.client.io_thread import FAREWELL_MS, MESSAGES_PER_TURN_MAX, now_ms
from flashq.client.outages import Outages
from flashq.client.pulse import STUCK_TIMEOUT_MS, Pulse, look_every_ms
from flashq.client.results import Delivered, Job
from flashq.client.sockets import open_socket
from flashq.client.subscriptions import ALL, Readers, wanted_events
from flashq.client.sync_client import TIMEOUT_MS
from flashq.errors import ConnectionClosed
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode
from flashq.protocol.leases import HeartbeatJob
from flashq.protocol.sessions import HelloReply, Unsubscribe
from flashq.wire import descriptor, readable, receive, send_frames

T = TypeVar("T")

_log: Final = logging.getLogger("flashq.client")


REQUESTS_HELD_MAX: Final = 32
"""With so many requests made in one turn they are sent at once, so that the server works while the
rest is still being made."""


class AsyncClient(AsyncMethods):
    """A connection to a flashq server, for asyncio. It belongs to the loop that first uses it.

    It connects by its first call, reconnects by itself, and repeats what was outstanding without
    having it done twice. Close it, or use it as a context manager: jobs it still holds go back at
    once. A pull that is cancelled gives back the jobs it may still bring. After a fork the child
    needs a client of its own.

    Args:
        url: `tcp://host:port` or `ipc:///path`; default: `FLASHQ_URL`, else the local server.
        token: shown to the server; default: `FLASHQ_TOKEN`.
        timeout: ms that a call may take, unless it waits for something by itself.
        on_leases_lost: called with the ids of jobs that are no longer this client's, because they
            were cancelled or taken back.
        on_lost: the same, with what became of each job where that is known.
        stuck_timeout: ms that the event loop may be blocked, once this client has pulled. A thread
            sends the heartbeats as long, and logs what blocks the loop; then the server gives the
            jobs to others.
        logger: where it says that the server is away or back, and what blocks the event loop.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: int = TIMEOUT_MS,
        on_leases_lost: Callable[[list[int]], None] | None = None,
        on_lost: Callable[[LeasesLost], None] | None = None,
        stuck_timeout: int = STUCK_TIMEOUT_MS,
        logger: logging.Logger = _log,
    ) -> None:
        self.url: Final = resolve_url(url, os.environ)
        self._timeout: Final = timeout
        self._on_leases_lost: Final = on_leases_lost
        self._on_lost: Final = on_lost
        self._pid: Final = os.getpid()
        self._connection: Final = Connection(
            lambda: os.urandom(16),
            client=client_name(),
            token=token or os.environ.get("FLASHQ_TOKEN") or None,
        )
        self._stuck_timeout: Final = stuck_timeout
        self._log: Final = logger
        self._outages: Final = Outages(self.url, logger)
        #: guards connection and socket
        self._lock: Final = threading.RLock()
        self._pulse: Pulse | None = None
        #: what happened while the loop was blocked, and sockets that were replaced then
        self._postponed: list[AnyHappening] = []
        self._outdated: list[zmq.Socket[bytes]] = []
        #: whether the pulse has asked for a turn that has not come yet
        self._turn_asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        #: requests made since something was sent
        self._unsent = 0
        self._closed = False
        #: done once the goodbye is answered
        self._farewell: asyncio.Future[None] | None = None
        #: a turn that is about to come, because something was asked for
        self._turn_due = False
        #: the timer for the connection's next deadline, and when it rings
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        #: jobs whose beginning is still to be told. Loop and pulse change it without the lock, one
        #: step at a time
        self._beginning: Final[dict[int, Job]] = {}
        #: callers by corr
        self._waiting: Final[dict[int, asyncio.Future[Any]]] = {}
        #: set once the first hello is answered
        self._connected: Final = asyncio.Event()
        self._readers: Final[Readers[AsyncSubscription]] = Readers()
        #: held for one SUBSCRIBE or UNSUBSCRIBE at a time
        self._subscribing: Final = asyncio.Lock()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- connection

    async def connect(self) -> HelloReply:
        """Wait until the server has answered; needed only to know that it is there.

        Returns:
            The server's version, number of shards and limits.

        Raises:
            ConnectionClosed: it did not answer within the client's time-out.
            TokenInvalid, AuthenticationRequired: it does not know the token, or asks for one.
        """
        self._running()
        try:
            await asyncio.wait_for(self._connected.wait(), self._timeout / 1000)
        except TimeoutError:
            raise ConnectionClosed(f"no server at {self.url} within {self._timeout} ms") from None
        if self._connection.refusal is not None:
            raise self._connection.refusal
        assert self._connection.server is not None
        return self._connection.server

    async def close(self) -> None:
        """End the session: jobs that this client still holds go back to their queues.

        Calls under way end with `ConnectionClosed`.
        """
        if self._pid != os.getpid() or self._closed:
            return
        self._closed = True
        if self._pulse is not None:
            self._pulse.stop()
        self._connection.close()
        if self._loop is None:
            return
        self._farewell = self._loop.create_future()
        self._turn()
        try:
            await asyncio.wait_for(self._farewell, FAREWELL_MS / 1000)
        except TimeoutError:
            pass  # the server finds out by our silence
        finally:
            self._let_go()

    def subscribe(self, queue: str = ALL, events: str | Iterable[str] = ALL) -> AsyncSubscription:
        """Listen to what happens to jobs.

        Args:
            queue: a queue's name; `*` for all.
            events: names of events (`completed`, `failed`, ...); `*` for all.

        Returns:
            An asynchronous iterator, to be used with `async with`. An `Event` may be about several
            jobs; where some are missing, there is a `Gap`.
        """
        return AsyncSubscription(queue, wanted_events(events), self)

    async def listen(self, reader: AsyncSubscription) -> None:
        """Begin to hand events to `reader`; it calls this itself."""
        queue = reader.queue
        async with self._subscribing:
            self._readers.add(reader)
            try:
                self._running()
                wanted = self._readers.wanted(queue)
                with self._lock:
                    corr = self._connection.subscribe(queue, wanted, now_ms(), self._timeout)
                self._checked(await self._outcome(corr, self._expect(corr)))
            except BaseException:
                self._readers.remove(reader)
                if not self._readers.wanted(queue):
                    with self._lock:
                        self._connection.unsubscribed(queue)
                raise

    async def unlisten(self, reader: AsyncSubscription) -> None:
        """Hand nothing more to `reader`; it calls this itself."""
        async with self._subscribing:
            self._readers.remove(reader)
            if self._readers.wanted(reader.queue):
                return
            with self._lock:
                self._connection.unsubscribed(reader.queue)
            if not self._closed:
                await self._call(Unsubscribe(queue=reader.queue), Reply)

    def begin(self, job: Job) -> None:
        """Say with the next message that the work on a job begins: its time-out counts from then.

        Only for jobs that were pulled with `starts`. Nobody waits for the answer: a lease that is
        lost is told as ever. Nothing is said of a job that has `ended` before.
        """
        self._beginning[job.id] = job
        self._soon()

    def ended(self, job: Job) -> None:
        """Say nothing more of a job's beginning: its work is over."""
        self._beginning.pop(job.id, None)

    # --- calls

    async def _call(self, request: Struct | Call, kind: type[T], *, within: int | None = None) -> T:
        corr, future = self._start(request, within)
        return self._read(await self._outcome(corr, future), kind)

    async def _call_each(self, requests: Sequence[Struct], kind: type[T]) -> list[T]:
        started = [self._start(request, None) for request in requests]
        try:
            outcomes = [await self._outcome(corr, future) for corr, future in started]
        except asyncio.CancelledError:
            for corr, future in started:
                self._abandon(corr, future)
            raise
        return [self._read(outcome, kind) for outcome in outcomes]

    async def _shard_count(self) -> int:
        return self._connection.shard_count or (await self.connect()).shard_count

    def _use_token(self, token: str) -> None:
        if self._connection.refusal is not None:
            self._connected.clear()
        with self._lock:
            self._connection.use_token(token)

    def _start(
        self, request: Struct | Call, within: int | None
    ) -> tuple[int, asyncio.Future[Completed]]:
        call = request if isinstance(request, Call) else prepare(request)
        self._running()
        timeout = self._timeout if within is None else within
        if self._pulse is None and call.command.request in DELIVERING:
            self._start_pulse()
        with self._lock:
            corr = self._connection.request(call, now_ms(), timeout)
        return corr, self._expect(corr)

    def _expect(self, corr: int) -> asyncio.Future[Completed]:
        assert self._loop is not None
        future = self._waiting[corr] = self._loop.create_future()
        self._unsent += 1
        if self._unsent >= REQUESTS_HELD_MAX:
            with self._lock:
                self._send_pending()
        self._soon()
        return future

    def _send_pending(self) -> None:
        """Send what there is; the lock is held."""
        socket, self._unsent = self._socket, 0
        if socket is not None:
            for frames in self._connection.data_to_send():
                send_frames(socket, frames)

    async def _outcome(self, corr: int, future: asyncio.Future[Completed]) -> Completed:
        try:
            return await future
        except asyncio.CancelledError:
            self._abandon(corr, future)
            raise

    def _abandon(self, corr: int, future: asyncio.Future[Completed]) -> None:
        """Nobody takes the outcome: what it delivers goes back."""
        self._waiting.pop(corr, None)
        with self._lock:
            self._connection.abandon(corr)
        if future.done() and not future.cancelled():
            reply = future.result().reply
            if isinstance(reply, Delivered):
                self._give_back(reply)

    def _give_back(self, delivered: Delivered) -> None:
        with self._lock:
            self._connection.give_back(delivered.all(), now_ms())
        self._soon()

    @staticmethod
    def _checked(outcome: Completed) -> Completed:
        if outcome.error is not None:
            raise outcome.error
        return outcome

    @classmethod
    def _read(cls, outcome: Completed, kind: type[T]) -> T:
        reply = cls._checked(outcome).reply
        return reply if isinstance(reply, Delivered) else decode(reply, kind)  # type: ignore[return-value]

    # --- the loop

    def _running(self) -> None:
        """Open the socket by the first call."""
        if self._loop is not None and not self._closed:
            if self._pid != os.getpid():
                raise ConnectionClosed(
                    f"this client belongs to process {self._pid}: after a fork, make a new one"
                )
            return
        if self._closed:
            raise ConnectionClosed
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._open()

    def _open(self) -> None:
        assert self._loop is not None
        assert self._context is not None
        with self._lock:
            self._socket = open_socket(self._context, self.url)
            self._loop.add_reader(descriptor(self._socket), self._turn)
            self._connection.opened(now_ms())
        self._soon()

    def _close_socket(self) -> None:
        with self._lock:
            if self._outdated:
                self._watch_newest_socket()
            if self._socket is not None and self._loop is not None:
                self._loop.remove_reader(descriptor(self._socket))
                self._socket.close(0)
                self._socket = None

    def _let_go(self) -> None:
        self._close_socket()
        if self._context is not None:
            self._context.term()
        if self._timer is not None:
            self._timer.cancel()
        for reader in self._readers.end(ConnectionClosed()):
            reader.wake()

    def _soon(self) -> None:
        """Have a turn after everything that is ready to run now, so that requests share it."""
        if not self._turn_due and self._loop is not None:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Take in what there is, send what there is, and see when to look again."""
        self._turn_due = False
        if self._socket is None:
            return
        connection = self._connection
        with self._lock:
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
            self._dispatch(happened)
        if self._farewell is not None and not connection.farewell_pending:
            if not self._farewell.done():
                self._farewell.set_result(None)
            return
        if self._has_more():
            self._soon()
        self._set_timer(now)

    def _has_more(self) -> bool:
        with self._lock:
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
        while self._beginning:
            _, job = self._beginning.popitem()
            beginning = prepare(HeartbeatJob(id=job.id, token=job.token))
            connection.request(beginning, now, self._timeout)
        self._send_pending()

    def _set_timer(self, now: int) -> None:
        due = self._connection.next_deadline()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return  # a timer that rings early only looks, and is set anew
        if self._timer is not None:
            self._timer.cancel()
        assert self._loop is not None
        self._timer_at = due
        self._timer = self._loop.call_later(max(0, due - now) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._turn()

    # --- while the loop is blocked

    def _start_pulse(self) -> None:
        assert self._loop is not None
        self._pulse = Pulse(
            self._loop,
            repr(self),
            self._stand_in,
            self._look_every_ms,
            self._stuck_timeout,
            self._log,
        )
        self._pulse.start()

    def _look_every_ms(self) -> float:
        server = self._connection.server
        return look_every_ms(server.heartbeat_interval if server else None)

    def _stand_in(self) -> None:
        """Exchange messages in the pulse's thread, and have the loop look at what came of it."""
        with self._lock:
            if self._socket is None or self._closed:
                return
            now = now_ms()
            self._exchange(now)
            for event in self._connection.events():
                if isinstance(event, Disconnected):
                    self._outages.gone(event.reason, now)
                    self._replace_socket(now)
                else:
                    self._postponed.append(event)
            asked, self._turn_asked = self._turn_asked, True
        if not asked and self._loop is not None:
            self._loop.call_soon_threadsafe(self._turn)

    def _replace_socket(self, now: int) -> None:
        """Open a new socket; the loop, which watches the old one, closes that. The lock is held."""
        assert self._socket is not None
        assert self._context is not None
        self._outdated.append(self._socket)
        self._socket = open_socket(self._context, self.url)
        self._connection.opened(now)
        self._send_pending()

    def _watch_newest_socket(self) -> None:
        """Close sockets that the pulse has replaced, in the loop; the lock is held."""
        assert self._loop is not None
        assert self._socket is not None
        self._loop.remove_reader(descriptor(self._outdated[0]))  # the others were never watched
        for socket in self._outdated:
            socket.close(0)
        self._outdated.clear()
        self._loop.add_reader(descriptor(self._socket), self._turn)

    # --- what happened

    def _dispatch(self, happened: list[AnyHappening]) -> None:
        for event in happened:
            if isinstance(event, Completed):
                self._complete(event)
            elif isinstance(event, LeasesLost):
                if self._on_lost is not None:
                    self._on_lost(event)
                self._tell_leases_lost(event.ids)
            elif isinstance(event, Connected | TokenRefused):
                self._outages.back(now_ms())
                self._connected.set()
            elif isinstance(event, Disconnected):
                self._outages.gone(event.reason, now_ms())
                self._close_socket()
                self._open()
            elif isinstance(event, NoticeReceived | EventsInterrupted | SubscriptionRefused):
                for reader in self._readers.dispatch(event):
                    reader.wake()
            elif isinstance(event, Malformed):
                _log.warning("dropped a message of %s: %s", self.url, event.reason)

    def _complete(self, outcome: Completed) -> None:
        future = self._waiting.pop(outcome.corr, None)
        if future is not None and not future.done():
            future.set_result(outcome)
        elif isinstance(outcome.reply, Delivered):  # the caller is being cancelled
            self._give_back(outcome.reply)

    def _tell_leases_lost(self, ids: list[int]) -> None:
        if self._on_leases_lost is not None:
            try:
                self._on_leases_lost(ids)
            except Exception:  # noqa: BLE001 - the caller's code must not end the turn
                _log.exception("on_leases_lost failed")
