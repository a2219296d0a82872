"""The table of crons: who may be in it, and what is due.

Owns validation, timing and what is stored of a cron. What a firing does is the engine's: here it is
a message for a shard. A missed firing is not caught up: whatever has passed, one firing, then the
next regular time. A cron that has fired `limit` times is gone at once; a `limit` of 0 is refused,
because such a cron would never fire.

Two rules make that true also for a clock that goes wrong: no due time fires twice, as each is later
than the last; and no cron waits for a clock that was far ahead to come round again.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

from msgspec import Raw, Struct, json, msgpack

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.parts import Form
from flashq.coordinator.schedule import IntervalSchedule, Schedule, ScheduleError, parse
from flashq.errors import (
    BadMessage,
    CronInvalid,
    CronNotFound,
    LimitReached,
    PayloadTooLarge,
    StorageDamaged,
)
from flashq.protocol.bounds import check_options
from flashq.protocol.codec import transcode
from flashq.protocol.crons import CronJob, SetCron
from flashq.protocol.depth import check_depth
from flashq.protocol.internal import Fire
from flashq.protocol.jobs import JobOptions
from flashq.protocol.limits import EngineLimits
from flashq.protocol.names import check_queue_name
from flashq.protocol.objects import NULL_JSON, NULL_MSGPACK
from flashq.protocol.paging import Listed, bounded, page

CRONS_MAX: Final = 10_000
CRON_NAME_BYTES_MAX: Final = 256
LAST_DUE_AHEAD_MS_MAX: Final = 2 * 24 * 3600 * 1000
"""A last firing that is further ahead than this was due by a clock that was wrong, and does not
hold up the next ones. One less far ahead does: the clock has fired those times already."""


class Cron(Struct, array_like=True):
    """A cron as it is stored. `generation` differs from that of any cron that had the name before;
    times are Unix milliseconds. `options` is the encoded `JobOptions` of its jobs; `last_due` is
    the due time of its last firing, 0 before the first."""

    name: str
    generation: int
    queue: str
    data: bytes
    payload_json: bool
    options: bytes
    schedule: str | None
    repeat_every: int | None
    tz: str | None
    limit: int | None
    next_run: int
    executions: int = 0
    last_due: int = 0

    def has_timing_of(self, request: SetCron) -> bool:
        """Tell whether a request asks for the times at which this cron fires already."""
        asked = (request.schedule, request.repeat_every, request.tz)
        return (self.schedule, self.repeat_every, self.tz) == asked

    def is_as_asked(self, request: SetCron, options: bytes, *, json: bool) -> bool:
        """Tell whether a request asks for just this cron."""
        return (
            self.has_timing_of(request)
            and (self.queue, self.limit, self.options) == (request.queue, request.limit, options)
            and _is_same(self.data, bytes(request.data), self.payload_json, json)
        )


def _is_same(known: bytes, given: bytes, known_json: bool, given_json: bool) -> bool:
    """Tell whether two payloads say the same, in whatever order of keys and encoding."""
    if known == given and known_json == given_json:
        return True
    try:
        return _canonical(known, known_json) == _canonical(given, given_json)
    except (ValueError, TypeError, RecursionError):  # what one encoding cannot say, or not in order
        return False


def _canonical(data: bytes, is_json: bool) -> bytes:
    value = json.decode(data) if is_json else msgpack.decode(data)
    return msgpack.encode(value, order="sorted")


_decode_options: Final = msgpack.Decoder(JobOptions).decode

FORM: Final = Form("cron.", Cron, version=2)


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
            self._generation_last = max(self._generation_last, cron.generation)
            self._crons[name], self._schedules[name] = cron, schedule
        self.set_clock_back(now_ms)

    def set_clock_back(self, now_ms: int) -> None:
        """Reckon anew when crons are due, by a clock that may be behind the one of before.

        Args:
            now_ms: the wall clock. No cron is due later than it would be if it was set now, but for
                times that it has fired already.
        """
        self._due.clear()
        for cron in self._crons.values():
            if self._is_far_ahead(cron, now_ms):
                # Other times, by another clock: they may be the numbers of those before.
                cron.generation = self._new_generation(now_ms)
                cron.last_due = 0
            cron.next_run = min(cron.next_run, self._next_run(cron, now_ms))
            self.postpone(cron)

    def _is_far_ahead(self, cron: Cron, now_ms: int) -> bool:
        """Tell whether a cron's last firing was due by a clock that was wrong."""
        schedule = self._schedules[cron.name]
        if isinstance(schedule, IntervalSchedule):
            return cron.last_due > schedule.next_after(now_ms)
        return cron.last_due > now_ms + LAST_DUE_AHEAD_MS_MAX

    def _next_run(self, cron: Cron, now_ms: int) -> int:
        """Return when a cron is due after `now_ms`, later than when it was due last."""
        schedule = self._schedules[cron.name]
        if isinstance(schedule, IntervalSchedule):
            return max(schedule.next_after(now_ms), cron.last_due + 1)
        return schedule.next_after(max(now_ms, cron.last_due))

    def _new_generation(self, now_ms: int) -> int:
        self._generation_last = max(self._generation_last + 1, now_ms)
        return self._generation_last

    def set(self, request: SetCron, now_ms: int, *, json: bool) -> None:
        """Add a cron, or replace the one of that name; one that is asked for as it is stays.

        Args:
            now_ms: the wall clock.
            json: how the request's payload is encoded.

        Raises:
            FlashQError: the request is refused.
        """
        self._check(request, json=json)
        try:
            schedule = parse(request.schedule, request.repeat_every, request.tz)
        except ScheduleError as error:
            raise CronInvalid(str(error)) from None
        options = _options_of(request)
        known = self._crons.get(request.name)
        if known is not None and known.is_as_asked(request, options, json=json):
            return
        cron = Cron(
            name=request.name,
            generation=self._new_generation(now_ms),
            queue=request.queue,
            data=bytes(request.data),
            payload_json=json,
            options=options,
            schedule=request.schedule,
            repeat_every=request.repeat_every,
            tz=request.tz,
            limit=request.limit,
            next_run=schedule.next_after(now_ms),
        )
        if known is not None and known.has_timing_of(request):
            cron.next_run, cron.last_due = known.next_run, known.last_due
        self._crons[cron.name], self._schedules[cron.name] = cron, schedule
        self.postpone(cron)
        self._write(cron)

    def _check(self, request: SetCron, *, json: bool) -> None:
        size = len(request.name.encode())
        if not size:
            raise CronInvalid("Cron name cannot be empty")
        if size > CRON_NAME_BYTES_MAX:
            raise CronInvalid(f"Cron name too long ({size} chars, max {CRON_NAME_BYTES_MAX} chars)")
        check_queue_name(request.queue, bytes_max=self._limits.queue_name_bytes_max)
        payload_bytes, bytes_max = len(bytes(request.data)), self._limits.payload_bytes_max
        if payload_bytes > bytes_max:
            raise PayloadTooLarge(size=payload_bytes, limit=bytes_max)
        check_depth(bytes(request.data), json=json)
        check_options(request, depends_on_max=self._limits.depends_on_max)
        if request.depends_on:
            raise CronInvalid("A cron cannot have depends_on: each of its jobs would wait for one")
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

    def view(self, limit: int | None = None, after: str | None = None, *, json: bool) -> Listed:
        """Return a page of crons by name, payloads in the reader's encoding."""
        listed = page(self._crons.values(), _name, limit=limit, after=after)
        listed = bounded(listed, _name, [len(cron.data) for cron in listed.entries])
        return Listed([_view(cron, json=json) for cron in listed.entries], listed.next)

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
            cron.options,
        )
        cron.last_due = cron.next_run
        cron.executions += 1
        if cron.limit is not None and cron.executions >= cron.limit:
            self._remove(cron.name)
        else:
            cron.next_run = self._next_run(cron, now_ms)
            self.postpone(cron)
            self._write(cron)
        return fire

    def _write(self, cron: Cron) -> None:
        self._outbox.write(FORM.put(cron.name, cron))

    def _remove(self, name: str) -> None:
        del self._crons[name]
        del self._schedules[name]
        self._outbox.write(FORM.drop(name))


def _name(cron: Cron) -> str:
    return cron.name


def _view(cron: Cron, *, json: bool) -> CronJob:
    data = cron.data
    if json != cron.payload_json:
        try:
            data = transcode(data, to_json=json)
        except BadMessage:  # JSON has no form for it; the rest of the list still counts
            data = NULL_JSON if json else NULL_MSGPACK
    options = _decode_options(cron.options)
    said = {name: getattr(options, name) for name in JobOptions.__struct_fields__}
    return CronJob(
        **{**said, "priority": options.priority or 0},
        name=cron.name,
        queue=cron.queue,
        data=Raw(data),
        schedule=cron.schedule,
        repeat_every=cron.repeat_every,
        next_run=cron.next_run,
        executions=cron.executions,
        limit=cron.limit,
        tz=cron.tz,
    )


def _options_of(request: SetCron) -> bytes:
    """Return what a request says of the jobs to come, encoded; what it does not say is left out."""
    said = {name: getattr(request, name) for name in JobOptions.__struct_fields__}
    return msgpack.encode(JobOptions(**said))
