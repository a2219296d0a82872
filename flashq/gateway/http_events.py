"""Events for everybody who follows them over HTTP: one log for each queue that is followed.

Owns a bounded log of the latest events of a queue (or of all), shared by all who read it: a reader
is a place in it. Who falls behind its end is told so and let go, so a slow reader costs nothing;
who comes back within a while goes on where he was. It knows nothing of SSE or WebSocket.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

import msgspec

from flashq.errors import Busy, FlashQError
from flashq.gateway.events import Dropped, Happening, Listener, Missed
from flashq.gateway.subscribing import Ready
from flashq.protocol.codec import encode_json

LOG_EVENTS_MAX: Final = 16_384
"""Events kept in one log: more than one message of the server can bring."""
LOGS_BYTES_MAX: Final = 64 * 1024 * 1024
"""What all logs may hold together."""
LOGS_MAX: Final = 2_000
LINGER_S: Final = 60.0
"""How long a log without readers goes on, for those whose connection broke."""
LINGERING_MAX: Final = 64
TAKEN_MAX: Final = 256
TAKEN_BYTES_MAX: Final = 64 * 1024
"""Events that a reader takes at a time, and their bytes, unless one alone has more: what waits to
be sent to a reader is held for it alone."""
UNHEARD_MAX: Final = 1_000_000
"""The bound of the bridge's own buffer, which is emptied at once."""


class Source(Protocol):
    """Where events come from: the bridge."""

    def listen(self, listener: Listener, ready: Ready) -> None:
        """Begin to hand events to a listener, and call `ready` once none is missed any more."""
        ...

    def unlisten(self, listener: Listener) -> None:
        """Hand nothing more to a listener."""
        ...


class Told(NamedTuple):
    """One entry: its number, its type, and its JSON in one line."""

    number: int
    kind: str
    body: bytes


class EventLog:
    """The latest events of one queue.

    Args:
        queue: `*` for all.
        grown: called with the log when it has grown, and so may be too large.
    """

    def __init__(self, queue: str, grown: Callable[[EventLog, int], None]) -> None:
        self.queue: Final = queue
        self.listener: Final = Listener(queue, (), self._take, UNHEARD_MAX, sys.maxsize)
        self._grown: Final = grown
        #: entries from `_start` on are the log; those before are about to be let go
        self._entries: list[Told | None] = []
        self._start = 0
        #: of all its entries
        self.bytes = 0
        #: the number of the next entry
        self.next = 1
        self._waiting: set[asyncio.Future[None]] = set()
        #: done once no event is missed any more, with what is wrong if it never comes to that
        self.ready: Final[asyncio.Future[FlashQError | None]] = (
            asyncio.get_running_loop().create_future()
        )
        self.readers = 0
        self.is_closed = False
        #: ends the log that nobody reads
        self.timer: asyncio.TimerHandle | None = None

    @property
    def first(self) -> int:
        """The number of the oldest entry."""
        return self.next - (len(self._entries) - self._start)

    def _take(self) -> None:
        """Take over what the bridge brings, at once."""
        for item in self.listener.take_all():
            if isinstance(item, Happening):
                body = item.json
                if b"\n" in body or b"\r" in body:  # somebody's payload is written over lines
                    body = msgspec.json.format(body, indent=-1)
                self._append(item.event.event, body)
            elif isinstance(item, Missed):
                self._append("missed", missed_body(item))
        self.wake()

    def _append(self, kind: str, body: bytes) -> None:
        self._entries.append(Told(self.next, kind, body))
        self.next += 1
        self.bytes += len(body)
        self._grown(self, len(body))

    def __len__(self) -> int:
        return len(self._entries) - self._start

    def forget_oldest(self) -> int:
        """Let the oldest entry go, and return its size."""
        oldest = self._entries[self._start]
        assert oldest is not None
        size = len(oldest.body)
        self.bytes -= size
        self._entries[self._start] = None
        self._start += 1
        if self._start > 1024 and 2 * self._start > len(self._entries):
            del self._entries[: self._start]
            self._start = 0
        return size

    def after(self, number: int) -> list[Told]:
        """Return the entries behind one, as many as are taken at a time."""
        at = self._start + number + 1 - self.first
        found: list[Told] = []
        size = 0
        for entry in self._entries[at : at + TAKEN_MAX]:
            assert entry is not None
            size += len(entry.body)
            if found and size > TAKEN_BYTES_MAX:
                break
            found.append(entry)
        return found

    def begin(self, error: FlashQError | None) -> None:
        """Note that no event is missed any more, or that none will come."""
        if not self.ready.done():
            self.ready.set_result(error)

    async def grown(self) -> None:
        """Wait for the next entry, or the end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """Let nobody wait any longer."""
        self.is_closed = True
        self.begin(None)
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look up."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Reader:
    """Somebody's place in a log. Close it when he is gone.

    Args:
        logs: whose it is.
        log: what is read.
        number: the entry read last.
        missed: what was missed before that, to be told first.
    """

    def __init__(self, logs: EventLogs, log: EventLog, number: int, missed: Missed | None) -> None:
        self._logs: Final = logs
        self._log: Final = log
        self._number = number
        self._missed = missed

    async def ready(self) -> None:
        """Wait until every event that happens from now on will be read here.

        Raises:
            FlashQError: none will be.
        """
        error = await asyncio.shield(self._log.ready)
        if error is not None:
            raise error

    async def take(self, timeout_s: float | None = None) -> list[Told] | Missed | Dropped | None:
        """Return what comes next, waiting for it.

        Args:
            timeout_s: how long to wait; for ever without it.

        Returns:
            Events; or that some are missing; or that there are no more for somebody so slow; an
            empty list when the time is up, or it is time to look up; None at the end.
        """
        if self._missed is not None:
            missed, self._missed = self._missed, None
            return missed
        log = self._log
        if self._number + 1 >= log.next and not log.is_closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await log.grown()
            except TimeoutError:
                return []
        if log.is_closed:
            return None
        if self._number + 1 < log.first:
            return Dropped()
        told = log.after(self._number)
        self._number += len(told)
        return told

    def close(self) -> None:
        """Read no more."""
        self._logs.leave(self._log)


class EventLogs:
    """All logs of a gateway.

    Args:
        source: whose events they hold.
        boot: tells this gateway's numbers from those of another.
    """

    def __init__(self, source: Source, boot: str) -> None:
        self._source: Final = source
        self._boot: Final = boot
        #: the one that grew last at the end, as far as that had to be known
        self._logs: dict[str, EventLog] = {}
        self._bytes = 0
        #: those without readers, the longest lonely first
        self._lingering: dict[str, EventLog] = {}
        self._closed = False

    @property
    def readers(self) -> int:
        """How many read."""
        return sum(log.readers for log in self._logs.values())

    def name_of(self, number: int) -> str:
        """Return the id that an entry is known by outside."""
        return f"{self._boot}-{number}"

    def read(self, queue: str, last_id: str | None = None) -> Reader:
        """Begin to read a queue's events (`*` for all).

        Args:
            queue: whose.
            last_id: the id of the event read last; without it, what happens from now on is read.

        Raises:
            Busy: too many queues are followed.
        """
        log = self._logs.get(queue)
        if log is None:
            log = self._open(queue)
        self._lingering.pop(queue, None)
        if log.timer is not None:
            log.timer.cancel()
            log.timer = None
        log.readers += 1
        number, missed = self._place(log, last_id)
        return Reader(self, log, number, missed)

    def _place(self, log: EventLog, last_id: str | None) -> tuple[int, Missed | None]:
        """Return the entry behind which to begin, and whether something was missed before."""
        newest = log.next - 1
        if not last_id:
            return newest, None
        boot, _, text = last_id.rpartition("-")
        if boot != self._boot or not text.isdigit() or len(text) > 15 or int(text) > newest:
            return newest, Missed(reason="connection")
        number = int(text)
        if number + 1 < log.first:
            return log.first - 1, Missed(reason="connection")
        return number, None

    def _open(self, queue: str) -> EventLog:
        if len(self._logs) >= LOGS_MAX:
            raise Busy(detail=f"{LOGS_MAX} queues are followed")
        log = EventLog(queue, self._grown)
        if self._closed:
            log.close()
        else:
            self._logs[queue] = log
            self._source.listen(log.listener, partial(self._begin, log))
        return log

    def _grown(self, log: EventLog, size: int) -> None:
        """Keep all logs within their bound: the one that grows gives up what is more than its
        share; then those that grew longest ago give up what they have."""
        self._bytes += size
        while len(log) > LOG_EVENTS_MAX:
            self._bytes -= log.forget_oldest()
        if self._bytes <= LOGS_BYTES_MAX or log.queue not in self._logs:
            return
        share = LOGS_BYTES_MAX // len(self._logs)
        while self._bytes > LOGS_BYTES_MAX and log.bytes > share and len(log) > 1:
            self._bytes -= log.forget_oldest()
        self._logs[log.queue] = self._logs.pop(log.queue)
        for other in self._logs.values():
            while self._bytes > LOGS_BYTES_MAX and other is not log and len(other):
                self._bytes -= other.forget_oldest()
            if self._bytes <= LOGS_BYTES_MAX:
                return

    def _begin(self, log: EventLog, error: FlashQError | None) -> None:
        log.begin(error)
        if error is not None:
            self._end(log)

    def leave(self, log: EventLog) -> None:
        """A reader is gone; the last one's log goes on for a while."""
        log.readers -= 1
        if log.readers or log.is_closed:
            return
        self._lingering[log.queue] = log
        loop = asyncio.get_running_loop()
        log.timer = loop.call_later(LINGER_S, self._end, log)
        if len(self._lingering) > LINGERING_MAX:
            self._end(next(iter(self._lingering.values())))

    def _end(self, log: EventLog) -> None:
        if log.timer is not None:
            log.timer.cancel()
        self._source.unlisten(log.listener)
        self._lingering.pop(log.queue, None)
        if self._logs.pop(log.queue, None) is not None:
            self._bytes -= log.bytes
        log.close()

    def wake(self) -> None:
        """Let every reader look up, though nothing has happened."""
        for log in self._logs.values():
            log.wake()

    def close(self) -> None:
        """End all logs: whoever reads is told that there is no more."""
        self._closed = True
        for log in list(self._logs.values()):
            self._end(log)


def missed_body(item: Missed | Dropped) -> bytes:
    """Return the JSON that says why events are missing, or no more come."""
    return encode_json({k: v for k, v in msgspec.to_builtins(item).items() if v is not None})
