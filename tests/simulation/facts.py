"""What a shard's log says, read by a naive model: plain dictionaries, one entry after the other.

Imports nothing of `flashq.shard`. A record that cannot follow from those before it is a
`Violation`.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from flashq.protocol import records as r
from flashq.protocol.internal import AnyPeerMessage
from flashq.protocol.records import AnyRecord, Options, QueueSettings
from tests.simulation.world import Violation

READY: Final = "ready"
ACTIVE: Final = "active"
WAITS: Final = "waits for others"
PENDING: Final = "pending"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
GONE: Final = "gone"
ENDED: Final = (COMPLETED, FAILED, CANCELLED, GONE)

_STATES: Final = (READY, READY, ACTIVE, COMPLETED, FAILED)
"""By the number of a job's state in its image."""


class _Image(msgspec.Struct, array_like=True):
    """The first fields of a job as the log has it whole."""

    id: int
    queue: str
    data: bytes
    priority: int
    created_at: int
    run_at: int
    state: int
    attempts: int
    options: Options | None
    started_at: int
    ended_at: int
    token: int


_page: Final = msgspec.msgpack.Decoder(tuple[None, list[_Image]]).decode

_DEFAULTS: Final = Options()
_SETTINGS: Final = QueueSettings()


def payload_number(data: bytes) -> int | str | None:
    """Return the number that a payload of the workload carries; the name for one of a cron."""
    content = msgspec.msgpack.decode(data)
    number = content.get("p")
    return number if isinstance(number, int | str) else None


class JobFacts:
    """What is known of one job."""

    def __init__(
        self, job_id: int, queue: str, data: bytes, options: Options | None, level: str
    ) -> None:
        self.id: Final = job_id
        self.queue: Final = queue
        self.payload: Final = payload_number(data)
        self.options: Final = _DEFAULTS if options is None else options
        #: durable, async or memory
        self.level = self.options.level or level
        self.state = READY
        #: why it is GONE
        self.reason = ""
        #: tokens of its deliveries, the last one last
        self.tokens: list[int] = []
        #: it has gone back since its last delivery, which nobody may end any more
        self.is_back = False
        #: what it waits for and has not been told of
        self.open: set[int] = set(self.options.depends_on)
        #: how many failed attempts it has had
        self.failures = 0
        #: of a flow's parent
        self.children: list[int] = []
        #: it has ended, though it may have been taken out of the dead letters since
        self.has_ended = False
        #: it was taken out of the dead letters, and then waits for nobody
        self.is_retried = False
        #: it was pushed with level memory: the answer to the push is not kept
        self.is_raised = False

    @property
    def is_ended(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in ENDED

    def __repr__(self) -> str:
        return f"job {self.id} of {self.queue} (payload {self.payload}, {self.level}): {self.state}"


class ShardFacts:
    """What one shard's log says.

    Args:
        shard, shard_count: which, of how many.
        level: the server's durability level.
    """

    def __init__(self, shard: int, shard_count: int, level: str) -> None:
        self.shard: Final = shard
        self._count: Final = shard_count
        self._level: Final = level
        #: every job there ever was
        self.jobs: dict[int, JobFacts] = {}
        self.settings: dict[str, QueueSettings] = {}
        #: that was given last
        self._last_token = 0
        #: how many jobs of each queue are active
        self.active: Counter[str] = Counter()
        #: of the process that writes now
        self.incarnation = 0
        #: by peer: what was sent and in which incarnation, in order of its numbers from 1
        self.sent: dict[int, list[tuple[int, AnyPeerMessage]]] = {}
        #: by peer: how many of them it has confirmed
        self.confirmed: Counter[int] = Counter()
        #: by peer: incarnation and number of each message taken
        self.received: dict[int, set[tuple[int, int]]] = {}

    def id_of(self, sequence: int) -> int:
        """Return the id that a sequence makes."""
        return sequence * self._count + self.shard

    def settings_of(self, queue: str) -> QueueSettings:
        """Return what was set for a queue."""
        return self.settings.get(queue, _SETTINGS)

    def apply(self, record: AnyRecord) -> list[JobFacts]:
        """Take in a record.

        Returns:
            The jobs it is about, after it.

        Raises:
            Violation: it cannot be.
        """
        method = getattr(self, f"_{type(record).__name__.lower()}", None)
        found: list[JobFacts] = [] if method is None else method(record)
        return found

    def _new(self, sequence: int, queue: str, data: bytes, options: Options | None) -> JobFacts:
        job_id = self.id_of(sequence)
        if job_id in self.jobs:
            raise Violation(f"id {job_id} was given a second time")
        job = self.jobs[job_id] = JobFacts(job_id, queue, data, options, self._level)
        return job

    def _named(self, ids: list[int]) -> list[JobFacts]:
        missing = [job_id for job_id in ids if job_id not in self.jobs]
        if missing:
            raise Violation(f"shard {self.shard}: a record about {missing}, which never were")
        return [self.jobs[job_id] for job_id in ids]

    def _move(self, job: JobFacts, to: str, *allowed: str) -> None:
        if job.state not in allowed:
            raise Violation(f"{job!r} goes to {to}")
        if job.state == ACTIVE:
            self.active[job.queue] -= 1
        if to == ACTIVE:
            self.active[job.queue] += 1
        job.state = to
        job.has_ended = job.has_ended or to in ENDED

    # --- jobs

    def _pushed(self, record: r.Pushed) -> list[JobFacts]:
        return [
            self._new(record.first + place, record.queue, data, record.options)
            for place, data in enumerate(record.data)
        ]

    def _parked(self, record: r.Parked) -> list[JobFacts]:
        job = self._new(record.sequence, record.queue, record.data, record.options)
        job.state = PENDING
        job.children = [0] * len(record.children)
        return [job]

    def _confirmed(self, record: r.Confirmed) -> list[JobFacts]:
        jobs = self._named([record.id])
        self._move(jobs[0], WAITS, PENDING)
        return jobs

    def _dependencyknown(self, record: r.DependencyKnown) -> list[JobFacts]:
        jobs = self._named([record.id])
        if record.settled:
            jobs[0].open.discard(record.dependency)
        return jobs

    def _freed(self, record: r.Freed) -> list[JobFacts]:
        jobs = self._named([record.id])
        if jobs[0].open:
            raise Violation(f"{jobs[0]!r} is freed, and still waits for {jobs[0].open}")
        self._move(jobs[0], READY, WAITS)
        return jobs

    def _childmade(self, record: r.ChildMade) -> list[JobFacts]:
        jobs = self._named([record.parent])
        jobs[0].children[record.position] = record.child
        return jobs

    def _delivered(self, record: r.Delivered) -> list[JobFacts]:
        if record.token <= self._last_token:
            raise Violation(f"{record} under a token that was given before: {self._last_token}")
        self._last_token = record.token
        return self._handed_out(record.ids, record.token)

    def _handed_out(self, ids: list[int], token: int) -> list[JobFacts]:
        jobs = self._named(ids)
        for job in jobs:
            self._move(job, ACTIVE, READY)
            job.tokens.append(token)
            job.is_back = False
        return jobs

    def _adopted(self, record: r.Adopted) -> list[JobFacts]:
        for job in self._named(record.ids):
            last = job.tokens[-1] if job.tokens else 0
            if record.token < last or (record.token == last and job.is_back):
                raise Violation(f"{job!r} is adopted under {record.token}, and had {job.tokens}")
        return self._handed_out(record.ids, record.token)

    def _acked(self, record: r.Acked) -> list[JobFacts]:
        jobs = self._named(record.ids)
        for job in jobs:
            self._move(job, COMPLETED, ACTIVE, READY)
        return jobs

    def _failed(self, record: r.Failed) -> list[JobFacts]:
        jobs = self._named([record.id])
        to = FAILED if record.final else READY
        self._move(jobs[0], to, ACTIVE, READY, WAITS, PENDING)
        jobs[0].failures += 1
        jobs[0].is_back = True
        return jobs

    def _requeued(self, record: r.Requeued) -> list[JobFacts]:
        jobs = self._named(record.ids)
        for job in jobs:
            self._move(job, READY, ACTIVE)
            job.is_back = True
        return jobs

    def _cancelled(self, record: r.Cancelled) -> list[JobFacts]:
        jobs = self._named(record.ids)
        for job in jobs:
            self._move(job, CANCELLED, READY, ACTIVE, WAITS)
        return jobs

    def _removed(self, record: r.Removed) -> list[JobFacts]:
        jobs = self._named(record.ids)
        for job in jobs:
            if job.state in (COMPLETED, CANCELLED):
                continue  # it is forgotten, and has ended so all the same
            self._move(job, GONE, READY, ACTIVE, WAITS, PENDING, FAILED)
            job.reason = record.reason
        return jobs

    def _retried(self, record: r.Retried) -> list[JobFacts]:
        jobs = self._named(record.ids)
        for job in jobs:
            self._move(job, READY, FAILED)
            job.is_retried = True
        return jobs

    def _raised(self, record: r.Raised) -> list[JobFacts]:
        """A job of level memory lasts from now on; a log that is read again meets it here first."""
        _, [image] = _page(record.image)
        job = self.jobs.get(image.id)
        if job is None:
            job = JobFacts(image.id, image.queue, image.data, image.options, self._level)
            self.jobs[image.id] = job
            job.state = _STATES[image.state]
            job.tokens = [image.token] if image.token else []
            if job.state == ACTIVE:
                self.active[job.queue] += 1
        job.level = (None if image.options is None else image.options.level) or self._level
        job.is_raised = True
        return [job]

    # --- queues and mail

    def _queueset(self, record: r.QueueSet) -> list[JobFacts]:
        self.settings[record.queue] = record.settings
        return []

    def _queuegone(self, record: r.QueueGone) -> list[JobFacts]:
        self.settings.pop(record.queue, None)
        return []

    def _sent(self, record: r.Sent) -> list[JobFacts]:
        self.sent.setdefault(record.peer, []).append((self.incarnation, record.body))
        return []

    def _mailtaken(self, record: r.MailTaken) -> list[JobFacts]:
        sent = len(self.sent.get(record.peer, ()))
        if record.number > sent:
            raise Violation(f"shard {self.shard}: {record.peer} took {record.number} of {sent}")
        self.confirmed[record.peer] = max(self.confirmed[record.peer], record.number)
        return []

    def _received(self, record: r.Received) -> list[JobFacts]:
        message = (record.incarnation, record.number)
        if self.has_received(record.peer, message):
            raise Violation(f"shard {self.shard} carries out mail {record} again")
        self.received.setdefault(record.peer, set()).add(message)
        return []

    def has_received(self, peer: int, message: tuple[int, int]) -> bool:
        """Tell whether a peer's message, of an incarnation and number, was taken."""
        return message in self.received.get(peer, ())

    def _begun(self, record: r.Begun) -> list[JobFacts]:
        if record.incarnation <= self.incarnation:
            raise Violation(f"shard {self.shard}: {record} after {self.incarnation}")
        self.incarnation = record.incarnation
        return []
