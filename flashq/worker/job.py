"""What a handler gets: the job, and what it can say about it while it runs.

Owns the two forms of that object, for blocking and for asyncio handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from flashq.client.async_client import AsyncClient
from flashq.client.results import Job

Submit = Callable[[Coroutine[Any, Any, None]], None]
"""Runs a coroutine in the worker's event loop and waits for it."""


class RunningJob:
    """A job that a handler works on.

    Args:
        job: as it was handed out; all its fields are there.
    """

    __slots__ = ("cancelled", "job")

    def __init__(self, job: Job) -> None:
        self.job: Final = job
        #: whether the work is for nothing: the job was cancelled, timed out, or went to another
        #: worker, or this worker's grace time is over. A long handler looks at it now and then.
        self.cancelled = False

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
    """A job as a blocking handler gets it. Its methods may be called from any thread."""

    __slots__ = ("_client", "_submit")

    def __init__(self, job: Job, client: AsyncClient, submit: Submit) -> None:
        super().__init__(job)
        self._client = client
        self._submit = submit

    def progress(self, progress: float, message: str | None = None) -> None:
        """Set the progress, 0 to 100, and a message for people.

        Raises:
            LeaseLost, JobNotFound: the job is no longer this worker's.
        """
        self._submit(self._client.progress(self.job, progress, message))

    def log(self, message: str, level: str = "info") -> None:
        """Add an entry to the job's log."""
        self._submit(self._client.log(self.job, message, level=level))

    def update(self, data: Any) -> None:
        """Replace the payload, for the next attempt or for readers."""
        self._submit(self._client.update(self.job, data))


class AsyncWorkerJob(RunningJob):
    """A job as an asyncio handler gets it."""

    __slots__ = ("_client",)

    def __init__(self, job: Job, client: AsyncClient) -> None:
        super().__init__(job)
        self._client = client

    async def progress(self, progress: float, message: str | None = None) -> None:
        """Set the progress, 0 to 100, and a message for people.

        Raises:
            LeaseLost, JobNotFound: the job is no longer this worker's.
        """
        await self._client.progress(self.job, progress, message)

    async def log(self, message: str, level: str = "info") -> None:
        """Add an entry to the job's log."""
        await self._client.log(self.job, message, level=level)

    async def update(self, data: Any) -> None:
        """Replace the payload, for the next attempt or for readers."""
        await self._client.update(self.job, data)
