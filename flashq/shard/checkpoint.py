"""A checkpoint: the exact state at one log sequence, written while work goes on.

When a checkpoint begins, the pages that changed since the last one become its to-do list, and
from then on the first change of a job on such a page keeps the job's old image aside
(`ShardState.touch`). So every page can be written later as it was at the beginning. The keyed
parts (settings, sessions, mailboxes, counters: small beside the jobs) are encoded at the
beginning itself.

Also the way back: a fresh state from parts and pages, before the log is replayed on it.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, msgpack

from flashq.errors import BadMessage
from flashq.protocol.internal import AnyPeerMessage
from flashq.protocol.records import Answer, QueueSettings
from flashq.shard.arrivals import await_request
from flashq.shard.holdings import DEFAULT_SETTINGS, AwaitedPush, Mailbox, Totals
from flashq.shard.indexes import PAGE_SEQUENCES
from flashq.shard.lifecycle import (
    ACTIVE,
    DELAYED,
    FAILED,
    KEPT,
    PENDING,
    WAITING,
    Damage,
    Delivery,
    Job,
    expires_at,
    options_of,
)
from flashq.shard.pages import (
    BLOCK_SEQUENCES,
    PAGE_BYTES_MAX,
    JobImage,
    content_of,
    decode_page,
    extra_of,
    size_of,
)
from flashq.shard.state import ShardState

ALL_BLOCKS: Final = (1 << PAGE_SEQUENCES // BLOCK_SEQUENCES) - 1
PART: Final = "state"
"""All keyed parts are one part: they are encoded at one moment anyway."""


class QueuePart(Struct, array_like=True):
    name: str
    settings: QueueSettings
    debounces: dict[str, int]


class SessionPart(Struct, array_like=True):
    session: bytes
    done_below: int
    answers: list[Answer]


class MailboxPart(Struct, array_like=True):
    peer: int
    next_number: int
    pending: list[tuple[int, int, AnyPeerMessage]]


class Part(Struct, array_like=True):
    """Everything but the jobs."""

    shard: int
    shard_count: int
    seq: int
    now_ms: int
    incarnation: int
    lives: list[tuple[int, int]]
    next_sequence: int
    totals: Totals
    ended: int
    queues: list[QueuePart]
    sessions: list[SessionPart]
    expired_sessions: list[bytes]
    awaited: list[AwaitedPush]
    awaiting: dict[int, int]
    mailboxes: list[MailboxPart]
    inboxes: dict[int, tuple[int, int]]
    outcomes: list[tuple[int, int, bytes]]
    """(page, mark, codes), the page with the latest end last."""
    due_mark: tuple[int, int] | None


_encode: Final = msgpack.Encoder().encode
_decode_part: Final = msgpack.Decoder(Part).decode


def encode_part(state: ShardState) -> bytes:
    """Return everything but the jobs, as it is now."""
    pages = state.index.pages
    return _encode(
        Part(
            state.shard,
            state.shard_count,
            state.seq,
            state.now_ms,
            state.incarnation,
            state.lives,
            state.next_sequence,
            state.totals,
            state.ended,
            [
                QueuePart(queue.name, queue.settings, queue.debounces)
                for queue in state.queues.values()
                if queue.debounces or queue.settings is not DEFAULT_SETTINGS
            ],
            [
                SessionPart(name, session.done_below, list(session.answers.values()))
                for name, session in state.sessions.items()
            ],
            list(state.expired_sessions),
            list(state.awaited.values()),
            state.awaiting,
            [
                MailboxPart(peer, box.next_number, list(box.pending))
                for peer, box in state.mailboxes.items()
            ],
            state.inboxes,
            [
                (number, pages[number].ended_mark, bytes(pages[number].outcomes or b""))
                for number in state.outcome_pages
            ],
            state.due_mark,
        )
    )


class Checkpoint:
    """One checkpoint under way.

    Args:
        state: the state, at the sequence that the checkpoint is of.
        full: write every page, not only those that changed.
    """

    def __init__(self, state: ShardState, *, full: bool) -> None:
        self._state = state
        self.seq = state.seq
        self.full = full
        self._part: bytes | None = encode_part(state)
        # Those that were forgotten since they changed are among the dirty ones only.
        numbers = [*state.index.pages, *state.dirty_pages] if full else state.dirty_pages
        #: what is still to be written, blocks of one page together: page, first place and the one
        #: behind the last
        self._todo: list[tuple[int, int, int]] = []
        #: keys of pages and blocks to be dropped: dirty ones that have been forgotten since
        self._gone: list[int] = []
        for number in dict.fromkeys(numbers):
            self._plan(number)
        state.dirty_pages = []

    def _plan(self, number: int) -> None:
        page, changed = self._state.index.pages.get(number), self._state.cut_pages.get(number)
        if page is None:  # no new job is put on it
            blocks = [0] if changed is None else range(0, PAGE_SEQUENCES, BLOCK_SEQUENCES)
            self._gone += [number * PAGE_SEQUENCES + first for first in blocks]
            self._state.cut_pages.pop(number, None)
            return
        page.dirty = False
        page.aside = {}
        if changed is None:
            self._todo.append((number, 0, PAGE_SEQUENCES))
        else:
            self._plan_blocks(number, ALL_BLOCKS if self.full else changed)
            self._state.cut_pages[number] = 0

    def _plan_blocks(self, number: int, changed: int) -> None:
        for first in range(0, PAGE_SEQUENCES, BLOCK_SEQUENCES):
            if changed >> first // BLOCK_SEQUENCES & 1:
                self._todo.append((number, first, first + BLOCK_SEQUENCES))

    @property
    def is_done(self) -> bool:
        """Whether every page has been given."""
        return not self._todo and not self._gone

    def take_part(self) -> list[tuple[str, bytes]]:
        """Return the keyed parts, the first time; they belong into the first slice."""
        part, self._part = self._part, None
        return [] if part is None else [(PART, part)]

    def abandon(self) -> None:
        """Give the checkpoint up: what was kept aside is not needed."""
        for number, _, _ in self._todo:
            page = self._state.index.pages.get(number)
            if page is not None:
                page.aside = page.written = None
        self._todo = []
        self._gone = []

    def next_pages(self, jobs_max: int, bytes_max: int) -> list[tuple[int, bytes]]:
        """Return some pages and blocks as they were at the beginning: key and content. The key is
        the first sequence.

        Args:
            jobs_max, bytes_max: stop after the page or block with which so many jobs, or bytes,
                have been encoded.
        """
        given = [(key, b"") for key in self._gone[:jobs_max]]
        del self._gone[:jobs_max]
        jobs, size = len(given), 0
        while self._todo and jobs < jobs_max and size < bytes_max:
            number, first, stop = self._todo.pop()
            page = self._state.index.pages[number]
            if page.written is not None:
                content = page.written
            elif number not in self._state.cut_pages and size_of(page) > PAGE_BYTES_MAX:
                self._cut(number)
                continue
            else:
                content, count = content_of(page, first, stop)
                jobs += count
            size += len(content)
            given.append((number * PAGE_SEQUENCES + first, content))
            if not self._todo or self._todo[-1][0] != number:
                self._finish(number)
        return given

    def _cut(self, number: int) -> None:
        """Write a page, which has grown large, in blocks from now on."""
        is_changed = self._state.index.pages[number].dirty
        self._state.cut_pages[number] = ALL_BLOCKS if is_changed else 0
        self._plan_blocks(number, ALL_BLOCKS)

    def _finish(self, number: int) -> None:
        """A page is written, with all its blocks."""
        page = self._state.index.pages[number]
        page.aside = page.written = None
        if not page.live and page.outcomes is None:
            self._state.forget_page(number)


# --- the way back


def read_part(content: bytes, shard: int, shard_count: int) -> Part:
    """Read everything but the jobs.

    Raises:
        Damage: it is damaged, or not that of this shard of so many.
    """
    try:
        part = _decode_part(content)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise Damage(f"checkpoint part: {error}") from None
    if (part.shard, part.shard_count) != (shard, shard_count):
        raise Damage(f"checkpoint of shard {part.shard} of {part.shard_count}")
    return part


def load_part(state: ShardState, content: bytes) -> None:
    """Load everything but the jobs into a fresh state.

    Raises:
        Damage: it is damaged, or another shard's.
    """
    part = read_part(content, state.shard, state.shard_count)
    state.seq = part.seq
    state.now_ms = part.now_ms
    state.due_mark = part.due_mark
    state.incarnation = part.incarnation
    state.lives = part.lives
    state.next_sequence = part.next_sequence
    state.totals = part.totals
    state.ended = part.ended
    for stored in part.queues:
        queue = state.queue(stored.name)
        if stored.settings != DEFAULT_SETTINGS:
            queue.settings = stored.settings
        for debounce_id, until in stored.debounces.items():
            state.debounces.start(queue, debounce_id, until)
    for saved in part.sessions:
        session = state.session(saved.session)
        session.done_below = saved.done_below
        for answer in saved.answers:
            state.keep_answer(answer)
    state.expired_sessions.update(dict.fromkeys(part.expired_sessions))
    for push in part.awaited:
        state.awaited[push.key] = push
        if not push.pending:
            state.answerable.append(push.key)
        await_request(state, push)
    state.awaiting = part.awaiting
    for kept in part.mailboxes:
        mailbox = state.mailboxes[kept.peer] = Mailbox()
        mailbox.next_number = kept.next_number
        mailbox.pending.extend(kept.pending)
    state.inboxes = part.inboxes
    for number, mark, codes in part.outcomes:
        page = state.index.page(number)
        page.outcomes = bytearray(codes)
        page.ended_mark = mark
        state.outcome_pages[number] = None


class JobLoader:
    """Fills a fresh state with the jobs of a checkpoint's pages.

    Jobs come in any order; `finish` sorts them into lanes, dead letters and retention. Equal
    options share one object again, and jobs of one delivery share it.
    """

    def __init__(self, state: ShardState) -> None:
        self._state = state
        self._jobs: list[Job] = []
        self._deliveries: dict[tuple[int, bytes], Delivery] = {}
        self._names: dict[str, str] = {}

    def load(self, content: bytes, key: int = 0) -> None:
        """Load one page, or one block of it.

        Args:
            key: its first sequence.

        Raises:
            Damage: it is damaged.
        """
        number, first = divmod(key, PAGE_SEQUENCES)
        if first:
            self._state.cut_pages[number] = 0
        for image in self.read(content):
            self._jobs.append(self._job(image))

    @staticmethod
    def read(content: bytes) -> list[JobImage]:
        """Return a page's images.

        Raises:
            Damage: it is damaged.
        """
        try:
            return decode_page(content)
        except BadMessage as error:
            raise Damage(error.text) from None

    def _job(self, image: JobImage) -> Job:
        job = Job(
            image.id,
            self._names.setdefault(image.queue, image.queue),
            image.data,
            image.priority,
            image.created_at,
            image.run_at,
            image.state,
            image.attempts,
            self._state.intern(image.options),
            image.started_at,
            image.ended_at,
            None,
            None if image.extra is None else extra_of(image.extra),
        )
        if job.state == ACTIVE:
            key = (image.token, image.session)
            delivery = self._deliveries.get(key)
            if delivery is None:
                delivery = self._deliveries[key] = self._delivery(image)
            self._state.hold(job, delivery)
        return job

    def _delivery(self, image: JobImage) -> Delivery:
        made = Delivery(image.token, image.session, [], 0, ())
        if not image.session:
            return made
        return self._state.session(image.session).deliveries.setdefault(image.token, made)

    def finish(self) -> None:
        """Sort everything into its indexes."""
        state = self._state
        self._jobs.sort(key=lambda job: (job.ended_at, job.run_at, job.id))
        for job in self._jobs:
            queue = state.queue(job.queue)
            state.add(job, queue)
            if job.state == WAITING:
                queue.ready.lane(job.priority).add(job)
            elif job.state == DELAYED:
                state.delayed.add(job.run_at, job.id)
            elif job.state in KEPT:
                state.file_ended(job, queue)
            elif job.state == FAILED:
                queue.dlq[job.id] = job
            elif job.state == PENDING and job.id not in state.awaiting:
                raise Damage(f"job {job.id} is pending for no push")
            if options_of(job).ttl and job.state in (WAITING, DELAYED):
                state.expiring.add(expires_at(job), job.id)
        self._jobs.clear()


def mark_clean(state: ShardState) -> None:
    """Note that a state is as storage has it: nothing of it need be written again."""
    state.dirty_pages = []
    state.cut_pages = dict.fromkeys(state.cut_pages, 0)
    for page in state.index.pages.values():
        page.dirty = False


assert PAGE_SEQUENCES == 1024, "the page size is part of the stored format"
