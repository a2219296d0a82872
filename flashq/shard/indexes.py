"""Where jobs are found: by id in pages, in the order of delivery in lanes.

Owns no semantics: callers say what changes. Entries of jobs that left a lane from its middle stay
behind and are skipped, which is why such a job is marked GONE or is replaced by a copy: an entry
counts exactly when its job is WAITING.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterator
from copy import copy
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final

from flashq.ids import JOB_ID_MAX
from flashq.shard.lifecycle import GONE, KEPT, WAITING, Job

PAGE_SEQUENCES: Final = 1024
_COMPACT_AT: Final = 1024


class Page:
    """The jobs of 1,024 sequences."""

    __slots__ = ("aside", "dirty", "ended_mark", "jobs", "live", "outcomes", "written")

    def __init__(self) -> None:
        #: the job of each sequence, None where there is none
        self.jobs: list[Job | None] = [None] * PAGE_SEQUENCES
        #: how many of `jobs` are not None
        self.live = 0
        #: how jobs that are no longer here ended, by OUTCOME_ code; None before the first one
        self.outcomes: bytearray | None = None
        #: the shard's count of ended jobs when the last of this page's ended
        self.ended_mark = 0
        #: changed since the last checkpoint began
        self.dirty = False
        #: while a checkpoint has still to write this page: what changed jobs were like at its
        #: beginning, by offset; else None
        self.aside: dict[int, bytes | None] | None = None
        #: the page as it was at that beginning, encoded when much of it was about to change
        self.written: bytes | None = None

    @property
    def is_to_be_written(self) -> bool:
        """Whether a checkpoint under way still has to give this page to storage."""
        return self.aside is not None or self.written is not None


_NO_JOBS: Final[list[Job | None]] = [None] * PAGE_SEQUENCES


def slices(sequences: range) -> Iterator[tuple[int, int, int]]:
    """Yield where sequences that follow each other stand: page number, first offset, count."""
    at, stop = sequences.start, sequences.stop
    while at < stop:
        number, offset = divmod(at, PAGE_SEQUENCES)
        count = min(PAGE_SEQUENCES - offset, stop - at)
        yield number, offset, count
        at += count


class JobIndex:
    """Jobs by id. An id outside this shard is simply not found."""

    __slots__ = ("_known", "_shard", "_shard_count", "_span", "count", "pages")

    def __init__(self, shard: int, shard_count: int) -> None:
        self._shard = shard
        self._shard_count = shard_count
        self._span = PAGE_SEQUENCES * shard_count
        self.pages: dict[int, Page] = {}
        self.count = 0
        #: the ids that `run_of` was asked about last, which nobody changes, and its answer
        self._known: tuple[list[int], range | None] = ([], None)

    def get(self, job_id: int) -> Job | None:
        page = self.pages.get(job_id // self._span)
        if page is None or job_id % self._shard_count != self._shard:
            return None
        return page.jobs[job_id // self._shard_count % PAGE_SEQUENCES]

    def get_many(self, job_ids: list[int]) -> list[Job | None]:
        """Return the jobs of many ids, in line with them."""
        found: list[Job | None] = []
        sequences = self.run_of(job_ids)
        if sequences is not None:
            for number, offset, count in slices(sequences):
                page = self.pages.get(number)
                jobs = _NO_JOBS if page is None else page.jobs
                found += jobs[offset : offset + count]
            return found
        append, pages = found.append, self.pages
        span, step, shard = self._span, self._shard_count, self._shard
        last, jobs = -1, _NO_JOBS
        for job_id in job_ids:
            number = job_id // span
            if number != last:
                page = pages.get(number)
                jobs = _NO_JOBS if page is None else page.jobs
                last = number
            sequence, owner = divmod(job_id, step)
            append(jobs[sequence % PAGE_SEQUENCES] if owner == shard else None)
        return found

    def run_of(self, job_ids: list[int]) -> range | None:
        """Return the sequences of ids that follow each other without a hole, as those of a batch
        do: None when these are others. It saves looking at each of them."""
        known, run = self._known
        if job_ids is not known:  # else it is asked again about the ids of one record
            run = self._run_of(job_ids)
            self._known = (job_ids, run)
        return run

    def _run_of(self, job_ids: list[int]) -> range | None:
        if not job_ids:
            return None
        first, last, step = job_ids[0], job_ids[-1], self._shard_count
        if last - first != (len(job_ids) - 1) * step or first % step != self._shard:
            return None
        if job_ids != list(range(first, last + 1, step)):
            return None
        return range(first // step, last // step + 1)

    def place(self, job_id: int) -> tuple[int, int]:
        """Return the number of the id's page and its offset there."""
        return divmod(job_id // self._shard_count, PAGE_SEQUENCES)

    def pages_of(self, job_ids: list[int]) -> Collection[int]:
        """Return the numbers of the pages that ids belong to, each once."""
        sequences = self.run_of(job_ids)
        if sequences is not None:
            return range(sequences[0] // PAGE_SEQUENCES, sequences[-1] // PAGE_SEQUENCES + 1)
        return {job_id // self._span for job_id in job_ids}

    def page(self, number: int) -> Page:
        """Return a page, made if there was none."""
        page = self.pages.get(number)
        if page is None:
            page = self.pages[number] = Page()
        return page

    def newest_first(self) -> list[int]:
        """Return the numbers of all pages, newest first."""
        return sorted(self.pages, reverse=True)


def _key(job: Job) -> tuple[int, int]:
    return (job.run_at, job.id)


class Lane:
    """The ready jobs of one queue and one priority, in the order of delivery: lifo jobs newest
    first, then the others by run_at, then id.

    New jobs come in that order already and go to the tail of `fifo` in O(1); what comes out of
    order (retries, promotions, delays that ran out) goes to a heap. `staged` holds the first
    jobs, in order, once they had to be looked at in the presence of heaps.
    """

    __slots__ = ("_fifo", "_lifo", "_side", "_staged", "_stamp", "dead", "live")

    def __init__(self) -> None:
        self._fifo: deque[Job] = deque()
        self._side: list[tuple[int, int, int, Job]] = []
        self._lifo: list[tuple[int, int, Job]] = []
        self._staged: deque[Job] = deque()
        self._stamp = 0
        #: entries whose job is waiting, and entries whose job is not
        self.live = 0
        self.dead = 0

    def extend(self, jobs: list[Job]) -> None:
        """Add jobs that are no lifo jobs, all due at the same time, with ascending ids."""
        fifo = self._fifo
        if (fifo and _key(fifo[-1]) > _key(jobs[0])) or self._staged:
            for job in jobs:
                self.add(job)
            return
        fifo.extend(jobs)
        self.live += len(jobs)

    def add(self, job: Job) -> None:
        """Add one job, wherever it belongs."""
        self.live += 1
        self._stamp += 1
        lifo = job.options is not None and job.options.lifo
        if self._staged and self._before(job, lifo, self._staged[-1]):
            self._unstage()
        if lifo:
            heappush(self._lifo, (-job.id, self._stamp, job))
        elif not self._fifo or _key(self._fifo[-1]) <= _key(job):
            self._fifo.append(job)
        else:
            heappush(self._side, (job.run_at, job.id, self._stamp, job))

    @staticmethod
    def _before(job: Job, lifo: bool, other: Job) -> bool:
        other_lifo = other.options is not None and other.options.lifo
        if lifo != other_lifo:
            return lifo
        return job.id > other.id if lifo else _key(job) < _key(other)

    def _unstage(self) -> None:
        """Put the staged jobs back where they were taken from."""
        for job in self._staged:
            self._stamp += 1
            if job.options is not None and job.options.lifo:
                heappush(self._lifo, (-job.id, self._stamp, job))
            else:
                heappush(self._side, (job.run_at, job.id, self._stamp, job))
        self._staged.clear()

    def discard(self, count: int = 1) -> None:
        """Count entries as dead: their jobs, wherever they stand, are WAITING no longer."""
        self.live -= count
        self.dead += count
        if self.dead > _COMPACT_AT and self.dead > self.live:
            self._compact()

    def _compact(self) -> None:
        self._fifo = deque(job for job in self._fifo if job.state == WAITING)
        self._staged = deque(job for job in self._staged if job.state == WAITING)
        self._side = [entry for entry in self._side if entry[3].state == WAITING]
        self._lifo = [entry for entry in self._lifo if entry[2].state == WAITING]
        heapify(self._side)
        heapify(self._lifo)
        self.dead = 0

    def _plain(self) -> bool:
        return not (self.dead or self._side or self._lifo or self._staged)

    def peek(self, count: int) -> list[Job]:
        """Return the first jobs, at most `count`."""
        if self._plain():
            return list(islice(self._fifo, count))
        if self.dead and self._staged:
            self._drop_dead_staged()
        while len(self._staged) < count:
            job = self._next_entry()
            if job is None:
                break
            self._staged.append(job)
        return list(islice(self._staged, count))

    def _next_entry(self) -> Job | None:
        """Take the first waiting job out of the heaps and `fifo`."""
        while self._lifo:
            job = heappop(self._lifo)[2]
            if job.state == WAITING:
                return job
            self.dead -= 1
        fifo, side = self._fifo, self._side
        while side and side[0][3].state != WAITING:
            heappop(side)
            self.dead -= 1
        while fifo and fifo[0].state != WAITING:
            fifo.popleft()
            self.dead -= 1
        if side and (not fifo or side[0][:2] < _key(fifo[0])):
            return heappop(side)[3]
        return fifo.popleft() if fifo else None

    def pop(self, count: int) -> list[Job]:
        """Take the first jobs out, at most `count`; the caller moves them on from WAITING."""
        if self._plain():
            popleft = self._fifo.popleft
            jobs = [popleft() for _ in range(min(count, len(self._fifo)))]
        else:
            self.peek(count)
            popleft = self._staged.popleft
            jobs = [popleft() for _ in range(min(count, len(self._staged)))]
        self.live -= len(jobs)
        return jobs

    def _drop_dead_staged(self) -> None:
        alive = [job for job in self._staged if job.state == WAITING]
        self.dead -= len(self._staged) - len(alive)
        self._staged = deque(alive)

    def entries(self) -> list[Job]:
        """Return the jobs of all entries, dead ones included, in no order."""
        side = [entry[3] for entry in self._side]
        lifo = [entry[2] for entry in self._lifo]
        return [*self._staged, *self._fifo, *side, *lifo]


class ReadyJobs:
    """The ready jobs of one queue: a lane for each priority in use, highest first."""

    __slots__ = ("_lanes", "_order")

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._order: list[int] = []
        """The negated priorities that have a lane, ascending."""

    def lane(self, priority: int) -> Lane:
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = Lane()
            insort(self._order, -priority)
        return lane

    def discard(self, priority: int, count: int = 1) -> None:
        """Take jobs out of the middle: their objects have just ceased to be WAITING."""
        lane = self._lanes[priority]
        lane.discard(count)
        if not lane.live:
            self._drop(priority)

    def _drop(self, priority: int) -> None:
        del self._lanes[priority]
        del self._order[bisect_left(self._order, -priority)]

    def peek(self, count: int) -> list[Job]:
        """Return the first `count` jobs in the order of delivery, or fewer when there are fewer."""
        if len(self._order) == 1:
            return self._lanes[-self._order[0]].peek(count)
        jobs: list[Job] = []
        for negated in self._order:
            jobs += self._lanes[-negated].peek(count - len(jobs))
            if len(jobs) >= count:
                break
        return jobs

    def pop(self, count: int) -> list[Job]:
        """Take the first `count` jobs out."""
        jobs: list[Job] = []
        while self._order and len(jobs) < count:
            priority = -self._order[0]
            lane = self._lanes[priority]
            jobs += lane.pop(count - len(jobs))
            if not lane.live:
                self._drop(priority)
        return jobs

    def __len__(self) -> int:
        return sum(lane.live for lane in self._lanes.values())

    def lanes(self) -> dict[int, Lane]:
        """Return the lanes by priority, for checks and for lists."""
        return self._lanes


Due = tuple[int, int]
"""A time and a job's id: what is due is in the order of these."""


class DueHeap:
    """Job ids ordered by a time. Whether an entry still counts, its reader finds out."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []

    def add(self, at_ms: int, job_id: int) -> None:
        heappush(self._heap, (at_ms, job_id))

    def first_ms(self) -> int | None:
        """Return the earliest time."""
        return self._heap[0][0] if self._heap else None

    def pop_until(self, at_ms: int, most: int | None = None) -> list[tuple[int, int]]:
        """Take out the entries up to and including `at_ms`, as (time, id), in order.

        Args:
            most: so many at most.
        """
        return self.pop_through((at_ms, JOB_ID_MAX), most)

    def pop_through(self, last: Due, most: int | None = None) -> list[Due]:
        """Take out the entries up to and including `last`, in order.

        Args:
            most: so many at most.
        """
        due: list[Due] = []
        heap = self._heap
        while heap and heap[0] <= last and len(due) != most:
            due.append(heappop(heap))
        return due

    def __len__(self) -> int:
        return len(self._heap)


def retire(job: Job) -> Job:
    """Mark the job's object as GONE and return a copy that takes its place.

    The lane's entry of the old object is dead from now on.
    """
    fresh = copy(job)
    job.state = GONE
    job.extra = None
    return fresh


def drop_gone(filed: deque[Job]) -> None:
    """Drop the oldest of filed jobs that are gone."""
    count = 0
    for job in filed:
        if job.state in KEPT:
            break
        count += 1
    popleft = filed.popleft
    for _ in range(count):
        popleft()
