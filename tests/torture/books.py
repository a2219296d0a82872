"""The books: all ledgers of a run, sorted by what they are about.

Owns indexes, and what follows from them without judging: who asked for what, which ids there are,
when a job certainly lived, and who was killed while it held what. The checker judges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from tests.torture.ledger import (
    Acknowledged,
    Attempted,
    Awaited,
    Declined,
    Delivered,
    Dropped,
    Ended,
    Ending,
    Found,
    Kept,
    Killed,
    Line,
    Refused,
    Seen,
    Unanswered,
    Wanted,
)

FOREVER: Final = 2**62
GATEWAYS: Final = ("tcp", "http")
"""Doors of the gateway."""


class Request(NamedTuple):
    """One request of a producer, and what it was told."""

    producer: str
    attempt: Attempted
    answer: Acknowledged | Refused | Unanswered | None
    """None for a producer that died before."""

    @property
    def is_acknowledged(self) -> bool:
        """Whether it was told that all of it is there."""
        return isinstance(self.answer, Acknowledged)

    @property
    def is_refused(self) -> bool:
        """Whether it was told that nothing happened."""
        return isinstance(self.answer, Refused)


class End(NamedTuple):
    """A worker's ack or fail of one job, begun or confirmed."""

    at: int
    way: str
    token: int


class Books:
    """See the module.

    Args:
        ledgers: the lines of each, by name.
        shards: how many there are.
    """

    def __init__(self, ledgers: Mapping[str, Sequence[Line]], shards: int) -> None:
        self.shards: Final = shards
        self.requests: list[Request] = []
        self.wanted: dict[str, Wanted] = {}
        #: by uid: the request that asked for it
        self.request_of: dict[str, Request] = {}
        #: by id: every delivery, in the order of their tokens
        self.deliveries: dict[int, list[Delivered]] = defaultdict(list)
        #: by uid: every id that was delivered with it
        self.delivered_ids: dict[str, set[int]] = defaultdict(set)
        #: by id: acks and fails that a worker began, and those that were confirmed
        self.endings: dict[int, list[End]] = defaultdict(list)
        self.ends: dict[int, list[End]] = defaultdict(list)
        self.awaited: list[Awaited] = []
        self.kills: list[Killed] = []
        self.found: dict[int, Found] = {}
        self.kept: dict[int, str] = {}
        #: by id: endings that were answered with an error which promises that nothing happened
        self.declined: dict[int, list[End]] = defaultdict(list)
        #: by id: until when each delivery certainly was held by a worker, by token
        self._let_go: dict[tuple[int, int], int] = {}
        self._holder: dict[tuple[int, int], str] = {}
        #: what the server said of active jobs, in the order of time
        self.seen: list[Seen] = []
        #: by worker: what it had and was not told to be done with
        self.held: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for name, lines in ledgers.items():
            self._take_producer(name, lines)
            for line in lines:
                self._take(name, line)
        for deliveries in self.deliveries.values():
            deliveries.sort(key=lambda delivery: delivery.token)
        self.kills.sort(key=lambda kill: kill.at)
        #: by id: who wanted it, and the first request that was told so
        self.acknowledged: dict[int, tuple[Wanted, Request]] = {}
        for request in sorted(self.requests, key=lambda request: request.attempt.at):
            if isinstance(request.answer, Acknowledged) and request.attempt.kind != "cron":
                for job, job_id in zip(request.attempt.jobs, request.answer.ids, strict=True):
                    self.acknowledged.setdefault(job_id, (job, request))

    def _take_producer(self, name: str, lines: Sequence[Line]) -> None:
        answers = {
            line.op: line for line in lines if isinstance(line, Acknowledged | Refused | Unanswered)
        }
        for line in lines:
            if isinstance(line, Attempted):
                request = Request(name, line, answers.get(line.op))
                self.requests.append(request)
                for job in line.jobs:
                    self.wanted[job.uid] = job
                    self.request_of[job.uid] = request

    def _take(self, name: str, line: Line) -> None:
        match line:
            case Delivered():
                self.deliveries[line.id].append(line)
                self.delivered_ids[line.uid].add(line.id)
                self.held[name].add((line.id, line.token))
                self._holder[line.id, line.token] = name
            case Ending():
                for job_id, token in line.leases:
                    self.endings[job_id].append(End(line.at, line.way, token))
                    self._let_go[job_id, token] = line.at
            case Ended():
                self.held[name].difference_update(line.leases)
                for job_id, token in line.leases:
                    self.ends[job_id].append(End(line.at, line.way, token))
            case Declined():
                for job_id, token in line.leases:
                    self.declined[job_id].append(End(line.at, line.way, token))
            case Dropped():
                self.held[name].difference_update(line.leases)
                for lease in line.leases:
                    self._let_go[lease] = line.at
            case Seen():
                self.seen.append(line)
            case Awaited():
                self.awaited.append(line)
            case Killed():
                self.kills.append(line)
            case Found():
                self.found[line.id] = line
            case Kept():
                self.kept[line.id] = line.result

    # --- what follows

    def shard_of(self, queue: str) -> int:
        """Return the shard that owns a queue."""
        return crc32(queue.encode()) % self.shards

    def ids_of(self, uid: str) -> set[int]:
        """Return every id that a job is known by."""
        ids = set(self.delivered_ids.get(uid, ()))
        request = self.request_of[uid]
        if isinstance(request.answer, Acknowledged) and request.attempt.kind != "cron":
            place = [job.uid for job in request.attempt.jobs].index(uid)
            ids.add(request.answer.ids[place])
        return ids

    def state_of(self, job_id: int) -> str:
        """Return the state in which an id was found; empty for none."""
        found = self.found.get(job_id)
        return "" if found is None else found.state

    def error_of(self, job_id: int) -> str:
        """Return why it failed; empty if it did not."""
        found = self.found.get(job_id)
        return "" if found is None else found.error

    def first_delivered(self, job_id: int) -> int | None:
        """Return when a worker first had a job; None for never."""
        return min((delivery.at for delivery in self.deliveries.get(job_id, ())), default=None)

    def earliest_end(self, job_id: int) -> int:
        """Return the time before which a job certainly had not ended."""
        may_have_failed = self.state_of(job_id) == "failed"
        begun = min(
            (end.at for end in self.endings.get(job_id, ()) if end.way == "ack" or may_have_failed),
            default=None,
        )
        if begun is not None:
            return begun
        if self.state_of(job_id) in ("", "completed", "failed"):  # it ended, nobody knows when
            return max((d.at for d in self.deliveries.get(job_id, ())), default=0)
        return FOREVER

    def latest_end(self, job_id: int) -> int:
        """Return the time from which on a job certainly had ended, once and for all."""
        return min(
            (end.at for end in self.ends.get(job_id, ()) if end.way == "ack"), default=FOREVER
        )

    def let_go_at(self, job_id: int, at: int) -> int:
        """Return from when on no worker that lives held a job, up to a time.

        Args:
            job_id: of the job.
            at: the time.

        Returns:
            `FOREVER` if one held it then; 0 if none ever had it.
        """
        latest = 0
        for delivery in self.deliveries.get(job_id, ()):
            if delivery.at > at:
                continue
            lease = (job_id, delivery.token)
            end = min(self._let_go.get(lease, FOREVER), self._death_of(self._holder[lease]))
            if end > at:
                return FOREVER
            latest = max(latest, end)
        return latest

    def _death_of(self, worker: str) -> int:
        return next(
            (kill.at for kill in self.kills if kill.name == worker and kill.kind == "worker"),
            FOREVER,
        )

    def last_trouble(self, at: int, shard: int) -> int:
        """Return when a shard was last killed, or anything stood still, before a time."""
        troubles = [
            kill.at
            for kill in self.kills
            if kill.at < at and (shard in kill.shards or kill.kind in ("still", "supervisor"))
        ]
        return max(troubles, default=0)

    def next_kill(self, at: int, shard: int) -> Killed | None:
        """Return the first kill of a shard after some time."""
        return next((kill for kill in self.kills if kill.at > at and shard in kill.shards), None)

    # --- who was killed with what in its hands

    def open_requests(self, at: int) -> Iterator[Request]:
        """Yield the requests that had been sent at some time, and not answered yet."""
        deaths = {kill.name: kill.at for kill in self.kills if kill.kind == "producer"}
        for request in self.requests:
            if request.answer is not None:
                end = request.answer.at
            else:
                end = deaths.get(request.producer, FOREVER)
            if request.attempt.at < at < end:
                yield request

    def was_holding(self, kill: Killed) -> bool:
        """Tell whether a victim died with work in its hands that was not acknowledged."""
        if kill.kind == "worker" or kill.name in self.held:
            return bool(self.held[kill.name])
        if kill.kind == "producer":
            return any(
                request.producer == kill.name and request.answer is None
                for request in self.requests
            )
        for request in self.open_requests(kill.at):
            if kill.kind == "gateway" and request.attempt.door not in GATEWAYS:
                continue
            if kill.kind not in ("shard", "twin") or any(
                self.shard_of(job.queue) in kill.shards for job in request.attempt.jobs
            ):
                return True
        return False
