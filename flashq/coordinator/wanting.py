"""What shards are told of webhooks: which events are wanted at all.

Owns who has been told what. A new webhook is answered once every shard that serves has heeded it,
so that nothing that happens after the answer is missed; one that says nothing for a second is not
waited for. A shard that is away is told when it comes back, before it serves. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.shards import ShardLinks
from flashq.ids import shard_of_queue
from flashq.protocol.internal import Heeded, Wanted

PATIENCE_MS: Final = 1000

Pair = tuple[str | None, str]


class _Waiting(NamedTuple):
    """What is done once all shards have heeded a version, or at a time."""

    version: int
    until_ms: int
    action: Callable[[], None]


class Wanting:
    """What is wanted, and which shard knows it.

    Args:
        shard_count: how many there are.
        links: the shards.
        outbox: where messages go.
        now_ms: the wall clock; versions count on from it.
    """

    def __init__(self, shard_count: int, links: ShardLinks, outbox: Outbox, now_ms: int) -> None:
        self._shard_count = shard_count
        self._links = links
        self._outbox = outbox
        self._pairs: frozenset[Pair] = frozenset()
        self._version = now_ms
        #: what each shard has heeded; 0 for nothing
        self._heeded = [0] * shard_count
        self._waiting: list[_Waiting] = []

    def change(self, pairs: Iterable[Pair]) -> None:
        """Something else is wanted: tell all shards that are there."""
        wanted = frozenset(pairs)
        if wanted == self._pairs:
            return
        self._pairs = wanted
        self._version += 1
        for link in self._links.connected():
            self.correct(link.shard)

    def correct(self, shard: int) -> None:
        """Tell a shard what is wanted, whatever it knows."""
        address = self._links.identity_of(shard)
        if address is not None:
            self._outbox.send(address, self._message(shard))

    def greet(self, shard: int, *, fresh: bool) -> None:
        """A shard has said hello: tell it, behind the answer to that, unless it knows.

        Args:
            fresh: it has forgotten what it knew.
        """
        if fresh:
            self._heeded[shard] = 0
        if self._pairs and self._heeded[shard] != self._version:
            self._outbox.then(partial(self.correct, shard))

    def heed(self, heeded: Heeded) -> None:
        """A shard follows what it was told."""
        self._heeded[heeded.shard] = heeded.version

    def when_heeded(self, action: Callable[[], None], mono_ms: int) -> None:
        """Do something once every shard that serves knows what is wanted now."""
        self._waiting.append(_Waiting(self._version, mono_ms + PATIENCE_MS, action))

    def tick(self, mono_ms: int) -> None:
        """Tell shards that have not asked, and do what has waited long enough."""
        for shard in self._links.take_ungreeted():
            self.greet(shard, fresh=False)
        if not self._waiting:
            return
        heeded = min(
            (
                self._heeded[shard]
                for shard in range(self._shard_count)
                if self._links.address_of(shard) is not None
            ),
            default=self._version,
        )
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if one.version <= heeded or one.until_ms <= mono_ms:
                one.action()
            else:
                self._waiting.append(one)

    def next_at_ms(self) -> int | None:
        """Return when `tick` has something to do, on the monotonic clock."""
        return min((one.until_ms for one in self._waiting), default=None)

    def _message(self, shard: int) -> Wanted:
        """Return what a shard has to know: only queues that are its own."""
        pairs = [
            (queue, event)
            for queue, event in self._pairs
            if queue is None or shard_of_queue(queue, self._shard_count) == shard
        ]
        return Wanted(
            version=self._version, pairs=sorted(pairs, key=lambda pair: (pair[0] or "", pair[1]))
        )
