"""The client's methods, one for each command, as coroutines.

Generated from flashq/client/methods.py by `python -m tools.generate`; do not edit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from flashq.client.calls import WAIT_MARGIN_MS, Call, by_shard, prepare_push_batch
from flashq.client.results import (
    Children,
    ChildrenFound,
    Cron,
    CronsFound,
    Delivered,
    Job,
    JobFound,
    JobsFound,
    Page,
    PartialBatchError,
    payload,
)
from flashq.protocol import crons, jobs, leases, queues, server, sessions
from flashq.protocol.base import CountReply, Durability, OnDependencyFailure, Reply
from flashq.protocol.objects import LogEntry, Progress, QueueInfo

T = TypeVar("T")

PULL_WAIT_MS = 60_000
"""How long a pull waits when it does not say."""
FINISHED_WAIT_MS = 30_000
"""How long `finished` waits when it does not say."""


def _id(job: Job | int) -> int:
    return job if isinstance(job, int) else job.id


def _ids(found: Sequence[Job | int]) -> list[int]:
    try:
        return [job.id for job in found]  # type: ignore[union-attr]
    except AttributeError:  # not all are jobs
        return [_id(job) for job in found]


def _token(job: Job | int, token: int | None) -> int | None:
    return job.token if token is None and isinstance(job, Job) else token


def _tokens(
    found: Sequence[Job | int], tokens: Sequence[int | None] | None
) -> Sequence[int | None] | None:
    if tokens is not None:
        return tokens
    try:
        return [job.token for job in found]  # type: ignore[union-attr]
    except AttributeError:  # not all are jobs
        taken = [_token(job, None) for job in found]
        return taken if any(token is not None for token in taken) else None


class AsyncMethods(ABC):
    """One method for each command."""

    @abstractmethod
    async def _call(self, request: Struct | Call, kind: type[T], *, within: int | None = None) -> T:
        """Send a request and return its reply.

        Args:
            request: a request, or one encoded already.
            kind: the reply's type.
            within: ms until it ends with an error; the client's time-out by default.
        """

    @abstractmethod
    async def _call_each(self, requests: Sequence[Struct], kind: type[T]) -> list[T]:
        """Send all requests at once, wait for all replies, and raise the first error."""

    @abstractmethod
    async def _shard_count(self) -> int:
        """Return how many shards the server has, as soon as that is known."""

    @abstractmethod
    def _use_token(self, token: str) -> None:
        """Show this token after every further hello."""

    # --- producing

    async def push(
        self,
        queue: str,
        data: Any,
        *,
        priority: int = 0,
        delay: int | None = None,
        ttl: int | None = None,
        timeout: int | None = None,
        max_attempts: int | None = None,
        backoff: int | None = None,
        jitter: float | None = None,
        unique_key: str | None = None,
        depends_on: Sequence[int] | None = None,
        on_dependency_failure: OnDependencyFailure | None = None,
        tags: Sequence[str] | None = None,
        lifo: bool = False,
        remove_on_complete: bool = False,
        remove_on_fail: bool = False,
        stall_timeout: int | None = None,
        debounce_id: str | None = None,
        debounce_ttl: int | None = None,
        job_id: str | None = None,
        keep_completed_age: int | None = None,
        keep_completed_count: int | None = None,
        durability: Durability | None = None,
    ) -> int:
        """Add a job to a queue.

        Args:
            queue: its name: letters, digits, `_`, `-`, `.`; it comes into being by its first use.
            data: the payload.
            priority: higher runs first.
            delay: ms until it may run.
            ttl: ms until it expires unless it was handed out.
            timeout: ms that an attempt may take.
            max_attempts: attempts until it is a dead letter; 0 (the default) tries without end.
            backoff: ms before the first retry; it doubles with each further one.
            jitter: 0 to 1: how far a retry's wait may be off, as a fraction of it.
            unique_key: no other unfinished job of the queue may have it.
            depends_on: ids of jobs that have to complete first.
            on_dependency_failure: what one that fails does: "fail" (the default), "ignore", "wait".
            tags: stored with the job.
            lifo: whether it goes before those already waiting.
            remove_on_complete, remove_on_fail: whether it is forgotten at once when it ends so.
            stall_timeout: ms without a sign of life after which it is handed out again.
            debounce_id: a push with it is refused for `debounce_ttl` ms (5000) after another one.
            job_id: the caller's own id; a second push with it gives the first job's id.
            keep_completed_age: ms to keep it after completion.
            keep_completed_count: completed jobs of the queue to keep.
            durability: "durable", "async" or "memory"; else the queue's, else the server's.

        Returns:
            The job's id.

        Raises:
            DuplicateJob: its unique key is taken.
            Debounced: its debounce id was pushed just now.
            TypeError: the payload cannot be encoded.
        """
        request = jobs.Push(
            queue=queue,
            data=data,
            priority=priority or None,
            delay=delay,
            ttl=ttl,
            timeout=timeout,
            max_attempts=max_attempts,
            backoff=backoff,
            jitter=jitter,
            unique_key=unique_key,
            depends_on=depends_on,  # type: ignore[arg-type]
            on_dependency_failure=on_dependency_failure,
            tags=tags,  # type: ignore[arg-type]
            lifo=lifo or None,
            remove_on_complete=remove_on_complete or None,
            remove_on_fail=remove_on_fail or None,
            stall_timeout=stall_timeout,
            debounce_id=debounce_id,
            debounce_ttl=debounce_ttl,
            job_id=job_id,
            keep_completed_age=keep_completed_age,
            keep_completed_count=keep_completed_count,
            durability=durability,
        )
        return (await self._call(request, jobs.PushReply)).id

    async def push_batch(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add many jobs to a queue in one request.

        Args:
            queue: its name.
            entries: for each job a dictionary with `data` and any of the options of `push`. Entries
                that have nothing but `data` and `priority` are the fastest.

        Returns:
            The ids, in line with `entries`.

        Raises:
            PartialBatchError: some entries were not accepted, and all others were.
            BatchTooLarge: nothing was accepted.
            TypeError: an entry cannot be encoded.
        """
        reply = await self._call(prepare_push_batch(queue, entries), jobs.PushBatchReply)
        if reply.errors:
            raise PartialBatchError(reply.ids, reply.errors)
        return reply.ids  # type: ignore[return-value]

    async def push_flow(
        self,
        queue: str,
        data: Any,
        children: Sequence[Mapping[str, Any]],
        *,
        priority: int = 0,
        delay: int | None = None,
        ttl: int | None = None,
        timeout: int | None = None,
        max_attempts: int | None = None,
        backoff: int | None = None,
        jitter: float | None = None,
        unique_key: str | None = None,
        on_dependency_failure: OnDependencyFailure | None = None,
        tags: Sequence[str] | None = None,
        lifo: bool = False,
        remove_on_complete: bool = False,
        remove_on_fail: bool = False,
        stall_timeout: int | None = None,
        debounce_id: str | None = None,
        debounce_ttl: int | None = None,
        job_id: str | None = None,
        keep_completed_age: int | None = None,
        keep_completed_count: int | None = None,
        durability: Durability | None = None,
    ) -> jobs.FlowReply:
        """Add a parent job that runs when all its children have ended.

        Args:
            queue: the parent's queue.
            data: the parent's payload.
            children: for each child a dictionary with `queue`, `data` and any of the options of
                `push`.
            priority, delay, ...: the parent's, as in `push`.

        Returns:
            `parent_id`, and `children_ids` in line with `children`.

        Raises:
            FlowEmpty: there are no children.
        """
        request = jobs.Flow(
            queue=queue,
            data=data,
            children=children,  # type: ignore[arg-type]
            priority=priority or None,
            delay=delay,
            ttl=ttl,
            timeout=timeout,
            max_attempts=max_attempts,
            backoff=backoff,
            jitter=jitter,
            unique_key=unique_key,
            on_dependency_failure=on_dependency_failure,
            tags=tags,  # type: ignore[arg-type]
            lifo=lifo or None,
            remove_on_complete=remove_on_complete or None,
            remove_on_fail=remove_on_fail or None,
            stall_timeout=stall_timeout,
            debounce_id=debounce_id,
            debounce_ttl=debounce_ttl,
            job_id=job_id,
            keep_completed_age=keep_completed_age,
            keep_completed_count=keep_completed_count,
            durability=durability,
        )
        return await self._call(request, jobs.FlowReply)

    async def get_children(self, parent: Job | int) -> Children:
        """Return a flow parent's children, and how many have completed.

        Raises:
            ParentNotFound: no flow parent has this id.
        """
        found = await self._call(jobs.GetChildren(parent_id=_id(parent)), ChildrenFound)
        return Children(
            children=found.children,
            children_ids=found.children_ids,
            completed=found.completed,
            total=found.total,
        )

    # --- consuming

    async def pull(self, queue: str, timeout: int | None = None) -> Job | None:
        """Take the next job of a queue, and wait for one.

        The job is this client's until it is acknowledged, failed or released, or until this client
        has been silent for the server's session time-out.

        Args:
            queue: its name.
            timeout: ms to wait (60,000 by default); 0 does not wait.

        Returns:
            The job, or None when there was none in time.
        """
        request = leases.Pull(queue=queue, timeout=timeout)
        wait = PULL_WAIT_MS if timeout is None else timeout
        return (await self._call(request, Delivered, within=wait + WAIT_MARGIN_MS)).job

    async def pull_batch(self, queue: str, count: int, timeout: int | None = None) -> list[Job]:
        """Take up to `count` jobs of a queue as soon as there is one.

        Args:
            queue: its name.
            count: at most so many.
            timeout: ms to wait for the first one (60,000 by default); 0 does not wait.

        Returns:
            The jobs; none when there was none in time.
        """
        request = leases.PullBatch(queue=queue, count=count, timeout=timeout)
        wait = PULL_WAIT_MS if timeout is None else timeout
        return (await self._call(request, Delivered, within=wait + WAIT_MARGIN_MS)).jobs

    async def ack(self, job: Job | int, result: Any = None, *, token: int | None = None) -> None:
        """Complete an active job.

        Args:
            job: the job.
            result: kept for `get_result` and `finished`; None is no result.
            token: the lease, where `job` is an id. Without one the job's state alone decides.

        Raises:
            JobNotFound: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        request = leases.Ack(id=_id(job), result=result, token=_token(job, token))
        await self._call(request, Reply)

    async def ack_batch(
        self,
        found: Sequence[Job | int],
        *,
        results: Sequence[Any] | None = None,
        tokens: Sequence[int | None] | None = None,
    ) -> int:
        """Complete many active jobs.

        Args:
            found: jobs or ids.
            results: in line with them; None is no result.
            tokens: in line with them, where they are ids.

        Returns:
            How many were completed. The others were no longer this client's.
        """
        ids = _ids(found)
        if not ids:
            return 0
        groups = by_shard(ids, await self._shard_count(), _tokens(found, tokens), results)
        requests = [
            leases.AckBatch(ids=ids, tokens=tokens, results=results)  # type: ignore[arg-type]
            for ids, tokens, results in groups
        ]
        replies = await self._call_each(requests, leases.AckBatchReply)
        return sum(reply.ids[0] for reply in replies)

    async def fail(
        self, job: Job | int, error: str | None = None, *, token: int | None = None
    ) -> None:
        """End an active job's attempt: it is retried, or becomes a dead letter.

        Args:
            job: the job.
            error: why, for people.
            token: the lease, where `job` is an id.

        Raises:
            JobNotFound: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        await self._call(leases.Fail(id=_id(job), error=error, token=_token(job, token)), Reply)

    async def release(
        self, found: Sequence[Job | int], *, tokens: Sequence[int | None] | None = None
    ) -> int:
        """Give active jobs back to their queue; no attempt is counted.

        Args:
            found: jobs or ids.
            tokens: in line with them, where they are ids.

        Returns:
            How many went back.
        """
        ids = _ids(found)
        if not ids:
            return 0
        groups = by_shard(ids, await self._shard_count(), _tokens(found, tokens))
        requests = [
            leases.Release(ids=ids, tokens=tokens)  # type: ignore[arg-type]
            for ids, tokens in groups
        ]
        return sum(reply.count for reply in await self._call_each(requests, CountReply))

    async def heartbeat(self, job: Job | int, *, token: int | None = None) -> None:
        """Say that an active job is still being worked on.

        Only needed for jobs that another program holds: this client speaks for its own by itself.

        Raises:
            JobNotActive: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        await self._call(leases.HeartbeatJob(id=_id(job), token=_token(job, token)), Reply)

    async def progress(
        self,
        job: Job | int,
        progress: float,
        message: str | None = None,
        *,
        token: int | None = None,
    ) -> None:
        """Set an active job's progress.

        Args:
            job: the job.
            progress: 0 to 100.
            message: for people; None removes the last one.
            token: the lease, where `job` is an id.

        Raises:
            JobNotFound: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        request = leases.SetProgress(
            id=_id(job), progress=progress, message=message, token=_token(job, token)
        )
        await self._call(request, Reply)

    async def get_progress(self, job: Job | int) -> Progress:
        """Return an active job's progress, 0 to 100, and its message.

        Raises:
            JobNotFound: it is not active.
        """
        return (await self._call(leases.GetProgress(id=_id(job)), leases.ProgressReply)).progress

    async def move_to_delayed(
        self, job: Job | int, delay: int, *, token: int | None = None
    ) -> None:
        """Put an active job back, to run after `delay` ms.

        Raises:
            JobNotActive: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        request = leases.MoveToDelayed(id=_id(job), delay=delay, token=_token(job, token))
        await self._call(request, Reply)

    async def log(self, job: Job | int, message: str, *, level: str = "info") -> None:
        """Add an entry to a job's log.

        Args:
            job: the job, in any state.
            message: the entry.
            level: debug, info, warn or error; free text.

        Raises:
            JobNotFound: there is no such job.
        """
        await self._call(jobs.Log(id=_id(job), message=message, level=level), Reply)

    async def get_logs(self, job: Job | int) -> list[LogEntry]:
        """Return a job's log, oldest entry first; empty for an unknown job."""
        return (await self._call(jobs.GetLogs(id=_id(job)), jobs.LogsReply)).logs

    # --- inspecting

    async def get_job(self, job: Job | int) -> Job | None:
        """Return a job with its `state`, or None when it is not (or no longer) known."""
        return _with_state(await self._call(jobs.GetJob(id=_id(job)), JobFound))

    async def get_job_by_custom_id(self, job_id: str, queue: str | None = None) -> Job | None:
        """Find a job by the `job_id` of its push.

        Args:
            job_id: the caller's own id.
            queue: the queue it was pushed to. Without it every shard is asked, and the newest job
                with that id is given.
        """
        request = jobs.GetJobByCustomId(job_id=job_id, queue=queue)
        return _with_state(await self._call(request, JobFound))

    async def get_jobs_batch(self, found: Sequence[Job | int]) -> Page[Job]:
        """Return jobs by id, in the order asked for; unknown ones are left out."""
        request = jobs.GetJobsBatch(ids=_ids(found))
        reply = await self._call(request, JobsFound)
        return Page(reply.jobs, total=reply.total, missing_shards=reply.missing_shards)

    async def get_jobs(
        self,
        queue: str | None = None,
        state: str | None = None,
        *,
        limit: int | None = None,
        offset: int | None = None,
    ) -> Page[Job]:
        """List jobs, newest first.

        Args:
            queue: only of this queue.
            state: only in this state: waiting, delayed, active, completed, failed,
                waitingchildren (it depends on others) or waitingparent (a flow's parent).
            limit: at most so many (100 by default).
            offset: how many to skip.

        Returns:
            The jobs; its `total` counts all that match, its `missing_shards` names those that did
            not answer.
        """
        request = jobs.GetJobs(queue=queue, state=state, limit=limit, offset=offset)
        reply = await self._call(request, JobsFound)
        return Page(reply.jobs, total=reply.total, missing_shards=reply.missing_shards)

    async def get_state(self, job: Job | int) -> str:
        """Return a job's state; "unknown" when it never existed or is forgotten."""
        return (await self._call(jobs.GetState(id=_id(job)), jobs.StateReply)).state

    async def get_result(self, job: Job | int) -> Any:
        """Return a completed job's result; None when there is none (yet, or any more)."""
        return payload((await self._call(jobs.GetResult(id=_id(job)), jobs.ResultReply)).result)

    async def finished(self, job: Job | int, timeout: int | None = None) -> Any:
        """Wait for a job's end.

        Args:
            job: the job.
            timeout: ms to wait (30,000 by default).

        Returns:
            Its result.

        Raises:
            JobFailed: it became a dead letter.
            WaitJobNotFound: there is no such job (any more).
            WaitTimeout: it has not ended in time.
        """
        wait = FINISHED_WAIT_MS if timeout is None else timeout
        request = jobs.WaitJob(id=_id(job), timeout=timeout)
        return payload(
            (await self._call(request, jobs.WaitReply, within=wait + WAIT_MARGIN_MS)).result
        )

    async def get_job_counts(self, queue: str) -> queues.JobCountsReply:
        """Return how many jobs of a queue are in each state."""
        return await self._call(queues.GetJobCounts(queue=queue), queues.JobCountsReply)

    async def count(self, queue: str) -> int:
        """Return how many jobs of a queue are waiting or delayed."""
        return (await self._call(queues.Count(queue=queue), CountReply)).count

    # --- changing

    async def cancel(self, job: Job | int) -> None:
        """Remove a job that has not ended.

        Raises:
            JobNotFound: there is no such job.
            WrongState: it has ended.
        """
        await self._call(jobs.Cancel(id=_id(job)), Reply)

    async def change_priority(self, job: Job | int, priority: int) -> None:
        """Change a job's priority; higher runs first.

        Raises:
            JobNotFound, WrongState: it is not there, or not waiting.
        """
        await self._call(jobs.ChangePriority(id=_id(job), priority=priority), Reply)

    async def promote(self, job: Job | int) -> None:
        """Make a delayed job ready now.

        Raises:
            JobNotFound, WrongState: it is not there, or not delayed.
        """
        await self._call(jobs.Promote(id=_id(job)), Reply)

    async def update(self, job: Job | int, data: Any) -> None:
        """Replace a job's payload.

        Raises:
            JobNotFound: there is no such job.
        """
        await self._call(jobs.UpdateJob(id=_id(job), data=data), Reply)

    async def discard(self, job: Job | int) -> None:
        """Send a job to the dead letters.

        Raises:
            JobNotFound, WrongState: it is not there, or has ended.
        """
        await self._call(jobs.Discard(id=_id(job)), Reply)

    # --- queues

    async def pause(self, queue: str) -> None:
        """Stop deliveries from a queue."""
        await self._call(queues.Pause(queue=queue), Reply)

    async def resume(self, queue: str) -> None:
        """Let a paused queue deliver again."""
        await self._call(queues.Resume(queue=queue), Reply)

    async def is_paused(self, queue: str) -> bool:
        """Tell whether a queue is paused."""
        return (await self._call(queues.IsPaused(queue=queue), queues.PausedReply)).paused

    async def drain(self, queue: str) -> int:
        """Remove a queue's waiting and delayed jobs, and return how many they were."""
        return (await self._call(queues.Drain(queue=queue), CountReply)).count

    async def obliterate(self, queue: str) -> int:
        """Remove a queue: jobs in every state, keys, limits, pause, and crons that target it.

        Returns:
            How many jobs were removed.
        """
        return (await self._call(queues.Obliterate(queue=queue), CountReply)).count

    async def clean(self, queue: str, grace: int, state: str, *, limit: int | None = None) -> int:
        """Remove old jobs in one state, oldest first.

        Args:
            queue: its name.
            grace: ms: only jobs made at least so long ago.
            state: waiting, delayed, completed or failed.
            limit: at most so many.

        Returns:
            How many were removed.

        Raises:
            StateInvalid: it is another state.
        """
        request = queues.Clean(queue=queue, grace=grace, state=state, limit=limit)
        return (await self._call(request, CountReply)).count

    async def list_queues(self) -> Page[QueueInfo]:
        """Return all queues. `missing_shards` of the list names those that did not answer."""
        reply = await self._call(queues.ListQueues(), queues.QueuesReply)
        return Page(reply.queues, missing_shards=reply.missing_shards)

    async def set_rate_limit(self, queue: str, limit: int) -> None:
        """Let a queue deliver at most `limit` jobs a second; 0 stops it."""
        await self._call(queues.SetRateLimit(queue=queue, limit=limit), Reply)

    async def clear_rate_limit(self, queue: str) -> None:
        """Lift a queue's rate limit."""
        await self._call(queues.ClearRateLimit(queue=queue), Reply)

    async def set_concurrency(self, queue: str, limit: int) -> None:
        """Let at most `limit` jobs of a queue be active at a time; 0 stops it."""
        await self._call(queues.SetConcurrency(queue=queue, limit=limit), Reply)

    async def clear_concurrency(self, queue: str) -> None:
        """Lift a queue's concurrency limit."""
        await self._call(queues.ClearConcurrency(queue=queue), Reply)

    async def queue_config(
        self,
        queue: str,
        *,
        durability: Durability | None = None,
        keep_completed_age: int | None = None,
        keep_completed_count: int | None = None,
    ) -> queues.QueueConfigReply:
        """Set the named defaults for a queue's later pushes, and return all of them.

        Args:
            queue: its name.
            durability: "durable", "async" or "memory".
            keep_completed_age: ms to keep completed jobs.
            keep_completed_count: how many completed jobs to keep.
        """
        request = queues.QueueConfig(
            queue=queue,
            durability=durability,
            keep_completed_age=keep_completed_age,
            keep_completed_count=keep_completed_count,
        )
        return await self._call(request, queues.QueueConfigReply)

    # --- dead letters

    async def get_dlq(self, queue: str, count: int | None = None) -> list[Job]:
        """Return a queue's dead letters, oldest failure first; at most `count` (100)."""
        return (await self._call(queues.GetDlq(queue=queue, count=count), JobsFound)).jobs

    async def retry_dlq(self, queue: str, job: Job | int | None = None) -> int:
        """Put one dead letter, or all of a queue, back to work; return how many they were."""
        request = queues.RetryDlq(queue=queue, id=None if job is None else _id(job))
        return (await self._call(request, queues.RetriedReply)).ids[0]

    async def purge_dlq(self, queue: str) -> int:
        """Remove a queue's dead letters; return how many they were."""
        return (await self._call(queues.PurgeDlq(queue=queue), CountReply)).count

    # --- crons

    async def add_cron(
        self,
        name: str,
        queue: str,
        data: Any,
        *,
        schedule: str | None = None,
        repeat_every: int | None = None,
        priority: int = 0,
        limit: int | None = None,
        tz: str | None = None,
    ) -> None:
        """Add or replace a cron: a push that the server makes by a schedule.

        Args:
            name: its name.
            queue, data, priority: what it pushes.
            schedule: five fields, six with seconds first, or `*/N` for every N seconds.
            repeat_every: ms between firings; it wins over `schedule`.
            limit: firings until it is removed.
            tz: the schedule's IANA time zone; UTC by default.

        Raises:
            CronInvalid: the schedule cannot be read.
        """
        request = crons.SetCron(
            name=name,
            queue=queue,
            data=data,
            schedule=schedule,
            repeat_every=repeat_every,
            priority=priority or None,
            limit=limit,
            tz=tz,
        )
        await self._call(request, Reply)

    async def delete_cron(self, name: str) -> None:
        """Remove a cron.

        Raises:
            CronNotFound: there is none of that name.
        """
        await self._call(crons.DeleteCron(name=name), Reply)

    async def list_crons(self) -> list[Cron]:
        """Return all crons."""
        return (await self._call(crons.ListCrons(), CronsFound)).crons

    # --- server

    async def stats(self) -> server.StatsReply:
        """Return how many jobs are in each state, and each shard's condition."""
        return await self._call(server.Stats(), server.StatsReply)

    async def metrics(self) -> server.MetricsReply:
        """Return the totals and each queue's counts, in its `metrics`."""
        return await self._call(server.GetMetrics(), server.MetricsReply)

    async def auth(self, token: str) -> None:
        """Show a token, now and after every reconnect.

        Raises:
            TokenInvalid: the server does not know it.
        """
        self._use_token(token)
        await self._call(sessions.Auth(token=token), Reply)


def _with_state(found: JobFound) -> Job | None:
    if found.job is not None:
        found.job.state = found.state
    return found.job
