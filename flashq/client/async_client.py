"""The asyncio client.

Owns the waiting of coroutines, and the event loop that the client belongs to. Moving messages is
the loop's work, in `loop_io`; every decision is the connection's. The client does without
`zmq.asyncio`, which costs three times as much a message: the loop watches ZeroMQ's descriptor, and
what all coroutines ask for in one turn of the loop leaves in one message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from msgspec import Struct

from flashq.client.async_methods import AsyncMethods
from flashq.client.async_subscription import AsyncSubscription
from flashq.client.calls import DELIVERING, Call, prepare
from flashq.client.connection import Connection
from flashq.client.endpoint import check_arguments, client_name, resolve_url
from flashq.client.happenings import (
    AnyHappening,
    Completed,
    Connected,
    EventsInterrupted,
    LeasesLost,
    Malformed,
    NoticeReceived,
    SubscriptionRefused,
    TokenRefused,
)
from flashq.client.io_thread import now_ms
from flashq.client.loop_io import LoopIo
from flashq.client.outages import Outages
from flashq.client.ownership import Owned
from flashq.client.pulse import STUCK_TIMEOUT_MS
from flashq.client.requests import CONNECT_TIMEOUT_MS, unreached
from flashq.client.results import Delivered, Job
from flashq.client.subscriptions import ALL, Readers, wanted_events
from flashq.client.sync_client import TIMEOUT_MS
from flashq.errors import CallNotAllowed, ConnectionClosed
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode
from flashq.protocol.sessions import HelloReply, Unsubscribe

T = TypeVar("T")

_log: Final = logging.getLogger("flashq.client")


class AsyncClient(AsyncMethods, Owned):
    """A connection to a flashq server, for asyncio.

    It connects by its first call, reconnects by itself, and repeats what was outstanding without
    having it done twice. Close it, or use it as a context manager: jobs it still holds go back at
    once. A pull that is cancelled gives back the jobs it may still bring.

    It belongs to the event loop that first uses it; once that is closed, its session goes on in the
    next one. After a fork it starts anew in the child, with a session of its own: jobs and
    subscriptions of the parent stay the parent's.

    Args:
        url: `tcp://host:port` or `ipc:///path`; default: `FLASHQ_URL`, else the local server.
        token: shown to the server; default: `FLASHQ_TOKEN`.
        timeout: ms that a call may take, unless it waits for something by itself.
        connect_timeout: ms that any call may take while no server has been reached yet.
        on_leases_lost: called in the event loop with the ids of jobs that are no longer this
            client's, because they were cancelled or taken back; a function or a coroutine function.
        on_lost: the same, with what became of each job where that is known.
        stuck_timeout: ms that the event loop may be blocked, once this client has pulled. A thread
            sends the heartbeats as long, and logs what blocks the loop; then the server gives the
            jobs to others.
        logger: where it says that the server is away or back, and what blocks the event loop.

    Raises:
        ConfigError: the URL is of another form.
        TypeError, ValueError: an argument is none.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: int = TIMEOUT_MS,
        connect_timeout: int = CONNECT_TIMEOUT_MS,
        on_leases_lost: Callable[[list[int]], Awaitable[None] | None] | None = None,
        on_lost: Callable[[LeasesLost], None] | None = None,
        stuck_timeout: int = STUCK_TIMEOUT_MS,
        logger: logging.Logger = _log,
    ) -> None:
        super().__init__()
        check_arguments(
            token=token,
            on_leases_lost=on_leases_lost,
            timeout=timeout,
            connect_timeout=connect_timeout,
            stuck_timeout=stuck_timeout,
        )
        self.url: Final = resolve_url(url, os.environ)
        self._timeout: Final = timeout
        self._connect_timeout: Final = connect_timeout
        self._on_leases_lost: Final = on_leases_lost
        self._on_lost: Final = on_lost
        self._token: Final = token or os.environ.get("FLASHQ_TOKEN") or None
        self._stuck_timeout: Final = stuck_timeout
        self._log: Final = logger
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Be as if nothing had been done yet."""
        self._connection = Connection(
            lambda: os.urandom(16),
            client=client_name(),
            token=self._token,
            address=self.url,
            connect_timeout_ms=self._connect_timeout,
        )
        self._outages = Outages(self.url, self._log.warning)
        self._io: LoopIo | None = None
        #: callbacks that have not ended yet
        self._called: set[asyncio.Future[None]] = set()
        self._begin_in_loop()

    def _begin_in_loop(self) -> None:
        #: callers by corr
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        #: set once the first hello is answered
        self._connected = asyncio.Event()
        self._readers: Readers[AsyncSubscription] = Readers()
        #: held for one SUBSCRIBE or UNSUBSCRIBE at a time
        self._subscribing = asyncio.Lock()

    def _start_anew(self) -> Any:
        before = (self._connection, self._io, self._waiting, self._readers, self._called)
        if self._io is not None:
            self._io.leave_to_parent()
        self._end_readers("this subscription is the parent's")
        self._begin()
        return before

    def _end_at_exit(self) -> None:
        if self._io is not None and not self._closed:
            self._closed = True
            self._io.abandon()

    def __del__(self) -> None:
        io = getattr(self, "_io", None)  # the constructor may have raised
        if io is not None and not self._closed:
            io.abandon()  # first: a warning can be an error
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

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
        timeout = min(self._timeout, self._connect_timeout)
        try:
            await asyncio.wait_for(self._connected.wait(), timeout / 1000)
        except TimeoutError:
            raise ConnectionClosed(unreached(self.url, timeout)) from None
        if self._connection.refusal is not None:
            raise self._connection.refusal
        assert self._connection.server is not None
        return self._connection.server

    async def close(self) -> None:
        """End the session: jobs that this client still holds go back to their queues.

        Calls under way end with `ConnectionClosed`.
        """
        if self._closed:
            return
        io = self._io
        if io is None:
            self._connection.close()
        elif io.loop is asyncio.get_running_loop():
            self._closed = True
            await io.close()
        elif io.loop.is_closed():
            io.bury(goodbye=True)
        else:
            raise _wrong_loop(self)
        self._closed = True
        for reader in self._readers.end(ConnectionClosed("this client is closed")):
            reader.wake()

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
                io, wanted = self._running(), self._readers.wanted(queue)
                with io.lock:
                    corr = self._connection.subscribe(queue, wanted, now_ms(), self._timeout)
                self._checked(await self._outcome(corr, self._expect(io, corr)))
            except BaseException:
                self._readers.remove(reader)
                if not self._readers.wanted(queue):
                    self._unsubscribed(queue)
                raise

    async def unlisten(self, reader: AsyncSubscription) -> None:
        """Hand nothing more to `reader`; it calls this itself."""
        async with self._subscribing:
            self._readers.remove(reader)
            if self._readers.wanted(reader.queue):
                return
            self._unsubscribed(reader.queue)
            if not self._closed:
                await self._call(Unsubscribe(queue=reader.queue), Reply)

    def _unsubscribed(self, queue: str) -> None:
        if self._io is not None:
            with self._io.lock:
                self._connection.unsubscribed(queue)

    def begin(self, job: Job) -> None:
        """Say with the next message that the work on a job begins: its time-out counts from then.

        Only for jobs that were pulled with `starts`. Nobody waits for the answer: a lease that is
        lost is told as ever. Nothing is said of a job that has `ended` before.
        """
        io = self._running()
        io.beginning[job.id] = job
        io.soon()

    def ended(self, job: Job) -> None:
        """Say nothing more of a job's beginning: its work is over."""
        if self._io is not None:
            self._io.beginning.pop(job.id, None)

    # --- calls

    async def _call(self, request: Struct | Call, kind: type[T], *, within: int | None = None) -> T:
        corr, future = self._start(request, within)
        return self._read(await self._outcome(corr, future), kind)

    async def _call_each(self, requests: Sequence[Struct], kind: type[T]) -> list[T]:
        started = [self._start(request, None) for request in requests]
        try:
            outcomes = [await self._outcome(corr, future) for corr, future in started]
        except BaseException:  # cancelled, or thrown away with its loop
            for corr, future in started:
                self._abandon(corr, future)
            raise
        return [self._read(outcome, kind) for outcome in outcomes]

    async def _shard_count(self) -> int:
        return self._connection.shard_count or (await self.connect()).shard_count

    def _use_token(self, token: str) -> None:
        io = self._running()
        if self._connection.refusal is not None:
            self._connected.clear()
        with io.lock:
            self._connection.use_token(token)

    def _start(
        self, request: Struct | Call, within: int | None
    ) -> tuple[int, asyncio.Future[Completed]]:
        call = request if isinstance(request, Call) else prepare(request)
        io = self._running()
        timeout = self._timeout if within is None else within
        if io.pulse is None and call.command.request in DELIVERING:
            io.start_pulse(repr(self), self._stuck_timeout, self._log)
        with io.lock:
            corr = self._connection.request(call, now_ms(), timeout)
        return corr, self._expect(io, corr)

    def _expect(self, io: LoopIo, corr: int) -> asyncio.Future[Completed]:
        future = self._waiting[corr] = io.loop.create_future()
        io.expect()
        return future

    async def _outcome(self, corr: int, future: asyncio.Future[Completed]) -> Completed:
        try:
            return await future
        except BaseException:  # cancelled, or thrown away with its loop
            self._abandon(corr, future)
            raise

    def _abandon(self, corr: int, future: asyncio.Future[Completed]) -> None:
        """Nobody takes the outcome: what it delivers goes back."""
        if self._waiting.get(corr) is not future and not future.done():
            return  # of another event loop, or of the parent
        self._waiting.pop(corr, None)
        if self._io is not None:
            with self._io.lock:
                self._connection.abandon(corr)
        if future.done() and not future.cancelled():
            reply = future.result().reply
            if isinstance(reply, Delivered):
                self._give_back(reply)

    def _give_back(self, delivered: Delivered) -> None:
        if self._io is not None:
            with self._io.lock:
                self._connection.give_back(delivered.all(), now_ms())
            self._io.soon()

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

    def _running(self) -> LoopIo:
        """Return what moves messages in the running event loop; open the socket by the first call.

        Raises:
            ConnectionClosed: the client is closed.
            CallNotAllowed: it belongs to another loop.
        """
        if self._closed:
            raise ConnectionClosed("this client is closed")
        loop, io = asyncio.get_running_loop(), self._io
        if io is None or io.loop is not loop:
            io = self._move_to(loop)
        return io

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> LoopIo:
        """Begin in an event loop, or go on in it once the last one is closed."""
        if self._io is not None:
            if not self._io.loop.is_closed():
                raise _wrong_loop(self)
            self._io.bury(goodbye=False)
            for corr in self._waiting:  # their callers have gone with their loop
                self._connection.abandon(corr)
            self._end_readers("the event loop of this subscription is closed")
            self._begin_in_loop()
        self._io = io = LoopIo(
            self.url, self._connection, loop, self._dispatch, self._outages, self._timeout
        )
        io.open()
        return io

    def _end_readers(self, reason: str) -> None:
        """End subscriptions in whose loop nobody can wait any more."""
        for reader in list(self._readers.end(ConnectionClosed(reason))):
            self._connection.unsubscribed(reader.queue)

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
            task = asyncio.ensure_future(self._call_back(self._on_leases_lost, ids))
            self._called.add(task)
            task.add_done_callback(self._called.discard)

    @staticmethod
    async def _call_back(
        callback: Callable[[list[int]], Awaitable[None] | None], ids: list[int]
    ) -> None:
        try:
            waited = callback(ids)
            if waited is not None:
                await waited
        except Exception:  # noqa: BLE001 - the caller's code must not be lost without a word
            _log.exception("on_leases_lost failed")


def _wrong_loop(client: AsyncClient) -> CallNotAllowed:
    return CallNotAllowed(
        f"{client!r} belongs to another event loop, which is not closed: use it there, or make a "
        "client for each loop"
    )
