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


Act = Callable[[Any], int | None]
"""Is called with what a deadline is about; tells how much work that was beside the call itself."""


class Timers:
    """Deadlines, each with a method to call and what it is about."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Act, Subject]] = []
        self._stamp = 0
        self._compact_at = _COMPACT_AT

    def at(self, mono_ms: int, act: Act, subject: Subject) -> None:
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

    def run_due(self, mono_ms: int, work_max: int | None = None) -> None:
        """Act on what is due; what an act adds in turn waits for the next run.

        Args:
            mono_ms: the monotonic clock.
            work_max: stop after so much work: each act is one, and what it says that it was more.
        """
        last, work = self._stamp, 0
        later = []
        while self._heap and self._heap[0][0] <= mono_ms and (work_max is None or work < work_max):
            entry = heappop(self._heap)
            _, stamp, act, subject = entry
            if stamp > last:
                later.append(entry)
            elif subject.open:
                work += 1 + (act(subject) or 0)
        for entry in later:
            heappush(self._heap, entry)
