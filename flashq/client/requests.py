"""The requests of one session that have no outcome yet.

Owns request numbers, the order of sending, deadlines, repeats of what was refused, and the bounds
on all of that. Knows nothing of sockets, routes or replies. Pure; time is an argument, in ms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from flashq.client.calls import Call, stamped
from flashq.errors import Busy, ConnectionClosed, FlashQError, RequestTimeout
from flashq.protocol.framing import ROUTE_ANY

RETRY_MIN_MS: Final = 10
RETRY_MAX_MS: Final = 500
CONNECT_TIMEOUT_MS: Final = 5000
"""How long a request waits for a server that was never reached: most often its address is wrong."""


class Request:
    """A request whose answer is still to come."""

    __slots__ = (
        "backoff",
        "beats",
        "body",
        "call",
        "corr",
        "deadline",
        "full_deadline",
        "last_error",
        "n",
        "queued",
        "retry_at",
        "route",
        "sent",
        "session",
        "silent",
        "timeout",
        "tokens",
    )

    def __init__(self, corr: int, call: Call, timeout: int, now: int) -> None:
        self.corr = corr
        self.call = call
        self.body = call.body
        self.timeout = timeout
        #: when it ends without an answer, and when that is once the server has been reached
        self.deadline = self.full_deadline = now + timeout
        #: its number in the session; None for a request that is not protected
        self.n: int | None = None
        self.session = b""
        #: where it was sent last
        self.route = ROUTE_ANY
        #: copies that may have been carried out; one that was answered "nothing happened" is not
        self.sent = 0
        #: heartbeats since it was sent last
        self.beats = 0
        #: whether it stands in the queue of what is to be sent
        self.queued = False
        #: ms until the next try of a refused one, doubling
        self.backoff = 0
        self.retry_at: int | None = None
        #: why it was refused, while it waits for its next try
        self.last_error: FlashQError | None = None
        #: whether nobody waits for its outcome
        self.silent = False
        #: the lease tokens it is about, in line with `call.settles`
        self.tokens: Sequence[int | None] = ()


class RequestTable:
    """All requests without an outcome.

    Args:
        requests_max, bytes_max: bounds on their number and on the size of their bodies.
        address: the server, for errors.
        connect_timeout: ms that each may take until `reached` is called.
    """

    def __init__(
        self,
        requests_max: int,
        bytes_max: int,
        *,
        address: str = "the server",
        connect_timeout: int = CONNECT_TIMEOUT_MS,
    ) -> None:
        self._address: Final = address
        #: None once the server has been reached
        self._connect_timeout: int | None = connect_timeout
        self._requests_max: Final = requests_max
        self._bytes_max: Final = bytes_max
        self._corr = 0
        self._n = 0
        #: by corr, in the order they were made
        self._all: dict[int, Request] = {}
        #: the size of their bodies
        self._bytes = 0
        #: those whose answer may come late: pulls and waits
        self._waiting: dict[int, Request] = {}
        #: the numbers of all and only those that have one
        self._numbers: set[int] = set()
        #: none of them has a number below this one
        self._done_below = 1
        #: those to be sent, in order; an entry counts while its `queued` is set
        self._unsent: deque[Request] = deque()
        #: (deadline, corr) of all, and of some that have ended
        self._deadlines: list[tuple[int, int]] = []
        #: (retry_at, corr) of those refused, and of some that have ended
        self._retries: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, corr: int) -> bool:
        return corr in self._all

    def get(self, corr: int) -> Request | None:
        """Return the outstanding request with this corr."""
        return self._all.get(corr)

    def all(self) -> list[Request]:
        """Return all, in the order they were made."""
        return list(self._all.values())

    def waiting(self) -> Iterable[Request]:
        """Return those whose answer may come late."""
        return self._waiting.values()

    def next_corr(self) -> int:
        """Return a corr that was never used."""
        self._corr += 1
        return self._corr

    def add(
        self, call: Call, session: bytes, now: int, timeout: int, corr: int | None = None
    ) -> Request:
        """Make a request, with a number in the session when it changes state."""
        if corr is None:
            self._corr = corr = self._corr + 1
        request = Request(corr, call, timeout, now)
        if self._connect_timeout is not None:
            request.deadline = now + min(timeout, self._connect_timeout)
        if call.command.mutates:
            self.stamp(request, session)
        self._all[corr] = request
        self._bytes += len(request.body)
        if call.command.waits:
            self._waiting[corr] = request
        heap = self._deadlines
        heappush(heap, (request.deadline, corr))
        if len(heap) > 64 + 2 * len(self._all):
            # Most have ended: without this, fast requests would pile up until their deadlines.
            live = self._all
            self._deadlines = [entry for entry in heap if entry[1] in live]
            heapify(self._deadlines)
        return request

    def reached(self) -> None:
        """Let everything have its whole time: there is a server."""
        if self._connect_timeout is None:
            return
        self._connect_timeout = None
        for request in self._all.values():
            if request.deadline != request.full_deadline:
                request.deadline = request.full_deadline
                heappush(self._deadlines, (request.deadline, request.corr))

    def stamp(self, request: Request, session: bytes) -> None:
        """Give the request the next number, in `session`; its body then says so."""
        self._n = n = self._n + 1
        numbers = self._numbers
        numbers.add(n)
        if request.n is not None:
            numbers.discard(request.n)
        below = self._done_below
        while below not in numbers:
            below += 1
        self._done_below = below
        request.n = n
        request.session = session
        request.body = stamped(request.call.body, session, n, below)

    def objection(self) -> FlashQError | None:
        """Return the error when a bound is exceeded."""
        if len(self._all) > self._requests_max:
            return Busy(detail=f"this client has {self._requests_max} requests outstanding")
        if self._bytes > self._bytes_max:
            return Busy(detail=f"this client has {self._bytes_max} bytes outstanding")
        return None

    def remove(self, request: Request) -> None:
        """Take out a request that has its outcome, or that nobody waits for."""
        request.queued = False
        del self._all[request.corr]
        self._bytes -= len(request.body)
        self._waiting.pop(request.corr, None)
        if request.n is not None:
            self._numbers.discard(request.n)

    # --- sending

    def enqueue(self, request: Request) -> None:
        """Have it sent, unless it is about to be anyway."""
        request.retry_at = None
        if not request.queued:
            request.queued = True
            self._unsent.append(request)

    def enqueue_all(self) -> None:
        """Have everything sent (again), in the order it was made."""
        self._unsent.clear()
        for request in self._all.values():
            request.queued = False
            self.enqueue(request)

    @property
    def has_unsent(self) -> bool:
        """Whether `next_unsent` may have something."""
        return bool(self._unsent)

    def next_unsent(self) -> Request | None:
        """Return the next request to send, and take it off that queue."""
        unsent = self._unsent
        while unsent:
            request = unsent.popleft()
            if request.queued:
                request.queued = False
                return request
        return None

    # --- time

    def refused(self, request: Request, error: FlashQError, now: int) -> None:
        """A copy was answered "nothing happened, try again": send it again after a while."""
        if request.sent == 1:
            request.sent = 0
        if request.retry_at is None and not request.queued:
            request.last_error = error
            request.backoff = min(max(2 * request.backoff, RETRY_MIN_MS), RETRY_MAX_MS)
            request.retry_at = now + request.backoff
            heappush(self._retries, (request.retry_at, request.corr))

    def retry_due(self, now: int) -> None:
        """Enqueue those whose next try is due."""
        retries = self._retries
        while retries and retries[0][0] <= now:
            due, corr = heappop(retries)
            request = self._all.get(corr)
            if request is not None and request.retry_at == due:
                self.enqueue(request)

    def expired(self, now: int) -> list[tuple[Request, FlashQError]]:
        """Return those whose time is up, with the truth about them; the caller removes them."""
        heap = self._deadlines
        found: list[tuple[Request, FlashQError]] = []
        while heap and heap[0][0] <= now:
            deadline, corr = heappop(heap)
            request = self._all.get(corr)
            if request is not None and request.deadline == deadline:
                found.append((request, self._time_is_up(request)))
        return found

    def next_deadline(self) -> int | None:
        """Return when `retry_due` or `expired` has something next."""
        live = self._all
        due = None
        for heap in (self._deadlines, self._retries):
            while heap and heap[0][1] not in live:
                heappop(heap)
            if heap and (due is None or heap[0][0] < due):
                due = heap[0][0]
        return due

    def _time_is_up(self, request: Request) -> FlashQError:
        if request.last_error is not None and not request.sent:
            return request.last_error  # no other copy can have been carried out
        word, address = request.call.command.word, self._address
        if request.sent:
            return RequestTimeout(timeout=request.timeout, detail=f"{word} to {address}")
        if request.deadline != request.full_deadline or self._connect_timeout is not None:
            waited = request.timeout - request.full_deadline + request.deadline
            return ConnectionClosed(f"{unreached(address, waited)} {word} was not sent")
        return ConnectionClosed(
            f"no connection to {address} within {request.timeout} ms; {word} was not sent"
        )


def unreached(address: str, waited_ms: int) -> str:
    """Return what to say of a server that has not answered since the client began."""
    return (
        f"no server at {address}: the client tried for {waited_ms} ms to connect and say hello, "
        "and nothing of flashq answered. Does it run there, and is this its address for ZeroMQ "
        "(port 6788 unless it was set)?"
    )


def cut_off(request: Request) -> ConnectionClosed:
    """Return the error of a request that was under way when its client was closed."""
    word = request.call.command.word
    if not request.sent:
        return ConnectionClosed(f"this client was closed; {word} was not sent")
    if request.n is None:
        return ConnectionClosed(f"this client was closed before {word} was answered")
    return ConnectionClosed(f"this client was closed; whether {word} was carried out is not known")
