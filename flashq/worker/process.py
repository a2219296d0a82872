"""The worker: an event loop around the engine, with a client and runners.

Owns the loop, the timer, the signals and the requests under way. What to fetch, run and report is
the engine's decision; how handlers run is the runners'.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Self

from msgspec import Raw

from flashq.client.async_client import AsyncClient
from flashq.client.results import Job
from flashq.errors import (
    AuthenticationRequired,
    ConnectionClosed,
    FlashQError,
    JobNotFound,
    LeaseLost,
    NotAllowed,
    OutcomeUnknown,
    QueueNameEmpty,
    QueueNameInvalid,
    QueueNameTooLong,
    ShardUnavailable,
    TokenInvalid,
)
from flashq.protocol.codec import encode_msgpack
from flashq.worker.engine import Acknowledge, Engine, Fail
from flashq.worker.job import AsyncWorkerJob, RunningJob, WorkerJob
from flashq.worker.runners import TaskRunners, ThreadRunners

CONCURRENCY_SYNC: Final = 10
CONCURRENCY_ASYNC: Final = 100
BATCH: Final = 1000
GRACE_MS: Final = 10_000
PARKED_MS: Final = 30_000
"""How long one fetch waits at the server before it is made again."""
ERROR_CHARS_MAX: Final = 4000

_FATAL: Final = (
    AuthenticationRequired,
    NotAllowed,
    QueueNameEmpty,
    QueueNameInvalid,
    QueueNameTooLong,
    TokenInvalid,
)
"""Errors of a fetch that no repeat can help."""
_UNCERTAIN: Final = (ConnectionClosed, OutcomeUnknown, ShardUnavailable)

_log: Final = logging.getLogger("flashq.worker")


def _now() -> float:
    return time.monotonic_ns() / 1e6


def error_text(error: BaseException) -> str:
    """Return what the server keeps about an exception: its text first, then its traceback's end."""
    head = "".join(traceback.format_exception_only(error)).strip()[:ERROR_CHARS_MAX]
    trace = "".join(traceback.format_tb(error.__traceback__))
    room = ERROR_CHARS_MAX - len(head) - 1
    return f"{head}\n{trace[-room:]}" if trace and room > 0 else head


class Worker:
    """Takes jobs from queues and runs a handler on each.

    What the handler returns is the job's result; what it raises fails the attempt. A handler that
    is a coroutine function runs in the worker's event loop and gets an `AsyncWorkerJob`; any other
    one runs on threads and gets a `WorkerJob`.

    Args:
        queues: one name or several.
        handler: called with each job.
        concurrency: most jobs running at a time (100 for asyncio, 10 for threads).
        url: the server; as for `Client`.
        token: shown to the server; as for `Client`.
        grace: ms that running jobs have to finish after `stop`; then they go back to their queue.
        batch: most jobs in one fetch or acknowledgement. Jobs are fetched ahead only at the rate
            at which they are worked off, so that they do not wait here while others have nothing.
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
    ) -> None:
        names = [queues] if isinstance(queues, str) else list(queues)
        if not names:
            raise ValueError("a worker needs at least one queue")
        call = getattr(handler, "__call__", None)  # noqa: B004 - of an object, it may be async
        self._is_async: Final = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            call
        )
        if concurrency is None:
            concurrency = CONCURRENCY_ASYNC if self._is_async else CONCURRENCY_SYNC
        if concurrency < 1 or batch < 1 or grace < 0:
            raise ValueError("concurrency and batch are at least 1, grace at least 0")
        self._handler: Final = handler
        self._concurrency: Final = concurrency
        self._client: Final = AsyncClient(url, token=token, on_leases_lost=self._on_leases_lost)
        self._engine: Final = Engine(
            names, concurrency=concurrency, batch_max=batch, grace_ms=grace
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runners: TaskRunners | ThreadRunners | None = None
        #: the objects that handlers hold, by the identity of their job
        self._handed: Final[dict[int, RunningJob]] = {}
        self._requests: Final[set[asyncio.Task[None]]] = set()
        self._fetches: Final[set[asyncio.Task[None]]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._step_due = False
        self._ended: asyncio.Event | None = None
        self._fatal: FlashQError | None = None
        self._thread: threading.Thread | None = None
        #: set once jobs are fetched, or never will be
        self._started: Final = threading.Event()
        self._stop_asked: Final = threading.Event()

    @property
    def completed(self) -> int:
        """Jobs acknowledged so far."""
        return self._engine.completed

    @property
    def failed(self) -> int:
        """Attempts failed so far."""
        return self._engine.failed

    @property
    def lost(self) -> int:
        """Jobs that were no longer this worker's when they, or it, ended."""
        return self._engine.lost

    # --- life

    def run(self) -> None:
        """Work until `stop`, SIGTERM or SIGINT; a second signal does not wait for running jobs.

        Raises:
            ConnectionClosed: there is no server.
            TokenInvalid, NotAllowed, ...: it does not let this worker take jobs.
        """
        asyncio.run(self.serve(signals=threading.current_thread() is threading.main_thread()))

    def start(self) -> Self:
        """Work in a thread of its own until `stop`; return when jobs are being fetched.

        Raises:
            ConnectionClosed: there is no server.
            TokenInvalid: it does not know the token.
        """
        thread = threading.Thread(target=self._run_in_thread, name="flashq-worker", daemon=True)
        self._thread = thread
        thread.start()
        self._started.wait()
        if self._runners is None and self._fatal is not None:
            thread.join()
            raise self._fatal
        return self

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except FlashQError as error:
            self._fatal = error
            _log.error("the worker ended: %s", error)
        finally:
            self._started.set()

    def stop(self) -> None:
        """Take no more jobs, let running ones finish within the grace time, and end.

        Safe from any thread and from handlers. After `start`, it waits for the end, unless a
        handler calls it.
        """
        self._stop_asked.set()
        loop, thread = self._loop, self._thread
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop)
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
        """
        loop = self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        kinds = (signal.SIGTERM, signal.SIGINT) if signals else ()
        for kind in kinds:
            loop.add_signal_handler(kind, self._on_signal)
        try:
            await self._client.connect()
            self._runners = (
                TaskRunners(self, self._handler, self._concurrency)
                if self._is_async
                else ThreadRunners(self, self._handler, self._concurrency)
            )
            if self._stop_asked.is_set():
                self._stop()
            self.settle()
            self._started.set()
            await self._ended.wait()
        finally:
            await self._close()
            for kind in kinds:
                loop.remove_signal_handler(kind)
        if self._fatal is not None:
            raise self._fatal

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._runners is not None:
            await self._runners.close()
        under_way = [*self._fetches, *self._requests]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()  # says goodbye: what is still held goes back at once

    def _on_signal(self) -> None:
        self._stop(0.0 if self._engine.stopping else None)

    def _stop(self, grace_ms: float | None = None) -> None:
        unstarted = self._engine.stop(_now(), grace_ms)
        self._release(unstarted)
        for task in self._fetches:
            task.cancel()  # what they still bring goes back
        self.settle()

    # --- what runners ask and tell (`runners.Source`)

    def has_jobs(self) -> bool:
        """Tell whether jobs wait to be run."""
        return self._engine.ready > 0

    def next_job(self) -> RunningJob | None:
        """Return a job that now runs, or None when there is none or no place for it."""
        job = self._engine.take(_now())
        if job is None:
            return None
        handed = (
            AsyncWorkerJob(job, self._client)
            if self._is_async
            else WorkerJob(job, self._client, self._submit)
        )
        self._handed[id(job)] = handed
        return handed

    def succeeded(self, job: RunningJob, result: Any) -> None:
        """Take in what the handler returned."""
        self._handed.pop(id(job.job), None)
        encoded = None
        if result is not None:
            try:
                encoded = Raw(encode_msgpack(result))
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                reason = f"TypeError: the result cannot be encoded: {error}"
                self._engine.errored(job.job, reason, _now())
                return
        self._engine.finished(job.job, encoded, _now())

    def raised(self, job: RunningJob, error: BaseException) -> None:
        """Take in what the handler raised."""
        self._handed.pop(id(job.job), None)
        _log.debug("job %s of %s failed", job.id, job.queue, exc_info=error)
        self._engine.errored(job.job, error_text(error), _now())

    def settle(self) -> None:
        """Report, fetch, give back and end, as the engine says."""
        self._step_due = False
        engine, now = self._engine, _now()
        for order in engine.settlements(now):
            if isinstance(order, Acknowledge):
                self._request(self._acknowledge(order))
            else:
                self._request(self._fail(order))
        for fetch in engine.fetches(now):
            task = asyncio.ensure_future(self._fetch(fetch.queue, fetch.count))
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)
        self._release(engine.surplus(now))
        if engine.stopping:
            self._give_up(now)
        self._set_timer(now)

    # --- requests

    def _request(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _fetch(self, queue: str, count: int) -> None:
        engine = self._engine
        try:
            jobs = await self._client.pull_batch(queue, count, PARKED_MS)
        except _FATAL as error:
            self._fatal = error
            engine.fetch_failed(queue, _now())
            self._stop()
            return
        except FlashQError as error:
            if not engine.stopping:
                _log.warning("cannot fetch from %s: %s", queue, error)
            engine.fetch_failed(queue, _now())
            self._soon()
            return
        self._release(engine.fetched(queue, jobs, _now()))
        if self._runners is not None:
            self._runners.wake()
        self._soon()

    async def _acknowledge(self, order: Acknowledge) -> None:
        engine, outcomes = self._engine, order.outcomes
        results = [outcome.result for outcome in outcomes]
        try:
            count = await self._client.ack_batch(
                [outcome.job for outcome in outcomes],
                results=results if any(result is not None for result in results) else None,
            )
        except FlashQError as error:
            if error.retryable or isinstance(error, _UNCERTAIN):
                engine.unacknowledged(order, _now())
            else:
                engine.refused(order, error.text)
        else:
            engine.acknowledged(order, count)
        self._soon()

    async def _fail(self, order: Fail) -> None:
        outcome = order.outcome
        try:
            await self._client.fail(outcome.job, outcome.error)
        except (JobNotFound, LeaseLost):
            self._engine.reported(order, ours=False)
        except FlashQError as error:
            _log.warning("cannot report the failure of job %s: %s", outcome.job.id, error)
            self._engine.unreported(order, _now())
        else:
            self._engine.reported(order, ours=True)
        self._soon()

    def _release(self, jobs: list[Job]) -> None:
        if jobs:
            self._request(self._give_back(jobs))

    async def _give_back(self, jobs: list[Job]) -> None:
        try:
            await self._client.release(jobs)
        except FlashQError as error:  # the goodbye, or our silence, gives them back
            _log.warning("cannot give back %s jobs: %s", len(jobs), error)

    # --- the loop

    def _submit(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _soon(self) -> None:
        """Take a step after everything that is ready to run now."""
        if not self._step_due and self._loop is not None:
            self._step_due = True
            self._loop.call_soon(self.settle)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._engine.next_deadline(now)
        if due is not None and self._loop is not None:
            self._timer = self._loop.call_later(max(0.0, due - now) / 1000, self.settle)

    def _give_up(self, now: float) -> None:
        """Give back what the grace time was not enough for, and see whether this was all."""
        jobs = self._engine.given_up(now)
        handed = [self._handed[id(job)] for job in jobs if id(job) in self._handed]
        for job in handed:
            job.cancelled = True
        if jobs:
            self._release(jobs)
            assert self._runners is not None
            self._runners.cancel(handed)
        if self._ended is not None and (self._engine.done or self._engine.overdue(now)):
            self._ended.set()

    def _on_leases_lost(self, ids: list[int]) -> None:
        for job in self._engine.leases_lost(ids):
            handed = self._handed.get(id(job))
            if handed is not None:
                handed.cancelled = True
        self._soon()
