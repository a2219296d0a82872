"""How plain functions run: on threads, each job in a context of its own.

Owns the threads. They are daemons: one whose handler never returns cannot hold up the program's
end. A thread serves one job after the other, and outlives whatever a handler raises in it.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from flashq.client.pulse import stack_of
from flashq.worker.job import RunningJob, WorkerJob
from flashq.worker.runners import Source

_log: Final = logging.getLogger("flashq.worker")


class ThreadRunners:
    """Runs a blocking handler.

    Args:
        source: where jobs come from.
        handler: the function.
        threads_max: most jobs running at a time.
    """

    def __init__(
        self, source: Source, handler: Callable[[WorkerJob], Any], threads_max: int
    ) -> None:
        self._source: Final = source
        self._handler: Final[Callable[[Any], Any]] = handler
        self._threads_max: Final = threads_max
        self._loop: Final = asyncio.get_running_loop()
        #: what each job's context begins as
        self._context: Final = contextvars.copy_context()
        self._jobs: Final[queue.SimpleQueue[RunningJob | None]] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        #: the thread of each job that runs; written by the threads
        self._thread_of: Final[dict[RunningJob, int]] = {}
        #: outcomes that the loop has not seen yet; appended by the threads
        self._ended: Final[queue.SimpleQueue[tuple[RunningJob, Any, BaseException | None]]] = (
            queue.SimpleQueue()
        )
        self._lock: Final = threading.Lock()
        #: whether the loop will look at them by itself; guarded by the lock
        self._collecting = False

    def wake(self) -> None:
        """Give jobs to all threads that are free."""
        while (job := self._source.next_job()) is not None:
            self._busy += 1
            if self._busy <= self._threads or self._threads >= self._threads_max:
                self._jobs.put(job)
                continue
            try:
                self._start_thread()
            except RuntimeError as error:  # the system gives no more threads
                if not self._threads:
                    self._busy -= 1
                    self._source.raised(job, error)
                    continue
                _log.warning("%s jobs share %s threads: %s", self._busy, self._threads, error)
            self._jobs.put(job)

    def _start_thread(self) -> None:
        name = f"flashq-worker-{self._threads + 1}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._threads += 1

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get()
                if job is None:
                    return
                self._work_on(job)
            except BaseException:  # noqa: BLE001 - a late exception, set from another thread
                _log.exception("an exception came to a worker's thread between two jobs")

    def _work_on(self, job: RunningJob) -> None:
        self._thread_of[job] = threading.get_ident()
        result, raised = None, None
        try:
            result = self._context.copy().run(self._handler, job)
            if inspect.isawaitable(result):
                raise _not_awaited(result)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its job's end
            raised = error
        finally:
            del self._thread_of[job]
            self._tell((job, result, raised))

    def _tell(self, outcome: tuple[RunningJob, Any, BaseException | None]) -> None:
        self._ended.put(outcome)
        with self._lock:
            tell = not self._collecting
            self._collecting = True
        if tell:
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                _log.warning("job %s ended after its worker", outcome[0].id)

    def _collect(self) -> None:
        with self._lock:
            self._collecting = False
        while True:
            try:
                job, result, raised = self._ended.get_nowait()
            except queue.Empty:
                break
            self._busy -= 1
            if raised is None:
                self._source.succeeded(job, result)
            else:
                self._source.raised(job, raised)
        self.wake()
        self._source.settle()

    def stop(self, job: RunningJob, reason: str) -> None:
        """Nothing more: a thread cannot be interrupted; its handler hears of it from `job`."""

    def stack_of(self, job: RunningJob) -> str:
        """Return where a job's thread is."""
        thread = self._thread_of.get(job)
        return "" if thread is None else stack_of(thread)

    async def close(self, patience_s: float) -> list[RunningJob]:
        """Have all threads end when they are free; nobody waits for those that are not."""
        for _ in range(self._threads):
            self._jobs.put(None)
        return list(self._thread_of)


def _not_awaited(result: Any) -> TypeError:
    """Return the error for a plain function that gave something to await."""
    if inspect.iscoroutine(result):
        result.close()
    return TypeError(
        f"the handler is a plain function and returned {type(result).__name__}, which nobody "
        f"awaits: make it `async def`"
    )
