"""The gate: nothing leaves before the log is safe up to the sequence it was computed at.

Pure. What passes at once is not seen here; what waits leaves in the order in which it came.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Gate(Generic[T]):
    """Things that wait for a log sequence to be safe.

    Sequences are passed in ascending order, which the log's own order gives.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, T]] = deque()
        self._safe = 0

    def pass_or_wait(self, seq: int, thing: T) -> bool:
        """Return whether the thing may leave now; if not, it is kept."""
        if seq <= self._safe:
            return True
        self._waiting.append((seq, thing))
        return False

    def release(self, safe: int) -> list[T]:
        """Return what may leave because the log is safe up to `safe`."""
        self._safe = max(self._safe, safe)
        freed: list[T] = []
        waiting = self._waiting
        while waiting and waiting[0][0] <= self._safe:
            freed.append(waiting.popleft()[1])
        return freed

    def __len__(self) -> int:
        return len(self._waiting)
