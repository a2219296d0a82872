"""All of a shard's durable state, and the primitive steps that its evolution is made of.

Owns jobs, queues, sessions' answers and mailboxes, with every index over them. It changes in two
ways only: by `evolve.evolve(state, entry)`, one log entry at a time, and by `advance(at)`, the
passing of time, which depends on stored fields alone (a delayed job comes due, a debounce window
ends). Both give the same state when the log is replayed. Nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Final, cast

from flashq.ids import JOB_ID_MAX
from flashq.protocol.records import Answer, Options
from flashq.shard.debounces import Debounces
from flashq.shard.due import make_ready
from flashq.shard.holdings import (
    AwaitedPush,
    Mailbox,
    Queue,
    Session,
    Totals,
)
from flashq.shard.indexes import (
    PAGE_SEQUENCES,
    Due,
    DueHeap,
    JobIndex,
    Page,
    drop_gone,
    retire,
    slices,
)
from flashq.shard.lifecycle import (
    ACTIVE,
    ASIDE,
    CANCELLED,
    COMPLETED,
    DELAYED,
    FAILED,
    GONE,
    JSON_ONLY,
    KEPT,
    STATES,
    WAITING,
    Damage,
    Delivery,
    Job,
    expires_at,
    is_aged,
    is_retained,
    is_volatile,
    move,
    options_of,
)
from flashq.shard.pages import (
    BLOCK_SEQUENCES,
    MANY_OF_A_PAGE,
    PAGE_BYTES_MAX,
    content_of,
    image_of,
    size_of,
)

OUTCOME_COMPLETED: Final = 1
OUTCOME_FAILED: Final = 2
OUTCOME_REMOVED: Final = 3

JOB_BYTES: Final = 240
"""What a job takes beside its payload, for the bound on bytes."""
EXPIRED_SESSIONS_MAX: Final = 100_000


class ShardState:
    """The state of one shard.

    Args:
        shard: its number.
        shard_count: of how many.
        outcomes_max: how many ended jobs' outcomes are remembered, at least.
    """

    def __init__(self, shard: int, shard_count: int, outcomes_max: int = 100_000) -> None:
        self.shard = shard
        self.shard_count = shard_count
        self.outcomes_max = outcomes_max
        #: the log sequence of the last entry that took effect, and its time (wall ms)
        self.seq = 0
        self.now_ms = 0
        #: names the life of the shard that goes on now; a new one with each process
        self.incarnation = 0
        #: (sequence, incarnation) with which each life began in which mail was written that is not
        #: confirmed yet, and those after it
        self.lives: list[tuple[int, int]] = []
        #: the sequence of the next job
        self.next_sequence = 1
        self.index = JobIndex(shard, shard_count)
        self.queues: dict[str, Queue] = {}
        #: how many jobs are in each state, over all queues
        self.counts = [0] * STATES
        self.bytes = 0
        #: jobs of level memory, which the log does not know
        self.volatile_jobs = 0
        #: jobs that are to be kept once they have ended well, and those that are kept so
        self.retained = 0
        self.retained_ended = 0
        self.totals = Totals()
        #: at least all jobs in state DELAYED, by run_at
        self.delayed = DueHeap()
        #: the last that was made ready of the jobs that are due; None when all of them were
        self.due_mark: Due | None = None
        #: at least all jobs in state WAITING or DELAYED that have a ttl, by its end
        self.expiring = DueHeap()
        #: at least all jobs of the KEPT states with keep_completed_age, by its end
        self.ages = DueHeap()
        #: all jobs of the KEPT states that nobody asked to keep, oldest first, and some that are
        #: gone
        self.kept: deque[Job] = deque()
        #: those of them with a result, oldest first, and some that are gone or have lost it
        self.with_result: deque[Job] = deque()
        self.results = 0
        self.debounces = Debounces(self.queues)
        self.sessions: dict[bytes, Session] = {}
        #: what all answers of sessions take
        self.answer_bytes = 0
        #: sessions whose answers are forgotten, oldest first
        self.expired_sessions: OrderedDict[bytes, None] = OrderedDict()
        #: pushes whose answer waits for other shards, by key; and the key by their request
        self.awaited: dict[int, AwaitedPush] = {}
        self.awaited_requests: dict[tuple[bytes, int], int] = {}
        #: how many of them each session has; all and only those with one
        self.awaited_of: Counter[bytes] = Counter()
        #: the key of the awaited push, by pending job
        self.awaiting: dict[int, int] = {}
        #: the keys of awaited pushes that wait for nobody any more
        self.answerable: list[int] = []
        self.mailboxes: dict[int, Mailbox] = {}
        #: (incarnation, number) of the last message taken, by peer
        self.inboxes: dict[int, tuple[int, int]] = {}
        #: jobs that have ended and left the index
        self.ended = 0
        #: pages with outcomes, the one with the latest end last
        self.outcome_pages: OrderedDict[int, None] = OrderedDict()
        #: numbers of the pages that changed since the last checkpoint began
        self.dirty_pages: list[int] = []
        #: pages that storage has in blocks, and bit by bit which blocks changed since then
        self.cut_pages: dict[int, int] = {}
        self._options: dict[Options, Options] = {}

    # --- reading

    def job(self, job_id: int) -> Job | None:
        """Return the job that clients may know under this id: a pending one is not."""
        job = self.index.get(job_id)
        return None if job is None or job_id in self.awaiting else job

    def outcome(self, job_id: int) -> int | None:
        """Return how a job that is no longer here ended (OUTCOME_ code), None when not known."""
        number, offset = self.index.place(job_id)
        page = self.index.pages.get(number)
        if page is None or page.outcomes is None:
            return None
        return page.outcomes[offset] or None

    # --- time

    def advance(
        self, at_ms: int, *, until: Due | None = None, most: int | None = None
    ) -> list[str]:
        """Let time pass until `at_ms` (wall clock).

        What comes due meanwhile becomes ready, in its order. Of very much, a part does, and
        `due_mark` tells how far that went, so that a replay goes as far.

        Args:
            at_ms: the time from now on.
            until: make jobs ready up to this one; None for all that are due.
            most: so many at most; what is left becomes ready when time passes again.

        Returns:
            The queues in which a delayed job became ready.
        """
        self.now_ms = max(self.now_ms, at_ms)
        woken: list[str] = []
        first = self.delayed.first_ms()
        if first is not None and first <= self.now_ms:
            woken = make_ready(self, (self.now_ms, JOB_ID_MAX) if until is None else until, most)
        else:
            self.due_mark = None
        if until is not None:
            self.due_mark = until
        for name in self.debounces.end_until(self.now_ms):
            self.forget_if_idle(self.queues[name])
        return woken

    # --- primitive steps, for `evolve` alone

    def queue(self, name: str) -> Queue:
        """Return the queue, made if there was none."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name)
        return queue

    def forget_if_idle(self, queue: Queue) -> None:
        if queue.is_idle():
            self.queues.pop(queue.name, None)

    def intern(self, options: Options | None) -> Options | None:
        """Return one object for equal options, so that jobs share it."""
        if options is None or options.unique_key is not None or options.custom_id is not None:
            return options
        if options == JSON_ONLY:
            return JSON_ONLY
        if len(self._options) > 10_000:
            self._options.clear()
        return self._options.setdefault(options, options)

    def touch(self, job_id: int) -> Page:
        """Note that the job's page is about to change, and keep what a checkpoint still needs."""
        number, offset = self.index.place(job_id)
        page = self.index.page(number)
        if not page.dirty:
            page.dirty = True
            self.dirty_pages.append(number)
        if number in self.cut_pages:
            self.cut_pages[number] |= 1 << offset // BLOCK_SEQUENCES
        if page.aside is not None and offset not in page.aside:
            job = page.jobs[offset]
            kept = job is not None and not is_volatile(job)
            page.aside[offset] = image_of(job) if kept and job is not None else None
        return page

    def take(self, job_id: int) -> Job:
        """Return a job that is about to change.

        Raises:
            Damage: there is none.
        """
        page = self.touch(job_id)
        job = page.jobs[job_id // self.shard_count % PAGE_SEQUENCES]
        if job is None:
            raise Damage(f"record about job {job_id}, which is not there")
        return job

    def touch_many(self, job_ids: list[int]) -> None:
        """`touch` for many ids. A page of which much changes is written for the checkpoint as a
        whole: that takes no longer than to keep its jobs aside one by one."""
        pages, kept = self.index.pages, False
        numbers = self.index.pages_of(job_ids)
        many = len(job_ids) >= MANY_OF_A_PAGE * len(numbers)
        for number in numbers:
            page = pages.get(number)
            if page is None:
                raise Damage(f"record about a job of page {number}, which is not there")
            if not page.dirty:
                page.dirty = True
                self.dirty_pages.append(number)
            if number in self.cut_pages:
                kept = True
            elif page.aside is not None:
                if many and size_of(page) <= PAGE_BYTES_MAX:
                    page.written, page.aside = content_of(page)[0], None
                else:
                    kept = True
        if kept:
            for job_id in job_ids:
                self.touch(job_id)

    def take_many(self, job_ids: list[int]) -> list[Job]:
        """Return jobs that are about to change: `take` for many.

        Raises:
            Damage: one of them is not there.
        """
        self.touch_many(job_ids)
        jobs = self.index.get_many(job_ids)
        if None in jobs:
            missing = job_ids[jobs.index(None)]
            raise Damage(f"record about job {missing}, which is not there")
        return cast("list[Job]", jobs)

    def place(self, job: Job) -> None:
        """Put a new job, or a job's new object, into the index."""
        page = self.touch(job.id)
        offset = job.id // self.shard_count % PAGE_SEQUENCES
        if page.jobs[offset] is None:
            page.live += 1
            self.index.count += 1
        page.jobs[offset] = job

    def add(self, job: Job, queue: Queue) -> None:
        """Take in a job that is new here, with its keys; it is in its state already."""
        self.place(job)
        if job.state in ASIDE:
            queue.aside[job.id] = job
        queue.counts[job.state] += 1
        self.counts[job.state] += 1
        self.bytes += JOB_BYTES + len(job.data)
        options = job.options
        if options is None:
            return
        if options.unique_key is not None and job.state not in KEPT:
            queue.unique_keys[options.unique_key] = job.id
        if options.custom_id is not None and job.state != CANCELLED:
            known = queue.custom_ids.get(options.custom_id, 0)
            queue.custom_ids[options.custom_id] = max(known, job.id)
        if options.level == "memory":
            self.volatile_jobs += 1
        self.retained += is_retained(job)

    def set_state(self, job: Job, queue: Queue, to: int) -> None:
        """Move a job along the transition table and keep the counts."""
        was = job.state
        move(job, to)
        if to in ASIDE:
            queue.aside[job.id] = job
        elif was in ASIDE:
            del queue.aside[job.id]
        queue.counts[was] -= 1
        queue.counts[to] += 1
        self.counts[was] -= 1
        self.counts[to] += 1

    def enqueue(self, job: Job, queue: Queue, *, known: bool = True) -> None:
        """Bring a job into its queue: WAITING or DELAYED, by its run_at.

        Args:
            known: whether it was in another state before; a new job already is in the right one.
        """
        to = WAITING if job.run_at <= self.now_ms else DELAYED
        if known:
            self.set_state(job, queue, to)
        if to == WAITING:
            queue.ready.lane(job.priority).add(job)
        else:
            self.delayed.add(job.run_at, job.id)
        if job.options is not None and job.options.ttl:
            self.expiring.add(expires_at(job), job.id)

    def withdraw(self, job: Job, queue: Queue) -> Job:
        """Take a job out of what its state has put it into, before it goes to another.

        Returns:
            The job's object from now on.
        """
        if job.state == WAITING:
            job = retire(job)
            queue.ready.discard(job.priority)
            self.place(job)
        elif job.state == ACTIVE:
            self.close_lease(job)
        elif job.state == FAILED:
            del queue.dlq[job.id]
        return job

    def hold(self, job: Job, delivery: Delivery) -> None:
        """Add a job to those that are held under one delivery."""
        job.lease = delivery
        delivery.jobs.append(job)
        delivery.open += 1
        if job.queue not in delivery.queues:
            delivery.queues += (job.queue,)
            self.queue(job.queue).deliveries[delivery] = None

    def close_lease(self, job: Job) -> None:
        """End the job's hold on its delivery, and the delivery with its last job."""
        delivery = job.lease
        if delivery is None:
            return
        job.lease = None
        self.release(delivery, 1)

    def release(self, delivery: Delivery | None, jobs: int) -> None:
        """So many of a delivery's jobs are not held any more; with the last it is forgotten."""
        if delivery is None:
            return
        delivery.open -= jobs
        if delivery.open:
            return
        delivery.jobs = []
        for name in delivery.queues:
            self.queues[name].deliveries.pop(delivery, None)
        session = self.sessions.get(delivery.session)
        if session is not None:
            session.deliveries.pop(delivery.token, None)

    def end(self, job: Job, queue: Queue) -> None:
        """Release what only a job that has not ended holds: its unique key."""
        key = None if job.options is None else job.options.unique_key
        if key is not None and queue.unique_keys.get(key) == job.id:
            del queue.unique_keys[key]

    def forget(self, job: Job, queue: Queue, outcome: int) -> None:
        """Take a job out of everything. Its object becomes GONE."""
        self.end(job, queue)
        was = job.state
        if was == ACTIVE:
            self.close_lease(job)
        elif was == FAILED:
            del queue.dlq[job.id]
        elif was in ASIDE:
            del queue.aside[job.id]
        move(job, GONE)
        if was == WAITING:
            queue.ready.discard(job.priority)
        number, offset = self.index.place(job.id)
        page = self.touch(job.id)
        page.jobs[offset] = None
        page.live -= 1
        self.index.count -= 1
        queue.counts[was] -= 1
        self.counts[was] -= 1
        self.bytes -= JOB_BYTES + len(job.data)
        options = job.options
        is_kept_for_good = is_retained(job)
        if was in KEPT:
            if is_kept_for_good:
                self.retained_ended -= 1
                queue.aged_count -= is_aged(job)
            elif job.extra is not None and job.extra.result is not None:
                self.results -= 1
        if options is not None:
            self.retained -= is_kept_for_good
            queue.free_custom_id(job)
            if options.level == "memory":
                self.volatile_jobs -= 1
        job.data = b""
        job.extra = None
        if page.outcomes is None:
            page.outcomes = bytearray(PAGE_SEQUENCES)
        page.outcomes[offset] = outcome
        self._note_ends({number: 1})
        self.forget_if_idle(queue)

    def forget_plain(self, jobs: list[Job], ids: list[int], was: int, outcome: int) -> None:
        """Take many jobs without options and extra out of everything: `forget` for many.

        Args:
            jobs: which have been touched.
            ids: theirs.
            was: the state of all of them: WAITING, DELAYED, COMPLETED or CANCELLED.
            outcome: what is kept of each.
        """
        sequences = self.index.run_of(ids)
        if sequences is None:
            self._forget_scattered(ids, outcome)
        else:
            self._forget_run(sequences, outcome)
        size = sum([len(job.data) for job in jobs])
        for job in jobs:
            job.state = GONE
            job.data = b""
        names = [job.queue for job in jobs]
        is_one = names and names.count(names[0]) == len(names)  # sooner told than all are counted
        by_queue = {names[0]: len(names)} if is_one else Counter(names)
        for name, count in by_queue.items():
            self.queues[name].counts[was] -= count
        if was == WAITING:
            lanes = Counter([(job.queue, job.priority) for job in jobs])
            for (name, priority), count in lanes.items():
                self.queues[name].ready.discard(priority, count)
        if was in ASIDE:
            for job in jobs:
                del self.queues[job.queue].aside[job.id]
        self.index.count -= len(jobs)
        self.counts[was] -= len(jobs)
        self.bytes -= size + JOB_BYTES * len(jobs)
        for name in by_queue:
            self.forget_if_idle(self.queues[name])

    def _forget_run(self, sequences: range, outcome: int) -> None:
        """Empty the places of jobs that follow each other."""
        ends: dict[int, int] = {}
        for number, offset, count in slices(sequences):
            page = self.index.pages[number]
            if page.outcomes is None:
                page.outcomes = bytearray(PAGE_SEQUENCES)
            page.jobs[offset : offset + count] = [None] * count
            page.outcomes[offset : offset + count] = bytes([outcome]) * count
            page.live -= count
            ends[number] = count
        self._note_ends(ends)

    def _forget_scattered(self, job_ids: list[int], outcome: int) -> None:
        """Empty the places of jobs, wherever they are."""
        step, last = self.shard_count, -1
        span = step * PAGE_SEQUENCES
        for job_id in job_ids:
            number = job_id // span
            if number != last:
                page, last = self.index.pages[number], number
                if page.outcomes is None:
                    page.outcomes = bytearray(PAGE_SEQUENCES)
                slots, outcomes = page.jobs, page.outcomes
            offset = job_id // step % PAGE_SEQUENCES
            slots[offset] = None
            outcomes[offset] = outcome
            page.live -= 1
        self._note_ends(Counter([job_id // span for job_id in job_ids]))

    def _note_ends(self, ends: dict[int, int]) -> None:
        """Count ends, by page, and drop the outcomes of pages where nothing has ended for long."""
        pages, listed = self.index.pages, self.outcome_pages
        for number, count in ends.items():
            self.ended += count
            pages[number].ended_mark = self.ended
            listed[number] = None
            listed.move_to_end(number)
        while True:
            oldest = next(iter(listed))
            page = pages[oldest]
            if self.ended - page.ended_mark <= self.outcomes_max:
                return
            del listed[oldest]
            page.outcomes = None
            if not page.live and not page.is_to_be_written:
                self.forget_page(oldest)

    def forget_page(self, number: int) -> None:
        """Forget a page that has nothing any more."""
        page = self.index.pages.pop(number)
        if not page.dirty:  # else the next checkpoint drops its blocks from storage
            self.cut_pages.pop(number, None)

    def file_ended(self, job: Job, queue: Queue) -> None:
        """File a COMPLETED or CANCELLED job, newer than all that are filed, for retention."""
        filed = queue.aged if is_aged(job) else queue.kept
        drop_gone(filed)
        filed.append(job)
        queue.aged_count += filed is queue.aged
        if is_retained(job):
            self.retained_ended += 1
            age = options_of(job).keep_completed_age
            if age:
                self.ages.add(job.ended_at + age, job.id)
            return
        drop_gone(self.kept)
        self.kept.append(job)
        if job.extra is not None and job.extra.result is not None:
            self.keep_result(job, job.extra.result)

    def file_plain(self, jobs: list[Job], queue: Queue) -> None:
        """File many jobs of one queue that have just become COMPLETED and have no options."""
        for filed in (self.kept, queue.kept):
            drop_gone(filed)
            filed.extend(jobs)
        queue.counts[ACTIVE] -= len(jobs)
        queue.counts[COMPLETED] += len(jobs)

    def keep_result(self, job: Job, result: bytes) -> None:
        """Keep the result of a completed job that nobody asked to keep, newer than all others."""
        kept = self.with_result
        while kept and (kept[0].extra is None or kept[0].extra.result is None):
            kept.popleft()
        job.need_extra().result = result
        kept.append(job)
        self.results += 1

    def session(self, session_id: bytes) -> Session:
        """Return the session, made if there was none."""
        session = self.sessions.get(session_id)
        if session is None:
            session = self.sessions[session_id] = Session()
        return session

    def keep_answer(self, answer: Answer) -> None:
        """Keep the answer to a request for its repeats."""
        session = self.session(answer.session)
        before = session.bytes
        session.keep(answer)
        self.answer_bytes += session.bytes - before

    def begin_life(self, incarnation: int) -> None:
        """Let what comes from now on be written under this incarnation."""
        pending = [box.pending[0][1] for box in self.mailboxes.values() if box.pending]
        oldest = min(pending, default=self.seq)
        while len(self.lives) > 1 and self.lives[1][0] <= oldest:
            del self.lives[0]
        self.incarnation = incarnation
        self.lives.append((self.seq, incarnation))

    def incarnation_at(self, seq: int) -> int:
        """Return in which life the entry of that sequence was written."""
        for began, incarnation in reversed(self.lives):
            if began <= seq:
                return incarnation
        return self.incarnation

    def mailbox(self, peer: int) -> Mailbox:
        """Return the mailbox for a peer, made if there was none."""
        mailbox = self.mailboxes.get(peer)
        if mailbox is None:
            mailbox = self.mailboxes[peer] = Mailbox()
        return mailbox
