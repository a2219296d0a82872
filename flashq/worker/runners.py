"""How handlers run: on long-lived asyncio tasks, or on threads.

Owns the tasks and threads. Which job is next, and what becomes of its outcome, is the worker's:
both kinds ask it through `Source`.

Python 3.11 has no eager tasks: a task for each job would cost a trip through the event loop even
for a handler that never waits. So a few long-lived tasks await one handler after the other. A
handler that does not suspend then costs nothing beyond its own code; one that does suspends the
task it is on, and another task takes the next job. `asyncio.current_task()`, `asyncio.timeout()`
and the like see a proper task. The price: context variables that a handler sets stay set for the
next one.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from flashq.worker.job import AsyncWorkerJob, RunningJob, WorkerJob

JOBS_PER_SLICE_MAX: Final = 200
"""After so many jobs that never waited, the event loop has a turn."""


class Source(Protocol):
    """Where runners get jobs from, and tell what came of them. In the loop's thread only."""

    def has_jobs(self) -> bool:
        """Tell whether jobs wait to be run."""

    def next_job(self) -> RunningJob | None:
        """Return a job that now runs, or None when there is none or no place for it."""

    def succeeded(self, job: RunningJob, result: Any) -> None:
        """Take in what the handler returned."""

    def raised(self, job: RunningJob, error: BaseException) -> None:
        """Take in what the handler raised."""

    def settle(self) -> None:
        """Report outcomes and fetch: there is nothing better to do right now."""


class TaskRunners:
    """Runs an asyncio handler.

    Args:
        source: where jobs come from.
        handler: the coroutine function.
        tasks_max: most jobs running at a time.
    """

    def __init__(
        self, source: Source, handler: Callable[[AsyncWorkerJob], Awaitable[Any]], tasks_max: int
    ) -> None:
        self._source: Final = source
        self._handler: Final = handler
        self._tasks_max: Final = tasks_max
        self._loop: Final = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        #: tasks without a job, each waiting on its future
        self._idle: list[asyncio.Future[None]] = []
        #: woken tasks that have not looked for a job yet
        self._waking = 0
        self._closing = False
        #: which task runs which job
        self._task_of: dict[RunningJob, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Have a job looked for. One runner is enough: it wakes the next when it suspends."""
        if self._waking or not self._source.has_jobs():
            return
        if self._idle:
            self._waking += 1
            self._idle.pop().set_result(None)
        elif len(self._tasks) < self._tasks_max:
            self._waking += 1
            task = self._loop.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        source, handler = self._source, self._handler
        task = asyncio.current_task()
        assert task is not None
        in_slice = 0
        self._waking -= 1
        while True:
            job = source.next_job()
            if job is None:
                source.settle()
                in_slice = 0
                idle = self._loop.create_future()
                self._idle.append(idle)
                await idle
                self._waking -= 1
                continue
            self._task_of[job] = task
            self.wake()  # if this handler suspends, the next job must not wait for it
            try:
                result = await handler(job)  # type: ignore[arg-type]
            except asyncio.CancelledError as error:
                source.raised(job, error)
                if self._closing:
                    raise
                task.uncancel()
            except Exception as error:  # noqa: BLE001 - whatever a handler raises fails its job
                source.raised(job, error)
            else:
                source.succeeded(job, result)
            finally:
                del self._task_of[job]
            in_slice += 1
            if in_slice >= JOBS_PER_SLICE_MAX:
                in_slice = 0
                source.settle()
                await asyncio.sleep(0)

    def cancel(self, jobs: list[RunningJob]) -> None:
        """Cancel handlers for good: the worker ends."""
        self._closing = True
        for job in jobs:
            task = self._task_of.get(job)
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """End all tasks."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ThreadRunners:
    """Runs a blocking handler on daemon threads: one that never returns cannot hold up the end.

    Args:
        source: where jobs come from.
        handler: the function.
        threads_max: most jobs running at a time.
    """

    def __init__(
        self, source: Source, handler: Callable[[WorkerJob], Any], threads_max: int
    ) -> None:
        self._source: Final = source
        self._handler: Final = handler
        self._threads_max: Final = threads_max
        self._loop: Final = asyncio.get_running_loop()
        self._jobs: Final[queue.SimpleQueue[RunningJob | None]] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        #: outcomes that the loop has not seen yet; appended by the threads
        self._ended: Final[queue.SimpleQueue[tuple[RunningJob, Any, Exception | None]]] = (
            queue.SimpleQueue()
        )
        self._lock: Final = threading.Lock()
        #: whether the loop will look at them by itself; guarded by the lock
        self._collecting = False

    def wake(self) -> None:
        """Give jobs to all threads that are free."""
        while (job := self._source.next_job()) is not None:
            self._busy += 1
            if self._busy > self._threads and self._threads < self._threads_max:
                self._threads += 1
                name = f"flashq-worker-{self._threads}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
            self._jobs.put(job)

    def _run(self) -> None:
        handler = self._handler
        while (job := self._jobs.get()) is not None:
            result, raised = None, None
            try:
                result = handler(job)  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 - whatever a handler raises fails its job
                raised = error
            self._ended.put((job, result, raised))
            with self._lock:
                tell = not self._collecting
                self._collecting = True
            if tell:
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:
                    return  # the loop is closed: the worker has ended without this job

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

    def cancel(self, jobs: list[RunningJob]) -> None:
        """Nothing: a thread cannot be cancelled, its handler looks at `job.cancelled`."""

    async def close(self) -> None:
        """Have all threads end when they are free."""
        for _ in range(self._threads):
            self._jobs.put(None)
