"""The asyncio client: the socket is read and written by the event loop itself.

Owns the socket, the timer and the waiting of coroutines; every decision is the connection's. It
does without `zmq.asyncio`, which costs three times as much a message: the loop watches ZeroMQ's
descriptor, and what all coroutines ask for in one turn of the loop leaves in one message.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import zmq
from msgspec import Struct

from flashq.client.async_methods import AsyncMethods
from flashq.client.calls import Call, prepare
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
from flashq.client.results import Delivered, Event, Gap
from flashq.client.sockets import open_socket, send
from flashq.client.subscriptions import ALL, EventBuffer, Readers, wanted_events
from flashq.client.sync_client import TIMEOUT_MS
from flashq.errors import ConnectionClosed
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode
from flashq.protocol.sessions import HelloReply, Unsubscribe
from flashq.wire import descriptor, readable, receive

T = TypeVar("T")

_log: Final = logging.getLogger("flashq.client")


REQUESTS_HELD_MAX: Final = 32
"""With so many requests made in one turn they are sent at once, so that the server works while the
rest is still being made."""


class AsyncSubscription(EventBuffer):
    """An asynchronous iterator of events, and of a `Gap` wherever some are missing.

    It listens from `async with`, or else from its first event asked for, until it or its client is
    closed.
    """

    def __init__(self, queue: str, events: frozenset[str], client: AsyncClient) -> None:
        super().__init__(queue, events)
        self._client: Final = client
        self._arrived: Final = asyncio.Event()
        self._started = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap:
        try:
            await self._start()
        except ConnectionClosed:
            if not self._client._closed:
                raise
            raise StopAsyncIteration from None
        while True:
            item = self.take()
            if item is not None:
                return item
            if isinstance(self.ended, ConnectionClosed):
                raise StopAsyncIteration
            if self.ended is not None:
                raise self.ended
            self._arrived.clear()
            await self._arrived.wait()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._client.listen(self)

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._arrived.set()

    async def close(self) -> None:
        """Listen no more."""
        if self.ended is None:
            self.ended = ConnectionClosed()
            self.wake()
            if self._started:
                await self._client.unlisten(self)


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
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: int = TIMEOUT_MS,
        on_leases_lost: Callable[[list[int]], None] | None = None,
    ) -> None:
        self.url: Final = resolve_url(url, os.environ)
        self._timeout: Final = timeout
        self._on_leases_lost: Final = on_leases_lost
        self._pid: Final = os.getpid()
        self._connection: Final = Connection(
            lambda: os.urandom(16),
            client=client_name(),
            token=token or os.environ.get("FLASHQ_TOKEN") or None,
        )
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
        #: callers by corr
        self._waiting: Final[dict[int, asyncio.Future[Any]]] = {}
        #: set once the first hello is answered
        self._connected: Final = asyncio.Event()
        self._readers: Final[Readers[AsyncSubscription]] = Readers()
        #: held for one SUBSCRIBE or UNSUBSCRIBE at a time
        self._subscribing: Final = asyncio.Lock()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

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
                corr = self._connection.subscribe(queue, wanted, now_ms(), self._timeout)
                self._checked(await self._outcome(corr, self._expect(corr)))
            except BaseException:
                self._readers.remove(reader)
                if not self._readers.wanted(queue):
                    self._connection.unsubscribed(queue)
                raise

    async def unlisten(self, reader: AsyncSubscription) -> None:
        """Hand nothing more to `reader`; it calls this itself."""
        async with self._subscribing:
            self._readers.remove(reader)
            if self._readers.wanted(reader.queue):
                return
            self._connection.unsubscribed(reader.queue)
            if not self._closed:
                await self._call(Unsubscribe(queue=reader.queue), Reply)

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
        self._connection.use_token(token)

    def _start(
        self, request: Struct | Call, within: int | None
    ) -> tuple[int, asyncio.Future[Completed]]:
        call = request if isinstance(request, Call) else prepare(request)
        self._running()
        timeout = self._timeout if within is None else within
        corr = self._connection.request(call, now_ms(), timeout)
        return corr, self._expect(corr)

    def _expect(self, corr: int) -> asyncio.Future[Completed]:
        assert self._loop is not None
        future = self._waiting[corr] = self._loop.create_future()
        self._unsent += 1
        if self._unsent >= REQUESTS_HELD_MAX and self._socket is not None:
            self._send_pending(self._socket)
        self._soon()
        return future

    def _send_pending(self, socket: zmq.Socket[bytes]) -> None:
        self._unsent = 0
        for frames in self._connection.data_to_send():
            send(socket, frames)

    async def _outcome(self, corr: int, future: asyncio.Future[Completed]) -> Completed:
        try:
            return await future
        except asyncio.CancelledError:
            self._abandon(corr, future)
            raise

    def _abandon(self, corr: int, future: asyncio.Future[Completed]) -> None:
        """Nobody takes the outcome: what it delivers goes back."""
        self._waiting.pop(corr, None)
        self._connection.abandon(corr)
        if future.done() and not future.cancelled():
            reply = future.result().reply
            if isinstance(reply, Delivered):
                self._connection.give_back(reply.all(), now_ms())
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
        self._socket = open_socket(self._context, self.url)
        self._loop.add_reader(descriptor(self._socket), self._turn)
        self._connection.opened(now_ms())
        self._soon()

    def _close_socket(self) -> None:
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
        socket, connection = self._socket, self._connection
        if socket is None:
            return
        now = now_ms()
        for _ in range(MESSAGES_PER_TURN_MAX):
            frames = receive(socket) if readable(socket) else None
            if frames is None:
                break
            connection.receive(frames, now)
        connection.tick(now)
        self._send_pending(socket)
        happened = connection.events()
        if happened:
            self._dispatch(happened)
        if self._farewell is not None and not connection.farewell_pending:
            if not self._farewell.done():
                self._farewell.set_result(None)
            return
        if socket is self._socket and readable(socket):
            self._soon()
        self._set_timer(now)

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

    def _dispatch(self, happened: list[AnyHappening]) -> None:
        for event in happened:
            if isinstance(event, Completed):
                self._complete(event)
            elif isinstance(event, LeasesLost):
                self._tell_leases_lost(event.ids)
            elif isinstance(event, Connected | TokenRefused):
                self._connected.set()
            elif isinstance(event, Disconnected):
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
            self._connection.give_back(outcome.reply.all(), now_ms())
            self._soon()

    def _tell_leases_lost(self, ids: list[int]) -> None:
        if self._on_leases_lost is not None:
            try:
                self._on_leases_lost(ids)
            except Exception:  # noqa: BLE001 - the caller's code must not end the turn
                _log.exception("on_leases_lost failed")
