"""What a worker decides: how much to fetch, what to run next, what to acknowledge, when to end.

Pure: no I/O, no clock; `now` is monotonic milliseconds, with fractions. The process around it
carries out what it returns, and tells it what came of that. The rules:

* What is asked for, ready and running is never more than there is room for; `fetching` says how
  that is kept with several queues.
* Ahead of what runs, only so much is fetched as is likely to start within `AHEAD_MS`, by the rate
  of the last jobs; what is not likely to start within `SURPLUS_MS` is given back.
* A job that has waited here for longer than `CONFIRM_MS` starts only once the server has said that
  it is still ours; meanwhile it has its place.
* Acknowledgements of a queue gather while one is under way, for at most `ACK_DELAY_MS`.
* A result that could not be acknowledged is tried again until the lease is lost.
* A running job is to stop when its lease is lost, when it has been handed out again, and when its
  time-out is long over without a word from the server. Its place stays taken until its handler has
  ended, whenever that is.
* Of one job there is never more than one copy running: a second one is held back until the first
  has ended, or given back after `HELD_BACK_MS`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Raw, Struct

from flashq.client.results import Job
from flashq.worker.fetching import RETRY_MS, Fetching, Order

AHEAD_MS: Final = 50.0
SURPLUS_MS: Final = 1000.0
CONFIRM_MS: Final = 100.0
ACK_DELAY_MS: Final = 3.0
LAST_WORDS_MS: Final = 5000.0
"""How long after the grace time outcomes may still be reported."""
OVERTIME_MS: Final = 250.0
"""How long the server has to say that a time-out is over, before a worker says so itself."""
STUBBORN_MS: Final = 2000.0
"""A handler that has not stopped so long after it was to is named in the log."""
HELD_BACK_MS: Final = 30_000.0
RATE_WEIGHT: Final = 0.1
"""How much the latest interval between two ends of jobs counts in the running average."""
INTERVAL_MS_MIN: Final = 0.001


class Outcome(Struct, frozen=True):
    """How a job ended: with a result (encoded; None for none), or with an error."""

    job: Job
    result: Raw | None = None
    error: str | None = None


class Acknowledge(Struct, frozen=True):
    """Acknowledge these jobs of one queue in one request."""

    queue: str
    outcomes: list[Outcome]


class Fail(Struct, frozen=True):
    """Fail this job."""

    outcome: Outcome


class Stop(Struct, frozen=True):
    """Interrupt this running job, for this reason."""

    job: Job
    reason: str


class _Outbox:
    """The outcomes of one queue's jobs that are not acknowledged yet."""

    __slots__ = ("alone", "pending", "retry_at", "since", "under_way")

    def __init__(self) -> None:
        #: to be sent, oldest first
        self.pending: deque[Outcome] = deque()
        #: when the oldest of them came
        self.since = 0.0
        #: batches sent and not answered
        self.under_way = 0
        #: not before this, after a failure
        self.retry_at = 0.0
        #: ids that spoiled a batch, or stood in one that was: each is sent by itself
        self.alone: set[int] = set()


class Engine:
    """The state of one worker.

    Args:
        queues: names, without repetition.
        concurrency: most jobs running at a time.
        batch_max: most jobs in one fetch or acknowledgement, and most fetched ahead.
        grace_ms: how long running jobs may go on after `stop`.
    """

    def __init__(
        self, queues: Sequence[str], *, concurrency: int, batch_max: int, grace_ms: float
    ) -> None:
        self._concurrency: Final = concurrency
        self._batch_max: Final = batch_max
        self._grace_ms: Final = grace_ms
        self._fetching: Final = Fetching(list(dict.fromkeys(queues)), batch_max)
        #: fetched, not started, oldest first, and when they were fetched
        self._ready: deque[tuple[Job, float]] = deque()
        #: those whose place is taken, and that the server is to be asked about; ids of all of them,
        #: those that the process has not had yet, and those that are ours and may start
        self._confirming: set[int] = set()
        self._to_confirm: list[Job] = []
        self._confirmed: deque[Job] = deque()
        #: what has a place, by job id
        self._running: dict[int, Job] = {}
        #: ids of those whose lease is lost: their outcome is nobody's business
        self._lost: set[int] = set()
        #: when those that have a time-out are stopped at the latest
        self._overtime_at: dict[int, float] = {}
        #: those that are to stop
        self._stopping: set[int] = set()
        #: those of them that have not been named in the log; when they will be
        self._stubborn_at: dict[int, float] = {}
        #: orders that the process has not had yet
        self._stops: list[Stop] = []
        #: second copies of what runs, and since when
        self._held_back: dict[int, tuple[Job, float]] = {}
        #: by queue; an empty one is kept for its `under_way`
        self._outboxes: dict[str, _Outbox] = {}
        #: failures to report, and how many reports are under way
        self._failures: deque[Outcome] = deque()
        self._failing = 0
        self._failures_at = 0.0
        #: average ms between two ends while busy; None before the first
        self._interval_ms: float | None = None
        #: the last end, or the start of this busy time
        self._ended_at = 0.0
        #: when running jobs are given up; None before `stop`
        self._give_up_at: float | None = None
        self.completed = 0
        self.failed = 0
        self.lost = 0

    # --- fetching

    def fetches(self, now: float) -> list[Order]:
        """Return what to ask of the queues now."""
        if self._give_up_at is not None:
            return []
        ahead = min(self._batch_max, self._starting_within(AHEAD_MS, now))
        taken = len(self._running) + len(self._ready) + self._fetching.asked
        room = self._concurrency + ahead - taken
        return self._fetching.orders(room if room >= max(1, ahead // 2) else 0, now)

    def fetched(self, queue: str, jobs: Sequence[Job], now: float) -> list[Job]:
        """Take in what a fetch brought.

        Returns:
            Jobs to give back, because there is no room for them.
        """
        self._fetching.fetched(queue, len(jobs))
        if self._give_up_at is not None:
            return list(jobs)
        for job in jobs:
            running = self._running.get(job.id)
            if running is not None and job.id not in self._lost:
                late = self._overtime_at.get(job.id, now) - OVERTIME_MS <= now and job.timeout
                self._lose(running, _timed_out(job) if late else "it was handed out again", now)
            self._ready.append((job, now))
        return self.surplus(now)

    def waited(self, queue: str, *, has_jobs: bool) -> None:
        """A queue has jobs, or has been waited for long enough."""
        self._fetching.waited(queue, has_jobs=has_jobs)

    def fetch_failed(self, queue: str, now: float) -> None:
        """A fetch or a wait came to nothing: try again in a while."""
        self._fetching.failed(queue, now)

    def surplus(self, now: float) -> list[Job]:
        """Return ready jobs that will not start soon, newest first, to be given back."""
        places = self._concurrency - len(self._running)
        keep = max(0, places) + self._starting_within(SURPLUS_MS, now)
        surplus = [self._ready.pop()[0] for _ in range(len(self._ready) - keep)]
        if self._held_back:
            old = [i for i, (_, at) in self._held_back.items() if at + HELD_BACK_MS <= now]
            surplus += [self._held_back.pop(job_id)[0] for job_id in old]
        return surplus

    def _starting_within(self, horizon_ms: float, now: float) -> int:
        """How many jobs are likely to start in that time, at the rate of the last ones."""
        if self._interval_ms is None:
            return 0
        interval = self._interval_ms
        if self._running:  # nothing has ended for a while: the rate is lower than it was
            interval = max(interval, now - self._ended_at)
        return int(horizon_ms / max(interval, INTERVAL_MS_MIN))

    # --- running

    @property
    def startable(self) -> int:
        """How many jobs wait to run and have a place."""
        places = self._concurrency - len(self._running)
        return len(self._confirmed) + max(0, min(len(self._ready), places))

    @property
    def running(self) -> int:
        """How many jobs have a place."""
        return len(self._running)

    def take(self, now: float) -> Job | None:
        """Return the next job to start, or None when there is none or no place for it."""
        if self._confirmed:
            job = self._confirmed.popleft()
            self._start(job, now)
            return job
        ready, running = self._ready, self._running
        while ready and len(running) < self._concurrency:
            job, fetched_at = ready.popleft()
            if job.id in running:
                self._held_back[job.id] = (job, now)
                continue
            if not running:
                self._ended_at = now
            running[job.id] = job
            if now - fetched_at > CONFIRM_MS:
                self._confirming.add(job.id)
                self._to_confirm.append(job)
                continue
            if job.timeout:
                self._start(job, now)
            return job
        return None

    def _start(self, job: Job, now: float) -> None:
        if job.timeout:
            self._overtime_at[job.id] = now + job.timeout + OVERTIME_MS

    def confirms(self) -> list[Job]:
        """Return the jobs that the server is to be asked about; each once."""
        jobs, self._to_confirm = self._to_confirm, []
        return jobs

    def confirmed(self, job: Job) -> None:
        """A job is still ours: it may start."""
        if job.id in self._confirming:
            self._confirming.discard(job.id)
            self._confirmed.append(job)

    def unconfirmed(self, job: Job) -> bool:
        """Nobody knows whether a job is still ours: it does not start.

        Returns:
            Whether it is to be given back.
        """
        if job.id not in self._confirming:
            return False
        self._confirming.discard(job.id)
        self._leave(job)
        return True

    def finished(self, job: Job, result: Raw | None, now: float) -> None:
        """A job has been worked on successfully."""
        if self._end(job, now):
            self._pend(Outcome(job, result), now)

    def errored(self, job: Job, error: str, now: float) -> bool:
        """A job's handler raised.

        Returns:
            Whether that counts: the job is still ours, and its attempt will be failed.
        """
        ours = self._end(job, now)
        if ours:
            self._failures.append(Outcome(job, error=error))
        return ours

    def _end(self, job: Job, now: float) -> bool:
        interval = now - self._ended_at
        self._ended_at = now
        average = self._interval_ms
        self._interval_ms = (
            interval if average is None else average + RATE_WEIGHT * (interval - average)
        )
        if self._overtime_at or self._stopping or self._held_back:
            return self._leave(job)
        return self._running.pop(job.id, None) is not None

    def _leave(self, job: Job) -> bool:
        """Free a job's place; tell whether what became of it is our business."""
        if self._running.pop(job.id, None) is None:
            return False  # given up: it has been released
        if self._overtime_at or self._stopping or self._held_back:
            return self._untie(job.id)
        return True

    def _untie(self, job_id: int) -> bool:
        """Forget what was to happen to a job that has ended, and let its next copy start."""
        self._overtime_at.pop(job_id, None)
        self._stopping.discard(job_id)
        self._stubborn_at.pop(job_id, None)
        second = self._held_back.pop(job_id, None)
        if second is not None:
            self._ready.appendleft(second)
        was_lost = job_id in self._lost
        self._lost.discard(job_id)
        return not was_lost

    # --- stopping what runs

    def _lose(self, job: Job, reason: str, now: float) -> None:
        self._lost.add(job.id)
        self._stop(job, reason, now)

    def _stop(self, job: Job, reason: str, now: float) -> None:
        """Have a running job interrupted, unless it is already."""
        if job.id in self._stopping:
            return
        self._stopping.add(job.id)
        self._overtime_at.pop(job.id, None)
        self._stubborn_at[job.id] = now + STUBBORN_MS
        self._stops.append(Stop(job, reason))

    def stops(self, now: float) -> list[Stop]:
        """Return what is to be interrupted now; each once."""
        if self._overtime_at:
            for job_id in [i for i, at in self._overtime_at.items() if at <= now]:
                job = self._running[job_id]
                self._stop(job, _timed_out(job), now)
        stops, self._stops = self._stops, []
        return stops

    def stubborn(self, now: float) -> list[Job]:
        """Return what was to stop long ago and still runs; each once."""
        if not self._stubborn_at:
            return []
        found = [job_id for job_id, at in self._stubborn_at.items() if at <= now]
        for job_id in found:
            del self._stubborn_at[job_id]
        return [self._running[job_id] for job_id in found]

    # --- acknowledging

    def _pend(self, outcome: Outcome, now: float) -> None:
        outbox = self._outboxes.get(outcome.job.queue)
        if outbox is None:
            outbox = self._outboxes[outcome.job.queue] = _Outbox()
        if not outbox.pending:
            outbox.since = now
        outbox.pending.append(outcome)

    def settlements(self, now: float) -> list[Acknowledge | Fail]:
        """Return what to report now. To be asked when the process has nothing better to do."""
        orders: list[Acknowledge | Fail] = []
        for queue, outbox in self._outboxes.items():
            while outbox.pending and self._send_at(outbox) <= now:
                orders.append(Acknowledge(queue, self._next_batch(outbox)))
                outbox.under_way += 1
                outbox.since = now
        if self._failures_at <= now:
            self._failing += len(self._failures)
            orders += map(Fail, self._failures)
            self._failures.clear()
        return orders

    def _send_at(self, outbox: _Outbox) -> float:
        if not outbox.under_way or len(outbox.pending) >= self._batch_max:
            return outbox.retry_at
        return max(outbox.retry_at, outbox.since + ACK_DELAY_MS)

    def _next_batch(self, outbox: _Outbox) -> list[Outcome]:
        pending, alone = outbox.pending, outbox.alone
        if not alone and len(pending) <= self._batch_max:
            batch = list(pending)
            pending.clear()
            return batch
        batch = [pending.popleft()]
        while (
            pending
            and len(batch) < self._batch_max
            and batch[0].job.id not in alone
            and pending[0].job.id not in alone
        ):
            batch.append(pending.popleft())
        return batch

    def acknowledged(self, order: Acknowledge, count: int) -> None:
        """A batch was answered: `count` are completed, the others were no longer ours."""
        outbox = self._outboxes[order.queue]
        outbox.under_way -= 1
        outbox.alone.difference_update(outcome.job.id for outcome in order.outcomes)
        self.completed += count
        self.lost += len(order.outcomes) - count

    def unacknowledged(self, order: Acknowledge, now: float) -> None:
        """Nobody knows what became of a batch: send it again, unless the lease is lost."""
        outbox = self._outboxes[order.queue]
        outbox.under_way -= 1
        outbox.retry_at = now + RETRY_MS
        outbox.pending.extendleft(reversed(order.outcomes))

    def refused(self, order: Acknowledge, error: str) -> None:
        """The server cannot take a batch as it is: try one by one, and fail the one at fault."""
        outbox = self._outboxes[order.queue]
        outbox.under_way -= 1
        if len(order.outcomes) > 1:
            outbox.alone.update(outcome.job.id for outcome in order.outcomes)
            outbox.pending.extendleft(reversed(order.outcomes))
            return
        (outcome,) = order.outcomes
        outbox.alone.discard(outcome.job.id)
        self._failures.append(Outcome(outcome.job, error=error))

    def reported(self, order: Fail, *, ours: bool) -> None:
        """A failure was taken in, or the job was no longer ours."""
        self._failing -= 1
        if ours:
            self.failed += 1
        else:
            self.lost += 1

    def unreported(self, order: Fail, now: float) -> None:
        """Nobody knows what became of a failure's report: send it again."""
        self._failing -= 1
        self._failures.append(order.outcome)
        self._failures_at = now + RETRY_MS

    def leases_lost(self, ids: Iterable[int], reason: str, now: float) -> None:
        """Forget jobs that are no longer ours, and stop those of them that run."""
        gone = set(ids)
        self._ready = deque(entry for entry in self._ready if entry[0].id not in gone)
        self._confirmed = deque(job for job in self._confirmed if not self._vanishes(job, gone))
        for outbox in self._outboxes.values():
            outbox.pending = deque(o for o in outbox.pending if o.job.id not in gone)
        self._failures = deque(o for o in self._failures if o.job.id not in gone)
        for job_id in gone:
            self._held_back.pop(job_id, None)
            job = self._running.get(job_id)
            if job is None:
                continue
            if job_id in self._confirming:  # it has not started
                self._confirming.discard(job_id)
                self._leave(job)
            elif job_id not in self._lost:
                self._lose(job, reason, now)
        self.lost += len(gone)

    def _vanishes(self, job: Job, gone: set[int]) -> bool:
        """Free the place of a job that was about to start, if it is gone."""
        if job.id not in gone:
            return False
        self._leave(job)
        return True

    # --- the end

    def stop(self, now: float, grace_ms: float | None = None) -> list[Job]:
        """Fetch nothing more; running jobs have `grace_ms` to finish.

        Returns:
            The jobs that were not started, to be given back.
        """
        grace = self._grace_ms if grace_ms is None else grace_ms
        give_up_at = now + grace
        if self._give_up_at is not None:
            give_up_at = min(give_up_at, self._give_up_at)
        self._give_up_at = give_up_at
        entries = [*self._ready, *self._held_back.values()]
        unstarted = [job for job, _ in entries]
        confirming = [self._running[job_id] for job_id in self._confirming]
        for job in (*self._confirmed, *confirming):
            self._leave(job)
            unstarted.append(job)
        self._confirmed.clear()
        self._confirming.clear()
        self._ready.clear()
        self._held_back.clear()
        return unstarted

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._give_up_at is not None

    def given_up(self, now: float) -> list[Job]:
        """Return running jobs whose grace is over, to be given back; their outcome is dropped."""
        if self._give_up_at is None or now < self._give_up_at:
            return []
        jobs = [job for job in self._running.values() if job.id not in self._lost]
        self._running.clear()
        self._lost.clear()
        self._overtime_at.clear()
        self._stopping.clear()
        self._stubborn_at.clear()
        return jobs

    def overdue(self, now: float) -> bool:
        """Whether even the time to report is over; what is left goes back by the goodbye."""
        return self._give_up_at is not None and now >= self._give_up_at + LAST_WORDS_MS

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing is left to report, after `stop`."""
        return (
            self._give_up_at is not None
            and not self._running
            and not self._failures
            and not self._failing
            and not any(box.pending or box.under_way for box in self._outboxes.values())
        )

    def next_deadline(self, now: float) -> float | None:
        """Return when something is due that nothing else will announce; None for never."""
        due = [self._send_at(box) for box in self._outboxes.values() if box.pending]
        if self._failures:
            due.append(self._failures_at)
        if self._give_up_at is not None:
            due.append(self._give_up_at + (0.0 if self._running else LAST_WORDS_MS))
        else:
            if self._ready and self._running and self._ended_at + SURPLUS_MS > now:
                due.append(self._ended_at + SURPLUS_MS)
            ask_at = self._fetching.next_deadline(now)
            if ask_at is not None:
                due.append(ask_at)
        due += self._overtime_at.values()
        due += self._stubborn_at.values()
        due += [at + HELD_BACK_MS for _, at in self._held_back.values()]
        return min(due, default=None)


def _timed_out(job: Job) -> str:
    return f"timed out: the job ran for more than {job.timeout} ms"
