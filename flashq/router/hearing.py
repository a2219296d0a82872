"""Which events are asked of the shards, and who waits to be told that they come.

A wish reaches a shard a moment after it was made, and what happens before that is not heard. So
SUBSCRIBE is answered when the shard that has the queue has said that it heeds the wish, or every
shard for all queues; a shard that is away does not hold the answer up for longer than a gather.
A shard that says so late, or again because it was started again, has not been heard for a while,
and may have made events meanwhile. Pure.
"""

from __future__ import annotations

from msgspec import Struct

from flashq.errors import FlashQError
from flashq.ids import shard_of_queue
from flashq.protocol.framing import ALL_QUEUES, pack_wish
from flashq.protocol.names import check_queue_name
from flashq.router.sessions import Asker


class _Wish(Struct):
    """A queue whose events are asked for: under which topic, of which shards, and which of them
    have not said yet that they heed it; and whose answers wait for that, by their numbers, also
    those that have been given late."""

    queue: str
    topic: bytes
    shards: frozenset[int]
    unheard: set[int]
    waiting: list[int]


class Hearing:
    """What is asked of the shards. Times are of the monotonic clock, in ms.

    Args:
        shard_count: how many there are.
        wait_ms: how long an answer waits at most.
    """

    def __init__(self, shard_count: int, wait_ms: int) -> None:
        self._shard_count = shard_count
        self._wait_ms = wait_ms
        #: by queue, and again by topic
        self._wishes: dict[str, _Wish] = {}
        self._by_topic: dict[bytes, _Wish] = {}
        self._wishes_made = 0
        #: who is to be told, and when at the latest; in this order
        self._waiting: dict[int, tuple[int, Asker]] = {}
        self._waiting_made = 0
        #: who is to be told now
        self._told: list[Asker] = []
        #: topics to subscribe to, or to unsubscribe from, in this order
        self._topics: list[tuple[bytes, bool]] = []

    def follow(self, changed: list[tuple[str, bool]]) -> None:
        """Ask for the events of the queues, or of all (`*`), to which somebody began to listen,
        and let go of those to which nobody does any more."""
        for queue, wanted in changed:
            if wanted and queue not in self._wishes:
                self._begin(queue)
            elif not wanted and queue in self._wishes:
                wish = self._wishes.pop(queue)
                del self._by_topic[wish.topic]
                self._topics.append((wish.topic, False))

    def _begin(self, queue: str) -> None:
        shards = _shards_of(queue, self._shard_count)
        if not shards:
            return
        self._wishes_made += 1
        wish = _Wish(queue, pack_wish(self._wishes_made, queue), shards, set(shards), [])
        self._wishes[queue] = self._by_topic[wish.topic] = wish
        self._topics.append((wish.topic, True))

    def take_topics(self) -> list[tuple[bytes, bool]]:
        """Return what to subscribe to (True) or to unsubscribe from, and forget it."""
        topics, self._topics = self._topics, []
        return topics

    def ask(self, asker: Asker, queue: str, now_ms: int) -> None:
        """Note somebody who is to be told when the events of a queue that is followed come."""
        wish = self._wishes.get(queue)
        if wish is None or not wish.unheard:
            self._told.append(asker)
            return
        self._waiting_made += 1
        self._waiting[self._waiting_made] = now_ms + self._wait_ms, asker
        wish.waiting.append(self._waiting_made)

    def heard(self, shard: int, topic: bytes) -> str | None:
        """A shard heeds a wish; return the queue if whoever listens to it may have missed what the
        shard did before."""
        wish = self._by_topic.get(topic)
        if wish is None or shard not in wish.shards:
            return None
        was_late = any(number not in self._waiting for number in wish.waiting)
        may_miss = was_late or shard not in wish.unheard
        wish.unheard.discard(shard)
        if not wish.unheard:
            waiting, wish.waiting = wish.waiting, []
            for number in waiting:
                due = self._waiting.pop(number, None)
                if due is not None:
                    self._told.append(due[1])
        return wish.queue if may_miss else None

    def take_told(self, now_ms: int) -> list[Asker]:
        """Return who is to be told now, and forget them."""
        while (due_ms := self.next_deadline_ms()) is not None and due_ms <= now_ms:
            _, asker = self._waiting.pop(next(iter(self._waiting)))
            self._told.append(asker)
        told, self._told = self._told, []
        return told

    def next_deadline_ms(self) -> int | None:
        """Return when somebody is to be told whatever is heard by then."""
        for due_ms, _ in self._waiting.values():
            return due_ms
        return None


def _shards_of(queue: str, shard_count: int) -> frozenset[int]:
    """Return the shards that have the events of a queue, or of all; none for what is no name."""
    if queue == ALL_QUEUES:
        return frozenset(range(shard_count))
    try:
        check_queue_name(queue)
    except FlashQError:
        return frozenset()
    return frozenset({shard_of_queue(queue, shard_count)})
