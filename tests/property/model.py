"""A naive model of one shard: plain dicts and lists, obvious rather than fast.

Says what the engine should answer and when, by design 4 and section 4 of the wire contract with the
defects done right. It imports nothing of `flashq.shard`. Times are ms; `now` is the wall clock and
`mono` the monotonic one. One shard only, so everything a job waits for is here.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

Fields = dict[str, Any]

SESSION_TIMEOUT: Final = 10_000
ANSWERS: Final = 300_000
STALL: Final = 30_004
LOST_MAX: Final = 3
HISTORY_MAX: Final = 20

#: what a push may say, and what it means when it does not
OPTIONS: Final[Fields] = {
    "ttl": 0,
    "timeout": 0,
    "max_attempts": 0,
    "backoff": 0,
    "unique_key": None,
    "custom_id": None,
    "tags": [],
    "depends_on": [],
    "on_dependency_failure": "fail",
    "lifo": False,
    "remove_on_complete": False,
    "remove_on_fail": False,
    "stall_timeout": 0,
    "keep_completed_age": 0,
    "keep_completed_count": 0,
    "parent": 0,
}
SETTINGS: Final[Fields] = {
    "paused": False,
    "rate_limit": None,
    "concurrency": None,
    "keep_completed_age": 0,
    "keep_completed_count": 0,
}


class Error(Exception):
    """A request's refusal: code and text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Job:
    """A job; `state` is the name that clients read."""

    def __init__(self, job_id: int, queue: str, data: Any, now: int) -> None:
        self.id = job_id
        self.queue = queue
        self.data = data
        self.priority = 0
        self.created_at = now
        self.run_at = now
        self.state = "waiting"
        self.attempts = 0
        self.options = dict(OPTIONS)
        self.started_at = 0
        self.ended_at = 0
        self.token: int | None = None
        self.session = b""
        self.since = 0
        self.place = 0
        self.beat: int | None = None
        self.missed = 0
        self.progress = 0
        self.progress_msg: str | None = None
        self.last_heartbeat = 0
        self.stall_count = 0
        self.lost = 0
        self.error: str | None = None
        self.result: Any = None
        self.logs: list[Fields] = []
        self.history: list[Fields] = []
        self.watchers: list[int] = []
        self.open: list[int] = []
        self.children: list[int] | None = None
        self.children_completed = 0

    def order(self) -> tuple[int, int, int, int]:
        """Where it stands among the ready jobs of its queue."""
        if self.options["lifo"]:
            return (-self.priority, 0, -self.id, 0)
        return (-self.priority, 1, self.run_at, self.id)

    def view(self) -> Fields:
        """The job as a reader sees it, with every key."""
        shown = (
            *("ttl", "timeout", "max_attempts", "backoff", "unique_key", "custom_id", "tags"),
            *("depends_on", "lifo", "remove_on_complete", "remove_on_fail", "stall_timeout"),
            *("keep_completed_age", "keep_completed_count"),
        )
        active = self.state == "active"
        return {
            **{key: self.options[key] for key in shown},
            "id": self.id,
            "queue": self.queue,
            "data": self.data,
            "priority": self.priority,
            "created_at": self.created_at,
            "run_at": self.run_at,
            "started_at": self.started_at,
            "attempts": self.attempts,
            "token": self.token if active else None,
            "completed_at": self.ended_at if self.state == "completed" else 0,
            "jitter": 0.0,
            "parent_id": self.options["parent"] or None,
            "progress": self.progress,
            "progress_msg": self.progress_msg,
            "last_heartbeat": max(self.last_heartbeat, self.started_at) if active else 0,
            "stall_count": self.stall_count,
            "lost": self.lost,
            "error": self.error,
            "children_ids": self.children or [],
            "children_completed": self.children_completed,
            "history": self.history,
        }


class Bucket:
    """A rate limit's tokens, exact."""

    def __init__(self, limit: int, mono: int, tokens: int) -> None:
        self.limit = limit
        self.at = mono
        self.tokens = Fraction(tokens)

    def available(self, mono: int) -> int:
        earned = Fraction((mono - self.at) * self.limit, 1000)
        self.tokens = min(Fraction(self.limit), self.tokens + earned)
        self.at = mono
        return int(self.tokens)

    def next_at(self) -> int | None:
        """When there is a whole token."""
        if not self.limit:
            return None
        missing = (1 - self.tokens) * 1000 / self.limit
        return self.at + max(1, -(-missing.numerator // missing.denominator))


class Session:
    """What a session has been told, and when it was last heard of (None after a silence)."""

    def __init__(self, mono: int) -> None:
        self.heard = mono
        self.silent = False
        self.answers: dict[int, Fields] = {}
        self.pulls: dict[int, int] = {}
        self.done_below = 0
        self.is_known = False


class Waiter:
    """A parked PULL, PULLB or WAITJOB."""

    def __init__(self, corr: int, deadline: int, **more: Any) -> None:
        self.corr = corr
        self.deadline = deadline
        self.queue: str | None = more.get("queue")
        self.job_id: int | None = more.get("job_id")
        self.count: int = more.get("count", 1)
        self.single: bool = more.get("single", False)
        self.session: bytes | None = more.get("session")
        self.n: int | None = more.get("n")
        self.done_below: int = more.get("done_below", 0)
        self.timeout: int = more.get("timeout", 0)


class Model:
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
        self.completed: list[int] = []
        self.sessions: dict[bytes, Session] = {}
        self.expired_sessions: list[bytes] = []
        self.waiters: list[Waiter] = []
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

    def set(self, queue: str, **changes: Any) -> None:
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
        return bool(ttl) and job.state in ("waiting", "delayed") and self.now > job.created_at + ttl

    def expire(self) -> None:
        late = [job for job in self.jobs.values() if self.is_expired(job)]
        late.sort(key=lambda job: (job.created_at + job.options["ttl"], job.id))
        self.remove(late, "expired")

    def lease_end(self, job: Job) -> tuple[int, str] | None:
        """When an active job's attempt ends by itself, and why."""
        ends = []
        if job.options["timeout"]:
            ends.append((job.since + job.options["timeout"], "timeout"))
        if not job.session and (job.options["stall_timeout"] or not ends):
            since = job.since if job.beat is None else job.beat
            ends.append((since + (job.options["stall_timeout"] or STALL), "stalled"))
        return min(ends, key=lambda end: (end[0], end[1] != "timeout")) if ends else None

    def next_event(self) -> int | None:
        """When something happens next by itself, on the monotonic clock."""
        walls = [job.run_at for job in self.of(None, "delayed")]
        walls += [
            job.created_at + job.options["ttl"] + 1
            for job in self.of(None, "waiting", "delayed")
            if job.options["ttl"]
        ]
        walls += [
            job.ended_at + job.options["keep_completed_age"]
            for job in self.of(None, "completed")
            if job.options["keep_completed_age"]
        ]
        monos = [self.mono + at - self.now for at in walls]
        monos += [waiter.deadline for waiter in self.waiters]
        monos += [end[0] for job in self.of(None, "active") if (end := self.lease_end(job))]
        for session in self.sessions.values():
            monos.append(session.heard + (ANSWERS if session.silent else SESSION_TIMEOUT))
        for queue in {waiter.queue for waiter in self.waiters if waiter.count and waiter.queue}:
            bucket = self.buckets.get(queue)
            if bucket is not None and self.count(queue, "waiting"):
                if not bucket.available(self.mono) and (at := bucket.next_at()) is not None:
                    monos.append(at)
        return min(monos) if monos else None

    def tick(self, now: int, mono: int) -> None:
        self.observe(now, mono)
        due = [
            (waiter.deadline, 0, waiter) for waiter in self.waiters if waiter.deadline <= mono
        ]
        for _, _, waiter in due:
            self.waiters.remove(waiter)
            if waiter.job_id is not None:
                text = f"Timeout waiting for job {waiter.job_id} after {waiter.timeout}ms"
                self.refuse(waiter.corr, Error("wait_timeout", text))
            elif waiter.single:
                self.answer(waiter.corr, job=None)
            else:
                self.answer(waiter.corr, jobs=[], job=None)
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
            self.let_go(name, lost=True)
        if silence >= ANSWERS:
            del self.sessions[name]
            if session.is_known:
                self.expired_sessions.append(name)

    def held(self, name: bytes) -> list[Job]:
        jobs = [job for job in self.of(None, "active") if job.session == name]
        jobs.sort(key=lambda job: (job.token, job.place))
        return jobs

    def let_go(self, name: bytes, *, lost: bool) -> None:
        self.waiters = [
            waiter for waiter in self.waiters if waiter.session != name or waiter.queue is None
        ]
        for job in self.held(name):
            if not lost:
                self.requeue(job)
            elif job.lost + 1 < LOST_MAX:
                job.lost += 1
                self.totals["lost"] += 1
                self.requeue(job)
            else:
                text = f"poison: {job.lost + 1} sessions were lost while they held it"
                self.fail(job, "lost", text, final=True, counted=False)

    def tidy(self) -> None:
        """Let go of what is beyond the bounds, oldest first."""
        beyond = len(self.completed) - self.limits["completed_jobs_max"]
        for job_id in self.completed[: max(0, beyond)]:
            self.evict(job_id)
        with_result = [key for key in self.completed if self.jobs[key].result is not None]
        beyond = len(with_result) - self.limits["results_max"]
        for job_id in with_result[: max(0, beyond)]:
            self.jobs[job_id].result = None
        beyond = len(self.dead) - self.limits["dlq_jobs_max"]
        oldest = sorted(self.dead, key=lambda job_id: self.jobs[job_id].ended_at)
        self.remove([self.jobs[job_id] for job_id in oldest[: max(0, beyond)]], "evicted")
        for job in self.of(None, "completed"):
            age = job.options["keep_completed_age"]
            if age and job.ended_at + age <= self.now:
                self.evict(job.id)

    def evict(self, job_id: int) -> None:
        self.totals["evicted"] += 1
        self.forget(self.jobs[job_id], "completed")

    # --- the life of jobs

    def enqueue(self, job: Job) -> None:
        job.state = "waiting" if job.run_at <= self.now else "delayed"

    def drop_lease(self, job: Job) -> None:
        job.token, job.session, job.beat, job.missed = None, b"", None, 0

    def requeue(self, job: Job, run_at: int | None = None) -> None:
        self.changed = True
        self.drop_lease(job)
        job.started_at = 0
        job.run_at = job.run_at if run_at is None else run_at
        self.enqueue(job)

    def forget(self, job: Job, how: str) -> None:
        self.changed = True
        for ends in (self.dead, self.completed):
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
        return int(base) * 2 ** min(job.attempts - 1, 10)

    def complete(self, job: Job, result: Any) -> None:
        self.changed = True
        self.totals["completed"] += 1
        self.latency += self.now - job.created_at
        self.tell(job, "completed", None)
        self.drop_lease(job)
        job.state = "completed"
        job.ended_at = self.now
        job.result = result
        if job.options["remove_on_complete"]:
            self.forget(job, "completed")
        else:
            self.completed.append(job.id)
            if keep := job.options["keep_completed_count"]:
                mine = [key for key in self.completed if self.jobs[key].queue == job.queue]
                for job_id in mine[:-keep]:
                    self.evict(job_id)
        self.wake_waits(job.id, result=result)

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

    def deliver(self, waiter: Waiter, jobs: list[Job]) -> None:
        self.changed = True
        self.deliveries += 1
        token = self.epoch << 32 | self.deliveries
        if (bucket := self.buckets.get(waiter.queue or "")) is not None:
            bucket.tokens -= len(jobs)
        for place, job in enumerate(jobs):
            job.state, job.place = "active", place
            job.token, job.session = token, waiter.session or b""
            job.since, job.started_at = self.mono, self.now
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

    # --- requests

    def handle(self, corr: int, cmd: str, now: int, mono: int, **said: Any) -> None:
        """Carry out a request; the answers are found in `replies`."""
        self.observe(now, mono)
        session = said.get("session")
        try:
            is_mutation = cmd not in READS
            if is_mutation and session and cmd not in ("SESSIONHEARTBEAT", "GOODBYE"):
                if self.is_repeat(corr, cmd, said):
                    self.settle()
                    return
            self.changed = False
            before = len(self.replies)
            reply = getattr(self, f"do_{cmd.lower()}")(corr, **said)
            if reply is not None:
                self.answer(corr, **reply)
            n = said.get("n")
            if is_mutation and self.changed and session and n is not None:
                if cmd not in ("PULL", "PULLB", "GOODBYE") and len(self.replies) > before:
                    kept = self.replies[-1][1]
                    # what a flow says is done with, a later request says again
                    done_below = 0 if cmd == "FLOW" else said.get("done_below") or 0
                    self.keep_answer(self.sessions[session], n, done_below, kept)
        except Error as error:
            self.refuse(corr, error)
        self.settle()

    # producing

    def do_push(self, corr: int, queue: str, **said: Any) -> Fields:
        return {"id": self.push(queue, said)}

    def do_pushb(self, corr: int, queue: str, jobs: list[Fields], **_: Any) -> Fields:
        ids: list[int | None] = []
        errors = []
        for index, entry in enumerate(jobs):
            try:
                ids.append(self.push(queue, entry))
            except Error as error:
                ids.append(None)
                errors.append({"index": index, "error": error.text, "code": error.code})
        return {"ids": ids, **({"errors": errors} if errors else {})}

    def check_keys(self, queue: str, said: Fields) -> int | None:
        """Return the job that has this custom id already."""
        debounce_id, key = said.get("debounce_id"), said.get("unique_key")
        if debounce_id is not None and (queue, debounce_id) in self.windows:
            if self.windows[queue, debounce_id] > self.now:
                text = f"Debounced: job with id '{debounce_id}' was pushed recently"
                raise Error("debounced", text)
        if said.get("job_id") is not None:
            for job in self.of(queue):
                if job.options["custom_id"] == said["job_id"]:
                    return job.id
        if key is not None:
            for job in self.of(queue):
                if job.options["unique_key"] == key and job.state != "completed":
                    raise Error("duplicate", f"Duplicate job with key: {key}")
        return None

    def start_window(self, queue: str, said: Fields) -> None:
        if said.get("debounce_id") is not None:
            ttl = 5000 if said.get("debounce_ttl") is None else said["debounce_ttl"]
            if ttl:
                self.windows[queue, said["debounce_id"]] = self.now + ttl

    def check_data(self, data: Any) -> None:
        """Payloads are strings here, of less than 255 bytes with their MessagePack header."""
        size = len(data) + (1 if len(data) < 32 else 2) if isinstance(data, str) else 1
        limit = self.limits["payload_bytes_max"]
        if size > limit:
            text = f"Job data too large ({size} bytes, max {limit} bytes)"
            raise Error("payload_too_large", text)

    def push(self, queue: str, said: Fields) -> int:
        self.check_data(said["data"])
        known = self.check_keys(queue, said)
        if known is not None:
            return known
        wanted = list(dict.fromkeys(said.get("depends_on") or []))
        outcomes = [self.outcome(dependency) for dependency in wanted]
        for dependency, (outcome, _) in zip(wanted, outcomes, strict=True):
            if outcome == "unknown":
                text = f"unknown dependency: job {dependency} never existed"
                raise Error("unknown_dependency", text)
        job = self.make(queue, said)
        job.options["depends_on"] = wanted
        self.start_window(queue, said)
        if all(outcome == "completed" for outcome, _ in outcomes):
            return job.id
        job.state = "waitingchildren"
        policy = job.options["on_dependency_failure"]
        doomed: tuple[int, str, str | None] | None = None
        for dependency, (outcome, reason) in zip(wanted, outcomes, strict=True):
            if outcome in ("pending", "failed"):
                self.jobs[dependency].watchers.append(job.id)
            bad = outcome in ("failed", "removed")
            if outcome == "pending" or (bad and policy != "ignore"):
                job.open.append(dependency)
            if bad and (policy == "fail" or (policy == "wait" and outcome == "removed")):
                doomed = (dependency, outcome, reason)
        if doomed is not None:
            self.doom(job, f"dependency {doomed[0]}", doomed[1], doomed[2])
        elif not job.open:
            self.free(job)
        return job.id

    def outcome(self, job_id: int) -> tuple[str, str | None]:
        job = self.jobs.get(job_id)
        if job is not None:
            if job.state == "completed":
                return "completed", None
            return ("failed", job.error) if job.state == "failed" else ("pending", None)
        if job_id in self.gone:
            how = self.gone[job_id]
            return (how, None) if how == "completed" else ("removed", "removed")
        return "unknown", None

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

    def do_flow(
        self, corr: int, queue: str, children: list[Fields], **said: Any
    ) -> Fields:
        for child in children:
            self.check_data(child["data"])
        self.check_data(said["data"])
        known = self.check_keys(queue, said)
        if known is not None:
            made = self.jobs[known].children or []
            return {"parent_id": known, "children_ids": made}
        parent = self.make(queue, said)
        parent.state = "waitingparent"
        parent.children = []
        self.start_window(queue, said)
        for child in children:
            job = self.make(child["queue"], child)
            job.options["parent"] = parent.id
            parent.children.append(job.id)
        parent.open = list(parent.children)
        return {"parent_id": parent.id, "children_ids": list(parent.children)}

    def do_getchildren(self, corr: int, parent_id: int) -> Fields:
        parent = self.jobs.get(parent_id)
        if parent is None or parent.children is None:
            raise Error("parent_not_found", f"Parent job {parent_id} not found")
        here = [self.jobs[key].view() for key in parent.children if key in self.jobs]
        return {
            "parent_id": parent_id,
            "children": here,
            "children_ids": parent.children,
            "completed": parent.children_completed,
            "total": len(parent.children),
        }

    # consuming

    def do_pull(self, corr: int, **said: Any) -> None:
        self.pull(corr, single=True, count=1, **said)

    def do_pullb(self, corr: int, **said: Any) -> None:
        self.pull(corr, single=False, **said)

    def pull(self, corr: int, *, queue: str, timeout: int, **said: Any) -> None:
        waiter = Waiter(corr, self.mono + timeout, queue=queue, **said)
        waiter.done_below = said.get("done_below") or 0
        ahead = [other for other in self.waiters if other.queue == queue and other.count]
        jobs = [] if ahead else self.deliverable(queue, waiter.count)
        if jobs:
            self.deliver(waiter, jobs)
        elif timeout:
            self.waiters.append(waiter)
        elif waiter.single:
            self.answer(corr, job=None)
        else:
            self.answer(corr, jobs=[], job=None)

    def hold(self, job_id: int, token: int | None, text: str | None = None) -> Job:
        job = self.jobs.get(job_id)
        if job is not None and job.state == "active" and token in (None, job.token):
            return job
        if job is not None and token is not None:
            raise Error("lease_lost", f"lease lost: job {job_id} is no longer yours")
        if text is not None:
            raise Error("job_not_active", f"Job {job_id} {text}")
        raise Error("job_not_found", f"Job {job_id} not found")

    def do_ack(self, corr: int, id: int, **said: Any) -> Fields:
        self.complete(self.hold(id, said.get("token")), said.get("result"))
        return {}

    def do_ackb(self, corr: int, ids: list[int], **said: Any) -> Fields:
        tokens = said.get("tokens") or [None] * len(ids)
        results = said.get("results") or [None] * len(ids)
        lost, done = [], 0
        for job_id, token, result in zip(ids, tokens, results, strict=True):
            try:
                self.complete(self.hold(job_id, token), result)
                done += 1
            except Error:
                lost.append(job_id)
        return {"ids": [done], **({"lost": lost} if lost else {})}

    def do_fail(self, corr: int, id: int, **said: Any) -> Fields:
        self.fail(self.hold(id, said.get("token")), "failed", said.get("error"))
        return {}

    def do_release(self, corr: int, ids: list[int], **said: Any) -> Fields:
        tokens = said.get("tokens") or [None] * len(ids)
        count = 0
        for job_id, token in zip(ids, tokens, strict=True):
            try:
                self.requeue(self.hold(job_id, token))
                count += 1
            except Error:
                continue
        return {"count": count}

    def do_heartbeat(self, corr: int, id: int, **said: Any) -> Fields:
        job = self.hold(id, said.get("token"), "not in processing")
        self.changed = True
        job.last_heartbeat = self.now
        job.beat = None if job.session else self.mono
        return {}

    def do_progress(self, corr: int, id: int, progress: int, **said: Any) -> Fields:
        job = self.hold(id, said.get("token"), "not found in processing")
        self.changed = True
        job.progress = min(100, max(0, progress))
        job.progress_msg = said.get("message")
        return {}

    def do_getprogress(self, corr: int, id: int) -> Fields:
        job = self.hold(id, None)
        return {"progress": {"id": id, "progress": job.progress, "message": job.progress_msg}}

    def do_movetodelayed(self, corr: int, id: int, delay: int, **said: Any) -> Fields:
        job = self.hold(id, said.get("token"), "not in processing")
        job.progress, job.progress_msg = 0, None
        self.requeue(job, self.now + delay)
        return {}

    def do_sessionheartbeat(
        self, corr: int, session: bytes, leases: list[int], tokens: list[int]
    ) -> Fields:
        if session in self.expired_sessions:
            return {"lost": leases} if leases else {}
        self.hear(session)
        lost, named = [], set()
        for job_id, token in zip(leases, tokens, strict=True):
            job = self.jobs.get(job_id)
            if job is not None and job.state == "active" and job.session == session:
                if job.token == token:
                    named.add(job_id)
                    continue
            lost.append(job_id)
        for job in self.held(session):
            job.missed = 0 if job.id in named else job.missed + 1
            if job.missed >= 2:
                self.requeue(job)
        return {"lost": lost} if lost else {}

    def do_goodbye(self, corr: int, session: bytes, **_: Any) -> Fields:
        if session in self.sessions:
            self.let_go(session, lost=False)
        return {}

    # looking

    def do_getjob(self, corr: int, id: int) -> Fields:
        job = self.jobs.get(id)
        if job is None:
            return {"job": None, "state": "unknown"}
        return {"job": job.view(), "state": job.state}

    def do_getstate(self, corr: int, id: int) -> Fields:
        job = self.jobs.get(id)
        return {"id": id, "state": "unknown" if job is None else job.state}

    def do_getresult(self, corr: int, id: int) -> Fields:
        job = self.jobs.get(id)
        done = job is not None and job.state == "completed"
        return {"id": id, "result": job.result if done and job is not None else None}

    def do_getjobbycustomid(self, corr: int, job_id: str, queue: str | None = None) -> Fields:
        found = [job for job in self.of(queue) if job.options["custom_id"] == job_id]
        return self.do_getjob(corr, max((job.id for job in found), default=0))

    def do_getjobsbatch(self, corr: int, ids: list[int]) -> Fields:
        jobs = [self.jobs[job_id] for job_id in ids if job_id in self.jobs]
        return {"jobs": [self.listed(job) for job in jobs]}

    def do_getjobs(self, corr: int, **said: Any) -> Fields:
        limit = 100 if said.get("limit") is None else said["limit"]
        offset = said.get("offset") or 0
        states = [said["state"].replace("-", "").lower()] if said.get("state") else []
        jobs = sorted(self.of(said.get("queue"), *states), key=lambda job: -job.id)
        shown = jobs[offset : offset + limit]
        return {"jobs": [self.listed(job) for job in shown], "total": len(jobs)}

    def listed(self, job: Job) -> Fields:
        return {**job.view(), "state": job.state, "job": job.view()}

    def do_waitjob(self, corr: int, id: int, timeout: int) -> Fields | None:
        job = self.need(id, "wait_job_not_found", "Job not found")
        if job.state == "failed":
            raise Error("job_failed", "Job failed")
        if job.state == "completed":
            return {"result": job.result}
        self.waiters.append(Waiter(corr, self.mono + timeout, job_id=id, timeout=timeout))
        return None

    def do_log(self, corr: int, id: int, message: str, **said: Any) -> Fields:
        self.add_log(self.need(id), message, said.get("level") or "info")
        return {}

    def do_getlogs(self, corr: int, id: int) -> Fields:
        return {"id": id, "logs": self.jobs[id].logs if id in self.jobs else []}

    # changing

    def do_cancel(self, corr: int, id: int, **_: Any) -> Fields:
        job = self.need(id)
        if job.state in ("completed", "failed"):
            text = f"Job {id} cannot be cancelled (already completed/failed)"
            raise Error("wrong_state", text)
        self.remove([job], "cancelled")
        return {}

    def do_changepriority(self, corr: int, id: int, priority: int, **_: Any) -> Fields:
        text = f"Job {id} not found or cannot change priority"
        job = self.need(id, text=text)
        if job.state == "completed":
            raise Error("wrong_state", text)
        self.changed = True
        job.priority = priority
        return {}

    def do_promote(self, corr: int, id: int, **_: Any) -> Fields:
        text = f"Job {id} not found or not in delayed state"
        job = self.need(id, text=text)
        if job.state == "waiting":
            raise Error("wrong_state", f"Job {id} is not delayed")
        if job.state != "delayed":
            raise Error("wrong_state", text)
        self.changed = True
        job.run_at = self.now
        self.enqueue(job)
        return {}

    def do_updatejob(self, corr: int, id: int, data: Any, **_: Any) -> Fields:
        job = self.need(id)
        if job.state not in ("waiting", "delayed", "active", "failed"):
            raise Error("job_not_found", f"Job {id} not found")
        self.check_data(data)
        self.changed = True
        job.data = data
        return {}

    def do_discard(self, corr: int, id: int, **_: Any) -> Fields:
        text = f"Job {id} not found or already in DLQ/completed"
        job = self.need(id, text=text)
        if job.state not in ("waiting", "delayed", "active"):
            raise Error("wrong_state", text)
        self.fail(job, "discarded", None, final=True, counted=False)
        return {}

    # queues

    def do_pause(self, corr: int, queue: str, **_: Any) -> Fields:
        self.set(queue, paused=True)
        return {}

    def do_resume(self, corr: int, queue: str, **_: Any) -> Fields:
        self.set(queue, paused=False)
        return {}

    def do_ispaused(self, corr: int, queue: str) -> Fields:
        return {"paused": self.setting(queue)["paused"]}

    def do_ratelimit(self, corr: int, queue: str, limit: int, **_: Any) -> Fields:
        self.set(queue, rate_limit=limit)
        self.changed = True
        self.buckets[queue] = Bucket(limit, self.mono, limit)
        return {}

    def do_ratelimitclear(self, corr: int, queue: str, **_: Any) -> Fields:
        self.set(queue, rate_limit=None)
        self.buckets.pop(queue, None)
        return {}

    def do_setconcurrency(self, corr: int, queue: str, limit: int, **_: Any) -> Fields:
        self.set(queue, concurrency=limit)
        return {}

    def do_clearconcurrency(self, corr: int, queue: str, **_: Any) -> Fields:
        self.set(queue, concurrency=None)
        return {}

    def do_queueconfig(self, corr: int, queue: str, **said: Any) -> Fields:
        names = ("keep_completed_age", "keep_completed_count")
        self.set(queue, **{key: said[key] for key in names if said.get(key) is not None})
        return {"durability": None, **{key: self.setting(queue)[key] for key in names}}

    def do_drain(self, corr: int, queue: str, **_: Any) -> Fields:
        jobs = self.of(queue, "waiting", "delayed")
        self.remove(jobs, "drained")
        return {"count": len(jobs)}

    def do_obliterate(self, corr: int, queue: str, **_: Any) -> Fields:
        jobs = [job for job in self.of(queue) if job.state != "completed"]
        self.remove(jobs, "obliterated")
        for job in self.of(queue, "completed"):
            self.forget(job, "completed")
        self.settings.pop(queue, None)
        self.buckets.pop(queue, None)
        for key in [key for key in self.windows if key[0] == queue]:
            del self.windows[key]
        self.obliterated.append(queue)
        self.changed = True
        return {"count": len(jobs)}

    def do_clean(self, corr: int, queue: str, grace: int, state: str, **said: Any) -> Fields:
        if state.lower() not in ("waiting", "delayed", "completed", "failed"):
            text = "Invalid state. Use: waiting, delayed, completed, failed"
            raise Error("state_invalid", text)
        jobs = [job for job in self.of(queue, state) if job.created_at <= self.now - grace]
        jobs.sort(key=lambda job: job.id)
        if said.get("limit") is not None:
            del jobs[said["limit"] :]
        if state == "completed":
            for job in jobs:
                self.forget(job, "completed")
        else:
            self.remove(jobs, "cleaned")
        return {"count": len(jobs)}

    def do_count(self, corr: int, queue: str) -> Fields:
        return {"count": self.count(queue, "waiting", "delayed")}

    def do_getjobcounts(self, corr: int, queue: str) -> Fields:
        states = (
            *("waiting", "active", "delayed", "completed", "failed"),
            *("waitingchildren", "waitingparent"),
        )
        return {state: self.count(queue, state) for state in states}

    def do_listqueues(self, corr: int) -> Fields:
        names = {job.queue for job in self.jobs.values()} | self.settings.keys()
        names |= {queue for queue, _ in self.windows}
        return {"queues": [self.queue_info(name) for name in sorted(names)]}

    def queue_info(self, name: str) -> Fields:
        return {
            "name": name,
            "pending": self.count(name, "waiting", "delayed"),
            "processing": self.count(name, "active"),
            "dlq": self.count(name, "failed"),
            "paused": self.setting(name)["paused"],
            "rate_limit": self.setting(name)["rate_limit"],
            "concurrency_limit": self.setting(name)["concurrency"],
        }

    def do_stats(self, corr: int) -> Fields:
        return {
            "queued": self.count(None, "waiting"),
            "processing": self.count(None, "active"),
            "delayed": self.count(None, "delayed"),
            "dlq": self.count(None, "failed"),
            "completed": self.count(None, "completed"),
            "waiting_dependencies": self.count(None, "waitingchildren", "waitingparent"),
        }

    def do_dlq(self, corr: int, queue: str, count: int | None = None) -> Fields:
        mine = [self.jobs[key] for key in self.dead if self.jobs[key].queue == queue]
        return {"jobs": [job.view() for job in mine[: 100 if count is None else count]]}

    def do_retrydlq(self, corr: int, queue: str, id: int | None = None, **_: Any) -> Fields:
        mine = [self.jobs[key] for key in self.dead if self.jobs[key].queue == queue]
        jobs = [job for job in mine if id in (None, job.id)]
        for job in jobs:
            self.changed = True
            self.dead.remove(job.id)
            job.attempts, job.run_at, job.ended_at = 0, self.now, 0
            job.error, job.lost, job.stall_count = None, 0, 0
            self.enqueue(job)
        return {"ids": [len(jobs)]}

    def do_purgedlq(self, corr: int, queue: str, **_: Any) -> Fields:
        jobs = [self.jobs[key] for key in self.dead if self.jobs[key].queue == queue]
        self.remove(jobs, "purged")
        return {"count": len(jobs)}

    def do_metrics(self, corr: int) -> Fields:
        return {"metrics": {f"total_{key}": total for key, total in self.totals.items()}}

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
                self.requeue(job)
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
            for ends in (self.dead, self.completed):
                old = [key for key in ends if key in ended_before]
                old.sort(key=self.end_order)
                ends[:] = old + [key for key in ends if key not in ended_before]
        self.settle()

    def end_order(self, job_id: int) -> tuple[int, int, int]:
        job = self.jobs[job_id]
        return (job.ended_at, job.run_at, job.id)


READS: Final = frozenset(
    {
        *("GETCHILDREN", "GETPROGRESS", "GETJOB", "GETSTATE", "GETRESULT", "GETJOBBYCUSTOMID"),
        *("GETJOBSBATCH", "GETJOBS", "WAITJOB", "GETLOGS", "ISPAUSED", "COUNT", "GETJOBCOUNTS"),
        *("LISTQUEUES", "STATS", "DLQ", "METRICS"),
    }
)
