"""What a handler gets: the job, and what it can say about it while it runs.

Owns the two forms of that object, for blocking and for asyncio handlers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from flashq.client.async_client import AsyncClient
from flashq.client.results import Job

Submit = Callable[[Coroutine[Any, Any, object]], None]
"""Runs a coroutine in the worker's event loop and waits for it."""


_event_lock: Final = threading.Lock()
"""Guards the making of events, which few jobs have."""


class JobStopped(Exception):
    """The handler's work is for nothing: its job was cancelled, timed out, or is no longer this
    worker's, or the worker ends. `reason` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class RunningJob:
    """A job that a handler works on.

    Args:
        job: as it was handed out; all its fields are there.
    """

    __slots__ = ("cancelled", "job", "stop_reason")

    def __init__(self, job: Job) -> None:
        self.job: Final = job
        #: whether the work is for nothing: the job was cancelled, timed out, or went to another
        #: worker, or this worker's grace time is over. A long handler looks at it now and then.
        self.cancelled = False
        #: why, in words, once it is cancelled
        self.stop_reason = ""

    def stop(self, reason: str) -> None:
        """Say that the work is for nothing. Called by the worker."""
        self.stop_reason = reason
        self.cancelled = True

    def check(self) -> None:
        """Return if the work still counts.

        Raises:
            JobStopped: the work is for nothing.
        """
        if self.cancelled:
            raise JobStopped(self.stop_reason)

    @property
    def id(self) -> int:
        """The job's id."""
        return self.job.id

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.job.queue

    @property
    def data(self) -> Any:
        """The payload."""
        return self.job.data

    @property
    def attempts(self) -> int:
        """How many attempts have failed before this one."""
        return self.job.attempts

    @property
    def max_attempts(self) -> int:
        """How many attempts there may be; 0 is no bound."""
        return self.job.max_attempts

    @property
    def priority(self) -> int:
        """Higher runs first."""
        return self.job.priority

    @property
    def created_at(self) -> int:
        """When it was pushed, in Unix ms."""
        return self.job.created_at

    @property
    def tags(self) -> tuple[str, ...]:
        """What its push said about it."""
        return tuple(self.job.tags)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id}, queue={self.queue!r})"


class WorkerJob(RunningJob):
    """A job as a blocking handler gets it. Its methods may be called from any thread.

    A thread cannot be interrupted: once the work is for nothing, `stop_event` is set, and each
    method raises `JobStopped`.
    """

    __slots__ = ("_client", "_event", "_submit")

    def __init__(self, job: Job, client: AsyncClient, submit: Submit) -> None:
        super().__init__(job)
        self._client = client
        self._submit = submit
        self._event: threading.Event | None = None

    @property
    def stop_event(self) -> threading.Event:
        """Set once the work is for nothing: to be waited for instead of sleeping."""
        with _event_lock:
            if self._event is None:
                self._event = threading.Event()
            if self.cancelled:
                self._event.set()
            return self._event

    def stop(self, reason: str) -> None:
        """Say that the work is for nothing. Called by the worker."""
        super().stop(reason)
        with _event_lock:
            if self._event is not None:
                self._event.set()

    def progress(self, progress: float, message: str | None = None) -> None:
        """Set the progress, 0 to 100, and a message for people.

        Raises:
            JobStopped: the work is for nothing.
            LeaseLost, JobNotFound: the job is no longer this worker's.
        """
        self.check()
        self._submit(self._client.progress(self.job, progress, message))

    def heartbeat(self) -> None:
        """Ask the server whether the job is still this worker's.

        Raises:
            JobStopped: the work is for nothing.
            LeaseLost, JobNotActive: the job is no longer this worker's.
        """
        self.check()
        self._submit(self._client.heartbeat(self.job))

    def log(self, message: str, level: str = "info") -> None:
        """Add an entry to the job's log.

        Raises:
            JobStopped: the work is for nothing.
        """
        self.check()
        self._submit(self._client.log(self.job, message, level=level))

    def update(self, data: Any) -> None:
        """Replace the payload, for the next attempt or for readers.

        Raises:
            JobStopped: the work is for nothing.
        """
        self.check()
        self._submit(self._client.update(self.job, data))


class AsyncWorkerJob(RunningJob):
    """A job as an asyncio handler gets it.

    Once the work is for nothing, `CancelledError` is raised where the handler awaits, with the
    reason; a handler that goes on in spite of it gets `JobStopped` from each method.
    """

    __slots__ = ("_client",)

    def __init__(self, job: Job, client: AsyncClient) -> None:
        super().__init__(job)
        self._client = client

    async def progress(self, progress: float, message: str | None = None) -> None:
        """Set the progress, 0 to 100, and a message for people.

        Raises:
            JobStopped: the work is for nothing.
            LeaseLost, JobNotFound: the job is no longer this worker's.
        """
        self.check()
        await self._client.progress(self.job, progress, message)

    async def heartbeat(self) -> None:
        """Ask the server whether the job is still this worker's.

        Raises:
            JobStopped: the work is for nothing.
            LeaseLost, JobNotActive: the job is no longer this worker's.
        """
        self.check()
        await self._client.heartbeat(self.job)

    async def log(self, message: str, level: str = "info") -> None:
        """Add an entry to the job's log.

        Raises:
            JobStopped: the work is for nothing.
        """
        self.check()
        await self._client.log(self.job, message, level=level)

    async def update(self, data: Any) -> None:
        """Replace the payload, for the next attempt or for readers.

        Raises:
            JobStopped: the work is for nothing.
        """
        self.check()
        await self._client.update(self.job, data)
