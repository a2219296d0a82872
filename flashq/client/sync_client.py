"""The blocking client: any number of calling threads over one connection.

Owns the waiting of callers and readers. The socket is the I/O thread's, every decision the
connection's. Requests that several threads make at the same time leave in one message.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from msgspec import Struct

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
from flashq.client.io_thread import IoThread, now_ms
from flashq.client.methods import Methods
from flashq.client.outages import Outages
from flashq.client.results import Delivered, Event, Gap
from flashq.client.subscriptions import ALL, EventBuffer, Readers, wanted_events
from flashq.errors import ConnectionClosed
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode
from flashq.protocol.sessions import HelloReply, Unsubscribe

T = TypeVar("T")

TIMEOUT_MS: Final = 30_000

_log: Final = logging.getLogger("flashq.client")


class _Waiter:
    """A caller, asleep until its request has an outcome."""

    __slots__ = ("_lock", "corr", "outcome")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.corr = 0
        self.outcome: Completed | None = None

    def wake(self) -> None:
        self._lock.release()

    def wait(self) -> Completed:
        self._lock.acquire()
        assert self.outcome is not None
        return self.outcome


class Subscription(EventBuffer):
    """An iterator of events, and of a `Gap` wherever some are missing.

    It ends when it or its client is closed.
    """

    def __init__(self, queue: str, events: frozenset[str], close: Callable[[Any], None]) -> None:
        super().__init__(queue, events)
        self._close: Final = close
        self._arrived: Final = threading.Event()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event | Gap:
        item = self.get()
        if item is None:
            raise StopIteration
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get(self, timeout: int | None = None) -> Event | Gap | None:
        """Return the next event, or None when there is none within `timeout` ms, or at the end.

        Raises:
            FlashQError: the server refused the subscription after a reconnect.
        """
        while True:
            self._arrived.clear()
            item = self.take()
            if item is not None:
                return item
            if isinstance(self.ended, ConnectionClosed):
                return None
            if self.ended is not None:
                raise self.ended
            if not self._arrived.wait(None if timeout is None else timeout / 1000):
                return None

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._arrived.set()

    def close(self) -> None:
        """Listen no more."""
        if self.ended is None:
            self.ended = ConnectionClosed()
            self.wake()
            self._close(self)


class Client(Methods):
    """A connection to a flashq server, for blocking code. Safe to share between threads.

    It connects by its first call, reconnects by itself, and repeats what was outstanding without
    having it done twice. Close it, or use it as a context manager: jobs it still holds go back at
    once. After a fork the child needs a client of its own.

    Args:
        url: `tcp://host:port` or `ipc:///path`; default: `FLASHQ_URL`, else the local server.
        token: shown to the server; default: `FLASHQ_TOKEN`.
        timeout: ms that a call may take, unless it waits for something by itself.
        on_leases_lost: called from the client's own thread with the ids of jobs that are no longer
            this client's, because they were cancelled or taken back.
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
        self._outages: Final = Outages(self.url, _log)
        self._pid: Final = os.getpid()
        self._connection: Final = Connection(
            lambda: os.urandom(16),
            client=client_name(),
            token=token or os.environ.get("FLASHQ_TOKEN") or None,
        )
        #: guards the connection and the thread
        self._lock: Final = threading.Lock()
        self._io: IoThread | None = None
        self._closed = False
        #: set once the first hello is answered, or never will be
        self._connected: Final = threading.Event()
        #: callers by corr
        self._waiters: Final[dict[int, _Waiter]] = {}
        self._readers: Final[Readers[Subscription]] = Readers()
        #: held for one SUBSCRIBE or UNSUBSCRIBE at a time
        self._subscribing: Final = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- connection

    def connect(self) -> HelloReply:
        """Wait until the server has answered; needed only to know that it is there.

        Returns:
            The server's version, number of shards and limits.

        Raises:
            ConnectionClosed: it did not answer within the client's time-out.
            TokenInvalid, AuthenticationRequired: it does not know the token, or asks for one.
        """
        with self._guard():
            self._running()
        if not self._connected.wait(self._timeout / 1000):
            raise ConnectionClosed(f"no server at {self.url} within {self._timeout} ms")
        if self._connection.refusal is not None:
            raise self._connection.refusal
        server = self._connection.server
        if server is None:
            raise ConnectionClosed
        return server

    def close(self) -> None:
        """End the session: jobs that this client still holds go back to their queues.

        Calls under way in other threads end with `ConnectionClosed`.
        """
        if self._pid != os.getpid():
            return  # the session is the parent's
        with self._lock:
            io = self._io
            if not self._closed:
                self._closed = True
                self._connection.close()
                if io is not None:
                    io.stop()
        atexit.unregister(self.close)
        if io is not None:
            io.join()

    def subscribe(self, queue: str = ALL, events: str | Iterable[str] = ALL) -> Subscription:
        """Listen to what happens to jobs from now on.

        Args:
            queue: a queue's name; `*` for all.
            events: names of events (`completed`, `failed`, ...); `*` for all.

        Returns:
            An iterator. An `Event` may be about several jobs; where some are missing, there is a
            `Gap`.
        """
        reader = Subscription(queue, wanted_events(events), self._unsubscribe)
        waiter = _Waiter()
        with self._subscribing:
            self._readers.add(reader)
            try:
                wanted = self._readers.wanted(queue)
                with self._guard():
                    io = self._running()
                    corr = self._connection.subscribe(queue, wanted, now_ms(), self._timeout)
                    waiter.corr = corr
                    self._waiters[corr] = waiter
                    io.submit()
                self._checked(waiter.wait())
            except BaseException:
                self._give_up(waiter)
                self._readers.remove(reader)
                if not self._readers.wanted(queue):
                    with self._lock:
                        self._connection.unsubscribed(queue)
                raise
        return reader

    def _unsubscribe(self, reader: Subscription) -> None:
        with self._subscribing:
            self._readers.remove(reader)
            if self._readers.wanted(reader.queue):
                return
            with self._lock:
                self._connection.unsubscribed(reader.queue)
            if not self._closed:
                self._call(Unsubscribe(queue=reader.queue), Reply)

    # --- calls

    def _call(self, request: Struct | Call, kind: type[T], *, within: int | None = None) -> T:
        waiter = _Waiter()
        try:
            self._start(waiter, request, within)
            outcome = waiter.wait()
        except BaseException:  # an interrupt, wherever it comes: nobody will take the outcome
            self._give_up(waiter)
            raise
        return self._read(self._checked(outcome), kind)

    def _call_each(self, requests: Sequence[Struct], kind: type[T]) -> list[T]:
        waiters = [_Waiter() for _ in requests]
        try:
            for waiter, request in zip(waiters, requests, strict=True):
                self._start(waiter, request)
            outcomes = [waiter.wait() for waiter in waiters]
        except BaseException:
            for waiter in waiters:
                self._give_up(waiter)
            raise
        return [self._read(self._checked(outcome), kind) for outcome in outcomes]

    def _shard_count(self) -> int:
        return self._connection.shard_count or self.connect().shard_count

    def _use_token(self, token: str) -> None:
        with self._guard():
            if self._connection.refusal is not None:
                self._connected.clear()
            self._connection.use_token(token)

    def _start(self, waiter: _Waiter, request: Struct | Call, within: int | None = None) -> None:
        call = request if isinstance(request, Call) else prepare(request)
        with self._guard():
            io = self._running()
            timeout = self._timeout if within is None else within
            waiter.corr = self._connection.request(call, now_ms(), timeout)
            self._waiters[waiter.corr] = waiter
            io.submit()

    def _give_up(self, waiter: _Waiter) -> None:
        """Nobody takes the outcome of a request: what it delivers goes back."""
        if not waiter.corr:
            return
        with self._lock:
            self._waiters.pop(waiter.corr, None)
            self._connection.abandon(waiter.corr)
            outcome = waiter.outcome
            if outcome is not None and isinstance(outcome.reply, Delivered):
                self._connection.give_back(outcome.reply.all(), now_ms())

    @staticmethod
    def _checked(outcome: Completed) -> Completed:
        if outcome.error is not None:
            raise outcome.error
        return outcome

    @staticmethod
    def _read(outcome: Completed, kind: type[T]) -> T:
        reply = outcome.reply
        return reply if isinstance(reply, Delivered) else decode(reply, kind)  # type: ignore[return-value]

    # --- the thread

    def _guard(self) -> threading.Lock:
        """Return the lock, in the process that the client belongs to."""
        if self._pid != os.getpid():
            raise ConnectionClosed(
                f"this client belongs to process {self._pid}: after a fork, make a new one"
            )
        return self._lock

    def _running(self) -> IoThread:
        """Return the I/O thread; the lock is held."""
        if self._closed:
            raise ConnectionClosed
        if self._io is None:
            self._io = IoThread(
                self.url, self._connection, self._lock, self._dispatch, self._thread_ended
            )
            self._io.start()
            atexit.register(self.close)
        return self._io

    def _dispatch(self, happened: list[AnyHappening]) -> None:
        for event in happened:
            if isinstance(event, Completed):
                with self._lock:  # an interrupted caller finds both, or neither
                    waiter = self._waiters.pop(event.corr, None)
                    if waiter is not None:
                        waiter.outcome = event
                if waiter is not None:
                    waiter.wake()
            elif isinstance(event, LeasesLost):
                self._tell_leases_lost(event.ids)
            elif isinstance(event, Connected | TokenRefused):
                self._outages.back(now_ms())
                self._connected.set()
            elif isinstance(event, Disconnected):
                self._outages.gone(event.reason, now_ms())
            elif isinstance(event, NoticeReceived | EventsInterrupted | SubscriptionRefused):
                for reader in self._readers.dispatch(event):
                    reader.wake()
            elif isinstance(event, Malformed):
                _log.warning("dropped a message of %s: %s", self.url, event.reason)

    def _tell_leases_lost(self, ids: list[int]) -> None:
        if self._on_leases_lost is not None:
            try:
                self._on_leases_lost(ids)
            except Exception:  # noqa: BLE001 - the caller's code must not end the I/O thread
                _log.exception("on_leases_lost failed")

    def _thread_ended(self) -> None:
        """Let nobody wait for ever, whatever ended the thread."""
        with self._lock:
            self._closed = True
        self._connected.set()
        for reader in self._readers.end(ConnectionClosed()):
            reader.wake()
        for corr in list(self._waiters):
            waiter = self._waiters.pop(corr, None)
            if waiter is not None:
                waiter.outcome = Completed(corr, None, ConnectionClosed())
                waiter.wake()
