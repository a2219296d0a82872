"""The gate: nothing leaves before the log is safe up to the sequence it was computed at.

Pure. What passes at once is not seen here; what waits leaves in the order in which it came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from flashq.errors import Busy, StorageUnavailable
from flashq.protocol.codec import error_reply
from flashq.shard.carrying import carried_bytes
from flashq.shard.outbox import Reply

READ_BYTES_MAX: Final = 67_108_864
"""Payloads in reads that wait; above it one more that would have to wait is answered `busy`."""

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

    def take(self, is_meant: Callable[[T], bool]) -> list[T]:
        """Return what is meant of what waits; it waits no longer."""
        taken = [thing for _, thing in self._waiting if is_meant(thing)]
        if taken:
            self._waiting = deque(
                (seq, thing) for seq, thing in self._waiting if not is_meant(thing)
            )
        return taken

    def __len__(self) -> int:
        return len(self._waiting)


class ReplyGate(Gate[Reply]):
    """Replies that wait until what they tell is safe.

    A change that was made gets its answer, however long that takes. A read, for which nothing was
    done, does not wait for ever: once the log is late it is refused. So is one that would wait on
    top of too many others: they share their payloads with the jobs in the state until they leave,
    and are encoded then, all at once.
    """

    def __init__(self) -> None:
        super().__init__()
        #: how many reads wait
        self.reads = 0
        #: bytes of payloads in them
        self.read_bytes = 0

    def admit(self, reply: Reply, seq: int, *, is_late: bool) -> Reply | None:
        """Return what leaves now: the reply, or its refusal; None if it waits.

        Args:
            reply: on its way out.
            seq: what has to be safe before that.
            is_late: a read is refused rather than kept.
        """
        if seq <= self._safe:
            return reply
        if reply.is_read:
            size = carried_bytes(reply.body)
            if is_late:
                return _refused(reply)
            if size and self.read_bytes + size > READ_BYTES_MAX:
                busy = Busy(detail=f"reads of {self.read_bytes} bytes wait for storage")
                return Reply(reply.origin, error_reply(busy), 0, 0)
            self.read_bytes += size
        self._waiting.append((seq, reply))
        self.reads += reply.is_read
        return None

    def release(self, safe: int) -> list[Reply]:
        """Return what may leave because the log is safe up to `safe`."""
        freed = super().release(safe)
        if self.reads:
            reads = [reply for reply in freed if reply.is_read]
            self.reads -= len(reads)
            self.read_bytes -= sum(carried_bytes(reply.body) for reply in reads)
        return freed

    def refuse_reads(self) -> list[Reply]:
        """Return the refusals of all reads that wait."""
        if not self.reads:
            return []
        self.reads = self.read_bytes = 0
        return [_refused(reply) for reply in self.take(lambda reply: reply.is_read)]


def _refused(reply: Reply) -> Reply:
    error = StorageUnavailable(
        detail="what this would tell of has been changed and is not stored yet"
    )
    return Reply(reply.origin, error_reply(error), 0, 0)
