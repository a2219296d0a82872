"""The gateway's requests that have no outcome yet.

Owns the order of sending, deadlines, repeats of what was refused, and the bounds on all of that.
Knows nothing of sockets, sessions or replies. Pure; time is an argument, in ms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from flashq.errors import Busy, FlashQError, RequestTimeout
from flashq.gateway.asking import Ask
from flashq.gateway.lanes import Holder, Lane
from flashq.protocol.framing import FULL, JSON, OLDER

ANSWER_MS: Final = 4500
"""For a request that does not wait by itself. The older clients give up after 5 s, so that an error
that says what is wrong is there before."""
WAIT_MARGIN_MS: Final = 5000
"""How much longer than a shard's own wait the answer to it may take."""
RETRY_MIN_MS: Final = 10
RETRY_MAX_MS: Final = 500

REQUESTS_MAX: Final = 200_000
REQUESTS_BYTES_MAX: Final = 256 * 1024 * 1024

Done = Callable[[bytes, bool], None]
"""Takes a reply's body, in the request's own encoding, and whether it is a success."""


class Pending:
    """A request whose answer is still to come."""

    __slots__ = (
        "ask",
        "backoff",
        "body",
        "corr",
        "deadline",
        "done",
        "flags",
        "holder",
        "lane",
        "last_error",
        "n",
        "names_leases",
        "queued",
        "retry_at",
        "route",
        "sent",
        "session",
        "ticket",
    )

    def __init__(
        self, ask: Ask, holder: Holder | None, route: int, done: Done | None, corr: int
    ) -> None:
        self.corr: Final = corr
        self.ask: Final = ask
        self.body: Final = ask.body
        self.flags: Final = (
            (JSON if ask.json else 0) | (FULL if ask.full else 0) | (OLDER if ask.older else 0)
        )
        self.holder: Final = holder
        self.route: Final = route
        #: None when nobody waits for the outcome
        self.done: Done | None = done
        self.deadline = 0
        #: the session under which it is numbered, with the number; None for one that is not
        self.lane: Lane | None = None
        self.n = 0
        self.session = b""
        #: copies that may have been carried out; one that was answered "nothing happened" is not
        self.sent = 0
        #: by which it is taken back while it waits; none for one that is not
        self.ticket = b""
        #: whether it stands in the queue of what is to be sent
        self.queued = False
        #: ms until the next try of a refused one, doubling
        self.backoff = 0
        self.retry_at: int | None = None
        #: why it was refused, while it waits for its next try
        self.last_error: FlashQError | None = None
        #: its lease was named here and not by the asker, who is told what he would be without it
        self.names_leases = False


class PendingTable:
    """All requests without an outcome."""

    def __init__(self) -> None:
        #: those that are answered at once, by corr, in the order of their deadlines
        self._quick: dict[int, Pending] = {}
        #: those that wait for something, by corr
        self._slow: dict[int, Pending] = {}
        #: (deadline, corr) of the slow ones, and of some that have ended
        self._deadlines: list[tuple[int, int]] = []
        #: (retry_at, corr) of those refused, and of some that have ended
        self._retries: list[tuple[int, int]] = []
        #: those to be sent, in order; an entry counts while its `queued` is set
        self._unsent: deque[Pending] = deque()
        #: the size of their bodies
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._quick) + len(self._slow)

    def __iter__(self) -> Iterator[Pending]:
        yield from self._quick.values()
        yield from self._slow.values()

    @property
    def is_full(self) -> bool:
        """Whether no more should be taken on."""
        return len(self) >= REQUESTS_MAX or self._bytes > REQUESTS_BYTES_MAX

    def get(self, corr: int) -> Pending | None:
        """Return the request with this number."""
        return self._quick.get(corr) or self._slow.get(corr)

    def waiting(self) -> list[Pending]:
        """Return those whose answer may come late."""
        return list(self._slow.values())

    def add(self, pending: Pending, now: int) -> None:
        """Take on a request, and have it sent."""
        if pending.ask.command.waits:
            self._slow[pending.corr] = pending
            pending.deadline = now + pending.ask.wait_ms + WAIT_MARGIN_MS
            heap = self._deadlines
            heappush(heap, (pending.deadline, pending.corr))
            if len(heap) > 64 + 2 * len(self._slow):
                # Most have ended: without this, pulls that are answered soon would pile up.
                self._deadlines = [entry for entry in heap if entry[1] in self._slow]
                heapify(self._deadlines)
        else:
            self._quick[pending.corr] = pending
            pending.deadline = now + ANSWER_MS
        self._bytes += len(pending.body)
        pending.queued = True
        self._unsent.append(pending)

    def remove(self, pending: Pending) -> bool:
        """Take out a request that has its outcome; False when it was not there any more."""
        corr = pending.corr
        if self._quick.pop(corr, None) is None and self._slow.pop(corr, None) is None:
            return False
        pending.queued = False
        self._bytes -= len(pending.body)
        return True

    # --- sending

    def enqueue(self, pending: Pending) -> None:
        """Have it sent (again), unless it is about to be anyway."""
        pending.retry_at = None
        if not pending.queued:
            pending.queued = True
            self._unsent.append(pending)

    def enqueue_all(self) -> None:
        """Have everything sent (again), in the order it was asked."""
        self._unsent.clear()
        for pending in sorted(self, key=lambda one: one.corr):
            pending.queued = False
            self.enqueue(pending)

    @property
    def has_unsent(self) -> bool:
        """Whether `next_unsent` may have something."""
        return bool(self._unsent)

    def next_unsent(self) -> Pending | None:
        """Return the next request to send, and take it off that queue."""
        unsent = self._unsent
        while unsent:
            pending = unsent.popleft()
            if pending.queued:
                pending.queued = False
                return pending
        return None

    # --- time

    def refused(self, pending: Pending, error: FlashQError, now: int) -> None:
        """A copy was answered "nothing happened, try again": send it again after a while."""
        if pending.sent == 1:
            pending.sent = 0
        if pending.retry_at is None and not pending.queued:
            pending.last_error = error
            pending.backoff = min(max(2 * pending.backoff, RETRY_MIN_MS), RETRY_MAX_MS)
            pending.retry_at = now + pending.backoff
            heappush(self._retries, (pending.retry_at, pending.corr))

    def retry_due(self, now: int) -> None:
        """Enqueue those whose next try is due."""
        retries = self._retries
        while retries and retries[0][0] <= now:
            due, corr = heappop(retries)
            pending = self.get(corr)
            if pending is not None and pending.retry_at == due:
                self.enqueue(pending)

    def expired(self, now: int) -> list[tuple[Pending, FlashQError]]:
        """Return those whose time is up, with the truth about them; the caller removes them."""
        found: list[tuple[Pending, FlashQError]] = []
        for quick in self._quick.values():
            if quick.deadline > now:
                break
            found.append((quick, _time_is_up(quick, ANSWER_MS)))
        heap = self._deadlines
        while heap and (heap[0][0] <= now or heap[0][1] not in self._slow):
            slow = self._slow.get(heappop(heap)[1])
            if slow is not None:
                found.append((slow, _time_is_up(slow, slow.ask.wait_ms + WAIT_MARGIN_MS)))
        return found

    def next_deadline(self) -> int | None:
        """Return when `retry_due` or `expired` has something next, or a little before."""
        due = [heap[0][0] for heap in (self._deadlines, self._retries) if heap]
        for quick in self._quick.values():
            due.append(quick.deadline)
            break
        return min(due, default=None)


def _time_is_up(pending: Pending, timeout: int) -> FlashQError:
    word = pending.ask.command.word
    if pending.sent:  # whatever a later copy was answered, this one may have been carried out
        return RequestTimeout(timeout=timeout, detail=word)
    if pending.last_error is not None:
        return pending.last_error
    return Busy(detail=f"the router did not take {word} within {timeout} ms")
