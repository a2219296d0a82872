"""What an engine wants done: replies, log entries and events, in the order they were decided."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from flashq.protocol.framing import FULL, JSON, OLDER
from flashq.protocol.objects import Event
from flashq.protocol.records import Entry
from flashq.shard.sight import Sight


class Origin(Struct, frozen=True):
    """Where a request came from, and so where its reply goes.

    Args:
        peer: the link's routing id.
        corr: the asker's number of the request.
        tail: what its header carried behind the fixed part; echoed.
        flags: the asker's flags (JSON, FULL, OLDER).
        sight: which queues' jobs there are for the asker; None for all.
    """

    peer: bytes
    corr: int
    tail: bytes = b""
    flags: int = 0
    sight: Sight | None = None

    @property
    def json(self) -> bool:
        return bool(self.flags & JSON)

    @property
    def full(self) -> bool:
        return bool(self.flags & FULL)

    @property
    def older(self) -> bool:
        return bool(self.flags & OLDER)

    def sees(self, queue: str) -> bool:
        """Tell whether the jobs of a queue are there for the asker."""
        return self.sight is None or self.sight.has(queue)


class Reply(Struct):
    """A reply on its way out.

    Args:
        origin: whose request it answers.
        body: the reply object, or its MessagePack encoding.
        gate: it may leave when the log is safe up to here.
        seq: the log sequence at which it was computed; 0 when it tells of nothing in the log.
        delivery: it hands out jobs.
        is_read: nothing was done for it, so that it may be refused instead.
    """

    origin: Origin
    body: Any
    gate: int
    seq: int
    delivery: bool = False
    is_read: bool = False


class Outbox:
    """Filled by the engine, emptied by the node."""

    __slots__ = ("entries", "events", "replies")

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        #: entries for the log, in sequence
        self.entries: list[Entry] = []
        #: events with their gate
        self.events: list[tuple[int, Event]] = []
