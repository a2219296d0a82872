"""The windows in which pushes with a debounce id are refused, over all queues.

Owns their number and the order in which they end; each queue has its own, by id.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from flashq.shard.holdings import Queue

_COMPACT_AT: Final = 1024


class Debounces:
    """All windows that are open.

    Args:
        queues: by name, as they come and go.
    """

    __slots__ = ("_ends", "_queues", "count")

    def __init__(self, queues: dict[str, Queue]) -> None:
        self._queues: Final = queues
        #: (end, queue, debounce id) of all, and of some that were closed before
        self._ends: list[tuple[int, str, str]] = []
        self.count = 0

    def __contains__(self, end: object) -> bool:
        return end in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def start(self, queue: Queue, debounce_id: str, until_ms: int) -> None:
        """Open a window in which pushes with that debounce id are refused."""
        self.count += debounce_id not in queue.debounces
        queue.debounces[debounce_id] = until_ms
        heappush(self._ends, (until_ms, queue.name, debounce_id))

    def next_end_ms(self) -> int | None:
        """Return when the first window ends (wall clock), None for never."""
        return self._ends[0][0] if self._ends else None

    def end_until(self, now_ms: int) -> list[str]:
        """Close the windows that have ended; return the queues that they were of."""
        names = []
        ends = self._ends
        while ends and ends[0][0] <= now_ms:
            end = heappop(ends)
            if self._counts(end):
                names.append(end[1])
                del self._queues[end[1]].debounces[end[2]]
                self.count -= 1
        return list(dict.fromkeys(names))

    def forget(self, queue: Queue) -> None:
        """Close all windows of a queue. Their ends are left behind until most are such."""
        self.count -= len(queue.debounces)
        queue.debounces.clear()
        if len(self._ends) > _COMPACT_AT and len(self._ends) > 2 * self.count:
            self._ends = [end for end in self._ends if self._counts(end)]
            heapify(self._ends)

    def _counts(self, end: tuple[int, str, str]) -> bool:
        until, name, debounce_id = end
        queue = self._queues.get(name)
        return queue is not None and queue.debounces.get(debounce_id) == until
