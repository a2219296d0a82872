"""The thread behind a blocking client, and its socket.

Owns the loop, the socket and the waking of the loop. What is said and repeated is the connection's;
who waits for what is the client's. The thread does not keep its client alive: a client that nobody
closed, and that nobody has any more, is let go of, and its session ended.

The socket is touched only with the lock held. So a caller that is alone sends its request itself,
which saves it a change of threads; several at once leave that to the loop, which puts their
requests into one message. While the loop sleeps it watches the socket's descriptor, not the socket.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

import zmq

from flashq.client.connection import Connection
from flashq.client.happenings import AnyHappening, Disconnected
from flashq.client.polling import make_poll
from flashq.client.sockets import open_socket
from flashq.wire import descriptor, readable, receive, send_frames

FAREWELL_MS: Final = 1000
"""How long the thread waits at its end for the server's answer to the goodbye."""
MESSAGES_PER_TURN_MAX: Final = 200


def now_ms() -> int:
    """Return milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000


class IoThread:
    """Moves messages between a connection and its socket until `stop` or `abandon`.

    Args:
        url: the server.
        connection: what to say; `lock` guards it.
        lock: held by whoever touches the connection.
        dispatch: a method told in this thread, without the lock, what happened, as long as its
            object lives.
        ended: a method called last, however the thread ends.
    """

    def __init__(
        self,
        url: str,
        connection: Connection,
        lock: threading.Lock,
        dispatch: Callable[[list[AnyHappening]], None],
        ended: Callable[[], None],
    ) -> None:
        self._url: Final = url
        self._connection: Final = connection
        self._lock: Final = lock
        self._dispatch: Final = weakref.WeakMethod(dispatch)
        self._ended: Final = weakref.WeakMethod(ended)
        self._context: Final = zmq.Context[zmq.Socket[bytes]]()
        self._socket = open_socket(self._context, url)
        self._wake_read, self._wake_write = os.pipe()
        self._poll: Final = make_poll()
        self._poll.register(self._wake_read)
        self._poll.register(descriptor(self._socket))
        #: whether the loop sleeps, or is about to
        self._asleep = False
        #: when it looks by itself, in ms of the monotonic clock; None for never
        self._asleep_until: int | None = None
        self._stop_at: int | None = None
        #: whether there is no client any more
        self._is_abandoned = False
        self._thread: Final = threading.Thread(target=self._run, name="flashq-client", daemon=True)

    def start(self) -> None:
        """Begin; the connection says hello."""
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The thread's number, as `threading.get_ident` gives it."""
        return self._thread.ident

    def submit(self) -> None:
        """Have what was just asked of the connection sent. The caller holds the lock."""
        if self._asleep and self._connection.outstanding == 1:
            self._send()
            due, until = self._connection.next_deadline(), self._asleep_until
            if (
                readable(self._socket)  # sending may have consumed the descriptor's signal
                or self._connection.has_events
                or (due is not None and (until is None or due < until))
            ):
                self._wake()
        else:
            self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            os.write(self._wake_write, b"\0")

    def _send(self) -> None:
        for frames in self._connection.data_to_send():
            send_frames(self._socket, frames)

    def stop(self) -> None:
        """Have the thread end once the goodbye is answered. The caller holds the lock."""
        self._stop_at = now_ms() + FAREWELL_MS
        self._wake()

    def abandon(self) -> None:
        """Have the thread say goodbye and end. Waits for nothing and takes no lock: a finaliser
        calls it, wherever it runs."""
        self._is_abandoned = True
        if not self._is_over:
            os.write(self._wake_write, b"\0")

    @property
    def _is_over(self) -> bool:
        return self._wake_write < 0

    def join(self) -> None:
        """Wait for the thread's end, unless this is the thread itself."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            with self._lock:
                self._connection.opened(now_ms())
            while self._turn():
                pass
        finally:
            with self._lock:
                self._asleep = False
                wake_write, self._wake_write = self._wake_write, -1
                self._socket.close(0)
                os.close(self._wake_read)
                os.close(wake_write)
            self._context.term()
            ended = self._ended()
            if ended is not None:
                ended()

    def _tell(self, happened: list[AnyHappening]) -> None:
        if happened:
            dispatch = self._dispatch()
            if dispatch is not None:
                dispatch(happened)

    def _turn(self) -> bool:
        """Take in what there is, send what there is, and sleep; False at the end."""
        connection = self._connection
        with self._lock:
            now = now_ms()
            if self._is_abandoned and self._stop_at is None:
                connection.close()
                self._stop_at = now + FAREWELL_MS
            for frames in self._receive():  # all of it, before anything expires
                connection.receive(frames, now)
            happened = connection.events()
        self._tell(happened)  # first of all: somebody waits for this
        with self._lock:
            connection.tick(now)
            self._send()
            happened = connection.events()
            if any(type(event) is Disconnected for event in happened):
                self._reopen(now)
            due, stop_at = connection.next_deadline(), self._stop_at
            if stop_at is not None:
                due = stop_at if due is None else min(due, stop_at)
            more = readable(self._socket)
            self._asleep, self._asleep_until = not more, due
        self._tell(happened)
        happened = []
        if stop_at is not None and (now >= stop_at or not connection.farewell_pending):
            return False
        if not more:
            ready = self._poll.poll(None if due is None else max(0, due - now))
            with self._lock:
                self._asleep = False
            if self._wake_read in ready:
                os.read(self._wake_read, 1024)
        return True

    def _receive(self) -> list[list[bytes]]:
        received: list[list[bytes]] = []
        while len(received) < MESSAGES_PER_TURN_MAX and readable(self._socket):
            frames = receive(self._socket)
            if frames is not None:
                received.append(frames)
        return received

    def _reopen(self, now: int) -> None:
        self._poll.unregister(descriptor(self._socket))
        self._socket.close(0)
        self._socket = open_socket(self._context, self._url)
        self._poll.register(descriptor(self._socket))
        self._connection.opened(now)
        self._send()
