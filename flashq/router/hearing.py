"""Whether the shards' events come to the router yet, and who waits to be told so.

A subscription reaches a shard a moment after it was asked for, and what happens before that is not
heard. So SUBSCRIBE is answered when every shard has said that it publishes to this router; a shard
that is away does not hold the answer up for longer than a gather. Pure.
"""

from __future__ import annotations

from flashq.router.sessions import Asker


class Hearing:
    """What is heard of the shards. Times are of the monotonic clock, in ms.

    Args:
        shard_count: how many there are.
        wait_ms: how long an answer waits at most.
    """

    def __init__(self, shard_count: int, wait_ms: int) -> None:
        self._shard_count = shard_count
        self._wait_ms = wait_ms
        #: shards whose events do not come here yet
        self._unheard = set(range(shard_count))
        #: who is to be told, and when at the latest; in this order
        self._waiting: list[tuple[int, Asker]] = []

    def ask(self, asker: Asker, now_ms: int) -> None:
        """Note somebody who is to be told when all shards are heard."""
        self._waiting.append((now_ms + self._wait_ms, asker))

    def heard(self, shard: int) -> None:
        """A shard publishes to this router."""
        self._unheard.discard(shard)

    def stop(self) -> None:
        """The shards' events do not come here any more, until they are asked for again."""
        self._unheard = set(range(self._shard_count))

    def take_told(self, now_ms: int) -> list[Asker]:
        """Return who is to be told now, and forget them."""
        if not self._unheard:
            told, self._waiting = self._waiting, []
        else:
            told = [one for one in self._waiting if one[0] <= now_ms]
            del self._waiting[: len(told)]
        return [asker for _, asker in told]

    def next_deadline_ms(self) -> int | None:
        """Return when somebody is to be told whatever is heard by then."""
        return self._waiting[0][0] if self._waiting else None
