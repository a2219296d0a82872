"""Workers that say over HTTP that they are there.

Owns their list, for as long as they say so. A gateway knows only those that told it; nothing here
decides anything about jobs. Pure.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from flashq.errors import Busy, FieldTooLarge
from flashq.protocol.base import Unsigned

ALIVE_MS: Final = 30_000
"""Silence after which a worker is not listed any more."""
WORKERS_MAX: Final = 10_000
NAME_CHARS_MAX: Final = 256
QUEUES_MAX: Final = 1000


class Registration(Struct, kw_only=True):
    """What a worker says of itself."""

    queues: list[str] = []
    concurrency: Unsigned | None = 0
    jobs_processed: Unsigned | None = 0


class WorkerInfo(Struct, kw_only=True, frozen=True):
    """A worker; `last_heartbeat` is Unix milliseconds."""

    id: str
    queues: list[str]
    concurrency: int
    last_heartbeat: int
    jobs_processed: int


class Workers:
    """All workers that have said lately that they are there."""

    def __init__(self) -> None:
        #: by id, in the order of their last heartbeats
        self._known: dict[str, WorkerInfo] = {}

    def heard(self, worker_id: str, told: Registration, now_ms: int) -> None:
        """Note a heartbeat.

        Raises:
            FieldTooLarge: its id, or the number of its queues, is beyond the bound.
            Busy: there are too many workers.
        """
        if len(worker_id) > NAME_CHARS_MAX:
            raise FieldTooLarge(field="id", size=len(worker_id), limit=NAME_CHARS_MAX)
        if len(told.queues) > QUEUES_MAX:
            raise FieldTooLarge(field="queues", size=len(told.queues), limit=QUEUES_MAX)
        self._forget_silent(now_ms)
        self._known.pop(worker_id, None)
        if len(self._known) >= WORKERS_MAX:
            raise Busy(detail=f"{WORKERS_MAX} workers are registered")
        self._known[worker_id] = WorkerInfo(
            id=worker_id,
            queues=[queue[:NAME_CHARS_MAX] for queue in told.queues],
            concurrency=told.concurrency or 0,
            last_heartbeat=now_ms,
            jobs_processed=told.jobs_processed or 0,
        )

    def alive(self, now_ms: int) -> list[WorkerInfo]:
        """Return those heard of lately, the longest silent first."""
        self._forget_silent(now_ms)
        return list(self._known.values())

    def _forget_silent(self, now_ms: int) -> None:
        while self._known:
            worker_id, info = next(iter(self._known.items()))
            if 0 <= now_ms - info.last_heartbeat < ALIVE_MS:
                break
            del self._known[worker_id]
