"""The blocking client: any number of calling threads over one connection.

Owns the waiting of callers and readers. The socket is the I/O thread's, every decision the
connection's. Requests that several threads make at the same time leave in one message.

Code of others (callbacks, log handlers) runs in a thread of its own, where it may call the client.
What interrupts a thread inside of the client (a signal handler, a finaliser) can find the client's
lock held by that very thread, and then its call raises instead of waiting for itself.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from msgspec import Struct

from flashq.client.callbacks import Callbacks
from flashq.client.calls import Call, prepare
from flashq.client.connection import Connection
from flashq.client.endpoint import check_arguments, client_name, resolve_url
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
from flashq.client.io_thread import FAREWELL_MS, IoThread, now_ms
from flashq.client.methods import Methods
from flashq.client.outages import Outages
from flashq.client.ownership import Owned
from flashq.client.requests import CONNECT_TIMEOUT_MS, unreached
from flashq.client.results import Delivered, Event, Gap
from flashq.client.subscriptions import ALL, EventBuffer, Readers, wanted_events
from flashq.errors import CallNotAllowed, ConnectionClosed
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


class Client(Methods, Owned):
    """A connection to a flashq server, for blocking code. Safe to share between threads.

    It connects by its first call, reconnects by itself, and repeats what was outstanding without
    having it done twice. Close it, or use it as a context manager: jobs it still holds go back at
    once. After a fork it starts anew in the child, with a session of its own: jobs and
    subscriptions of the parent stay the parent's.

    Args:
        url: `tcp://host:port` or `ipc:///path`; default: `FLASHQ_URL`, else the local server.
        token: shown to the server; default: `FLASHQ_TOKEN`.
        timeout: ms that a call may take, unless it waits for something by itself.
        connect_timeout: ms that any call may take while no server has been reached yet.
        on_leases_lost: called with the ids of jobs that are no longer this client's, because they
            were cancelled or taken back. It runs in a thread of the client's, and may call the
            client.

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
        on_leases_lost: Callable[[list[int]], None] | None = None,
    ) -> None:
        super().__init__()
        check_arguments(
            token=token,
            on_leases_lost=on_leases_lost,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
        if inspect.iscoroutinefunction(on_leases_lost):
            raise TypeError("on_leases_lost of a Client is a function, not a coroutine function")
        self.url: Final = resolve_url(url, os.environ)
        self._timeout: Final = timeout
        self._connect_timeout: Final = connect_timeout
        self._on_leases_lost: Final = on_leases_lost
        self._token: Final = token or os.environ.get("FLASHQ_TOKEN") or None
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
        #: guards the connection and the thread
        self._lock = threading.Lock()
        #: the thread that holds the lock for a call of its own; 0 for none
        self._holder = 0
        self._io: IoThread | None = None
        self._callbacks = callbacks = Callbacks()
        self._outages = Outages(self.url, lambda *line: callbacks.post(_log.warning, *line))
        #: set once the first hello is answered, or never will be
        self._connected = threading.Event()
        #: callers by corr
        self._waiters: dict[int, _Waiter] = {}
        self._readers: Readers[Subscription] = Readers()
        #: held for one SUBSCRIBE or UNSUBSCRIBE at a time
        self._subscribing = threading.Lock()
        #: the thread that holds it; 0 for none
        self._subscriber = 0

    def _start_anew(self) -> Any:
        before = (self._connection, self._io, self._readers, self._waiters, self._lock)
        for reader in self._readers.end(ConnectionClosed("this subscription is the parent's")):
            del reader  # nobody can wait for it here
        self._begin()
        return before

    def _end_at_exit(self) -> None:
        self.close()

    def __del__(self) -> None:
        io = getattr(self, "_io", None)  # the constructor may have raised
        if io is not None and not self._closed:
            self._callbacks.stop()
            io.abandon()  # first: a warning can be an error
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

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
        self._locked(self._running)
        timeout = min(self._timeout, self._connect_timeout)
        if not self._connected.wait(timeout / 1000):
            raise ConnectionClosed(unreached(self.url, timeout))
        if self._connection.refusal is not None:
            raise self._connection.refusal
        server = self._connection.server
        if server is None:
            raise ConnectionClosed("this client is closed")
        return server

    def close(self) -> None:
        """End the session: jobs that this client still holds go back to their queues.

        Calls under way in other threads end with `ConnectionClosed`.
        """
        io = self._io
        try:
            self._locked(self._stop)
        except CallNotAllowed:  # of a signal handler, say: the thread ends without us
            self._closed = True
            if io is not None:
                io.abandon()
            return
        self._callbacks.stop()
        if io is not None:
            io.join()
        self._callbacks.join(FAREWELL_MS)

    def _stop(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.close()
            if self._io is not None:
                self._io.stop()

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
        self._one_at_a_time(self._listen, reader)
        return reader

    def _listen(self, reader: Subscription) -> None:
        waiter = _Waiter()
        self._readers.add(reader)
        try:
            self._locked(self._ask_for_events, waiter, reader.queue)
            self._checked(waiter.wait())
        except BaseException:
            self._give_up(waiter)
            self._readers.remove(reader)
            if not self._readers.wanted(reader.queue):
                self._locked(self._connection.unsubscribed, reader.queue)
            raise

    def _ask_for_events(self, waiter: _Waiter, queue: str) -> None:
        io, wanted = self._running(), self._readers.wanted(queue)
        waiter.corr = self._connection.subscribe(queue, wanted, now_ms(), self._timeout)
        self._waiters[waiter.corr] = waiter
        io.submit()

    def _unsubscribe(self, reader: Subscription) -> None:
        self._one_at_a_time(self._unlisten, reader)

    def _unlisten(self, reader: Subscription) -> None:
        self._readers.remove(reader)
        if self._readers.wanted(reader.queue):
            return
        self._locked(self._connection.unsubscribed, reader.queue)
        if not self._closed:
            self._call(Unsubscribe(queue=reader.queue), Reply)

    def _one_at_a_time(self, act: Callable[[Subscription], None], reader: Subscription) -> None:
        if self._subscriber == threading.get_ident():
            raise CallNotAllowed(detail="it interrupts a subscribing of this client's")
        with self._subscribing:
            try:
                self._subscriber = threading.get_ident()
                act(reader)
            finally:
                self._subscriber = 0

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
        self._locked(self._show, token)

    def _show(self, token: str) -> None:
        if self._connection.refusal is not None:
            self._connected.clear()
        self._connection.use_token(token)

    def _start(self, waiter: _Waiter, request: Struct | Call, within: int | None = None) -> None:
        call = request if isinstance(request, Call) else prepare(request)
        self._locked(self._ask, waiter, call, self._timeout if within is None else within)

    def _ask(self, waiter: _Waiter, call: Call, timeout: int) -> None:
        io = self._running()
        waiter.corr = self._connection.request(call, now_ms(), timeout)
        self._waiters[waiter.corr] = waiter
        io.submit()

    def _give_up(self, waiter: _Waiter) -> None:
        """Nobody takes the outcome of a request: what it delivers goes back."""
        if waiter.corr:
            self._locked(self._forget, waiter)

    def _forget(self, waiter: _Waiter) -> None:
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

    def _locked(self, act: Callable[..., T], *arguments: Any) -> T:
        """Do something with the lock held.

        Raises:
            CallNotAllowed: this very thread holds it, or it is the one that answers.
        """
        me, io = threading.get_ident(), self._io
        is_mine = self._holder == me and self._lock.locked()
        if is_mine or (io is not None and io.ident == me):
            raise CallNotAllowed(detail="it interrupts this client in the middle of its work")
        with self._lock:
            try:
                self._holder = me
                return act(*arguments)
            finally:
                self._holder = 0

    def _running(self) -> IoThread:
        """Return the I/O thread; the lock is held."""
        if self._closed:
            raise ConnectionClosed("this client is closed")
        if self._io is None:
            self._io = IoThread(
                self.url, self._connection, self._lock, self._dispatch, self._thread_ended
            )
            self._io.start()
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
                if self._on_leases_lost is not None:
                    self._callbacks.post(self._on_leases_lost, event.ids)
            elif isinstance(event, Connected | TokenRefused):
                self._outages.back(now_ms())
                self._connected.set()
            elif isinstance(event, Disconnected):
                self._outages.gone(event.reason, now_ms())
            elif isinstance(event, NoticeReceived | EventsInterrupted | SubscriptionRefused):
                for reader in self._readers.dispatch(event):
                    reader.wake()
            elif isinstance(event, Malformed):
                line = ("dropped a message of %s: %s", self.url, event.reason)
                self._callbacks.post(_log.warning, *line)

    def _thread_ended(self) -> None:
        """Let nobody wait for ever, whatever ended the thread."""
        with self._lock:
            self._closed = True
        self._callbacks.stop()
        self._connected.set()
        for reader in self._readers.end(ConnectionClosed()):
            reader.wake()
        for corr in list(self._waiters):
            waiter = self._waiters.pop(corr, None)
            if waiter is not None:
                waiter.outcome = Completed(corr, None, ConnectionClosed())
                waiter.wake()
