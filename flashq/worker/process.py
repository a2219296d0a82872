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
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Self

from msgspec import Raw

from flashq.client.async_client import AsyncClient
from flashq.client.happenings import LeasesLost
from flashq.client.pulse import STUCK_TIMEOUT_MS
from flashq.client.results import Job
from flashq.errors import (
    AuthenticationRequired,
    ConnectionClosed,
    FlashQError,
    JobNotActive,
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
from flashq.version import __version__
from flashq.worker.engine import STUBBORN_MS, Acknowledge, Engine, Fail
from flashq.worker.failures import error_text
from flashq.worker.fetching import Fetch, Order, Pass, Wait
from flashq.worker.job import AsyncWorkerJob, RunningJob, WorkerJob
from flashq.worker.loop import run_in_own_loop
from flashq.worker.runners import Runners
from flashq.worker.tasks import TaskRunners
from flashq.worker.threads import ThreadRunners

CONCURRENCY_SYNC: Final = 10
CONCURRENCY_ASYNC: Final = 100
BATCH: Final = 1000
GRACE_MS: Final = 10_000
PARKED_MS: Final = 30_000
"""How long one fetch waits at the server before it is made again."""
PATIENCE_S: Final = 5.0
"""How long a worker waits at its end for handlers that it has cancelled."""

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

_LOST: Final = {
    "unknown": "the job was cancelled, or is gone",
    "cancelled": "the job was cancelled",
    "completed": "the job was completed by somebody else",
    "active": "the job was handed to another worker",
    "failed": "the attempt was ended: it timed out, stalled, or was failed by somebody else",
    "delayed": "the attempt was ended: it timed out, stalled, or was failed by somebody else",
    "waiting": "the attempt was ended: it timed out, stalled, or went back to its queue",
}
"""Why a handler is stopped, by the state in which its job is now."""

_log: Final = logging.getLogger("flashq.worker")


def _now() -> float:
    return time.monotonic_ns() / 1e6


class Worker:
    """Takes jobs from queues and runs a handler on each.

    What the handler returns is the job's result; whatever it raises fails the attempt. A handler
    that is a coroutine function runs in the worker's event loop and gets an `AsyncWorkerJob`; any
    other one runs on threads and gets a `WorkerJob`.

    A job that is cancelled, times out or goes to others while it runs stops its handler: a
    coroutine gets `CancelledError` where it awaits; a thread finds `stop_event` set, and its next
    call of the job's methods raises `JobStopped`. The place of a handler that does not stop stays
    taken until it ends, and the log says where it is.

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
        self._is_async: Final = _is_async(handler)
        if concurrency is None:
            concurrency = CONCURRENCY_ASYNC if self._is_async else CONCURRENCY_SYNC
        if concurrency < 1 or batch < 1 or grace < 0:
            raise ValueError("concurrency and batch are at least 1, grace at least 0")
        self._handler: Final = handler
        self._concurrency: Final = concurrency
        self._queues: Final = names
        self._client: Final = AsyncClient(
            url,
            token=token,
            on_lost=self._on_lost,
            stuck_timeout=stuck_timeout,
            logger=_log,
        )
        self._engine: Final = Engine(
            names, concurrency=concurrency, batch_max=batch, grace_ms=grace
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runners: Runners | None = None
        #: when work began, in ms of the monotonic clock
        self._began = 0.0
        #: ids of jobs that have not begun, and whose time-out counts already
        self._told: Final[set[int]] = set()
        #: ids of jobs that did not stop and were named in the log
        self._stubborn: Final[set[int]] = set()
        #: the objects that handlers hold, by the identity of their job
        self._handed: Final[dict[int, RunningJob]] = {}
        self._requests: Final[set[asyncio.Task[Any]]] = set()
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
        is_main = threading.current_thread() is threading.main_thread()
        run_in_own_loop(self.serve(signals=is_main))

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
            server = await self._client.connect()
            self._say_start(server.version)
            self._runners = (
                TaskRunners(self, self._handler)
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
            for job in await self._runners.close(PATIENCE_S):
                _log.warning(
                    "the worker ends without job %s of %s, whose handler does not. It is at:\n%s",
                    job.id,
                    job.queue,
                    self._runners.stack_of(job),
                )
        under_way = [*self._fetches, *self._requests]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()  # says goodbye: what is still held goes back at once
        if self._began:
            _log.info(
                "worker ends after %.1f s: %s jobs completed, %s attempts failed, %s jobs lost",
                (_now() - self._began) / 1000,
                self.completed,
                self.failed,
                self.lost,
            )

    def _say_start(self, server_version: str) -> None:
        self._began = _now()
        _log.info(
            "worker begins: flashq %s, server %s at %s, queues %s, at most %s jobs at a time %s",
            __version__,
            server_version,
            self._client.url,
            ", ".join(self._queues),
            self._concurrency,
            "in the event loop" if self._is_async else "on threads",
        )

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
        return self._engine.may_start

    def next_job(self) -> RunningJob | None:
        """Return a job that now runs, or None when there is none or no place for it."""
        job = self._engine.take(_now())
        if job is None:
            return None
        if job.timeout or job.stall_timeout:
            if job.id in self._told:
                self._told.discard(job.id)
            else:
                self._client.begin(job)
        if job.attempts:
            _log.warning("job %s of %s is tried again: %s", job.id, job.queue, _attempt(job))
        handed = (
            AsyncWorkerJob(job, self._client)
            if self._is_async
            else WorkerJob(job, self._client, self._submit)
        )
        self._handed[id(job)] = handed
        return handed

    def succeeded(self, job: RunningJob, result: Any) -> None:
        """Take in what the handler returned."""
        encoded = None
        if result is not None:
            try:
                encoded = Raw(encode_msgpack(result))
            except Exception as error:  # noqa: BLE001 - the result's own code may do anything
                reason = f"the result cannot be encoded: {error_text(error)}"
                self.raised(job, TypeError(reason))
                return
        self._let_go(job)
        self._engine.finished(job.job, encoded, _now())

    def raised(self, job: RunningJob, error: BaseException) -> None:
        """Take in what the handler raised."""
        self._let_go(job)
        if self._engine.errored(job.job, error_text(error), _now()):
            _log.error(
                "job %s of %s failed: %s", job.id, job.queue, _attempt(job.job), exc_info=error
            )
        elif not job.cancelled:
            _log.warning("job %s of %s failed after it was lost", job.id, job.queue, exc_info=error)

    def _let_go(self, job: RunningJob) -> None:
        found = job.job
        self._handed.pop(id(found), None)
        if found.timeout or found.stall_timeout:
            self._client.ended(found)
        if self._stubborn and found.id in self._stubborn:
            self._stubborn.discard(found.id)
            _log.warning("job %s of %s has stopped at last; its place is free", job.id, job.queue)

    def settle(self) -> None:
        """Report, stop, fetch, give back and end, as the engine says."""
        self._step_due = False
        engine, now = self._engine, _now()
        for order in engine.settlements(now):
            if isinstance(order, Acknowledge):
                self._request(self._acknowledge(order))
            else:
                self._request(self._fail(order))
        self._interrupt(now)
        for job in engine.confirms():
            self._request(self._confirm(job))
        for ask in engine.fetches(now):
            task = asyncio.ensure_future(self._ask(ask))
            self._fetches.add(task)
            task.add_done_callback(self._fetches.discard)
        self._release(engine.surplus(now))
        if engine.stopping:
            self._give_up(now)
        self._set_timer(now)

    def settle_soon(self) -> None:
        """Take a step after everything that is ready to run now."""
        if not self._step_due and self._loop is not None:
            self._step_due = True
            self._loop.call_soon(self.settle)

    def _interrupt(self, now: float) -> None:
        """Stop what is to stop, and name what has not."""
        for order in self._engine.stops(now):
            handed = self._handed.get(id(order.job))
            if handed is not None:
                _log.warning("job %s of %s stops: %s", handed.id, handed.queue, order.reason)
                self._stop_handler(handed, order.reason)
        for job in self._engine.stubborn(now):
            handed = self._handed.get(id(job))
            if handed is not None and self._runners is not None:
                self._stubborn.add(job.id)
                _log.warning(
                    "job %s of %s has not stopped within %.0f s (%s); its place stays taken until "
                    "it does. Its handler is at:\n%s",
                    job.id,
                    job.queue,
                    STUBBORN_MS / 1000,
                    handed.stop_reason,
                    self._runners.stack_of(handed),
                )

    def _stop_handler(self, job: RunningJob, reason: str) -> None:
        job.stop(reason)
        if self._runners is not None:
            self._runners.stop(job, reason)

    # --- requests

    def _request(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _ask(self, order: Order) -> None:
        engine, queue = self._engine, order.queue
        try:
            if isinstance(order, Fetch):
                patience = PARKED_MS if order.parked else 0
                jobs = await self._client.pull_batch(queue, order.count, patience, starts=True)
                self._release(engine.fetched(queue, jobs, _now()))
            elif isinstance(order, Wait):
                engine.waited(queue, has_jobs=await self._client.wait_ready(queue, PARKED_MS))
            else:
                await self._client.pull_batch(queue, 0, 0)
        except _FATAL as error:
            self._fatal = error
            engine.fetch_failed(queue, _now())
            self._stop()
            return
        except FlashQError as error:
            if not engine.stopping:
                _log.warning("cannot fetch from %s: %s", queue, error)
            if not isinstance(order, Pass):  # what it did not say, the server finds out by waiting
                engine.fetch_failed(queue, _now())
        if self._runners is not None:
            self._runners.wake()
        self.settle_soon()

    async def _confirm(self, job: Job) -> None:
        """Ask whether a job that has waited here is still ours; its time-out counts from then."""
        try:
            await self._client.heartbeat(job)
        except (JobNotActive, LeaseLost):
            self._engine.leases_lost([job.id], "it was lost before it began", _now())
        except FlashQError as error:
            _log.warning("cannot begin job %s of %s: %s", job.id, job.queue, error)
            if self._engine.unconfirmed(job):
                self._release([job])
        else:
            self._told.add(job.id)
            self._engine.confirmed(job)
        if self._runners is not None:
            self._runners.wake()
        self.settle_soon()

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
        self.settle_soon()

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
        self.settle_soon()

    def _release(self, jobs: list[Job]) -> None:
        if jobs:
            self._request(self._give_back(jobs))

    async def _give_back(self, jobs: list[Job]) -> None:
        try:
            await self._client.release(jobs)
        except FlashQError as error:  # the goodbye, or our silence, gives them back
            _log.warning("cannot give back %s jobs: %s", len(jobs), error)

    # --- the loop

    def _submit(self, coroutine: Coroutine[Any, Any, object]) -> None:
        assert self._loop is not None
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise ConnectionClosed("the worker has ended") from None
        future.result()

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
        for job in jobs:
            handed = self._handed.get(id(job))
            if handed is not None:
                self._stop_handler(handed, "the worker ends, and its grace time is over")
        self._release(jobs)
        if self._ended is not None and (self._engine.done or self._engine.overdue(now)):
            self._ended.set()

    def _on_lost(self, lost: LeasesLost) -> None:
        now = _now()
        for job_id in lost.ids:
            state = lost.states.get(job_id, "")
            self._engine.leases_lost([job_id], _LOST.get(state, _LOST["unknown"]), now)
        self.settle_soon()


def _is_async(handler: Any) -> bool:
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


def _attempt(job: Job) -> str:
    """Return which attempt of how many a job is at."""
    if job.max_attempts:
        return f"attempt {job.attempts + 1} of {job.max_attempts}"
    return f"attempt {job.attempts + 1}, as many as it takes"
