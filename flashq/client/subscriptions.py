"""What stands between arriving events and whoever reads them: bounded buffers, and who gets what.

Pure: nothing here waits. The clients wake their readers themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from flashq.client.happenings import EventsInterrupted, NoticeReceived, SubscriptionRefused
from flashq.client.results import Event, EventArrived, Gap
from flashq.errors import FlashQError
from flashq.protocol.objects import EVENTS

EVENTS_BUFFERED_MAX: Final = 10_000
ALL: Final = "*"


def wanted_events(events: str | Iterable[str]) -> frozenset[str]:
    """Return the set of event names.

    Raises:
        ValueError: there is no such event.
    """
    names = frozenset([events] if isinstance(events, str) else events)
    unknown = names - {ALL, *EVENTS}
    if unknown or not names:
        raise ValueError(f"no such event: {sorted(unknown)}; there are {', '.join(EVENTS)} and *")
    return names


class Asked:
    """What events the server was asked for: one subscription for each queue."""

    def __init__(self) -> None:
        #: corr and names of each queue's
        self._by_queue: dict[str, tuple[int, frozenset[str]]] = {}
        #: the queue of each corr
        self._queues: dict[int, str] = {}

    def add(self, queue: str, corr: int, events: frozenset[str]) -> None:
        """Note a subscription, in place of the queue's last one, whose corr it has."""
        self._by_queue[queue] = (corr, events)
        self._queues[corr] = queue

    def remove(self, queue: str) -> None:
        """Forget a queue's."""
        corr, _ = self._by_queue.pop(queue, (None, None))
        if corr is not None:
            del self._queues[corr]

    def corr_of(self, queue: str) -> int | None:
        """Return under which corr a queue's events were asked for."""
        return self._by_queue[queue][0] if queue in self._by_queue else None

    def queue_of(self, corr: int) -> str | None:
        """Return the queue that was asked for under a corr."""
        return self._queues.get(corr)

    def all(self) -> list[tuple[str, int, frozenset[str]]]:
        """Return queue, corr and names of all."""
        return [(queue, corr, events) for queue, (corr, events) in self._by_queue.items()]


class EventBuffer:
    """The unread events of one reader.

    Args:
        queue: the queue it listens to, `*` for all.
        events: the names it wants.
        events_max: when so many are unread, newer ones are dropped and leave a `Gap`.
    """

    def __init__(
        self, queue: str, events: frozenset[str], events_max: int = EVENTS_BUFFERED_MAX
    ) -> None:
        self.queue: Final = queue
        self.events: Final = events
        self._events_max: Final = events_max
        self._unread: deque[Event | Gap] = deque()
        #: why there will be no more events after the unread ones
        self.ended: FlashQError | None = None

    def offer(self, item: Event | Gap) -> None:
        """Add an event if it is wanted, or note that one was missed."""
        if isinstance(item, Event) and not (ALL in self.events or item.event in self.events):
            return
        if len(self._unread) < self._events_max:
            self._unread.append(item)
        elif len(self._unread) == self._events_max:
            self._unread.append(Gap(reason="buffer"))

    def take(self) -> Event | Gap | None:
        """Return the oldest unread item, or None."""
        return self._unread.popleft() if self._unread else None


R = TypeVar("R", bound=EventBuffer)


class Readers(Generic[R]):
    """All readers of one client. They share one subscription for each queue."""

    def __init__(self) -> None:
        self._by_queue: dict[str, list[R]] = {}

    def add(self, reader: R) -> None:
        """Let it have what arrives from now on."""
        self._by_queue.setdefault(reader.queue, []).append(reader)

    def remove(self, reader: R) -> None:
        """Let it have nothing more."""
        readers = self._by_queue.get(reader.queue, [])
        if reader in readers:
            readers.remove(reader)
        if not readers:
            self._by_queue.pop(reader.queue, None)

    def wanted(self, queue: str) -> frozenset[str]:
        """Return the names that any reader of the queue wants; empty when there is none."""
        return frozenset().union(*(reader.events for reader in self._by_queue.get(queue, [])))

    def dispatch(
        self, happening: NoticeReceived | EventsInterrupted | SubscriptionRefused
    ) -> Iterator[R]:
        """Hand something to everyone it concerns, and yield them, to be woken."""
        readers = list(self._by_queue.get(happening.queue, []))
        for reader in readers:
            if isinstance(happening, SubscriptionRefused):
                reader.ended = happening.error
            elif isinstance(happening, EventsInterrupted):
                reader.offer(Gap(reason="connection"))
            elif isinstance(happening.notice, EventArrived):
                reader.offer(happening.notice.event)
            else:
                gap = happening.notice
                reader.offer(
                    Gap(
                        reason="server",
                        shard=gap.shard,
                        first_missed=gap.first_missed,
                        next=gap.next,
                    )
                )
            yield reader

    def end(self, error: FlashQError) -> Iterator[R]:
        """End all, and yield them, to be woken."""
        for readers in list(self._by_queue.values()):
            for reader in list(readers):
                reader.ended = error
                yield reader
