"""Requests to several shards that are under way, each with its deadline. Pure.

Owns their table. `gathers` says what is asked of each shard, and how one answer is made of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flashq.errors import Busy
from flashq.router.gathers import Gather

GATHERS_MAX: Final = 10_000


class GatherTable:
    """All of them.

    Args:
        finish: told of each that has all of its answers, or no more time.
    """

    def __init__(self, finish: Callable[[Gather], None]) -> None:
        self._finish: Final = finish
        #: by number; in the order of their deadlines
        self._gathers: dict[int, Gather] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._gathers)

    def check_room(self) -> None:
        """Refuse one more when there are too many.

        Raises:
            Busy: there are.
        """
        if len(self._gathers) >= GATHERS_MAX:
            raise Busy(detail=f"{GATHERS_MAX} requests wait for several shards")

    def add(self, gather: Gather) -> bytes:
        """Add one whose deadline is the latest, and return the number that answers have to name."""
        self._made += 1
        self._gathers[self._made] = gather
        return self._made.to_bytes(8, "big")

    def take(self, shard: int, number: bytes, body: bytes) -> bool:
        """Take a shard's answer; False when nobody waits for it any more."""
        key = int.from_bytes(number, "big")
        gather = self._gathers.get(key)
        if gather is None or gather.waiting.pop(shard, None) is None:
            return False
        gather.replies[shard] = body
        if not gather.waiting:
            self._end(key)
        return True

    def forget_shard(self, shard: int, epoch: int) -> None:
        """A shard is ready under a new epoch: what it was asked before is gone."""
        for key, gather in list(self._gathers.items()):
            # One asked while no epoch was known may have been kept for the new process.
            if gather.waiting.get(shard, 0) not in (0, epoch):
                del gather.waiting[shard]
                if not gather.waiting:
                    self._end(key)

    def tick(self, now_ms: int) -> None:
        """End those whose time is up."""
        while (due_ms := self.next_deadline_ms()) is not None and due_ms <= now_ms:
            self._end(next(iter(self._gathers)))

    def next_deadline_ms(self) -> int | None:
        """Return when the time of the next one is up."""
        for gather in self._gathers.values():
            return gather.deadline_ms
        return None

    def _end(self, key: int) -> None:
        self._finish(self._gathers.pop(key))
