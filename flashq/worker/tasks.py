"""How coroutine functions run: each job on an asyncio task and in a context of its own.

Owns the tasks. Python 3.11 has no eager tasks, and a task for each job would cost a trip through
the event loop even for a handler that never waits: a third of a worker's rate. So a runner's task
steps through handlers by itself. It goes on to the next job only if the last one left no trace on
it: its handler never suspended, and nobody else holds the task, to cancel it later or as a key,
also a weak one. In every other case the task ends with its job, and the next job gets another one.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from inspect import CO_COROUTINE
from sys import getrefcount
from types import CoroutineType, FrameType
from typing import Any, Final
from weakref import getweakrefcount

from flashq.worker.job import AsyncWorkerJob, RunningJob
from flashq.worker.runners import Source

JOBS_PER_SLICE_MAX: Final = 200
"""After so many jobs that never waited, the event loop has a turn."""
FRAMES_MAX: Final = 30
"""Outermost calls shown of a handler that does not stop."""

_log: Final = logging.getLogger("flashq.worker")


class _Rest:
    """What is left of a handler that has suspended: awaiting it goes on from there."""

    __slots__ = ("_context", "_coroutine", "_yielded", "is_closed")

    def __init__(
        self, context: contextvars.Context, coroutine: Coroutine[Any, Any, Any], yielded: Any
    ) -> None:
        self._context = context
        self._coroutine = coroutine
        self._yielded = yielded
        #: whether it was closed from outside, which a handler can also raise by itself
        self.is_closed = False

    def __await__(self) -> Generator[Any, Any, Any]:
        context, coroutine, yielded = self._context, self._coroutine, self._yielded
        resume: Callable[[], Any]
        while True:
            try:
                sent = yield yielded
            except GeneratorExit:
                self.is_closed = True
                context.run(coroutine.close)
                raise
            except BaseException as error:  # noqa: BLE001 - a cancelling is the handler's to take
                resume = partial(coroutine.throw, error)
            else:
                resume = partial(coroutine.send, sent)
            try:
                yielded = context.run(resume)
            except StopIteration as end:
                return end.value

    def stack(self) -> str:
        """Return where it awaits, innermost call last."""
        frames: list[FrameType] = []
        waiter: Any = self._coroutine
        while waiter is not None and len(frames) < FRAMES_MAX:
            frame = getattr(waiter, "cr_frame", None) or getattr(waiter, "gi_frame", None)
            if frame is not None:
                frames.append(frame)
            waiter = getattr(waiter, "cr_await", None) or getattr(waiter, "gi_yieldfrom", None)
        places = ((frame, frame.f_lineno) for frame in frames)
        return "".join(traceback.StackSummary.extract(places).format()).rstrip()


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class TaskRunners:
    """Runs an asyncio handler.

    Args:
        source: where jobs come from.
        handler: the coroutine function.
    """

    def __init__(self, source: Source, handler: Callable[[AsyncWorkerJob], Awaitable[Any]]) -> None:
        self._source: Final = source
        self._handler: Final[Callable[[Any], Any]] = handler
        code = getattr(handler, "__code__", None)
        self._is_plain: Final = code is not None and bool(code.co_flags & CO_COROUTINE)
        self._loop: Final = asyncio.get_running_loop()
        #: what each job's context begins as
        self._context: Final = contextvars.copy_context()
        self._tasks: set[asyncio.Task[None]] = set()
        #: those that have not looked for a job yet
        self._waking: set[asyncio.Task[None]] = set()
        self._closing = False
        #: whether the last handler suspended, as the next ones then will
        self._handlers_wait = False
        #: the task of each job whose handler has suspended, and what is left of the handler
        self._suspended: dict[RunningJob, tuple[asyncio.Task[None], _Rest]] = {}

    def wake(self) -> None:
        """Have jobs looked for. As long as handlers do not wait, one runner is enough: it wakes the
        next if its handler suspends. Where they do, there is one for each job that may start."""
        startable = 0 if self._closing else self._source.startable()
        wanted = startable if self._handlers_wait else min(startable, 1)
        for _ in range(wanted - len(self._waking)):
            # Not by the loop's task factory: an eager one would run handlers one inside the other.
            task = asyncio.Task(self._run(), loop=self._loop, context=self._context.copy())
            self._waking.add(task)
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._waking.discard(task)  # there still if it was cancelled before its first step
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a runner of handlers failed", exc_info=error)
        self.wake()

    async def _run(self) -> None:
        source, handler, task = self._source, self._handler, asyncio.current_task()
        assert task is not None
        self._waking.discard(task)
        is_plain = self._is_plain
        holders, watchers = getrefcount(task), getweakrefcount(task)
        for _ in range(JOBS_PER_SLICE_MAX):
            job = source.next_job()
            if job is None:
                break
            context = self._context.copy()
            try:
                # What is no coroutine function by itself may run code of its own in this call.
                coroutine = handler(job) if is_plain else context.run(handler, job)
                if type(coroutine) is not CoroutineType:
                    coroutine = _awaiting(coroutine)
            except BaseException as error:  # noqa: BLE001 - whatever it raises is its job's end
                source.raised(job, error)
                break
            try:
                yielded = context.run(coroutine.send, None)
            except StopIteration as end:
                result = end.value
            except BaseException as error:  # noqa: BLE001 - whatever it raises is its job's end
                source.raised(job, error)
                break
            else:
                await self._finish(job, task, _Rest(context, coroutine, yielded))
                self.wake()
                source.settle_soon()
                return
            source.succeeded(job, result)
            self._handlers_wait = False
            if (
                getrefcount(task) != holders
                or getweakrefcount(task) != watchers
                or task.cancelling()
            ):
                break
        source.settle()

    async def _finish(self, job: RunningJob, task: asyncio.Task[None], rest: _Rest) -> None:
        """Go on with a handler that has suspended; meanwhile another task takes the next job."""
        self._handlers_wait = True
        self._suspended[job] = (task, rest)
        self.wake()
        try:
            result = await rest
        except BaseException as error:
            if rest.is_closed:
                raise  # the loop is gone, and with it the worker
            self._source.raised(job, error)
        else:
            self._source.succeeded(job, result)
        finally:
            del self._suspended[job]

    def stop(self, job: RunningJob, reason: str) -> None:
        """Have `CancelledError` raised where the handler awaits."""
        found = self._suspended.get(job)
        if found is not None:
            found[0].cancel(reason)

    def stack_of(self, job: RunningJob) -> str:
        """Return where a job's handler awaits."""
        found = self._suspended.get(job)
        return "" if found is None else found[1].stack()

    async def close(self, patience_s: float) -> list[RunningJob]:
        """Cancel all tasks, and wait so long for their ends."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel("the worker ends")
        if tasks:
            await asyncio.wait(tasks, timeout=patience_s)
        return list(self._suspended)
