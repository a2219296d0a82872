"""What happens to jobs, handed to everybody at the doors who listens.

Owns the form in which older clients read events, and a bounded buffer for each listener: one that
does not read is dropped with a notice, and never grows. Pure: listeners are woken by a callback.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Final

import msgspec
from msgspec import Raw, Struct

from flashq.errors import BadMessage
from flashq.gateway.subscribing import Ready
from flashq.protocol.codec import encode_json, encode_msgpack, transcode
from flashq.protocol.names import check_queue_name
from flashq.protocol.objects import EVENTS, Event
from flashq.protocol.patterns import NAME_CHARS_MAX
from flashq.protocol.sessions import EventNotice, GapNotice

ALL: Final = "*"
BUFFERED_MAX: Final = 1024
"""Events that a listener may leave unread before it is dropped."""
BUFFERED_BYTES_MAX: Final = 8 * 1024 * 1024
"""What their payloads may take together, unless one alone has more."""


class JobEvent(Struct, omit_defaults=True):
    """One event of one job, as older clients read it; `timestamp` is Unix milliseconds."""

    event_type: str
    queue: str
    job_id: int
    timestamp: int
    data: Raw | None = None
    error: str | None = None
    progress: int | None = None


class Happening:
    """One event of one job, encoded at most once for all who listen.

    Args:
        event: as the shard told it; it may be about many jobs.
        index: which of its jobs is meant.
    """

    __slots__ = ("_json", "_msgpack", "event", "index")

    def __init__(self, event: Event, index: int) -> None:
        self.event: Final = event
        self.index: Final = index
        self._json: bytes | None = None
        self._msgpack: bytes | None = None

    @property
    def data_bytes(self) -> int:
        """The size of its payload or result."""
        told = self.event.data
        data = told[self.index] if told is not None and self.index < len(told) else None
        return 0 if data is None else memoryview(data).nbytes

    @property
    def json(self) -> bytes:
        """The event as JSON."""
        if self._json is None:
            self._json = encode_json(self._view(self._data(json=True)))
        return self._json

    @property
    def msgpack(self) -> bytes:
        """The event as MessagePack."""
        if self._msgpack is None:
            self._msgpack = encode_msgpack(self._view(self._data(json=False)))
        return self._msgpack

    def _view(self, data: Raw | None) -> JobEvent:
        event = self.event
        return JobEvent(
            event_type=event.event,
            queue=event.queue,
            job_id=event.ids[self.index],
            timestamp=event.at,
            data=data,
            error=event.error,
            progress=event.progress,
        )

    def _data(self, *, json: bool) -> Raw | None:
        """Return the payload or result, if it was told and can be said in that encoding."""
        told = self.event.data
        data = told[self.index] if told is not None and self.index < len(told) else None
        if data is None or not json:
            return data
        try:
            return Raw(transcode(bytes(data), to_json=True))
        except BadMessage:
            return None


class Missed(Struct, frozen=True, kw_only=True):
    """Stands where events are missing.

    Args:
        reason: `server` (it could not keep up) or `connection` (it was lost for a while).
        shard, first_missed, next: which events, where the server says so.
    """

    reason: str
    shard: int | None = None
    first_missed: int | None = None
    next: int | None = None


class Dropped(Struct, frozen=True, kw_only=True):
    """The last item of a listener that did not read: nothing comes after it."""

    reason: str = "too slow: events were not read in time"


Item = Happening | Missed | Dropped


class Listener:
    """What one reader has not read yet.

    Args:
        queue: whose events; `*` for all.
        events: names of the events wanted; empty for all.
        wake: called when there is something to take.
        buffered_max: unread items above which it is dropped.
        bytes_max: what unread payloads may take before it is dropped.

    Raises:
        QueueNameEmpty, QueueNameTooLong, QueueNameInvalid: no queue can have that name.
    """

    __slots__ = (
        "_buffered_max",
        "_bytes",
        "_bytes_max",
        "_unread",
        "_wake",
        "dropped",
        "events",
        "queue",
    )

    def __init__(
        self,
        queue: str,
        events: Collection[str],
        wake: Callable[[], None],
        buffered_max: int = BUFFERED_MAX,
        bytes_max: int = BUFFERED_BYTES_MAX,
    ) -> None:
        if queue != ALL:
            check_queue_name(queue, bytes_max=NAME_CHARS_MAX)
        self.queue: Final = queue
        self.events: Final = frozenset(events)
        self._wake: Final = wake
        self._buffered_max: Final = buffered_max
        self._bytes_max: Final = bytes_max
        self._bytes = 0
        self._unread: deque[Item] = deque()
        #: it did not read, and gets nothing more
        self.dropped = False

    def offer(self, item: Item) -> None:
        """Add an item; at the bound, drop everything unread and say so instead."""
        if self.dropped:
            return
        self._bytes += _data_bytes(item)
        is_full = self._bytes > self._bytes_max and bool(self._unread)
        if is_full or len(self._unread) >= self._buffered_max:
            self.dropped = True
            self._unread.clear()
            item = Dropped()
        self._unread.append(item)
        self._wake()

    def take(self) -> Item | None:
        """Return the oldest unread item, or None."""
        if not self._unread:
            return None
        item = self._unread.popleft()
        self._bytes -= _data_bytes(item)
        return item

    def take_all(self) -> Iterator[Item]:
        """Yield what is unread."""
        while (item := self.take()) is not None:
            yield item


def _data_bytes(item: Item) -> int:
    return item.data_bytes if isinstance(item, Happening) else 0


class EventFan:
    """All listeners of a gateway. They share one subscription for each queue.

    Args:
        subscribe: called with a queue and `ready` for each listener that comes.
        unsubscribe: called with a queue when its last listener goes.
    """

    def __init__(
        self, subscribe: Callable[[str, Ready], None], unsubscribe: Callable[[str], None]
    ) -> None:
        self._subscribe: Final = subscribe
        self._unsubscribe: Final = unsubscribe
        #: by queue
        self._listeners: dict[str, dict[Listener, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._listeners.values()))

    def add(self, listener: Listener, ready: Ready) -> None:
        """Let a listener have what happens, and call `ready` once nothing is missed any more."""
        self._listeners.setdefault(listener.queue, {})[listener] = None
        self._subscribe(listener.queue, ready)

    def remove(self, listener: Listener) -> None:
        """Let it have nothing more."""
        known = self._listeners.get(listener.queue)
        if known is not None and listener in known:
            del known[listener]
            if not known:
                del self._listeners[listener.queue]
                self._unsubscribe(listener.queue)

    def tell(self, notice: EventNotice | GapNotice) -> None:
        """Hand out what a subscription brought."""
        if isinstance(notice, GapNotice):
            self._tell_all(
                Missed(
                    reason="server",
                    shard=notice.shard,
                    first_missed=notice.first_missed,
                    next=notice.next,
                )
            )
            return
        event = notice.event
        wanting = [
            listener
            for queue in (event.queue, ALL)
            for listener in self._listeners.get(queue, ())
            if not listener.events or event.event in listener.events
        ]
        if wanting:
            for index in range(len(event.ids)):
                happening = Happening(event, index)
                for listener in wanting:
                    listener.offer(happening)
            self._let_go(wanting)

    def interrupted(self) -> None:
        """The connection was lost for a while: say so to everybody."""
        self._tell_all(Missed(reason="connection"))

    def _tell_all(self, item: Item) -> None:
        everybody = [one for listeners in self._listeners.values() for one in listeners]
        for listener in everybody:
            listener.offer(item)
        self._let_go(everybody)

    def _let_go(self, listeners: list[Listener]) -> None:
        for listener in listeners:
            if listener.dropped:
                self.remove(listener)


def wanted_events(names: Collection[str]) -> frozenset[str]:
    """Return the names of events that a client asks for; empty for all.

    Args:
        names: `*` and nothing mean all; a name may stand behind `job.`, as older documents wrote.

    Raises:
        ValueError: there is no such event.
    """
    bare = frozenset(name.removeprefix("job.") for name in names)
    unknown = bare - {ALL, *EVENTS}
    if unknown:
        raise ValueError(f"unknown event `{min(unknown)[:64]}`, there are {', '.join(EVENTS)}")
    return frozenset() if ALL in bare else bare


_JOB_EVENT_KEY: Final = encode_msgpack("event")


def event_line(happening: Happening, *, json: bool) -> bytes:
    """Return the body that carries an event on a connection: a map with one key, `event`."""
    if json:
        return b'{"event":' + happening.json + b"}"
    return b"\x81" + _JOB_EVENT_KEY + happening.msgpack


def notice_line(item: Missed | Dropped, *, json: bool) -> bytes:
    """Return the body that says that events are missing, or that no more come."""
    kind = "missed" if isinstance(item, Missed) else "dropped"
    body = {kind: {key: value for key, value in msgspec.to_builtins(item).items() if value}}
    return encode_json(body) if json else encode_msgpack(body)
