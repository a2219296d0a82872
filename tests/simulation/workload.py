"""What the clients want: users with habits, all drawn from the run's chance.

Owns what users know of each other's jobs, and the producers, readers and owners of queues among
them. The workers are in `workers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Raw

from flashq.client.calls import prepare_push_batch
from flashq.client.happenings import NoticeReceived
from flashq.client.results import EventArrived
from flashq.errors import (
    ConnectionClosed,
    FlashQError,
    InvalidRequest,
    OutcomeUnknown,
    SessionExpired,
    ShardUnavailable,
)
from flashq.protocol import crons, jobs, queues, server
from flashq.protocol.base import OnDependencyFailure
from flashq.protocol.codec import decode, encode_msgpack
from tests.simulation.checkers import Witness
from tests.simulation.clients import ClientProcess, Outcome
from tests.simulation.firings import CRON_LIMIT
from tests.simulation.setting import Setting
from tests.simulation.world import MS, Violation, World

KNOWN_MAX: Final = 400
POLICIES: Final[tuple[OnDependencyFailure, ...]] = ("fail", "ignore", "wait")


def is_definite(error: FlashQError) -> bool:
    """Tell whether an error promises that nothing happened."""
    if isinstance(error, ConnectionClosed):
        return "was not sent" in error.text
    return not isinstance(error, OutcomeUnknown | SessionExpired | ShardUnavailable)


class Town:
    """What the users of one run share.

    Args:
        world, setting, witness: the run's.
    """

    def __init__(self, world: World, setting: Setting, witness: Witness) -> None:
        self.world: Final = world
        self.setting: Final = setting
        self.witness: Final = witness
        self._payloads = 0
        #: ids of jobs that were pushed lately
        self.known: list[int] = []
        #: nobody adds work any more, and workers do nothing but work
        self.is_closing = False

    def payload(self) -> tuple[int, Raw]:
        """Return a payload that no other job has, and its number."""
        self._payloads += 1
        return self._payloads, Raw(encode_msgpack({"p": self._payloads}))

    def queue(self) -> str:
        """Return some queue."""
        return self.world.chance.choice(self.setting.queues)

    def job(self) -> int | None:
        """Return some job's id, more likely a late one."""
        if not self.known:
            return None
        late = self.known[-30:] if self.world.happens(0.7) else self.known
        return self.world.chance.choice(late)

    def learn(self, job_id: int) -> None:
        """A job was pushed."""
        self.known.append(job_id)
        del self.known[:-KNOWN_MAX]

    def losses(self) -> list[int]:
        """Return how often each shard has lost something."""
        count = self.setting.shards
        return [self.witness.losses_of(shard) for shard in range(count)]


class Habit:
    """A user that does something every now and then, while its client lives."""

    pause_us = (20 * MS, 200 * MS)

    def __init__(self, town: Town) -> None:
        self.town: Final = town
        self.world: Final = town.world
        self.client: ClientProcess

    def begin(self, client: ClientProcess) -> None:
        """A client has started."""
        self.client = client
        self._go_on()

    def _go_on(self) -> None:
        self.client.later(self.world.between(*self.pause_us), self._act)

    def _act(self) -> None:
        if not self.client.is_closing:
            self.act()
            self._go_on()

    def act(self) -> None:
        """Do something."""

    def noticed(self, notice: NoticeReceived) -> None:
        """An event has come."""

    def leases_lost(self, ids: list[int]) -> None:
        """Jobs are no longer this client's."""

    def ask(self, request: Any, then: Callable[[Outcome], None], timeout_ms: int = 8000) -> None:
        """Send a request."""

        def judged(outcome: Outcome) -> None:
            if isinstance(outcome.error, InvalidRequest):
                raise Violation(f"{outcome.request!r} was not understood: {outcome.error}")
            then(outcome)

        self.client.ask(request, judged, timeout_ms)

    def do(self, request: Any) -> None:
        """Send a request whose outcome does not matter."""
        self.ask(request, lambda _: None)

    def told(self, job_id: int, what: str, losses: list[int], **more: Any) -> None:
        """Note that the client was told something of a job."""
        known = losses[job_id % self.town.setting.shards]
        self.town.witness.told(job_id, what, losses=known, **more)

    def accepted(self, job_id: int, who: str, token: int | None, losses: list[int]) -> None:
        """Note that an acknowledgement of a job was accepted."""
        known = losses[job_id % self.town.setting.shards]
        self.town.witness.accepted(job_id, who, token, known)


class Producer(Habit):
    """Pushes jobs, one by one, in batches and as flows."""

    pause_us = (25 * MS, 160 * MS)

    def act(self) -> None:
        """Push something, unless the town closes."""
        if self.town.is_closing:
            return
        kind = self.world.chance.random()
        flows = self.town.setting.flows
        if flows and self.world.happens(flows):
            self._push_flow()
        elif kind < 0.72:
            self._push()
        elif kind < 0.86:
            self._push_batch()
        else:
            self._push_flow()

    def _options(self, *, keys: bool = True, depends: bool = True) -> dict[str, Any]:
        chance, some = self.world.chance, self.world.happens
        options: dict[str, Any] = {}
        if some(0.5):
            return options
        if some(0.3):
            options["priority"] = chance.randint(-2, 2)
        if some(0.2):
            options["delay"] = chance.randint(0, 1500)
        if some(0.1):
            options["ttl"] = chance.randint(200, 3000)
        if some(0.3):
            options["max_attempts"] = chance.randint(1, 3)
        if some(0.2):
            options["backoff"] = chance.randint(20, 300)
            options["jitter"] = chance.choice((0.0, 0.5, 1.0))
        if some(0.1):
            options["timeout"] = chance.randint(150, 1500)
        if some(0.1):
            options["stall_timeout"] = 800
        for flag in ("lifo", "remove_on_complete", "remove_on_fail"):
            if some(0.1):
                options[flag] = True
        if some(0.1):
            options["keep_completed_count"] = 2
        if some(0.1):
            options["keep_completed_age"] = 500
        if keys:
            self._add_keys(options)
        if depends and some(0.25) and self.town.known:
            wanted = {self.town.job() for _ in range(chance.randint(1, 3))}
            options["depends_on"] = sorted(job_id for job_id in wanted if job_id is not None)
            options["on_dependency_failure"] = chance.choice(POLICIES)
        elif some(0.3):
            options["durability"] = chance.choice(("durable", "async", "memory"))
            if "job_id" in options and options["durability"] == "memory":
                del options["durability"]
        return options

    def _add_keys(self, options: dict[str, Any]) -> None:
        chance, some = self.world.chance, self.world.happens
        if some(0.2):
            options["unique_key"] = f"unique-{chance.randint(1, 4)}"
        if some(0.15):
            options["job_id"] = f"custom-{chance.randint(1, 12)}"
        if some(0.15):
            options["debounce_id"] = f"debounce-{chance.randint(1, 3)}"
            options["debounce_ttl"] = 400

    def _level(self, options: dict[str, Any]) -> str:
        return options.get("durability") or self.town.setting.level

    def _push(self) -> None:
        number, data = self.town.payload()
        options, losses = self._options(), self.town.losses()

        def then(outcome: Outcome) -> None:
            if outcome.error is not None:
                self._refused(outcome.error, number)
                return
            job_id = decode(outcome.reply, jobs.PushReply).id
            self._pushed(job_id, options, losses, outcome)

        self.ask(jobs.Push(queue=self.town.queue(), data=data, **options), then)

    def _pushed(
        self, job_id: int, options: dict[str, Any], losses: list[int], outcome: Outcome
    ) -> None:
        self.town.learn(job_id)
        # A custom id may name a job of an earlier push, of another level.
        level = None if "job_id" in options else self._level(options)
        self.told(job_id, "pushed", losses, level=level, sent_us=outcome.sent_us)

    def _refused(self, error: FlashQError, *numbers: int) -> None:
        if is_definite(error):
            for number in numbers:
                self.town.witness.refuse(number, error.code)

    def _push_batch(self) -> None:
        entries, numbers, losses = [], [], self.town.losses()
        plain = self.world.happens(0.5)
        for _ in range(self.world.chance.randint(1, 8)):
            number, data = self.town.payload()
            numbers.append(number)
            entries.append({"data": data, **({} if plain else self._options())})

        def then(outcome: Outcome) -> None:
            if outcome.error is not None:
                self._refused(outcome.error, *numbers)
                return
            reply = decode(outcome.reply, jobs.PushBatchReply)
            for job_id, entry in zip(reply.ids, entries, strict=True):
                if job_id is not None:
                    self._pushed(job_id, entry, losses, outcome)
            for refused in reply.errors:
                self.town.witness.refuse(numbers[refused.index], refused.code)

        self.ask(prepare_push_batch(self.town.queue(), entries), then)

    def _push_flow(self) -> None:
        numbers, children, losses = [], [], self.town.losses()
        for _ in range(self.world.chance.randint(1, 4)):
            number, data = self.town.payload()
            numbers.append(number)
            options = self._options(keys=False, depends=False)
            if options.get("durability") == "memory":
                del options["durability"]
            children.append(jobs.NewChild(queue=self.town.queue(), data=data, **options))
        number, data = self.town.payload()
        numbers.append(number)
        policy: OnDependencyFailure = self.world.chance.choice(POLICIES)
        flow = jobs.Flow(
            queue=self.town.queue(), children=children, data=data, on_dependency_failure=policy
        )

        def then(outcome: Outcome) -> None:
            if outcome.error is not None:
                self._refused(outcome.error, *numbers)
                return
            reply = decode(outcome.reply, jobs.FlowReply)
            for job_id in (reply.parent_id, *reply.children_ids):
                self.town.learn(job_id)
                self.told(job_id, "pushed", losses, sent_us=outcome.sent_us)

        self.ask(flow, then)


class Reader(Habit):
    """Looks at jobs, waits for them, and listens to events."""

    pause_us = (30 * MS, 250 * MS)

    def begin(self, client: ClientProcess) -> None:
        """A client has started."""
        super().begin(client)
        if self.world.happens(0.7):
            client.subscribe("*")

    def act(self) -> None:
        """Look at something."""
        job_id = self.town.job()
        if job_id is None or self.town.is_closing:
            return
        kind = self.world.chance.random()
        if kind < 0.35:
            self._look(job_id)
        elif kind < 0.7:
            self._wait(job_id)
        else:
            self.do(self._question(job_id))

    def _look(self, job_id: int) -> None:
        losses = self.town.losses()

        def then(outcome: Outcome) -> None:
            if outcome.error is None:
                state = decode(outcome.reply, jobs.StateReply).state
                if state != "unknown":
                    what = "completed" if state == "completed" else "pushed"
                    self.told(job_id, what, losses, sent_us=outcome.sent_us)

        self.ask(jobs.GetState(id=job_id), then)

    def _wait(self, job_id: int) -> None:
        losses = self.town.losses()
        timeout = self.world.chance.choice((0, 300, 2000, 4000))

        def then(outcome: Outcome) -> None:
            if outcome.error is None:
                self.told(job_id, "completed", losses, sent_us=outcome.sent_us)

        self.ask(jobs.WaitJob(id=job_id, timeout=timeout), then, timeout + 3000)

    def _question(self, job_id: int) -> Any:
        queue, other = self.town.queue(), self.town.job() or 0
        return self.world.chance.choice(
            (
                jobs.GetJob(id=job_id),
                jobs.GetResult(id=job_id),
                jobs.GetJobByCustomId(job_id="custom-1"),
                jobs.GetJobByCustomId(job_id="custom-2", queue=queue),
                jobs.GetJobsBatch(ids=[job_id, other, 17]),
                jobs.GetJobs(queue=queue, limit=10),
                jobs.GetJobs(limit=5, offset=2),
                jobs.GetChildren(parent_id=job_id),
                jobs.GetLogs(id=job_id),
                queues.IsPaused(queue=queue),
                queues.Count(queue=queue),
                queues.GetJobCounts(queue=queue),
                queues.ListQueues(),
                queues.GetDlq(queue=queue),
                server.Stats(),
                server.GetMetrics(),
                crons.ListCrons(),
            )
        )

    def noticed(self, notice: NoticeReceived) -> None:
        """An event has come: what it says is as true as a reply."""
        content = notice.notice
        if not isinstance(content, EventArrived):
            self.world.seen["gaps told to a listener"] += 1
            return
        event = content.event
        self.world.seen["events heard"] += 1
        if event.event in ("completed", "pushed"):
            never = [-1] * self.town.setting.shards
            for job_id in event.ids:
                self.told(job_id, event.event, never, sent_us=self.world.now_us)


class Owner(Habit):
    """Changes queues and single jobs."""

    pause_us = (60 * MS, 400 * MS)

    def act(self) -> None:
        """Change something; once the town closes, open everything."""
        if self.town.is_closing:
            self.pause_us = (2500 * MS, 3000 * MS)
            self._open_everything()
            return
        job_id, queue = self.town.job(), self.town.queue()
        if self.town.setting.has_busy_owner and self.world.happens(0.7):
            self._set_something(queue)
        elif job_id is not None and self.world.happens(0.5):
            self._change(job_id)
        elif self.world.happens(0.7):
            self._limit(queue)
        else:
            self._tidy(queue)

    def _open_everything(self) -> None:
        for queue in self.town.setting.queues:
            self.do(queues.Resume(queue=queue))
            self.do(queues.ClearRateLimit(queue=queue))
            self.do(queues.ClearConcurrency(queue=queue))
            self.do(queues.RetryDlq(queue=queue))
        for number in range(3):
            self.do(crons.DeleteCron(name=f"cron-{number}"))

    def _change(self, job_id: int) -> None:
        chance, losses = self.world.chance, self.town.losses()
        if chance.random() < 0.4:

            def then(outcome: Outcome) -> None:
                if outcome.error is None:
                    self.told(job_id, "cancelled", losses, sent_us=outcome.sent_us)

            self.ask(jobs.Cancel(id=job_id, reason="not needed"), then)
            return
        self.do(
            chance.choice(
                (
                    jobs.Discard(id=job_id),
                    jobs.Promote(id=job_id),
                    jobs.ChangePriority(id=job_id, priority=chance.randint(-2, 2)),
                    jobs.Log(id=job_id, message="seen"),
                    self._update(job_id),
                )
            )
        )

    def _update(self, job_id: int) -> jobs.UpdateJob:
        """Change a payload, but not what it is known by."""
        job = self.town.witness.facts_of(job_id)
        number = None if job is None else job.payload
        data = Raw(encode_msgpack({"p": number, "changed": True}))
        return jobs.UpdateJob(id=job_id, data=data)

    def _limit(self, queue: str) -> None:
        chance = self.world.chance
        match chance.randint(0, 5):
            case 0:
                self.do(queues.Pause(queue=queue))
                self.client.later(
                    self.world.between(100 * MS, 900 * MS),
                    lambda: self.do(queues.Resume(queue=queue)),
                )
            case 1 | 2:
                self.do(queues.SetConcurrency(queue=queue, limit=chance.randint(1, 4)))
            case 3:
                self.do(queues.ClearConcurrency(queue=queue))
            case 4:
                self.do(queues.SetRateLimit(queue=queue, limit=chance.choice((1, 5, 20))))
            case _:
                self.do(queues.ClearRateLimit(queue=queue))

    def _set_something(self, queue: str) -> None:
        """Set a rate, or a cron that lives until it has fired as often as it may, unless it is
        changed."""
        if self.world.happens(0.7):
            self.do(queues.SetRateLimit(queue=queue, limit=self.world.chance.choice((1, 5))))
        else:
            self._set_cron(self._cron(queue, self.world.chance.randint(0, 2), 60))

    def _set_cron(self, cron: crons.SetCron) -> None:
        def then(outcome: Outcome) -> None:
            if outcome.error is None:
                self.town.witness.firings.told_set(cron, outcome.sent_us)

        self.ask(cron, then)

    @staticmethod
    def _cron(queue: str, number: int, every_ms: int) -> crons.SetCron:
        data = Raw(encode_msgpack({"p": f"cron-{number}"}))
        return crons.SetCron(
            name=f"cron-{number}", queue=queue, data=data, repeat_every=every_ms, limit=CRON_LIMIT
        )

    def _tidy(self, queue: str) -> None:
        chance = self.world.chance
        state = chance.choice(("waiting", "delayed", "completed", "failed"))
        number = chance.randint(0, 2)
        cron = self._cron(queue, number, chance.choice((200, 700)))
        self.do(
            chance.choice(
                (
                    queues.Clean(queue=queue, grace=500, state=state, limit=3),
                    queues.RetryDlq(queue=queue),
                    queues.PurgeDlq(queue=queue),
                    queues.QueueConfig(queue=queue, keep_completed_count=chance.randint(1, 5)),
                    queues.Drain(queue=queue),
                    queues.Obliterate(queue=queue),
                    cron,
                    cron,
                    cron,
                    crons.DeleteCron(name=f"cron-{number}"),
                )
            )
        )
