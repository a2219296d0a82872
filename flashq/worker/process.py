"""The worker: what a program makes, starts and stops.

Owns the ways into and out of its work: the loop or thread that it works in, signals, and in which
process that is. The work itself is a `Shift`'s.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from flashq.client.ownership import Unportable
from flashq.client.pulse import STUCK_TIMEOUT_MS
from flashq.errors import FlashQError
from flashq.protocol.names import check_queue_name
from flashq.worker.loop import run_in_own_loop
from flashq.worker.shift import Shift, Terms

CONCURRENCY_SYNC: Final = 10
CONCURRENCY_ASYNC: Final = 100
BATCH: Final = 1000
GRACE_MS: Final = 10_000

_log: Final = logging.getLogger("flashq.worker")


class Worker(Unportable):
    """Takes jobs from queues and runs a handler on each.

    What the handler returns is the job's result; whatever it raises fails the attempt. A handler
    that is a coroutine function runs in the worker's event loop and gets an `AsyncWorkerJob`; any
    other one runs on threads and gets a `WorkerJob`.

    A job that is cancelled, times out or goes to others while it runs stops its handler: a
    coroutine gets `CancelledError` where it awaits; a thread finds `stop_event` set, and its next
    call of the job's methods raises `JobStopped`. The place of a handler that does not stop stays
    taken until it ends, and the log says where it is.

    A worker may work again once it has ended, and in a process that was forked after it was made:
    each time it begins anew, with a session of its own.

    The logger `flashq.worker` hears of start and end, of each failed attempt with its traceback, of
    each retry, and of outages of the server.

    Args:
        queues: one name or several.
        handler: called with each job.
        concurrency: most jobs running at a time (100 for asyncio, 10 for threads).
        url: the server; as for `Client`.
        token: shown to the server; as for `Client`.
        grace: ms that running jobs have to finish after `stop`; then they go back to their queue.
        batch: most jobs in one fetch or acknowledgement. Jobs are fetched ahead only at the rate
            at which they are worked off, so that they do not wait here while others have nothing.
        stuck_timeout: ms that a coroutine may block the worker's event loop before the jobs go to
            others; heartbeats go on as long, and the log says what blocks it.

    Raises:
        QueueNameEmpty, QueueNameTooLong, QueueNameInvalid: no queue can have such a name.
        TypeError: `handler` is no function, or yields.
        ValueError: there is no queue, or a number is out of bounds.
    """

    def __init__(
        self,
        queues: str | Sequence[str],
        handler: Callable[[Any], Any],
        *,
        concurrency: int | None = None,
        url: str | None = None,
        token: str | None = None,
        grace: int = GRACE_MS,
        batch: int = BATCH,
        stuck_timeout: int = STUCK_TIMEOUT_MS,
    ) -> None:
        names = [queues] if isinstance(queues, str) else list(queues)
        if not names:
            raise ValueError("a worker needs at least one queue")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"a queue's name is text, not {type(name).__name__}")
            check_queue_name(name)
        is_async = is_coroutine_function(handler)
        if concurrency is None:
            concurrency = CONCURRENCY_ASYNC if is_async else CONCURRENCY_SYNC
        if concurrency < 1 or batch < 1 or grace < 0 or stuck_timeout < 1:
            raise ValueError(
                "concurrency, batch and stuck_timeout are at least 1, grace at least 0"
            )
        self._terms: Final = Terms(
            queues=names,
            handler=handler,
            is_async=is_async,
            concurrency=concurrency,
            url=url,
            token=token,
            grace_ms=grace,
            batch_max=batch,
            stuck_timeout_ms=stuck_timeout,
        )
        self._forget()

    def _forget(self) -> None:
        """Begin anew, in this process."""
        self._pid = os.getpid()
        #: the newest shift, and its loop while it works
        self._shift: Shift | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        #: set once jobs are fetched, or never will be
        self._started = threading.Event()
        self._stop_asked = False
        #: guards the two, so that no stop is missed
        self._lock = threading.Lock()

    @property
    def completed(self) -> int:
        """Jobs acknowledged so far."""
        return 0 if self._shift is None else self._shift.engine.completed

    @property
    def failed(self) -> int:
        """Attempts failed so far."""
        return 0 if self._shift is None else self._shift.engine.failed

    @property
    def lost(self) -> int:
        """Jobs that were no longer this worker's when they, or it, ended."""
        return 0 if self._shift is None else self._shift.engine.lost

    # --- life

    def run(self) -> None:
        """Work until `stop`, SIGTERM or SIGINT; a second signal does not wait for running jobs.

        Raises:
            ConnectionClosed: there is no server.
            TokenInvalid, NotAllowed, ...: it does not let this worker take jobs.
        """
        is_main = threading.current_thread() is threading.main_thread()
        run_in_own_loop(self.serve(signals=is_main))

    def start(self) -> Self:
        """Work in a thread of its own until `stop`; return when jobs are being fetched.

        Raises:
            ConnectionClosed: there is no server.
            TokenInvalid: it does not know the token.
            RuntimeError: this worker works already.
        """
        if self._pid != os.getpid():
            self._forget()
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError("this worker works already")
        self._started = threading.Event()
        errors: list[FlashQError] = []
        thread = threading.Thread(
            target=self._run_in_thread, args=(errors,), name="flashq-worker", daemon=True
        )
        self._thread = thread
        thread.start()
        self._started.wait()
        if errors:
            thread.join()
            raise errors[0]
        return self

    def _run_in_thread(self, errors: list[FlashQError]) -> None:
        try:
            self.run()
        except FlashQError as error:
            errors.append(error)
            _log.error("the worker ended: %s", error)
        finally:
            self._started.set()

    def stop(self) -> None:
        """Take no more jobs, let running ones finish within the grace time, and end.

        Safe from any thread and from handlers. After `start`, it waits for the end, unless a
        handler calls it. In another process than the one it works in it does nothing.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            loop, thread, shift = self._loop, self._thread, self._shift
            if loop is None or shift is None:
                self._stop_asked = True
            elif not loop.is_closed():
                loop.call_soon_threadsafe(shift.stop)
        if thread is not None and not threading.current_thread().name.startswith("flashq-worker"):
            thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def serve(self, *, signals: bool = False) -> None:
        """Work in the running event loop until `stop`.

        Args:
            signals: whether SIGTERM and SIGINT stop it.

        Raises:
            RuntimeError: this worker works already.
        """
        if self._pid != os.getpid():
            self._forget()
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("this worker works already")
            self._loop = loop
            shift = self._shift = Shift(self._terms)
            stop_asked, self._stop_asked = self._stop_asked, False
        if stop_asked:
            shift.stop()
        kinds = (signal.SIGTERM, signal.SIGINT) if signals else ()
        for kind in kinds:
            loop.add_signal_handler(kind, self._on_signal)
        try:
            await shift.work(self._started.set)
        finally:
            with self._lock:
                self._loop = None
            for kind in kinds:
                loop.remove_signal_handler(kind)

    def _on_signal(self) -> None:
        if self._shift is not None:
            self._shift.stop(0.0 if self._shift.engine.stopping else None)


def is_coroutine_function(handler: Any) -> bool:
    """Tell whether a handler is a coroutine function.

    Raises:
        TypeError: it is no handler.
    """
    call = getattr(handler, "__call__", None)  # noqa: B004 - of an object, it may be async
    if not callable(handler):
        raise TypeError(f"a handler is a function, not {type(handler).__name__}")
    for function in (handler, call):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"a handler returns its result; {handler!r} yields")
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)
