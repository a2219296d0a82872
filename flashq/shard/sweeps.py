"""Changes of many jobs of one queue: DRAIN, OBLITERATE, CLEAN, RETRYDLQ and PURGEDLQ.

Owns those that are too large for one turn. Each is about the jobs that there were when it was
asked; what was pushed since is none of its business, and what has gone elsewhere meanwhile is left
out. It is answered when it is through. One that a crash cuts short has changed what it had come to,
and was not answered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from msgspec import Struct

from flashq.errors import Busy
from flashq.protocol.records import AnyRecord
from flashq.shard.context import Context, Decision
from flashq.shard.core import SLICE_JOBS, Core
from flashq.shard.holdings import Queue
from flashq.shard.lifecycle import ACTIVE, ASIDE, FAILED, KEPT, WAITING, Job
from flashq.shard.outbox import Origin

_ID: Final = attrgetter("id")
SWEEPS_MAX: Final = 100
"""So many are under way at most; each has a list of its jobs."""


def jobs_of(queue: Queue | None, states: Collection[int], *, is_ordered: bool = True) -> list[Job]:
    """Return a queue's jobs in these states. It costs what the queue has, whatever else there is in
    the shard.

    Args:
        queue: None for one that is not there.
        states: which of its jobs.
        is_ordered: oldest id first, also when they are very many.
    """
    if queue is None or not any(queue.counts[state] for state in states):
        return []
    found: list[Job] = []
    if WAITING in states:
        for lane in queue.ready.lanes().values():
            entries = lane.entries()
            found += [job for job in entries if job.state == WAITING] if lane.dead else entries
    if not ASIDE.isdisjoint(states):
        found += [job for job in queue.aside.values() if job.state in states]
    if ACTIVE in states:
        found += [
            job
            for delivery in queue.deliveries
            for job in delivery.jobs
            if job.lease is delivery and job.queue == queue.name
        ]
    if FAILED in states:
        found += queue.dlq.values()
    if not KEPT.isdisjoint(states):
        filed = chain(queue.kept, queue.aged)
        found += [job for job in filed if job.state in states and job.state in KEPT]
    if is_ordered or len(found) <= SLICE_JOBS:
        found.sort(key=_ID)
    return found


class Sweep(Struct):
    """One such change.

    Args:
        queue: the jobs'.
        jobs: as they stood, in the order in which they are changed.
        states: those of them are changed that are in one of these.
        counted: those of them are counted that are in one of these.
        change: returns what is decided of some of them.
        finish: returns reply and further records, by how many were counted.
        durable: whether the reply waits for all that to be safe.
    """

    queue: str
    jobs: list[Job]
    states: Collection[int]
    counted: Collection[int]
    change: Callable[[list[Job]], list[AnyRecord]]
    finish: Callable[[int], tuple[Any, list[AnyRecord]]]
    durable: bool
    place: int = 0
    count: int = 0

    @property
    def is_done(self) -> bool:
        return self.place >= len(self.jobs)

    def step(self, context: Context) -> list[AnyRecord]:
        """Return what is decided of the next slice."""
        index, queue = context.state.index, self.queue
        some = self.jobs[self.place : self.place + SLICE_JOBS]
        self.place += SLICE_JOBS
        # A job whose object was replaced is still the same job.
        found = [job for each in some if (job := index.get(each.id)) is not None]
        left = [job for job in found if job.state in self.states and job.queue == queue]
        self.count += sum(job.state in self.counted for job in left)
        return self.change(left) if left else []

    def decide(self, context: Context) -> Decision:
        """Return the decision, which is to go on where one slice is not enough."""
        if len(self.jobs) > SLICE_JOBS:
            return Decision(None, [], self.durable, self)
        records = self.step(context)
        reply, more = self.finish(self.count)
        return Decision(reply, [*records, *more], self.durable)


class Running(Struct, eq=False):
    """One that is under way, and who is answered in the end."""

    sweep: Sweep
    command: Any
    origin: Origin


class Sweeps:
    """All that are under way; each gets a slice in its turn.

    Args:
        core: the engine's middle.
        end: carries out what is left of one that is through: its reply, and further records.
    """

    def __init__(self, core: Core, end: Callable[[Running, Any, list[AnyRecord]], None]) -> None:
        self._core = core
        self._end = end
        self._running: OrderedDict[Running, None] = OrderedDict()
        self._by_request: dict[tuple[bytes, int], Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, sweep: Sweep, command: Any, origin: Origin) -> None:
        """Take one on.

        Raises:
            Busy: too many are under way.
        """
        if len(self._running) >= SWEEPS_MAX:
            raise Busy(detail=f"{SWEEPS_MAX} removals of many jobs are under way in this shard")
        running = Running(sweep, command, origin)
        self._running[running] = None
        if command.session is not None and command.n is not None:
            self._by_request[command.session, command.n] = running

    def rejoin(self, session: bytes, n: int, origin: Origin) -> bool:
        """Let a repeat be answered in the place of the request; False when that is not under
        way."""
        running = self._by_request.get((session, n))
        if running is not None:
            running.origin = origin
        return running is not None

    def turn(self) -> None:
        """Carry out a slice of the next one."""
        if not self._running:
            return
        running = next(iter(self._running))
        sweep, command = running.sweep, running.command
        records = sweep.step(self._core.context)
        if records:
            self._core.commit(records, durable=sweep.durable)
        if not sweep.is_done:
            self._running.move_to_end(running)
            return
        del self._running[running]
        self._by_request.pop((command.session, command.n), None)
        self._end(running, *sweep.finish(sweep.count))
