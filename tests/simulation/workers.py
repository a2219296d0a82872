"""Users that work: they pull, take their time, and end what they were handed in every way."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from flashq.client.results import Job
from flashq.errors import ConnectionClosed, FlashQError
from flashq.protocol.codec import decode, encode_msgpack
from flashq.protocol.leases import (
    Ack,
    AckBatch,
    AckBatchReply,
    Fail,
    MoveToDelayed,
    Pull,
    PullBatch,
    Release,
    SetProgress,
)
from tests.simulation.clients import ClientProcess, Outcome
from tests.simulation.workload import Habit, is_definite
from tests.simulation.world import MS, Violation

RESULT = Raw(encode_msgpack({"done": True}))


class Worker(Habit):
    """Pulls from all queues in turn and works on several jobs at a time."""

    pause_us = (10 * MS, 60 * MS)

    def begin(self, client: ClientProcess) -> None:
        """A client has started: whatever the one before it held is not its own."""
        #: what is worked on, by id
        self._held: dict[int, Job] = {}
        #: done, and to be acknowledged together
        self._done: list[Job] = []
        self._pulls = 0
        super().begin(client)

    def act(self) -> None:
        """Pull, if there is room; acknowledge what has gathered."""
        closing = self.town.is_closing
        if closing:
            self.pause_us = (20 * MS, 100 * MS)
        if self._pulls < 2 and len(self._held) < (20 if closing else 6):
            self._pull()
        if self._done and (closing or len(self._done) > 3 or self.world.happens(0.2)):
            self._ack_batch()

    def _pull(self) -> None:
        self._pulls += 1
        queue, chance = self.town.queue(), self.world.chance
        timeout = chance.choice((0, 200, 600, 1500))
        request: Any = Pull(queue=queue, timeout=timeout)
        if self.town.is_closing:
            request = PullBatch(queue=queue, count=10, timeout=timeout)
        elif chance.random() < 0.5:
            request = PullBatch(queue=queue, count=chance.randint(1, 4), timeout=timeout)
        self.ask(request, self._pulled, timeout + 3000)

    def _pulled(self, outcome: Outcome) -> None:
        self._pulls -= 1
        if outcome.error is not None:
            return
        jobs = outcome.reply.all()
        for job in jobs:
            payload = job.data.get("p")
            self.town.witness.delivered(job.id, job.queue, payload)
            self.world.seen["jobs handed to workers"] += 1
            self._held[job.id] = job
            self._work(job)

    def _work(self, job: Job) -> None:
        if self.town.is_closing:
            duration = self.world.between(MS, 20 * MS)
        elif self.world.happens(0.05):
            duration = self.world.between(1000 * MS, 4000 * MS)
        else:
            duration = self.world.between(MS, 300 * MS)
        self.client.later(duration, lambda: self._finish(job))
        if self.world.happens(0.1):
            progress = SetProgress(id=job.id, progress=50, token=job.token)
            self.client.later(duration // 2, lambda: self.do(progress))

    def leases_lost(self, ids: list[int]) -> None:
        """Jobs are no longer this client's."""
        for job_id in ids:
            job = self._held.pop(job_id, None)
            if job is not None:
                self._end_again(job)

    def _end_again(self, job: Job) -> None:
        """End a job that has gone back, as a worker does that has not heard of it."""
        if not self.town.setting.has_stale_workers:
            return

        losses = self.town.losses()

        def then(outcome: Outcome) -> None:
            if outcome.error is None:
                self.accepted(job.id, outcome.who, job.token, losses)

        request = Ack(id=job.id, token=job.token, result=RESULT)
        wait_us = self.world.between(MS, 2000 * MS)
        self.client.later(wait_us, lambda: self.ask(request, then))

    def _finish(self, job: Job) -> None:
        if self._held.get(job.id) is not job:
            return
        kind = self.world.chance.random()
        is_stale = self.town.setting.has_stale_workers
        if is_stale and self.world.happens(0.6):
            kind = 0.75 + kind / 4  # it goes back
        if self.town.is_closing:
            self._done.append(job)
        elif kind < 0.5:
            token = None if self.world.happens(0.05) else job.token
            self._end(job, Ack(id=job.id, token=token, result=RESULT), "completed")
        elif kind < 0.75:
            self._done.append(job)
        elif kind < 0.9:
            self._end(job, Fail(id=job.id, error="did not work", token=job.token), "failed")
        elif kind < 0.95:
            self._end(job, Release(ids=[job.id], tokens=[job.token]), None)
        else:
            self._end(
                job,
                MoveToDelayed(id=job.id, delay=1500 if is_stale else 100, token=job.token),
                None,
            )

    def _end(self, job: Job, request: Any, what: str | None) -> None:
        losses = self.town.losses()

        def then(outcome: Outcome) -> None:
            if self._is_undecided(outcome.error):
                if self._held.get(job.id) is job:
                    self.client.later(200 * MS, lambda: self._again(job, request, what))
                return
            if self._held.get(job.id) is job:
                del self._held[job.id]
            if outcome.error is None and not isinstance(request, Ack):
                self._end_again(job)
            if outcome.error is None and what is not None:
                self.told(job.id, what, losses, sent_us=outcome.sent_us)
                if isinstance(request, Ack):
                    self.accepted(job.id, outcome.who, request.token, losses)

        self.ask(request, then)

    def _again(self, job: Job, request: Any, what: str | None) -> None:
        if self._held.get(job.id) is job:
            self._end(job, request, what)

    def _is_undecided(self, error: FlashQError | None) -> bool:
        if error is None:
            return False
        # A client that is closed says of what was never sent that it was not: it is done again.
        return isinstance(error, ConnectionClosed) or not is_definite(error) or error.retryable

    def _ack_batch(self) -> None:
        jobs = [job for job in self._done if self._held.get(job.id) is job]
        self._done = []
        if not jobs:
            return
        tokens = [job.token for job in jobs]
        request = AckBatch(ids=[job.id for job in jobs], tokens=tokens)
        losses = self.town.losses()

        def then(outcome: Outcome) -> None:
            if outcome.error is not None:
                if self._is_undecided(outcome.error):
                    self._done += jobs
                else:
                    raise Violation(f"{request!r} was refused: {outcome.error!r}")
                return
            reply = decode(outcome.reply, AckBatchReply)
            asked = [
                job for job in jobs if job.id % self.town.setting.shards not in reply.missing_shards
            ]
            done = [job for job in asked if job.id not in reply.lost]
            if reply.ids != [len(done)]:
                raise Violation(f"{request!r} got {reply!r}, which counts wrongly")
            for job in asked:
                if self._held.get(job.id) is job:
                    del self._held[job.id]
            self._done += [job for job in jobs if job not in asked]
            for job in done:
                self.told(job.id, "completed", losses, sent_us=outcome.sent_us)
                self.accepted(job.id, outcome.who, job.token, losses)

        self.ask(request, then)
