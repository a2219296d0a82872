"""The table of crons: who may be in it, and what is due.

Owns validation, timing and what is stored of a cron. What a firing does is the engine's: here it is
a message for a shard. A missed firing is not caught up: whatever has passed, one firing, then the
next regular time. A cron that has fired `limit` times is gone at once; a `limit` of 0 is refused,
because such a cron would never fire.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

from msgspec import Raw, Struct

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.parts import Form
from flashq.coordinator.schedule import Schedule, ScheduleError, parse
from flashq.errors import (
    BadMessage,
    CronInvalid,
    CronNotFound,
    LimitReached,
    PayloadTooLarge,
    StorageDamaged,
)
from flashq.protocol.codec import transcode
from flashq.protocol.crons import SetCron
from flashq.protocol.internal import Fire
from flashq.protocol.limits import EngineLimits
from flashq.protocol.names import check_queue_name
from flashq.protocol.objects import NULL_JSON, NULL_MSGPACK, CronJob

CRONS_MAX: Final = 10_000
CRON_NAME_BYTES_MAX: Final = 256


class Cron(Struct, array_like=True):
    """A cron as it is stored. `generation` differs from that of any cron that had the name before;
    times are Unix milliseconds."""

    name: str
    generation: int
    queue: str
    data: bytes
    payload_json: bool
    priority: int
    schedule: str | None
    repeat_every: int | None
    tz: str | None
    limit: int | None
    next_run: int
    executions: int = 0


FORM: Final = Form("cron.", Cron)


class CronTable:
    """All crons.

    Args:
        limits: the server's.
        outbox: where writes go.
    """

    def __init__(self, limits: EngineLimits, outbox: Outbox) -> None:
        self._limits = limits
        self._outbox = outbox
        self._crons: dict[str, Cron] = {}
        #: by name, in step with `_crons`
        self._schedules: dict[str, Schedule] = {}
        #: (next_run, name, generation) of every cron, and of some that are gone or have moved on
        self._due: list[tuple[int, str, int]] = []
        self._generation_last = 0

    def load(self, parts: Mapping[str, bytes], now_ms: int) -> None:
        """Take up what was stored.

        Args:
            parts: the coordinator's, from storage.
            now_ms: the wall clock. No cron is due later than it would be if it was set now: one
                that is has met a clock that was set back since.

        Raises:
            ConfigError, StorageDamaged: a cron cannot be read.
        """
        for name, cron in FORM.stored(parts):
            try:
                schedule = parse(cron.schedule, cron.repeat_every, cron.tz)
            except ScheduleError as error:
                raise StorageDamaged(detail=f"coordinator's cron {name}: {error}") from None
            cron.next_run = min(cron.next_run, schedule.next_after(now_ms))
            self._keep(cron, schedule)
            self._generation_last = max(self._generation_last, cron.generation)

    def set(self, request: SetCron, now_ms: int, *, json: bool) -> None:
        """Add a cron, or replace the one of that name.

        Args:
            now_ms: the wall clock.
            json: how the request's payload is encoded.

        Raises:
            FlashQError: the request is refused.
        """
        self._check(request)
        try:
            schedule = parse(request.schedule, request.repeat_every, request.tz)
        except ScheduleError as error:
            raise CronInvalid(str(error)) from None
        self._generation_last = max(self._generation_last + 1, now_ms)
        cron = Cron(
            name=request.name,
            generation=self._generation_last,
            queue=request.queue,
            data=bytes(request.data),
            payload_json=json,
            priority=request.priority or 0,
            schedule=request.schedule,
            repeat_every=request.repeat_every,
            tz=request.tz,
            limit=request.limit,
            next_run=schedule.next_after(now_ms),
        )
        self._keep(cron, schedule)
        self._write(cron)

    def _check(self, request: SetCron) -> None:
        size = len(request.name.encode())
        if not size:
            raise CronInvalid("Cron name cannot be empty")
        if size > CRON_NAME_BYTES_MAX:
            raise CronInvalid(f"Cron name too long ({size} chars, max {CRON_NAME_BYTES_MAX} chars)")
        check_queue_name(request.queue, bytes_max=self._limits.queue_name_bytes_max)
        payload_bytes, bytes_max = len(bytes(request.data)), self._limits.payload_bytes_max
        if payload_bytes > bytes_max:
            raise PayloadTooLarge(size=payload_bytes, limit=bytes_max)
        if request.limit == 0:
            raise CronInvalid("Invalid limit: 0 (the cron would never fire)")
        if request.name not in self._crons and len(self._crons) >= CRONS_MAX:
            raise LimitReached(detail=f"{CRONS_MAX} crons")

    def delete(self, name: str) -> None:
        """Remove a cron.

        Raises:
            CronNotFound: there is none of that name.
        """
        if name not in self._crons:
            raise CronNotFound
        self._remove(name)

    def delete_of_queue(self, queue: str) -> None:
        """Remove the crons that push into a queue."""
        for name in [cron.name for cron in self._crons.values() if cron.queue == queue]:
            self._remove(name)

    def view(self, *, json: bool) -> list[CronJob]:
        """Return all crons by name, payloads in the reader's encoding."""
        return [_view(cron, json=json) for _, cron in sorted(self._crons.items())]

    def next_run_ms(self) -> int | None:
        """Return when the next cron is due, on the wall clock."""
        while self._due:
            next_run, name, generation = self._due[0]
            cron = self._crons.get(name)
            if cron is not None and (cron.next_run, cron.generation) == (next_run, generation):
                return next_run
            heapq.heappop(self._due)
        return None

    def due(self, now_ms: int) -> list[Cron]:
        """Return the crons that are due, the one due longest first."""
        crons = []
        while (next_run := self.next_run_ms()) is not None and next_run <= now_ms:
            crons.append(self._crons[heapq.heappop(self._due)[1]])
        return crons

    def postpone(self, cron: Cron) -> None:
        """Leave a due cron due: it cannot fire now."""
        heapq.heappush(self._due, (cron.next_run, cron.name, cron.generation))

    def fire(self, cron: Cron, now_ms: int) -> Fire:
        """Let a due cron fire, and return the message for the shard of its queue.

        The caller writes the message into the same group.
        """
        fire = Fire(
            cron.name,
            cron.generation,
            cron.next_run,
            cron.queue,
            cron.data,
            cron.payload_json,
            cron.priority,
        )
        cron.executions += 1
        if cron.limit is not None and cron.executions >= cron.limit:
            self._remove(cron.name)
        else:
            cron.next_run = self._schedules[cron.name].next_after(now_ms)
            self.postpone(cron)
            self._write(cron)
        return fire

    def _keep(self, cron: Cron, schedule: Schedule) -> None:
        self._crons[cron.name] = cron
        self._schedules[cron.name] = schedule
        self.postpone(cron)

    def _write(self, cron: Cron) -> None:
        self._outbox.write(FORM.put(cron.name, cron))

    def _remove(self, name: str) -> None:
        del self._crons[name]
        del self._schedules[name]
        self._outbox.write(FORM.drop(name))


def _view(cron: Cron, *, json: bool) -> CronJob:
    data = cron.data
    if json != cron.payload_json:
        try:
            data = transcode(data, to_json=json)
        except BadMessage:  # JSON has no form for it; the rest of the list still counts
            data = NULL_JSON if json else NULL_MSGPACK
    return CronJob(
        name=cron.name,
        queue=cron.queue,
        data=Raw(data),
        schedule=cron.schedule,
        repeat_every=cron.repeat_every,
        priority=cron.priority,
        next_run=cron.next_run,
        executions=cron.executions,
        limit=cron.limit,
        tz=cron.tz,
    )
