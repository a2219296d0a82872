"""The naive model's requests about whole queues."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tests.property.model_life import Life
from tests.property.model_objects import Bucket, Error, Fields


class Queues(Life):
    """What each request about a queue does."""

    def do_pause(self, corr: int, queue: str, **_: Any) -> Fields:
        self.configure(queue, paused=True)
        return {}

    def do_resume(self, corr: int, queue: str, **_: Any) -> Fields:
        self.configure(queue, paused=False)
        return {}

    def do_ispaused(self, corr: int, queue: str) -> Fields:
        return {"paused": self.setting(queue)["paused"]}

    def do_ratelimit(self, corr: int, queue: str, limit: int, **_: Any) -> Fields:
        before = self.setting(queue)["rate_limit"]
        self.configure(queue, rate_limit=limit)
        if before is None:
            self.buckets[queue] = Bucket(limit, self.mono, limit)
        elif before != limit:
            bucket = self.buckets[queue]
            bucket.available(self.mono)
            bucket.limit, bucket.tokens = limit, min(bucket.tokens, Fraction(limit))
        return {}

    def do_ratelimitclear(self, corr: int, queue: str, **_: Any) -> Fields:
        self.configure(queue, rate_limit=None)
        self.buckets.pop(queue, None)
        return {}

    def do_setconcurrency(self, corr: int, queue: str, limit: int, **_: Any) -> Fields:
        self.configure(queue, concurrency=limit)
        return {}

    def do_clearconcurrency(self, corr: int, queue: str, **_: Any) -> Fields:
        self.configure(queue, concurrency=None)
        return {}

    def do_queueconfig(self, corr: int, queue: str, **said: Any) -> Fields:
        names = ("keep_completed_age", "keep_completed_count")
        self.configure(queue, **{key: said[key] for key in names if said.get(key) is not None})
        return {"durability": None, **{key: self.setting(queue)[key] for key in names}}

    def do_drain(self, corr: int, queue: str, **_: Any) -> Fields:
        jobs = self.of(queue, "waiting", "delayed")
        self.remove(jobs, "drained")
        return {"count": len(jobs)}

    def do_obliterate(self, corr: int, queue: str, **_: Any) -> Fields:
        jobs = [job for job in self.of(queue) if job.state not in ("completed", "cancelled")]
        self.remove(jobs, "obliterated")
        for job in self.of(queue):
            self.forget(job, "completed" if job.state == "completed" else "removed")
        self.settings.pop(queue, None)
        self.buckets.pop(queue, None)
        for key in [key for key in self.windows if key[0] == queue]:
            del self.windows[key]
        self.obliterated.append(queue)
        self.changed = True
        return {"count": len(jobs)}

    def do_clean(self, corr: int, queue: str, grace: int, state: str, **said: Any) -> Fields:
        if state.lower() not in ("waiting", "delayed", "completed", "failed", "cancelled"):
            text = "Invalid state. Use: waiting, delayed, completed, failed, cancelled"
            raise Error("state_invalid", text)
        jobs = [job for job in self.of(queue, state) if job.created_at <= self.now - grace]
        jobs.sort(key=lambda job: job.id)
        if said.get("limit") is not None:
            del jobs[said["limit"] :]
        if state in ("completed", "cancelled"):
            for job in jobs:
                self.forget(job, "completed" if state == "completed" else "removed")
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
        known = {} if queue in self.known_queues() else {"known": False}
        counts = {state: self.count(queue, state) for state in states}
        if cancelled := self.count(queue, "cancelled"):
            counts["cancelled"] = cancelled
        return {**counts, **known}

    def known_queues(self) -> set[str]:
        names = {job.queue for job in self.jobs.values()} | self.settings.keys()
        return names | {queue for queue, _ in self.windows}

    def do_listqueues(self, corr: int, limit: int = 1000, **said: Any) -> Fields:
        names = [name for name in self.known_queues() if said.get("search", "") in name]
        found = [self.queue_info(name) for name in sorted(names)]
        total = {"total": len(found)} if found else {}
        if said.get("fullest"):
            found.sort(key=lambda info: -info["pending"] - info["processing"] - info["dlq"])
            return {"queues": found[:limit], **total}
        found = [info for info in found if info["name"] > said.get("after", "")]
        more = {"next": found[limit - 1]["name"]} if len(found) > limit else {}
        return {"queues": found[:limit], **total, **more}

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
            **({"cancelled": cancelled} if (cancelled := self.count(None, "cancelled")) else {}),
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
            job.ttl_since = self.now
            self.enqueue(job)
        return {"ids": [len(jobs)]}

    def do_purgedlq(self, corr: int, queue: str, **_: Any) -> Fields:
        jobs = [self.jobs[key] for key in self.dead if self.jobs[key].queue == queue]
        self.remove(jobs, "purged")
        return {"count": len(jobs)}

    def do_metrics(self, corr: int) -> Fields:
        return {"metrics": {f"total_{key}": total for key, total in self.totals.items()}}
