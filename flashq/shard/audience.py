"""Which queues' events somebody listens to.

Owns what the router has asked a shard's publisher for. Pure.
"""

from __future__ import annotations

from collections import Counter

from flashq.protocol.framing import ALL_QUEUES, wished_queue


class Audience:
    """The wishes that stand."""

    def __init__(self) -> None:
        #: how often each stands: a link that is made again may come before the old one goes
        self._wishes: Counter[bytes] = Counter()
        #: how many wishes there are for each queue; all and only those with one
        self._queues: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, queue: object) -> bool:
        """Whether somebody listens to a queue."""
        queues = self._queues
        return queue in queues or ALL_QUEUES in queues

    def take(self, message: bytes) -> list[bytes]:
        """Take what the events' publisher has got: a topic, and before it one byte that says
        whether it is asked for or let go.

        Returns:
            The wishes of which to say that they are heeded. The empty topic is the stream itself:
            before it stands nobody is there to be told.
        """
        is_new, wish = message[:1] == b"\x01", message[1:]
        if not is_new:
            self.remove(wish)
            return []
        if not wish:
            return list(self._wishes)
        self.add(wish)
        return [wish]

    def add(self, wish: bytes) -> None:
        """Note a wish."""
        if not self._wishes[wish]:
            self._queues[wished_queue(wish)] += 1
        self._wishes[wish] += 1

    def remove(self, wish: bytes) -> None:
        """Forget a wish; one that does not stand is none."""
        if wish not in self._wishes:
            return
        self._wishes[wish] -= 1
        if self._wishes[wish]:
            return
        del self._wishes[wish]
        queue = wished_queue(wish)
        self._queues[queue] -= 1
        if not self._queues[queue]:
            del self._queues[queue]
