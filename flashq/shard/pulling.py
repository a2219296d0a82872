"""PULL, PULLB and WAITJOB: answered at once where possible, else parked with a deadline.

Owns the parked requests and the token buckets. A queue's waiters are served first come, first
served.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice, takewhile
from typing import Final

from msgspec import Struct

from flashq.errors import FlashQError, JobCancelled, JobFailed, WaitJobNotFound, WaitTimeout
from flashq.ids import DELIVERY_BITS, lease_token
from flashq.protocol import records as r
from flashq.protocol.jobs import WaitJob, WaitReply
from flashq.protocol.leases import (
    EmptyPullBatchReply,
    Pull,
    PullBatch,
    PullBatchReply,
    PullColumnsReply,
    PullReply,
)
from flashq.protocol.records import Answer
from flashq.shard.aftermath import Ended
from flashq.shard.calling import Calling
from flashq.shard.core import SLICE_JOBS, Core, Line, Waiter
from flashq.shard.handlers.inspecting import check_result_kept
from flashq.shard.holdings import Queue
from flashq.shard.leases import Leases
from flashq.shard.lifecycle import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    FAILED,
    WAITING,
    Job,
    expires_at,
    options_of,
)
from flashq.shard.limits import TokenBucket
from flashq.shard.outbox import Origin
from flashq.shard.views import (
    are_columns,
    fitting,
    job_columns,
    job_view,
    result_payload,
    result_view,
)

PULL_TIMEOUT_MS: Final = 60_000
WAIT_TIMEOUT_MS: Final = 30_000
TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
"""A longer wait is cut to a day."""


def _wants_columns(command: Pull | PullBatch, origin: Origin) -> bool:
    if not isinstance(command, PullBatch) or origin.json or origin.full:
        return False
    return command.columns is True


def cancelled(reason: str | None, origin: Origin) -> FlashQError:
    """Return what one who waits for a job that was cancelled is refused with."""
    if origin.older:
        return WaitJobNotFound()
    return JobCancelled() if reason is None else JobCancelled(f"Job cancelled: {reason}")


class _Refill(Struct):
    """A queue that waits for a token of its rate."""

    queue: str
    open: int = 1


class Pulling:
    """Hands jobs out."""

    def __init__(self, core: Core, leases: Leases) -> None:
        self._core = core
        self._leases = leases
        self._calling = Calling(core, self._deliverable)
        self._deliveries = 0
        self._buckets: dict[str, TokenBucket] = {}
        self._refills: dict[str, _Refill] = {}
        #: parked pulls by the request that they repeat
        self._parked: dict[tuple[bytes, int], Waiter] = {}
        #: parked requests by the ticket that takes them back
        self._tickets: dict[bytes, Waiter] = {}

    def start(self) -> None:
        """Begin after a restart, with empty buckets."""
        for queue in self._core.state.queues.values():
            if queue.settings.rate_limit is not None:
                self._bucket(queue)

    # --- asking

    def pull(self, command: Pull | PullBatch, origin: Origin) -> None:
        """Answer a PULL or PULLB, or park it.

        Raises:
            Busy: too many are parked.
        """
        core = self._core
        timeout = PULL_TIMEOUT_MS if command.timeout is None else command.timeout
        batch = command if isinstance(command, PullBatch) else None
        waiter = Waiter(
            origin,
            core.clock_ms + min(timeout, TIMEOUT_MS_MAX),
            queue=command.queue,
            count=1 if batch is None else batch.count,
            single=batch is None,
            columns=batch is not None and _wants_columns(batch, origin),
            ready=batch is not None and batch.ready is True,
            starts=batch is not None and batch.starts is True,
            session=command.session or b"",
            n=command.n,
            done_below=command.done_below or 0,
            ticket=command.ticket or b"",
        )
        waiter.count = min(waiter.count, core.limits.batch_jobs_max)
        if waiter.ready:
            self._watch(waiter, timeout)
            return
        self._calling.came(command.queue, waiter.session)
        if command.queue not in core.pulls:
            jobs = self._deliverable(command.queue, waiter.count)
            if jobs:
                self._deliver(jobs, waiter)
                return
        if not timeout:
            self._answer_empty(waiter)
            return
        core.check_waiters()
        self._park(waiter)

    def _watch(self, waiter: Waiter, timeout: int) -> None:
        """Say that a queue has something to take, now or when it has."""
        if timeout:
            self._core.check_waiters()
            self._park(waiter)
            self._core.woken.add(waiter.queue)
        elif self._deliverable(waiter.queue, 1):
            self._core.reply(waiter.origin, PullBatchReply(ok=True, jobs=[], ready=True))
        else:
            self._answer_empty(waiter)

    def rejoin(self, session: bytes, n: int, origin: Origin) -> bool:
        """Let a repeat of a parked pull take its place; False when none is parked."""
        waiter = self._parked.get((session, n))
        if waiter is None or not waiter.open:
            return False
        waiter.origin = origin
        return True

    def _park(self, waiter: Waiter) -> None:
        core = self._core
        if waiter.count or waiter.ready:  # for none it only waits, and stands before nobody
            self._lines(waiter).setdefault(waiter.queue, Line())[waiter] = None
        core.waiters += 1
        if waiter.session and waiter.n is not None:
            self._parked[waiter.session, waiter.n] = waiter
        if waiter.ticket:
            self._tickets[waiter.ticket] = waiter
        self._leases.note_waiter(waiter)
        core.timers.at(waiter.deadline, self._expire, waiter)
        self._await_token(waiter.queue)

    def _close(self, waiter: Waiter) -> None:
        waiter.open = 0
        self._core.waiters -= 1
        if waiter.n is not None:
            self._parked.pop((waiter.session, waiter.n), None)
        self._return_ticket(waiter)
        self._leases.forget_waiter(waiter)
        lines = self._lines(waiter)
        line = lines.get(waiter.queue)
        if line is not None:
            line.pop(waiter, None)
            if not line:
                del lines[waiter.queue]

    def _lines(self, waiter: Waiter) -> dict[str, Line]:
        return self._core.watches if waiter.ready else self._core.pulls

    def _return_ticket(self, waiter: Waiter) -> None:
        if waiter.ticket and self._tickets.get(waiter.ticket) is waiter:
            del self._tickets[waiter.ticket]

    def _expire(self, waiter: Waiter) -> None:
        self.drop(waiter)
        self._answer_empty(waiter)

    def drop(self, waiter: Waiter) -> None:
        """Forget a parked pull without an answer: nobody is there to read it."""
        self._close(waiter)

    def withdraw(self, ticket: bytes) -> bool:
        """Forget a parked request without an answer: who has asked is gone.

        Args:
            ticket: what it was asked with.

        Returns:
            Whether there was one.
        """
        waiter = self._tickets.get(ticket)
        if waiter is None:
            return False
        if waiter.job_id:
            self._forget_wait(waiter)
        else:
            self.drop(waiter)
        return True

    def _answer_empty(self, waiter: Waiter) -> None:
        empty = PullReply(job=None) if waiter.single else EmptyPullBatchReply()
        self._core.reply_now(waiter.origin, empty)

    # --- serving

    def serve(self, name: str, most: int) -> int:
        """Hand jobs of a queue to those that wait for them, as far as there are any, and tell those
        that wait for the queue.

        Args:
            name: the queue's.
            most: serve so many; if more wait, the queue stays woken.

        Returns:
            How many were served.
        """
        served = 0
        while line := self._core.pulls.get(name):
            if served >= most:
                self._core.woken.add(name)
                return served
            waiter = next(iter(line))
            jobs = self._deliverable(name, waiter.count)
            if not jobs:
                self._await_token(name)
                break
            served += 1
            self._close(waiter)
            self._deliver(jobs, waiter)
        if self._calling.call(name, self._close):
            self._await_token(name)
        return served

    def _deliverable(self, name: str, count: int) -> list[Job]:
        """Return the jobs that may be handed out now, at most `count`."""
        queue = self._core.state.queues.get(name)
        if queue is None or not queue.counts[WAITING]:
            return []
        settings = queue.settings
        if settings.paused:
            return []
        if settings.concurrency is not None:
            count = min(count, settings.concurrency - queue.counts[ACTIVE])
        if settings.rate_limit is not None:
            count = min(count, self._bucket(queue).available(self._core.clock_ms))
        if count <= 0:
            return []
        jobs = queue.ready.peek(count)
        if self._core.is_expiring:
            jobs = self._unexpired(queue, jobs)
        return jobs if len(jobs) == 1 else fitting(jobs)

    def _unexpired(self, queue: Queue, jobs: list[Job]) -> list[Job]:
        """Return the first of jobs that are ready, up to one that has expired. While there are more
        of those than could be removed at once, the ones at the head go on demand."""
        core = self._core
        expired = list(islice(takewhile(self._has_expired, jobs), SLICE_JOBS))
        if expired:
            records = core.context.removing(expired, "expired")
            core.commit(records, durable=core.context.is_any_durable(records))
            jobs = queue.ready.peek(len(jobs))
        return list(takewhile(lambda job: not self._has_expired(job), jobs))

    def _has_expired(self, job: Job) -> bool:
        now_ms = self._core.state.now_ms
        return bool(options_of(job).ttl) and expires_at(job) <= now_ms

    def _await_token(self, name: str) -> None:
        """Have a queue with waiters served when its rate gives the next token."""
        core, queue = self._core, self._core.state.queues.get(name)
        if queue is None or queue.settings.rate_limit is None or name in self._refills:
            return
        bucket = self._bucket(queue)
        if not queue.counts[WAITING] or bucket.available(core.clock_ms):
            return  # it is not the rate that they wait for
        at = bucket.next_at_ms()
        if at is not None:
            refill = self._refills[name] = _Refill(name)
            core.timers.at(at, self._refilled, refill)

    def _bucket(self, queue: Queue) -> TokenBucket:
        limit = queue.settings.rate_limit or 0
        bucket = self._buckets.get(queue.name)
        if bucket is None or bucket.limit != limit:
            bucket = TokenBucket(limit, self._core.clock_ms, full=False)
            self._buckets[queue.name] = bucket
        return bucket

    def change_rate(self, name: str) -> None:
        """Let a queue's new rate limit count: a first one starts with a full bucket."""
        core = self._core
        refill = self._refills.pop(name, None)
        if refill is not None:
            refill.open = 0  # it was reckoned by the limit before
        queue = core.state.queues.get(name)
        if queue is None or queue.settings.rate_limit is None:
            self._buckets.pop(name, None)
            return
        limit, bucket = queue.settings.rate_limit, self._buckets.get(name)
        if bucket is None:
            self._buckets[name] = TokenBucket(limit, core.clock_ms, full=True)
        else:
            bucket.change_limit(limit, core.clock_ms)

    def give_back(self, job_ids: list[int]) -> None:
        """Give queues the tokens back of jobs that are about to be released: each was handed out
        for nothing, unless its worker has been heard to be at work on it."""
        back: Counter[str] = Counter()
        for job in self._core.state.index.get_many(job_ids):
            if job is None or job.lease is None or job.queue not in self._buckets:
                continue
            if job.id not in (job.lease.beats or ()):
                back[job.queue] += 1
        for name, count in back.items():
            self._buckets[name].give_back(count, self._core.clock_ms)

    def _refilled(self, refill: _Refill) -> None:
        refill.open = 0
        del self._refills[refill.queue]
        self._core.woken.add(refill.queue)

    def _deliver(self, jobs: list[Job], waiter: Waiter) -> None:
        core = self._core
        queue = core.state.queues[waiter.queue]
        if queue.settings.rate_limit is not None:
            self._bucket(queue).spend(len(jobs))
        self._deliveries += 1
        assert self._deliveries < 1 << DELIVERY_BITS, "more deliveries than an epoch has tokens"
        token = lease_token(core.epoch, self._deliveries)
        answer = None
        if waiter.session and waiter.n is not None:
            answer = Answer(waiter.session, waiter.n, waiter.done_below, b"", token)
        record = r.Delivered(waiter.queue, [job.id for job in jobs], token, waiter.session)
        core.commit([record], durable=False, answer=answer)
        self._leases.hand_out(jobs, waiter.session, starts=waiter.starts)
        self._answer(waiter, jobs)

    def _answer(self, waiter: Waiter, jobs: list[Job]) -> None:
        origin = waiter.origin
        reply: PullReply | PullBatchReply | PullColumnsReply
        if waiter.single:
            reply = PullReply(job=job_view(jobs[0], origin))
        elif waiter.columns and are_columns(jobs):
            reply = PullColumnsReply(ok=True, columns=job_columns(jobs))
        else:
            reply = PullBatchReply(ok=True, jobs=[job_view(job, origin) for job in jobs])
        self._core.reply(origin, reply, delivery=True)

    def answer_again(self, command: Pull | PullBatch, answer: Answer, origin: Origin) -> bool:
        """Answer a repeated pull with those jobs of its delivery that are still held.

        Returns:
            False when there are none: then the pull is a new one.
        """
        session = self._core.state.sessions[answer.session]
        delivery = session.deliveries.get(answer.token)
        if delivery is None:
            return False
        held = [job for job in delivery.jobs if job.lease is delivery]
        waiter = Waiter(
            origin,
            0,
            single=isinstance(command, Pull),
            columns=_wants_columns(command, origin),
            session=answer.session,
        )
        self._answer(waiter, held)
        return True

    # --- waiting for a job's end

    def wait(self, command: WaitJob, origin: Origin) -> None:
        """Answer a WAITJOB, or park it.

        Raises:
            WaitJobNotFound: there is no such job.
            ResultNotKept: it has completed, and its result is no longer kept.
            JobFailed: it has failed.
            JobCancelled: somebody has cancelled it.
            Busy: too many are parked.
        """
        core = self._core
        job = core.context.job(command.id, origin)
        if job is None:
            raise WaitJobNotFound
        if job.state == FAILED:
            raise JobFailed
        if job.state == CANCELLED:
            raise cancelled(None if job.extra is None else job.extra.cancel_reason, origin)
        if job.state == COMPLETED:
            check_result_kept(job, origin)
            core.reply(origin, WaitReply(result=result_view(job, origin)), is_read=True)
            return
        core.check_waiters()
        timeout = WAIT_TIMEOUT_MS if command.timeout is None else command.timeout
        deadline = core.clock_ms + min(timeout, TIMEOUT_MS_MAX)
        ticket = command.ticket or b""
        waiter = Waiter(origin, deadline, job_id=command.id, timeout=timeout, ticket=ticket)
        core.waits.setdefault(command.id, Line())[waiter] = None
        core.waiters += 1
        if ticket:
            self._tickets[ticket] = waiter
        core.timers.at(deadline, self._wait_expired, waiter)

    def _forget_wait(self, waiter: Waiter) -> None:
        core = self._core
        waiter.open = 0
        core.waiters -= 1
        self._return_ticket(waiter)
        line = core.waits[waiter.job_id]
        del line[waiter]
        if not line:
            del core.waits[waiter.job_id]

    def _wait_expired(self, waiter: Waiter) -> None:
        self._forget_wait(waiter)
        timeout = WaitTimeout(id=waiter.job_id, timeout=waiter.timeout)
        self._core.refuse(waiter.origin, timeout, is_read=True)

    def tell_end(self, ended: Ended, most: int) -> int:
        """Answer those that wait for a job's end.

        Args:
            ended: what became of it.
            most: answer so many; if more wait, the end is still to be told.

        Returns:
            How many were answered.
        """
        core = self._core
        waiters = list(islice(core.waits.get(ended.id, ()), most))
        for waiter in waiters:
            self._forget_wait(waiter)
            origin = waiter.origin
            if ended.how == "completed":
                stored = ended.result
                result = None if stored is None else result_payload(stored, origin)
                core.reply(origin, WaitReply(result=result), is_read=True)
            elif ended.how == "cancelled":
                core.refuse(origin, cancelled(ended.reason, origin), is_read=True)
            else:
                error = JobFailed() if ended.how == "failed" else WaitJobNotFound()
                core.refuse(origin, error, is_read=True)
        if ended.id in core.waits:
            core.ended.append(ended)
        return len(waiters)
