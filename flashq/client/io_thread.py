"""The thread behind a blocking client: the only one that touches its socket.

Owns the loop, the socket and the waking of the loop. What is said and repeated is the connection's;
who waits for what is the client's.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

import zmq

from flashq.client.connection import Connection
from flashq.client.happenings import AnyHappening, Disconnected
from flashq.client.sockets import descriptor, open_socket, readable

FAREWELL_MS: Final = 1000
"""How long the thread waits at its end for the server's answer to the goodbye."""
MESSAGES_PER_TURN_MAX: Final = 200


def now_ms() -> int:
    """Return milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000


class IoThread:
    """Moves messages between a connection and its socket until `stop`.

    Args:
        url: the server.
        connection: what to say; `lock` guards it.
        lock: held by whoever touches the connection.
        dispatch: told in this thread, without the lock, what happened.
        ended: called last, however the thread ends.
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
        self._dispatch: Final = dispatch
        self._ended: Final = ended
        self._context: Final = zmq.Context[zmq.Socket[bytes]]()
        self._socket = open_socket(self._context, url)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._poll: Final = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        self._poll.register(descriptor(self._socket), select.POLLIN)
        #: whether the loop has to be woken to see a new request
        self._asleep = False
        self._stop_at: int | None = None
        self._thread: Final = threading.Thread(target=self._run, name="flashq-client", daemon=True)

    def start(self) -> None:
        """Begin; the connection says hello."""
        self._thread.start()

    def wake(self) -> None:
        """Have the loop look at the connection again. The caller holds the lock."""
        if self._asleep:
            self._asleep = False
            os.write(self._wake_write, b"\0")

    def stop(self) -> None:
        """Have the thread end once the goodbye is answered. The caller holds the lock."""
        self._stop_at = now_ms() + FAREWELL_MS
        self.wake()

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
            self._socket.close(0)
            self._context.term()
            with self._lock:
                self._asleep = False
                os.close(self._wake_read)
                os.close(self._wake_write)
            self._ended()

    def _turn(self) -> bool:
        """Take in what there is, send what there is, and sleep; False at the end."""
        socket, connection = self._socket, self._connection
        received: list[list[bytes]] = []
        while len(received) < MESSAGES_PER_TURN_MAX and readable(socket):
            received.append(socket.recv_multipart(zmq.DONTWAIT))
        with self._lock:
            now = now_ms()
            for frames in received:  # all of it, before anything expires
                connection.receive(frames, now)
            connection.tick(now)
            messages = connection.data_to_send()
            happened = connection.events()
            stop_at = self._stop_at
            due = connection.next_deadline()
            self._asleep = True
        for frames in messages:
            socket.send_multipart(frames, zmq.DONTWAIT)
        if happened:
            self._dispatch(happened)
            if any(type(event) is Disconnected for event in happened):
                self._reopen()
                return True
        if stop_at is not None:
            if now >= stop_at or not connection.farewell_pending:
                return False
            due = stop_at if due is None else min(due, stop_at)
        if not readable(socket):
            self._poll.poll(None if due is None else max(0, due - now))
        with self._lock:
            self._asleep = False
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 1024)
        return True

    def _reopen(self) -> None:
        self._poll.unregister(descriptor(self._socket))
        self._socket.close(0)
        self._socket = open_socket(self._context, self._url)
        self._poll.register(descriptor(self._socket), select.POLLIN)
        with self._lock:
            self._connection.opened(now_ms())
