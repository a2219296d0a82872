"""The client's methods, one for each command about jobs, in their blocking form.

Owns signatures, documentation and the conversion of arguments and replies. What a call does with
the wire is its subclass's. `async_methods.py` is generated from this file by
`python -m tools.generate`: the same text with `async` and `await`.

Everywhere: durations are milliseconds, times Unix milliseconds; a `job` is a `Job` or an id, and a
`Job` that was handed out carries its lease token along. Payloads and results are anything that
MessagePack holds (None, bool, int, float, str, bytes, datetime, lists, maps, dataclasses, ...);
what it cannot hold is a `TypeError` that names the argument. Every method may raise
`RequestTimeout` (the outcome is unknown), `ConnectionClosed`, `Busy` and the other errors of
`flashq.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from flashq.client.arguments import (
    FlowOptions,
    PushOptions,
    id_of,
    ids_of,
    token_of,
    tokens_of,
)
from flashq.client.calls import WAIT_MARGIN_MS, by_shard, prepare_push_batch
from flashq.client.checks import made
from flashq.client.queue_methods import QueueMethods
from flashq.client.results import (
    Children,
    ChildrenFound,
    Delivered,
    Job,
    JobFound,
    JobsFound,
    Page,
    PartialBatchError,
    payload,
)
from flashq.errors import JobFailed
from flashq.protocol import jobs, leases
from flashq.protocol.base import CountReply, Reply, TextReply
from flashq.protocol.objects import LogEntry, Progress

PULL_WAIT_MS = 60_000
"""How long a pull waits when it does not say."""
FINISHED_WAIT_MS = 30_000
"""How long `finished` waits when it does not say."""


class Methods(QueueMethods):
    """All methods; those about queues, crons and the server come from `QueueMethods`."""

    # --- producing

    def push(
        self, queue: str, data: Any, *, priority: int = 0, **options: Unpack[PushOptions]
    ) -> int:
        """Add a job to a queue.

        Args:
            queue: its name: letters, digits, `_`, `-`, `.`; it comes into being by its first use.
            data: the payload.
            priority: higher runs first.
            options: delay, ttl, timeout, max_attempts, backoff, jitter, unique_key, depends_on,
                on_dependency_failure, tags, lifo, remove_on_complete, remove_on_fail,
                stall_timeout, debounce_id, debounce_ttl, job_id, keep_completed_age,
                keep_completed_count, durability: see `PushOptions`.

        Returns:
            The job's id.

        Raises:
            DuplicateJob: its unique key is taken.
            Debounced: its debounce id was pushed just now.
            TypeError: the payload cannot be encoded.
        """
        request = made(jobs.Push, queue=queue, data=data, priority=priority or None, **options)
        return self._call(request, jobs.PushReply).id

    def push_batch(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> list[int]:
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
        reply = self._call(prepare_push_batch(queue, entries), jobs.PushBatchReply)
        if reply.errors:
            raise PartialBatchError(reply.ids, reply.errors)
        return reply.ids  # type: ignore[return-value]

    def push_flow(
        self,
        queue: str,
        data: Any,
        children: Sequence[Mapping[str, Any]],
        *,
        priority: int = 0,
        **options: Unpack[FlowOptions],
    ) -> jobs.FlowReply:
        """Add a parent job that runs when all its children have ended.

        Args:
            queue: the parent's queue.
            data: the parent's payload.
            children: for each child a dictionary with `queue`, `data` and any of the options of
                `push`.
            priority, options: the parent's, as in `push`, but without `depends_on`.

        Returns:
            `parent_id`, and `children_ids` in line with `children`.

        Raises:
            FlowEmpty: there are no children.
        """
        request = made(
            jobs.Flow,
            queue=queue,
            data=data,
            children=children,
            priority=priority or None,
            **options,
        )
        return self._call(request, jobs.FlowReply)

    def get_children(self, parent: Job | int) -> Children:
        """Return a flow parent's children, and how many have completed.

        Raises:
            ParentNotFound: no flow parent has this id.
        """
        found = self._call(jobs.GetChildren(parent_id=id_of(parent)), ChildrenFound)
        children = found.children
        # The parent's shard knows the bodies of its own jobs only.
        missing = sorted(set(found.children_ids) - {child.id for child in children})
        if missing:
            children += self._call(jobs.GetJobsBatch(ids=missing), JobsFound).jobs
            children.sort(key=lambda child: found.children_ids.index(child.id))
        return Children(
            children=children,
            children_ids=found.children_ids,
            completed=found.completed,
            total=found.total,
        )

    # --- consuming

    def pull(self, queue: str, timeout: int | None = None) -> Job | None:
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
        return self._call(request, Delivered, within=wait + WAIT_MARGIN_MS).job

    def pull_batch(
        self, queue: str, count: int, timeout: int | None = None, *, starts: bool = False
    ) -> list[Job]:
        """Take up to `count` jobs of a queue as soon as there is one.

        Args:
            queue: its name.
            count: at most so many.
            timeout: ms to wait for the first one (60,000 by default); 0 does not wait.
            starts: whether the time-out of each job counts from its first `heartbeat`, instead of
                from now.

        Returns:
            The jobs; none when there was none in time.
        """
        request = leases.PullBatch(
            queue=queue, count=count, timeout=timeout, columns=True, starts=starts or None
        )
        wait = PULL_WAIT_MS if timeout is None else timeout
        return self._call(request, Delivered, within=wait + WAIT_MARGIN_MS).jobs

    def wait_ready(self, queue: str, timeout: int | None = None) -> bool:
        """Wait until a queue has a job to take, and take none.

        So one waits for several queues at once. Of those that wait for the same job one is told; it
        is to pull from the queue soon, for 0 jobs if it has no use for them.

        Args:
            queue: its name.
            timeout: ms to wait (60,000 by default); 0 does not wait.

        Returns:
            Whether there was one in time. Somebody else may take it meanwhile.
        """
        request = leases.PullBatch(queue=queue, count=0, timeout=timeout, ready=True)
        wait = PULL_WAIT_MS if timeout is None else timeout
        return self._call(request, Delivered, within=wait + WAIT_MARGIN_MS).ready

    def ack(self, job: Job | int, result: Any = None, *, token: int | None = None) -> None:
        """Complete an active job.

        Args:
            job: the job.
            result: kept for `get_result` and `finished`; None is no result.
            token: the lease, where `job` is an id. Without one the job's state alone decides.

        Raises:
            JobNotFound: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        request = leases.Ack(id=id_of(job), result=result, token=token_of(job, token))
        self._call(request, Reply)

    def ack_batch(
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
        ids = ids_of(found)
        if not ids:
            return 0
        groups = by_shard(ids, self._shard_count(), tokens_of(found, tokens), results)
        requests = [
            leases.AckBatch(ids=ids, tokens=tokens, results=results)  # type: ignore[arg-type]
            for ids, tokens, results in groups
        ]
        replies = self._call_each(requests, leases.AckBatchReply)
        return sum(reply.ids[0] for reply in replies)

    def fail(self, job: Job | int, error: str | None = None, *, token: int | None = None) -> int:
        """End an active job's attempt: it is retried, or becomes a dead letter.

        Args:
            job: the job.
            error: why, for people.
            token: the lease, where `job` is an id.

        Returns:
            How many characters of a long error were left out of its middle.

        Raises:
            JobNotFound: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        request = leases.Fail(id=id_of(job), error=error, token=token_of(job, token))
        return self._call(request, TextReply).cut

    def release(
        self, found: Sequence[Job | int], *, tokens: Sequence[int | None] | None = None
    ) -> int:
        """Give active jobs back to their queue; no attempt is counted.

        Args:
            found: jobs or ids.
            tokens: in line with them, where they are ids.

        Returns:
            How many went back.
        """
        ids = ids_of(found)
        if not ids:
            return 0
        groups = by_shard(ids, self._shard_count(), tokens_of(found, tokens))
        requests = [
            leases.Release(ids=ids, tokens=tokens)  # type: ignore[arg-type]
            for ids, tokens in groups
        ]
        return sum(reply.count for reply in self._call_each(requests, CountReply))

    def heartbeat(self, job: Job | int, *, token: int | None = None) -> None:
        """Say that an active job is still being worked on.

        Only needed for jobs that another program holds: this client speaks for its own by itself.

        Raises:
            JobNotActive: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        self._call(leases.HeartbeatJob(id=id_of(job), token=token_of(job, token)), Reply)

    def progress(
        self,
        job: Job | int,
        progress: float,
        message: str | None = None,
        *,
        token: int | None = None,
    ) -> int:
        """Set an active job's progress.

        Args:
            job: the job.
            progress: 0 to 100.
            message: for people; None removes the last one.
            token: the lease, where `job` is an id.

        Returns:
            How many characters of a long message were left out of its middle.

        Raises:
            JobNotFound: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        request = leases.SetProgress(
            id=id_of(job), progress=progress, message=message, token=token_of(job, token)
        )
        return self._call(request, TextReply).cut

    def get_progress(self, job: Job | int) -> Progress:
        """Return an active job's progress, 0 to 100, and its message.

        Raises:
            JobNotFound: it is not active.
        """
        return self._call(leases.GetProgress(id=id_of(job)), leases.ProgressReply).progress

    def move_to_delayed(self, job: Job | int, delay: int, *, token: int | None = None) -> None:
        """Put an active job back, to run after `delay` ms.

        Raises:
            JobNotActive: it is not active.
            LeaseLost: it went back or to somebody else.
        """
        request = leases.MoveToDelayed(id=id_of(job), delay=delay, token=token_of(job, token))
        self._call(request, Reply)

    def log(self, job: Job | int, message: str, *, level: str = "info") -> int:
        """Add an entry to a job's log.

        Args:
            job: the job, in any state.
            message: the entry.
            level: debug, info, warn or error; any word.

        Returns:
            How many characters of a long message were left out of its middle.

        Raises:
            JobNotFound: there is no such job.
        """
        return self._call(jobs.Log(id=id_of(job), message=message, level=level), TextReply).cut

    def get_logs(self, job: Job | int) -> list[LogEntry]:
        """Return a job's log, oldest entry first; empty for an unknown job."""
        return self._call(jobs.GetLogs(id=id_of(job)), jobs.LogsReply).logs

    # --- inspecting

    def get_job(self, job: Job | int) -> Job | None:
        """Return a job with its `state`, or None when it is not (or no longer) known."""
        return _with_state(self._call(jobs.GetJob(id=id_of(job)), JobFound))

    def get_job_by_custom_id(self, job_id: str, queue: str | None = None) -> Job | None:
        """Find a job by the `job_id` of its push.

        Args:
            job_id: the caller's own id.
            queue: the queue it was pushed to. Without it every shard is asked, and the newest job
                with that id is given.
        """
        request = jobs.GetJobByCustomId(job_id=job_id, queue=queue)
        return _with_state(self._call(request, JobFound))

    def get_jobs_batch(self, found: Sequence[Job | int]) -> Page[Job]:
        """Return jobs by id, in the order asked for; unknown ones are left out."""
        request = jobs.GetJobsBatch(ids=ids_of(found))
        reply = self._call(request, JobsFound)
        return Page(reply.jobs, total=reply.total, missing_shards=reply.missing_shards)

    def get_jobs(
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
        reply = self._call(request, JobsFound)
        return Page(reply.jobs, total=reply.total, missing_shards=reply.missing_shards)

    def get_state(self, job: Job | int) -> str:
        """Return a job's state; "unknown" when it never existed or is forgotten."""
        return self._call(jobs.GetState(id=id_of(job)), jobs.StateReply).state

    def get_result(self, job: Job | int) -> Any:
        """Return a completed job's result; None when there is none, or none yet.

        Raises:
            ResultNotKept: it has completed, and its result is no longer kept.
        """
        return payload(self._call(jobs.GetResult(id=id_of(job)), jobs.ResultReply).result)

    def finished(self, job: Job | int, timeout: int | None = None) -> Any:
        """Wait for a job's end.

        Args:
            job: the job.
            timeout: ms to wait (30,000 by default).

        Returns:
            Its result.

        Raises:
            JobFailed: it became a dead letter; the text has its error, as long as it is kept.
            JobCancelled: somebody has cancelled it.
            ResultNotKept: it has completed, and its result is no longer kept.
            WaitJobNotFound: there is no such job (any more).
            WaitTimeout: it has not ended in time.
        """
        wait = FINISHED_WAIT_MS if timeout is None else timeout
        request = jobs.WaitJob(id=id_of(job), timeout=timeout)
        try:
            reply = self._call(request, jobs.WaitReply, within=wait + WAIT_MARGIN_MS)
        except JobFailed as failed:
            if failed.text != JobFailed.template:
                raise
            dead = self.get_job(job)  # the server's words for it leave out the reason
            if dead is None or not dead.error:
                raise
            raise JobFailed(f"{failed.text}: {dead.error}") from None
        return payload(reply.result)

    # --- changing

    def cancel(self, job: Job | int, reason: str | None = None) -> None:
        """End a job that has not ended; it is kept as cancelled, for as long as a completed one.

        Args:
            job: the job.
            reason: why, for people; at most 1,000 characters.

        Raises:
            JobNotFound: there is no such job.
            WrongState: it has ended.
        """
        self._call(jobs.Cancel(id=id_of(job), reason=reason), Reply)

    def change_priority(self, job: Job | int, priority: int) -> None:
        """Change a job's priority; higher runs first.

        Raises:
            JobNotFound, WrongState: it is not there, or not waiting.
        """
        self._call(jobs.ChangePriority(id=id_of(job), priority=priority), Reply)

    def promote(self, job: Job | int) -> None:
        """Make a delayed job ready now.

        Raises:
            JobNotFound, WrongState: it is not there, or not delayed.
        """
        self._call(jobs.Promote(id=id_of(job)), Reply)

    def update(self, job: Job | int, data: Any) -> None:
        """Replace a job's payload.

        Raises:
            JobNotFound: there is no such job.
        """
        self._call(jobs.UpdateJob(id=id_of(job), data=data), Reply)

    def discard(self, job: Job | int) -> None:
        """Send a job to the dead letters.

        Raises:
            JobNotFound, WrongState: it is not there, or has ended.
        """
        self._call(jobs.Discard(id=id_of(job)), Reply)


def _with_state(found: JobFound) -> Job | None:
    if found.job is not None:
        found.job.state = found.state
    return found.job
