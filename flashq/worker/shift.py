"""One shift of a worker: from the start of its work in one process and one event loop to its end.

Owns the loop's timer, the client and the requests under way. What to fetch, run and report is the
engine's decision; how handlers run is the runners'. A worker that works again, or in another
process than it was made in, begins another shift: it shares nothing with the one before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from msgspec import Raw, Struct

from flashq.client.async_client import AsyncClient
from flashq.client.happenings import LeasesLost
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
from flashq.worker.runners import Runners
from flashq.worker.tasks import TaskRunners
from flashq.worker.threads import ThreadRunners

CALL_TIMEOUT_MS: Final = 30_000
"""How long a call to the server may take that waits for nothing by itself."""
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


class Terms(Struct, frozen=True, kw_only=True):
    """What a worker was made with: see `Worker`."""

    queues: Sequence[str]
    handler: Callable[[Any], Any]
    is_async: bool
    concurrency: int
    url: str | None
    token: str | None
    grace_ms: int
    batch_max: int
    stuck_timeout_ms: int


class Shift:
    """One shift. It is made where it works: in the process and the thread of its event loop.

    Args:
        terms: of the worker.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms: Final = terms
        self._is_async: Final = terms.is_async
        self._loop: Final = asyncio.get_running_loop()
        self._client: Final = AsyncClient(
            terms.url,
            token=terms.token,
            timeout=CALL_TIMEOUT_MS,
            connect_timeout=CALL_TIMEOUT_MS,  # worker and server may start at the same time
            on_lost=self._on_lost,
            stuck_timeout=terms.stuck_timeout_ms,
            logger=_log,
        )
        self.engine: Final = Engine(
            terms.queues,
            concurrency=terms.concurrency,
            batch_max=terms.batch_max,
            grace_ms=terms.grace_ms,
        )
        self._runners: Runners | None = None
        #: when work began, in ms of the monotonic clock; 0 before that
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
        self._ended: Final = asyncio.Event()
        self._fatal: FlashQError | None = None

    async def work(self, begun: Callable[[], None]) -> None:
        """Work until `stop`.

        Args:
            begun: called once jobs are being fetched.
        """
        try:
            server = await self._client.connect()
            self._say_start(server.version)
            self._runners = (
                TaskRunners(self, self._terms.handler)
                if self._is_async
                else ThreadRunners(self, self._terms.handler, self._terms.concurrency)
            )
            self.settle()
            begun()
            await self._ended.wait()
        finally:
            await self._close()
        if self._fatal is not None:
            raise self._fatal

    def stop(self, grace_ms: float | None = None) -> None:
        """Take no more jobs, and end when what runs has ended, or its grace time is over.

        Args:
            grace_ms: another grace time than the worker's.
        """
        self._release(self.engine.stop(_now(), grace_ms))
        for task in self._fetches:
            task.cancel()  # what they still bring goes back
        self.settle()

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
                self.engine.completed,
                self.engine.failed,
                self.engine.lost,
            )

    def _say_start(self, server_version: str) -> None:
        self._began = _now()
        _log.info(
            "worker begins: flashq %s, server %s at %s, queues %s, at most %s jobs at a time %s",
            __version__,
            server_version,
            self._client.url,
            ", ".join(self._terms.queues),
            self._terms.concurrency,
            "in the event loop" if self._is_async else "on threads",
        )

    # --- what runners ask and tell (`runners.Source`)

    def startable(self) -> int:
        """Return how many jobs wait to be run and may be."""
        return self.engine.startable

    def next_job(self) -> RunningJob | None:
        """Return a job that now runs, or None when there is none or no place for it."""
        job = self.engine.take(_now())
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
        found = job.job
        if found.timeout or found.stall_timeout or self._stubborn:
            self._let_go(job)
        else:  # as most: a call less
            self._handed.pop(id(found), None)
        self.engine.finished(found, encoded, _now())

    def raised(self, job: RunningJob, error: BaseException) -> None:
        """Take in what the handler raised."""
        self._let_go(job)
        if self.engine.errored(job.job, error_text(error), _now()):
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
        engine, now = self.engine, _now()
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
        if not self._step_due:
            self._step_due = True
            self._loop.call_soon(self.settle)

    def _interrupt(self, now: float) -> None:
        """Stop what is to stop, and name what has not."""
        for order in self.engine.stops(now):
            handed = self._handed.get(id(order.job))
            if handed is not None:
                _log.warning("job %s of %s stops: %s", handed.id, handed.queue, order.reason)
                self._stop_handler(handed, order.reason)
        for job in self.engine.stubborn(now):
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
        task.add_done_callback(self._requested)

    def _requested(self, task: asyncio.Task[Any]) -> None:
        self._requests.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request of the worker failed", exc_info=error)

    async def _ask(self, order: Order) -> None:
        engine, queue = self.engine, order.queue
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
            self.stop()
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
            self.engine.leases_lost([job.id], "it was lost before it began", _now())
        except FlashQError as error:
            _log.warning("cannot begin job %s of %s: %s", job.id, job.queue, error)
            if self.engine.unconfirmed(job):
                self._release([job])
        else:
            self._told.add(job.id)
            self.engine.confirmed(job)
        if self._runners is not None:
            self._runners.wake()
        self.settle_soon()

    async def _acknowledge(self, order: Acknowledge) -> None:
        engine, outcomes = self.engine, order.outcomes
        results = [outcome.result for outcome in outcomes]
        try:
            count = await self._client.ack_batch(
                [outcome.job for outcome in outcomes],
                results=results if any(result is not None for result in results) else None,
            )
        except FlashQError as error:
            if error.retryable or isinstance(error, _UNCERTAIN):
                _log.warning(
                    "cannot acknowledge %s jobs of %s yet: %s", len(outcomes), order.queue, error
                )
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
            self.engine.reported(order, ours=False)
        except FlashQError as error:
            _log.warning("cannot report the failure of job %s: %s", outcome.job.id, error)
            self.engine.unreported(order, _now())
        else:
            self.engine.reported(order, ours=True)
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
        due = self.engine.next_deadline(now)
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - now) / 1000, self.settle)

    def _give_up(self, now: float) -> None:
        """Give back what the grace time was not enough for, and see whether this was all."""
        jobs = self.engine.given_up(now)
        for job in jobs:
            handed = self._handed.get(id(job))
            if handed is not None:
                # The server gives a queue's tokens back for what was never worked on; this was.
                self._client.begin(job)
                self._stop_handler(handed, "the worker ends, and its grace time is over")
        self._release(jobs)
        if self.engine.done or self.engine.overdue(now):
            self._ended.set()

    def _on_lost(self, lost: LeasesLost) -> None:
        now = _now()
        for job_id in lost.ids:
            state = lost.states.get(job_id, "")
            self.engine.leases_lost([job_id], _LOST.get(state, _LOST["unknown"]), now)
        self.settle_soon()


def _attempt(job: Job) -> str:
    """Return which attempt of how many a job is at."""
    if job.max_attempts:
        return f"attempt {job.attempts + 1} of {job.max_attempts}"
    return f"attempt {job.attempts + 1}, as many as it takes"
