"""A naive model of one shard: plain dicts and lists, obvious rather than fast.

Says what the engine should answer and when, by design 4 and section 4 of the wire contract with
the defects done right. It imports nothing of `flashq.shard`. One shard only, so everything a job
waits for is here.
"""

from __future__ import annotations

from typing import Any

from tests.property.model_objects import READS, Error, Fields, Job, Waiter
from tests.property.model_queues import Queues


class Model(Queues):
    """What each request about jobs does."""

    # --- requests

    def handle(self, corr: int, cmd: str, now: int, mono: int, **said: Any) -> None:
        """Carry out a request; the answers are found in `replies`."""
        self.observe(now, mono)
        session = said.get("session")
        try:
            is_mutation = cmd not in READS
            may_repeat = is_mutation and cmd not in ("SESSIONHEARTBEAT", "GOODBYE")
            if may_repeat and session and self.is_repeat(corr, cmd, said):
                self.settle()
                return
            self.changed = False
            before = len(self.replies)
            reply = getattr(self, f"do_{cmd.lower()}")(corr, **said)
            if reply is not None:
                self.answer(corr, **reply)
            n = said.get("n")
            is_kept = may_repeat and cmd not in ("PULL", "PULLB") and len(self.replies) > before
            if is_kept and session and n is not None:
                kept = self.replies[-1][1]
                done_below = said.get("done_below") or 0
                self.keep_answer(self.sessions[session], n, done_below, kept)
        except Error as error:
            self.refuse(corr, error)
            n, is_final = said.get("n"), error.code not in ("session_expired", "busy")
            if may_repeat and is_final and session and n is not None:
                done_below, kept = said.get("done_below") or 0, self.replies[-1][1]
                self.keep_answer(self.sessions[session], n, done_below, kept)
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
        if self.windows.get((queue, str(debounce_id)), 0) > self.now:
            text = f"Debounced: job with id '{debounce_id}' was pushed recently"
            raise Error("debounced", text)
        if said.get("job_id") is not None:
            for job in self.of(queue):
                if job.options["custom_id"] == said["job_id"] and job.state != "cancelled":
                    return job.id
        if key is not None:
            for job in self.of(queue):
                if job.options["unique_key"] == key and job.state not in ("completed", "cancelled"):
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
            if job.state == "cancelled":
                return "removed", "cancelled"
            return ("failed", job.error) if job.state == "failed" else ("pending", None)
        if job_id in self.gone:
            how = self.gone[job_id]
            return (how, None) if how == "completed" else ("removed", "removed")
        return "unknown", None

    def do_flow(self, corr: int, queue: str, children: list[Fields], **said: Any) -> Fields:
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
        if waiter.ready:
            if not timeout and self.deliverable(queue, 1):
                self.answer(corr, jobs=[], ready=True)
                return
            jobs = []
        else:
            self.calls.pop((queue, waiter.session), None)
            jobs = [] if ahead else self.deliverable(queue, waiter.count)
        if jobs:
            self.deliver(waiter, jobs)
        elif timeout:
            self.park(waiter)
        elif waiter.single:
            self.answer(corr, job=None)
        else:
            self.answer(corr, jobs=[], job=None)

    def park(self, waiter: Waiter) -> None:
        self.waiters.append(waiter)
        if waiter.ticket:
            self.tickets[waiter.ticket] = waiter

    def do_withdraw(self, _corr: int, ticket: bytes) -> Fields:
        """Only who was parked with a ticket last is taken back by it."""
        waiter = self.tickets.pop(ticket, None)
        if waiter not in self.waiters:
            return {"count": 0}
        self.waiters.remove(waiter)
        return {"count": 1}

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
                self.release(self.hold(job_id, token))
                count += 1
            except Error:
                continue
        return {"count": count}

    def do_heartbeat(self, corr: int, id: int, **said: Any) -> Fields:
        job = self.hold(id, said.get("token"), "not in processing")
        self.changed = True
        job.last_heartbeat = self.now
        self.note_work(job)
        return {}

    def note_work(self, job: Job) -> None:
        job.beat = self.mono
        if job.since is None:
            job.since = self.mono

    def do_progress(self, corr: int, id: int, progress: int, **said: Any) -> Fields:
        job = self.hold(id, said.get("token"), "not found in processing")
        self.changed = True
        job.progress = min(100, max(0, progress))
        job.progress_msg = said.get("message")
        self.note_work(job)
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
            return self.losing(leases)
        self.hear(session)
        lost, named = [], set()
        for job_id, token in zip(leases, tokens, strict=True):
            job = self.jobs.get(job_id)
            if job is not None and job.session == session and job.token == token:
                named.add(job_id)
            else:
                lost.append(job_id)
        for job in self.held(session):
            job.missed = 0 if job.id in named else job.missed + 1
            if job.missed >= 2:
                self.release(job)
        return self.losing(lost)

    def losing(self, lost: list[int]) -> Fields:
        states = [self.do_getstate(0, job_id)["state"] for job_id in lost]
        return {"lost": lost, "states": states} if lost else {}

    def do_goodbye(self, corr: int, session: bytes, lost: list[int] | None = None) -> Fields:
        if session in self.sessions:
            self.let_go(session, lost or [])
            self.forget_session(session)
        return {}

    # looking

    def do_getjob(self, corr: int, id: int) -> Fields:
        job = self.jobs.get(id)
        if job is None:
            return {"job": None, "state": "unknown"}
        return {"job": job.view(is_single=True), "state": job.state}

    def do_getstate(self, corr: int, id: int) -> Fields:
        job = self.jobs.get(id)
        return {"id": id, "state": "unknown" if job is None else job.state}

    def do_getresult(self, corr: int, id: int) -> Fields:
        job = self.jobs.get(id)
        if self.gone.get(id) == "completed" or (job is not None and job.result_dropped):
            raise Error("result_not_kept", f"result no longer kept: job {id} has completed")
        done = job is not None and job.state == "completed"
        return {"id": id, "result": job.result if done and job is not None else None}

    def do_getjobbycustomid(self, corr: int, job_id: str, queue: str | None = None) -> Fields:
        found = [
            job
            for job in self.of(queue)
            if job.options["custom_id"] == job_id and job.state != "cancelled"
        ]
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

    def do_waitjob(self, corr: int, id: int, timeout: int, **said: Any) -> Fields | None:
        job = self.need(id, "wait_job_not_found", "Job not found")
        if job.state == "failed":
            raise Error("job_failed", "Job failed")
        if job.state == "cancelled":
            reason = job.cancel_reason
            text = "Job cancelled" if reason is None else f"Job cancelled: {reason}"
            raise Error("job_cancelled", text)
        if job.result_dropped:
            raise Error("result_not_kept", f"result no longer kept: job {id} has completed")
        if job.state == "completed":
            return {"result": job.result}
        self.park(Waiter(corr, self.mono + timeout, job_id=id, timeout=timeout, **said))
        return None

    def do_log(self, corr: int, id: int, message: str, **said: Any) -> Fields:
        self.add_log(self.need(id), message, said.get("level") or "info")
        return {}

    def do_getlogs(self, corr: int, id: int) -> Fields:
        return {"id": id, "logs": self.jobs[id].logs if id in self.jobs else []}

    # changing

    def do_cancel(self, corr: int, id: int, reason: str | None = None, **_: Any) -> Fields:
        job = self.need(id)
        if job.state == "cancelled":
            raise Error("wrong_state", f"Job {id} cannot be cancelled (already cancelled)")
        if job.state in ("completed", "failed"):
            text = f"Job {id} cannot be cancelled (already completed/failed)"
            raise Error("wrong_state", text)
        self.cancel(job, reason)
        return {}

    def do_changepriority(self, corr: int, id: int, priority: int, **_: Any) -> Fields:
        text = f"Job {id} not found or cannot change priority"
        job = self.need(id, text=text)
        if job.state in ("completed", "cancelled"):
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
