"""What a shard's state has beside jobs: queues, sessions, mailboxes, pushes that wait, totals.

Data and what can be read off it; `state.ShardState` owns them and keeps them in step.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import takewhile
from typing import Final

from msgspec import Struct

from flashq.protocol.internal import AnyPeerMessage
from flashq.protocol.limits import MIB
from flashq.protocol.records import Answer, QueueSettings
from flashq.shard.indexes import ReadyJobs
from flashq.shard.lifecycle import STATES, Delivery, Job, options_of

DEFAULT_SETTINGS: Final = QueueSettings()
SESSION_ANSWERS_MAX: Final = 10_000
SESSION_ANSWERS_BYTES_MAX: Final = 16 * MIB
"""So much is kept for repeats of one session's requests; of more, the oldest go."""
ANSWER_BYTES: Final = 200
"""What an answer takes beside its body."""


class Totals(Struct, array_like=True, gc=False):
    """Counters since the state began."""

    pushed: int = 0
    completed: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    retried: int = 0
    timed_out: int = 0
    stalled: int = 0
    lost: int = 0
    evicted: int = 0
    latency_ms_sum: int = 0


class Queue:
    """One queue: its ready jobs in order, its keys, its settings."""

    __slots__ = (
        "aged",
        "aged_count",
        "aside",
        "counts",
        "custom_ids",
        "debounces",
        "deliveries",
        "dlq",
        "kept",
        "name",
        "ready",
        "settings",
        "unique_keys",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        #: all and only jobs in state WAITING
        self.ready = ReadyJobs()
        #: how many jobs are in each state
        self.counts = [0] * STATES
        self.settings = DEFAULT_SETTINGS
        #: id of the job that holds each unique key
        self.unique_keys: dict[str, int] = {}
        #: id of the newest job with each custom id that is still known, and was not cancelled
        self.custom_ids: dict[str, int] = {}
        #: until when (wall ms) pushes with each debounce id are refused
        self.debounces: dict[str, int] = {}
        #: all and only jobs in state FAILED, oldest failure first
        self.dlq: OrderedDict[int, Job] = OrderedDict()
        #: all and only jobs in the ASIDE states
        self.aside: dict[int, Job] = {}
        #: all deliveries with a job in state ACTIVE
        self.deliveries: dict[Delivery, None] = {}
        #: all jobs of the KEPT states that are not aged, oldest first, and some that are gone
        self.kept: deque[Job] = deque()
        #: those that are, likewise: kept for a time, in whatever number; and how many they are
        self.aged: deque[Job] = deque()
        self.aged_count = 0

    def free_custom_id(self, job: Job) -> None:
        """Let the next push with the job's custom id be a new job."""
        custom = options_of(job).custom_id
        if custom is not None and self.custom_ids.get(custom) == job.id:
            del self.custom_ids[custom]

    def is_idle(self) -> bool:
        """Tell whether nothing would be lost if this queue were forgotten."""
        return self.settings is DEFAULT_SETTINGS and not self.debounces and not any(self.counts)


class Session:
    """What repeats of a session's requests are answered from."""

    __slots__ = ("answers", "bytes", "deliveries", "done_below")

    def __init__(self) -> None:
        #: by request number, rising; none is below `done_below`
        self.answers: dict[int, Answer] = {}
        #: what they take
        self.bytes = 0
        #: nobody repeats a request below, or its answer has gone for want of room
        self.done_below = 0
        #: the deliveries it holds jobs of, by token
        self.deliveries: dict[int, Delivery] = {}

    def keep(self, answer: Answer) -> None:
        """Keep an answer, and drop those that nobody asks for again, or that are too much."""
        answers, n, below = self.answers, answer.n, answer.done_below
        if below > self.done_below:
            self.done_below = below
            first = next(iter(answers), below)
            if first < below:  # mostly it is only this one
                self.bytes -= ANSWER_BYTES + len(answers.pop(first).body)
                if answers and next(iter(answers)) < below:
                    self._drop_below(below)
        if n < self.done_below:
            return
        self.bytes += ANSWER_BYTES + len(answer.body)
        if answers and n <= next(reversed(answers)):
            self._keep_late(answer)
        else:
            answers[n] = answer
        if len(answers) > SESSION_ANSWERS_MAX or self.bytes > SESSION_ANSWERS_BYTES_MAX:
            self._drop_excess()

    def _keep_late(self, answer: Answer) -> None:
        """Keep the answer to a request that was parked, or answered before: younger ones have been
        answered meanwhile."""
        old = self.answers.get(answer.n)
        if old is not None:
            self.bytes -= size_of_answer(old)
        self.answers[answer.n] = answer
        self.answers = dict(sorted(self.answers.items()))

    def _drop_excess(self) -> None:
        """Drop the oldest answers down to seven eighths of the bounds, so that they go many at a
        time."""
        count = len(self.answers) - (SESSION_ANSWERS_MAX - SESSION_ANSWERS_MAX // 8)
        size = self.bytes - (SESSION_ANSWERS_BYTES_MAX - SESSION_ANSWERS_BYTES_MAX // 8)
        below = self.done_below
        for n, answer in self.answers.items():
            if count <= 0 and size <= 0:
                break
            count -= 1
            size -= size_of_answer(answer)
            below = n + 1
        self._drop_below(below)

    def _drop_below(self, below: int) -> None:
        self.done_below = below
        # At once: to find its first key again, a dict passes all that are gone.
        for n in list(takewhile(below.__gt__, self.answers)):
            self.bytes -= size_of_answer(self.answers.pop(n))


def size_of_answer(answer: Answer) -> int:
    """Return what an answer takes, about."""
    return ANSWER_BYTES + len(answer.body)


class Mailbox:
    """Messages for one peer that it has not confirmed yet, numbered without a hole."""

    __slots__ = ("next_number", "pending")

    def __init__(self) -> None:
        self.next_number = 1
        #: (number, log sequence of its record, message), ascending
        self.pending: deque[tuple[int, int, AnyPeerMessage]] = deque()


class AwaitedPush(Struct):
    """A push, batch or flow whose answer waits for other shards: `key` is its first pending job.

    `kind` is push, batch or flow. `ids` is in line with the request's jobs, a flow's parent before
    its children; `errors` has (index, text, code) of those that were refused.
    """

    key: int
    kind: str
    ids: list[int | None]
    errors: list[tuple[int, str, str]]
    session: bytes
    n: int
    pending: int
    done_below: int = 0
