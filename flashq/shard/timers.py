"""Deadlines on monotonic time.

A binary heap with lazy deletion: an entry counts while its subject is still `open`. When most have
ceased to count the heap is rebuilt, so that pulls which are answered at once do not leave a
minute's worth of dead deadlines behind.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol

_COMPACT_AT: Final = 1024


class Subject(Protocol):
    """What a deadline is about; `open` is falsy when nobody cares any more."""

    @property
    def open(self) -> int: ...


class Timers:
    """Deadlines, each with a method to call and what it is about."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Callable[[Any], None], Subject]] = []
        self._stamp = 0
        self._compact_at = _COMPACT_AT

    def at(self, mono_ms: int, act: Callable[[Any], None], subject: Subject) -> None:
        """Have `act(subject)` called when the monotonic clock reaches `mono_ms`."""
        self._stamp += 1
        heappush(self._heap, (mono_ms, self._stamp, act, subject))
        if len(self._heap) > self._compact_at:
            self._heap = [entry for entry in self._heap if entry[3].open]
            heapify(self._heap)
            self._compact_at = max(_COMPACT_AT, 2 * len(self._heap))

    def next_ms(self) -> int | None:
        """Return the first deadline that still counts."""
        heap = self._heap
        while heap and not heap[0][3].open:
            heappop(heap)
        return heap[0][0] if heap else None

    def run_due(self, mono_ms: int) -> None:
        """Act on everything due; what an act adds in turn waits for the next run."""
        due = []
        heap = self._heap
        while heap and heap[0][0] <= mono_ms:
            due.append(heappop(heap))
        for _, _, act, subject in due:
            if subject.open:
                act(subject)
