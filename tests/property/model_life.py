"""The naive model's jobs and time: what happens to jobs, and what follows from it.

Imports nothing of `flashq.shard`. `now` is the wall clock and `mono` the monotonic one, in ms.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tests.property.model_objects import (
    ANSWERS,
    CALL,
    HISTORY_MAX,
    LOST_MAX,
    OPTIONS,
    SESSION_TIMEOUT,
    SETTINGS,
    STALL,
    Bucket,
    Error,
    Fields,
    Job,
    Session,
    Waiter,
)


class Life:
    """One shard.

    Args:
        first: the sequence of the first job.
        limits: bounds by the names of the engine's settings.
    """

    def __init__(self, now: int, mono: int, first: int, limits: Fields) -> None:
        self.now, self.mono = now, mono
        self.limits = limits
        self.epoch = 1
        self.deliveries = 0
        self.next_id = first
        self.jobs: dict[int, Job] = {}
        #: how jobs that are gone ended: completed or removed
        self.gone: dict[int, str] = {}
        self.settings: dict[str, Fields] = {}
        self.windows: dict[tuple[str, str], int] = {}
        self.buckets: dict[str, Bucket] = {}
        #: ids in the order of their ends
        self.dead: list[int] = []
        self.kept: list[int] = []
        self.sessions: dict[bytes, Session] = {}
        self.expired_sessions: list[bytes] = []
        self.waiters: list[Waiter] = []
        #: who was parked with a ticket last
        self.tickets: dict[bytes, Waiter] = {}
        #: when calls end, by queue and session (or a number for one without)
        self.calls: dict[tuple[str, bytes | int | None], int] = {}
        self.strangers = 0
        #: news about ended jobs, told in order
        self.news: list[tuple[int, int, str, str | None]] = []
        self.replies: list[tuple[int, Fields]] = []
        self.totals = dict.fromkeys(
            (
                *("pushed", "completed", "failed", "expired", "cancelled", "retried"),
                *("timed_out", "stalled", "lost", "evicted"),
            ),
            0,
        )
        self.latency = 0
        self.obliterated: list[str] = []
        #: whether the request under way has changed anything
        self.changed = False

    # --- small things

    def setting(self, queue: str) -> Fields:
        return self.settings.get(queue, SETTINGS)

    def configure(self, queue: str, **changes: Any) -> None:
        before = self.setting(queue)
        after = {**before, **changes}
        self.changed = self.changed or before != after
        self.settings[queue] = after
        if after == SETTINGS:
            del self.settings[queue]

    def of(self, queue: str | None, *states: str) -> list[Job]:
        return [
            job
            for job in self.jobs.values()
            if queue in (None, job.queue) and (not states or job.state in states)
        ]

    def count(self, queue: str | None, *states: str) -> int:
        return len(self.of(queue, *states))

    def need(self, job_id: int, code: str = "job_not_found", text: str | None = None) -> Job:
        if job_id not in self.jobs:
            raise Error(code, text or f"Job {job_id} not found")
        return self.jobs[job_id]

    def answer(self, corr: int, **fields: Any) -> None:
        self.replies.append((corr, {"ok": True, **fields}))

    def refuse(self, corr: int, error: Error) -> None:
        self.replies.append((corr, {"ok": False, "error": error.text, "code": error.code}))

    # --- time

    def observe(self, now: int, mono: int) -> None:
        """Time has passed: delays end, jobs expire, windows close."""
        self.now, self.mono = now, mono
        for job in self.of(None, "delayed"):
            if job.run_at <= now:
                job.state = "waiting"
        for key, until in list(self.windows.items()):
            if until <= now:
                del self.windows[key]
        self.expire()

    def is_expired(self, job: Job) -> bool:
        ttl = job.options["ttl"]
        return bool(ttl) and job.state in ("waiting", "delayed") and self.now > job.ttl_since + ttl

    def expire(self) -> None:
        late = [job for job in self.jobs.values() if self.is_expired(job)]
        late.sort(key=lambda job: (job.ttl_since + job.options["ttl"], job.id))
        self.remove(late, "expired")

    def lease_end(self, job: Job) -> tuple[int, str] | None:
        """When an active job's attempt ends by itself, and why."""
        ends = []
        if job.options["timeout"] and job.since is not None:
            ends.append((job.since + job.options["timeout"], "timeout"))
        if job.since is None:
            return None  # its worker has not started with it
        if job.options["stall_timeout"] or not (job.session or ends):
            since = job.since if job.beat is None else job.beat
            ends.append((since + (job.options["stall_timeout"] or STALL), "stalled"))
        return min(ends, key=lambda end: (end[0], end[1] != "timeout")) if ends else None

    def next_event(self) -> int | None:
        """When something happens next by itself, on the monotonic clock."""
        walls = [job.run_at for job in self.of(None, "delayed")]
        walls += [
            job.ttl_since + job.options["ttl"] + 1
            for job in self.of(None, "waiting", "delayed")
            if job.options["ttl"]
        ]
        walls += [
            job.ended_at + job.options["keep_completed_age"]
            for job in self.of(None, "completed", "cancelled")
            if job.options["keep_completed_age"]
        ]
        monos = [self.mono + at - self.now for at in walls]
        monos += [waiter.deadline for waiter in self.waiters]
        monos += self.calls.values()
        monos += [end[0] for job in self.of(None, "active") if (end := self.lease_end(job))]
        for session in self.sessions.values():
            monos.append(session.heard + (ANSWERS if session.silent else SESSION_TIMEOUT))
        takers = [waiter for waiter in self.waiters if waiter.count or waiter.ready]
        for queue in {waiter.queue for waiter in takers if waiter.queue}:
            bucket = self.buckets.get(queue)
            if bucket is None or not self.count(queue, "waiting") or bucket.available(self.mono):
                continue
            if (at := bucket.next_at()) is not None:
                monos.append(at)
        return min(monos) if monos else None

    def tick(self, now: int, mono: int) -> None:
        self.observe(now, mono)
        due = [(waiter.deadline, 0, waiter) for waiter in self.waiters if waiter.deadline <= mono]
        for _, _, waiter in due:
            self.waiters.remove(waiter)
            if waiter.job_id is not None:
                text = f"Timeout waiting for job {waiter.job_id} after {waiter.timeout}ms"
                self.refuse(waiter.corr, Error("wait_timeout", text))
            elif waiter.single:
                self.answer(waiter.corr, job=None)
            else:
                self.answer(waiter.corr, jobs=[], job=None)
        self.calls = {who: until for who, until in self.calls.items() if until > mono}
        ends = [(job, end) for job in self.of(None, "active") if (end := self.lease_end(job))]
        ends.sort(key=lambda pair: (pair[1][0], pair[0].token, pair[0].place))
        for job, (at, why) in ends:
            if at <= mono:
                text = "Job timed out" if why == "timeout" else "Job stalled"
                self.fail(job, why, text)
        for name, session in sorted(self.sessions.items(), key=lambda pair: pair[1].heard):
            self.check_session(name, session)
        self.settle()
        self.tidy()
        self.settle()

    def check_session(self, name: bytes, session: Session) -> None:
        silence = self.mono - session.heard
        if silence >= SESSION_TIMEOUT and not session.silent:
            session.silent = True
            self.let_go(name, [job.id for job in self.held(name)])
        if silence >= ANSWERS:
            self.forget_session(name)

    def forget_session(self, name: bytes) -> None:
        if self.sessions.pop(name).is_known:
            self.expired_sessions.append(name)

    def held(self, name: bytes) -> list[Job]:
        jobs = [job for job in self.of(None, "active") if job.session == name]
        jobs.sort(key=lambda job: (job.token, job.place))
        return jobs

    def let_go(self, name: bytes, lost: list[int]) -> None:
        self.waiters = [
            waiter for waiter in self.waiters if waiter.session != name or waiter.queue is None
        ]
        for job in sorted(self.held(name), key=lambda job: job.id not in lost):
            if job.id not in lost:
                self.release(job)
            elif job.lost + 1 < LOST_MAX:
                job.lost += 1
                self.totals["lost"] += 1
                self.requeue(job)
            else:
                text = f"poison: {job.lost + 1} sessions were lost while they held it"
                self.fail(job, "lost", text, final=True, counted=False)

    def tidy(self) -> None:
        """Let go of what is beyond the bounds, oldest first."""
        loose = [key for key in self.kept if not self.jobs[key].is_retained()]
        beyond = len(loose) - self.limits["completed_jobs_max"]
        for job_id in loose[: max(0, beyond)]:
            self.evict(job_id)
        loose = [key for key in loose if key in self.jobs]
        with_result = [key for key in loose if self.jobs[key].result is not None]
        beyond = len(with_result) - self.limits["results_max"]
        for job_id in with_result[: max(0, beyond)]:
            self.jobs[job_id].result, self.jobs[job_id].result_dropped = None, True
        beyond = len(self.dead) - self.limits["dlq_jobs_max"]
        oldest = sorted(
            self.dead, key=lambda job_id: (self.jobs[job_id].ended_at, self.jobs[job_id].queue)
        )
        self.remove([self.jobs[job_id] for job_id in oldest[: max(0, beyond)]], "evicted")
        for job in self.of(None, "completed", "cancelled"):
            age = job.options["keep_completed_age"]
            if age and job.ended_at + age <= self.now:
                self.evict(job.id)

    def evict(self, job_id: int) -> None:
        self.totals["evicted"] += 1
        job = self.jobs[job_id]
        self.forget(job, "completed" if job.state == "completed" else "removed")

    # --- the life of jobs

    def make(self, queue: str, said: Fields) -> Job:
        self.changed = True
        job = self.jobs[self.next_id] = Job(self.next_id, queue, said["data"], self.now)
        self.next_id += 1
        self.totals["pushed"] += 1
        for key in OPTIONS:
            if said.get(key) is not None:
                job.options[key] = said[key]
        job.options["custom_id"] = said.get("job_id")
        for key in ("keep_completed_age", "keep_completed_count"):
            job.options[key] = job.options[key] or self.setting(queue)[key]
        job.priority = said.get("priority") or 0
        job.run_at = self.now + (said.get("delay") or 0)
        self.enqueue(job)
        return job

    def enqueue(self, job: Job) -> None:
        job.state = "waiting" if job.run_at <= self.now else "delayed"

    def drop_lease(self, job: Job) -> None:
        job.token, job.session, job.beat, job.missed = None, b"", None, 0

    def release(self, job: Job) -> None:
        """It was handed out for nothing, unless somebody was heard to work on it."""
        if (bucket := self.buckets.get(job.queue)) is not None and job.beat is None:
            bucket.available(self.mono)
            bucket.tokens = min(Fraction(bucket.limit), bucket.tokens + 1)
        self.requeue(job)

    def requeue(self, job: Job, run_at: int | None = None) -> None:
        self.changed = True
        self.drop_lease(job)
        job.started_at = 0
        job.run_at = job.run_at if run_at is None else run_at
        self.enqueue(job)

    def forget(self, job: Job, how: str) -> None:
        self.changed = True
        for ends in (self.dead, self.kept):
            if job.id in ends:
                ends.remove(job.id)
        del self.jobs[job.id]
        self.gone[job.id] = how

    def tell(self, job: Job, outcome: str, reason: str | None) -> None:
        """Put the news of an end on its way to whoever waits for it."""
        if job.options["parent"]:
            self.news.append((job.options["parent"], job.id, outcome, reason))
        for watcher in job.watchers:
            self.news.append((watcher, job.id, outcome, reason))

    def wake_waits(self, job_id: int, *, result: Any = None, error: Error | None = None) -> None:
        for waiter in [waiter for waiter in self.waiters if waiter.job_id == job_id]:
            self.waiters.remove(waiter)
            if error is not None:
                self.refuse(waiter.corr, error)
            else:
                self.answer(waiter.corr, result=result)

    def remove(self, jobs: list[Job], reason: str) -> None:
        for job in jobs:
            self.changed = True
            if reason in ("expired", "cancelled", "evicted"):
                self.totals[reason] += 1
            self.tell(job, "removed", reason)
            self.forget(job, "removed")
            self.wake_waits(job.id, error=Error("wait_job_not_found", "Job not found"))

    def fail(
        self,
        job: Job,
        reason: str,
        error: str | None,
        *,
        final: bool = False,
        counted: bool = True,
    ) -> None:
        self.changed = True
        entry: Fields = {"at": self.now, "reason": reason}
        if error is not None:
            entry["error"] = error
        if job.started_at:
            entry["started_at"] = job.started_at
        job.history = [*job.history, entry][-HISTORY_MAX:]
        job.error = reason if error is None else error
        job.attempts += counted
        key = {"timeout": "timed_out", "stalled": "stalled", "lost": "lost"}.get(reason)
        if key is not None:
            self.totals[key] += 1
        job.stall_count += reason == "stalled"
        job.lost += reason == "lost"
        attempts_max = job.options["max_attempts"]
        if not (final or (counted and attempts_max and job.attempts >= attempts_max)):
            self.totals["retried"] += 1
            job.progress_msg = job.progress_msg if error is None else error
            self.requeue(job, self.now + self.backoff(job))
            return
        self.totals["failed"] += 1
        self.drop_lease(job)
        if job.options["remove_on_fail"]:
            self.tell(job, "removed", error or reason)
            self.forget(job, "removed")
        else:
            self.tell(job, "failed", error or reason)
            job.state = "failed"
            job.ended_at = self.now
            self.dead.append(job.id)
        self.wake_waits(job.id, error=Error("job_failed", "Job failed"))

    def backoff(self, job: Job) -> int:
        base = job.options["backoff"]
        if not base:
            unpaced = not job.options["max_attempts"] and job.attempts >= 3
            return 1000 if unpaced else 0
        return int(base) << min(job.attempts - 1, 10)

    def complete(self, job: Job, result: Any) -> None:
        self.changed = True
        self.totals["completed"] += 1
        self.latency += self.now - job.created_at
        self.tell(job, "completed", None)
        self.drop_lease(job)
        job.state = "completed"
        job.ended_at = self.now
        job.result = result
        self.keep(job, "completed")
        self.wake_waits(job.id, result=result)

    def cancel(self, job: Job, reason: str | None) -> None:
        self.changed = True
        self.totals["cancelled"] += 1
        self.tell(job, "removed", "cancelled")
        self.drop_lease(job)
        job.state = "cancelled"
        job.ended_at = self.now
        job.cancel_reason = reason
        self.keep(job, "removed")
        text = "Job cancelled" if reason is None else f"Job cancelled: {reason}"
        self.wake_waits(job.id, error=Error("job_cancelled", text))

    def keep(self, job: Job, outcome: str) -> None:
        """Keep a job that has ended well for as long as it is to be kept."""
        if job.options["remove_on_complete"]:
            self.forget(job, outcome)
            return
        self.kept.append(job.id)
        if keep := job.options["keep_completed_count"]:
            mine = [
                key
                for key in self.kept
                if self.jobs[key].queue == job.queue and not self.jobs[key].is_aged()
            ]
            for job_id in mine[:-keep]:
                self.evict(job_id)

    # --- what follows from a request

    def settle(self) -> None:
        self.expire()
        while self.news:
            self.hear_news(*self.news.pop(0))
            self.expire()
        for queue in sorted({waiter.queue for waiter in self.waiters if waiter.queue}):
            self.serve(queue)

    def hear_news(self, waiting: int, ended: int, outcome: str, reason: str | None) -> None:
        job = self.jobs.get(waiting)
        if job is None or job.state not in ("waitingchildren", "waitingparent"):
            return
        if ended not in job.open:
            return
        if outcome == "completed" or job.options["on_dependency_failure"] == "ignore":
            job.open.remove(ended)
            if job.children is not None:
                job.children_completed += outcome == "completed"
            if not job.open:
                self.free(job)
        elif outcome == "removed" or job.options["on_dependency_failure"] == "fail":
            what = "child" if job.children is not None else "dependency"
            self.doom(job, f"{what} {ended}", outcome, reason)

    def doom(self, job: Job, what: str, outcome: str, reason: str | None) -> None:
        why = outcome if reason in (None, outcome) else f"{outcome}: {reason}"
        self.fail(job, "dependency", f"{what} {why}", final=True, counted=False)

    def free(self, job: Job) -> None:
        if job.children is not None:
            self.add_log(job, "All children have ended", "info")
        self.enqueue(job)

    def add_log(self, job: Job, message: str, level: str) -> None:
        self.changed = True
        job.logs.append({"timestamp": self.now, "message": message, "level": level})
        del job.logs[: -self.limits["job_logs_max"]]

    def deliverable(self, queue: str, count: int) -> list[Job]:
        settings = self.setting(queue)
        ready = sorted(self.of(queue, "waiting"), key=Job.order)
        if settings["paused"]:
            return []
        if settings["concurrency"] is not None:
            count = min(count, settings["concurrency"] - self.count(queue, "active"))
        if settings["rate_limit"] is not None and ready:
            count = min(count, self.buckets[queue].available(self.mono))
        return ready[: max(0, count)]

    def serve(self, queue: str) -> None:
        for waiter in [waiter for waiter in self.waiters if waiter.queue == queue]:
            if not waiter.count:
                continue
            jobs = self.deliverable(queue, waiter.count)
            if not jobs:
                return
            self.waiters.remove(waiter)
            self.deliver(waiter, jobs)
        for waiter in [each for each in self.waiters if each.queue == queue and each.ready]:
            under_way = sum(called == queue for called, _ in self.calls)
            if len(self.deliverable(queue, under_way + 1)) <= under_way:
                return
            self.waiters.remove(waiter)
            self.strangers += not waiter.session
            self.calls[queue, waiter.session or self.strangers] = self.mono + CALL
            self.answer(waiter.corr, jobs=[], ready=True)

    def deliver(self, waiter: Waiter, jobs: list[Job]) -> None:
        self.changed = True
        self.deliveries += 1
        token = self.epoch << 32 | self.deliveries
        if (bucket := self.buckets.get(waiter.queue or "")) is not None:
            bucket.tokens -= len(jobs)
        for place, job in enumerate(jobs):
            job.state, job.place = "active", place
            job.token, job.session = token, waiter.session or b""
            job.since = None if waiter.starts and waiter.session else self.mono
            job.started_at = self.now
        if waiter.session and (session := self.sessions.get(waiter.session)) is not None:
            session.is_known = True
            if waiter.n is not None:
                self.keep_answer(session, waiter.n, waiter.done_below, None, token)
        self.hand_out(waiter, jobs)

    def hand_out(self, waiter: Waiter, jobs: list[Job]) -> None:
        if waiter.single:
            self.answer(waiter.corr, job=jobs[0].view())
        else:
            self.answer(waiter.corr, jobs=[job.view() for job in jobs])

    # --- repeats

    def keep_answer(
        self, session: Session, n: int, done_below: int, reply: Fields | None, token: int = 0
    ) -> None:
        session.is_known = True
        session.done_below = max(session.done_below, done_below)
        session.answers.pop(n, None)
        session.pulls.pop(n, None)
        if reply is None:
            session.pulls[n] = token
        else:
            session.answers[n] = reply
        for kept in (session.answers, session.pulls):
            for number in [number for number in kept if number < session.done_below]:
                del kept[number]

    def is_repeat(self, corr: int, cmd: str, said: Fields) -> bool:
        """Note that the session lives, and answer what was asked before."""
        name, n = said["session"], said.get("n")
        if name in self.expired_sessions:
            raise Error("session_expired", "session expired")
        session = self.hear(name)
        if n is None:
            return False
        if n in session.answers:
            self.replies.append((corr, session.answers[n]))
            return True
        if n in session.pulls:
            jobs = [job for job in self.held(name) if job.token == session.pulls[n]]
            if jobs:
                self.hand_out(Waiter(corr, 0, single=cmd == "PULL"), jobs)
            return bool(jobs)
        if n < session.done_below:
            raise Error("session_expired", "session expired")
        for waiter in self.waiters:
            if waiter.n == n and waiter.session == name:
                waiter.corr = corr
                return True
        return False

    def hear(self, name: bytes) -> Session:
        session = self.sessions.setdefault(name, Session(self.mono))
        session.heard, session.silent = self.mono, False
        return session

    # --- beyond requests

    def fire(self, queue: str, data: Any, priority: int, now: int, mono: int) -> None:
        """A cron's firing."""
        self.observe(now, mono)
        self.make(queue, {"data": data, "priority": priority})
        self.settle()

    def bounce(self, held: list[tuple[int, int]], now: int, mono: int) -> None:
        """Deliveries that could not be delivered."""
        self.observe(now, mono)
        for job_id, token in held:
            job = self.jobs.get(job_id)
            if job is not None and job.state == "active" and job.token == token:
                self.release(job)
        self.settle()

    def restart(self, now: int, mono: int, ended_before: set[int] | None) -> None:
        """The process was killed and has recovered everything.

        Args:
            ended_before: from a checkpoint that had these jobs ended: among those of one
                millisecond it has not kept the order of their ends.
        """
        self.epoch += 1
        self.deliveries = 0
        self.waiters = []
        self.calls = {}
        self.replies = []
        self.observe(now, mono)
        self.sessions = {
            name: session for name, session in self.sessions.items() if session.is_known
        }
        for session in self.sessions.values():
            session.heard, session.silent = mono, False
        for job in self.of(None, "active"):
            job.since, job.beat, job.missed = mono, None, 0
        for queue, bucket in self.buckets.items():
            self.buckets[queue] = Bucket(bucket.limit, mono, 0)
        if ended_before is not None:
            for ends in (self.dead, self.kept):
                old = [key for key in ends if key in ended_before]
                old.sort(key=self.end_order)
                ends[:] = old + [key for key in ends if key not in ended_before]
        self.settle()

    def end_order(self, job_id: int) -> tuple[int, int, int]:
        job = self.jobs[job_id]
        return (job.ended_at, job.run_at, job.id)
