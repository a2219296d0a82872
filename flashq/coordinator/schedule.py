"""When a cron entry is due: the one place that knows cron syntax and daylight saving.

Owns the reading of ``schedule``, ``repeat_every`` and ``tz`` (wire-contract 4.13) and the question
"when next, after this moment?". Has no clock: the moment is an argument. The only thing it reads
from outside is the IANA time zone database, once per zone, while parsing. It may not know what a
cron entry fires, nor store anything.

Syntax
    ``*/N`` alone is every N seconds, N >= 1. A nickname stands for five fields, in any case:
    ``@yearly`` or ``@annually``, ``@monthly``, ``@weekly`` (Sunday), ``@daily`` or ``@midnight``,
    ``@hourly``; each is due at the beginning of its time. Otherwise five fields (minute, hour, day
    of month, month, day of week; second 0) or six (second first). Each field takes ``*``, numbers,
    ranges ``a-b`` (one that runs backwards wraps round, ``22-2``), lists, steps ``*/n``, ``a/n``,
    ``a-b/n``; month and day names of three letters in any case; ``?`` for ``*`` in the two day
    fields. Day of month: ``L`` the last day, ``15W`` the weekday nearest to the 15th in the same
    month (a day that the month lacks counts as its last). Day of week: 0 to 7, 0 and 7 Sunday;
    ``5#2`` or ``FRI#2`` the second Friday; ``5L``, ``L5``, ``FRIL`` or ``FRI#L`` the last Friday.
    If both day fields restrict, a day matches when **either** does; each ``W``, ``#`` and ``L``
    item is one more way to match. Not supported and refused: ``LW``, ``L-n``, a bare ``L`` as day
    of week, ``#`` and ``L`` on a list or range of days, ``@every``, ``@reboot``, years, and
    croniter's hashed and random fields (``H``, ``R``), which would not be repeatable.

Daylight saving
    A schedule whose hour field names hours (``2``, ``8-18``, ``1,13``, ``0/6``) means an
    appointment: it is due once per matching local time. A local time that happens twice counts
    the first time only; one that the clock jumps over is due at the next minute that exists (the
    end of the gap), and several in one gap are due together, once.
    A schedule whose hour field is a wildcard (``*``, ``*/n``, or all 24 hours by number) means a
    rhythm: it is due at **every** real moment whose local time matches. So ``*/5 * * * *`` keeps
    its five minutes through both changes: the hour that happens twice fires twice, and what the
    clock jumps over does not happen and is not made up for.

Why not croniter alone: with a zone it fires twice in autumn, so it is only asked about local wall
time without a zone, and the mapping to UTC is done here with ``fold`` (PEP 495). It also reads
``9-9`` as the whole cycle, does not know ``5L``, and turns "either day field" into "both" as soon
as ``W`` or ``#`` appears; such items are rewritten or asked about separately.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter

SCHEDULE_BYTES_MAX = 256
TIME_ZONE_BYTES_MAX = 64
#: The longest interval: 100 years of 366 days.
INTERVAL_MS_MAX = 100 * 366 * 86_400_000
#: The latest moment that may be asked about (year 6429), so that no date overflows.
AFTER_MS_MAX = 2**47

_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
#: Where the search for a first match starts that proves that a schedule can match. Any moment
#: would do: the longest wait of a valid one (29 February on a given weekday, over a century year)
#: is 40 years, and croniter looks 50 years ahead.
_PROOF_START = datetime(2000, 1, 1)  # noqa: DTZ001 - local time without a zone is the point

#: Trees of zoneinfo that repeat the others (``right`` even counts leap seconds), and names whose
#: meaning is this machine's setting.
_NOT_ZONES = frozenset({"posix", "right", "posixrules", "localtime"})


class ScheduleError(ValueError):
    """The schedule, interval or time zone of a cron entry is refused.

    ``str()`` of it is the text for the client, as wire-contract 4.13 has it.
    """


class _Field(NamedTuple):
    """What one of the six fields is called, what it takes, and its names."""

    name: str
    takes: str
    values: dict[str, str]


def _numbered(names: str, first: int) -> dict[str, str]:
    return {name: str(number) for number, name in enumerate(names.split(), first)}


_MONTHS = _numbered("jan feb mar apr may jun jul aug sep oct nov dec", 1)
_WEEKDAYS = _numbered("sun mon tue wed thu fri sat", 0)
_FIELDS = (
    _Field("second", "0-59", {}),
    _Field("minute", "0-59", {}),
    _Field("hour", "0-23", {}),
    _Field("day of month", "1-31, L, 15W or ?", {}),
    _Field("month", "1-12 or JAN-DEC", _MONTHS),
    _Field("day of week", "0-7 or SUN-SAT, 5#2, 5L or ?", _WEEKDAYS),
)
_HOUR, _DAY, _WEEKDAY = 2, 3, 5

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_INTERVAL = re.compile(r"\*/([0-9]+)")
_RANGE = re.compile(r"(\w+)-(\w+)(?:/0*[1-9][0-9]*)?", re.ASCII)
_LAST_WEEKDAY = re.compile(r"([0-7]|[a-z]{3})#?l")


@dataclass(frozen=True, slots=True)
class IntervalSchedule:
    """Due ``interval_ms`` after the moment asked about; keeps no grid."""

    interval_ms: int

    def next_after(self, after_ms: int) -> int:
        """The next due time in ms since the epoch, always later than ``after_ms``."""
        return after_ms + self.interval_ms


@dataclass(frozen=True, slots=True, eq=False)
class CronSchedule:
    """Due at local times that match cron fields. Made by ``parse``."""

    #: One search per way a day can match, each over naive local time; never empty, each can match.
    _searches: tuple[croniter[datetime], ...]
    _zone: ZoneInfo
    #: The hour field is a wildcard: due at every real moment that matches.
    _every_hour: bool

    def next_after(self, after_ms: int) -> int:
        """The next due time, to the second.

        Args:
            after_ms: the moment to look from, ms since the epoch, 0 to ``AFTER_MS_MAX``.

        Returns:
            ms since the epoch, always later than ``after_ms``. The answer depends on the arguments
            and the time zone database alone.
        """
        assert 0 <= after_ms <= AFTER_MS_MAX, after_ms
        after_s = after_ms // 1000  # due times are whole seconds, so nothing lies in between
        next_s = self._every_time_after if self._every_hour else self._first_time_after
        due_ms = next_s(after_s) * 1000
        assert due_ms > after_ms, (due_ms, after_ms)
        return due_ms

    def _first_time_after(self, after_s: int) -> int:
        """For appointments: matching local times at the first moment that shows them."""
        wall = self._wall(after_s)
        if wall.fold:
            # All that the clock shows until the end of the second pass was due in the first.
            wall = self._wall(self._fold_change_s(after_s)) - _SECOND
        return self._moment_s(self._existing(self._match_after(wall)), fold=0)

    def _every_time_after(self, after_s: int) -> int:
        """For rhythms: every moment whose local time matches."""
        wall = self._wall(after_s)
        due_s = self._occurrence_after(wall, after_s)
        if not wall.fold and self._moment_s(wall, fold=1) > self._moment_s(wall, fold=0):
            # In the first pass: what the clock showed already comes once more in the second.
            second_pass_s = self._fold_change_s(after_s)
            if due_s >= second_pass_s:
                wall = self._wall(second_pass_s) - _SECOND
                due_s = self._occurrence_after(wall, second_pass_s - 1)
        return due_s

    def _occurrence_after(self, wall: datetime, after_s: int) -> int:
        """The first moment after ``after_s`` that shows the next existing match after ``wall``."""
        match = self._match_after(wall)
        while (existing := self._existing(match)) != match:
            match = self._match_after(existing - _SECOND)
        first_s = self._moment_s(match, fold=0)
        return first_s if first_s > after_s else self._moment_s(match, fold=1)

    def _match_after(self, wall: datetime) -> datetime:
        """The first matching local time later than ``wall``, whether or not it exists."""
        return min(search.get_next(datetime, start_time=wall) for search in self._searches)

    def _wall(self, moment_s: int) -> datetime:
        """What the local clock shows, naive, with ``fold`` 1 in the second pass of an hour."""
        return datetime.fromtimestamp(moment_s, self._zone).replace(tzinfo=None)

    def _moment_s(self, wall: datetime, fold: int) -> int:
        """When the local clock shows ``wall``; ``fold`` chooses if that happens twice."""
        return int(wall.replace(tzinfo=self._zone, fold=fold).timestamp())

    def _existing(self, wall: datetime) -> datetime:
        """``wall`` itself, or the next whole minute that exists if the clock jumps over it."""
        # In a gap, and only there, the offset from before it (fold 0) gives the later moment.
        while self._moment_s(wall, fold=0) > self._moment_s(wall, fold=1):
            wall = wall.replace(second=0) + _MINUTE
        return wall

    def _fold_change_s(self, moment_s: int) -> int:
        """The first whole minute after ``moment_s`` that is in another pass of the clock.

        Steps by minutes because zoneinfo does not tell its transitions; since 1970 all that repeat
        a time lie on whole minutes. Asked only within a repeated hour, so it takes few steps.
        """
        fold = self._wall(moment_s).fold
        minute_s = moment_s - moment_s % 60 + 60
        while self._wall(minute_s).fold == fold:
            minute_s += 60
        return minute_s


Schedule: TypeAlias = IntervalSchedule | CronSchedule


def parse(schedule: str | None, repeat_every: int | None, tz: str | None) -> Schedule:
    """Reads the timing of a cron entry.

    Args:
        schedule: ``*/N``, a nickname, or five or six cron fields, at most ``SCHEDULE_BYTES_MAX``
            bytes.
        repeat_every: interval in ms, 1 to ``INTERVAL_MS_MAX``. Decides the timing if both are
            given; the schedule is checked all the same.
        tz: IANA name of the zone whose local time the fields mean; None is UTC.

    Raises:
        ScheduleError: with the text for the client. A schedule that never matches, such as
            30 February, is refused too.
    """
    if schedule is None and repeat_every is None:
        raise ScheduleError("Must provide either 'schedule' or 'repeat_every'")
    zone = _zone(tz)
    timing: Schedule | None = None
    if schedule is not None:
        timing = _from_schedule(schedule, zone)
    if repeat_every is not None:
        if not 1 <= repeat_every <= INTERVAL_MS_MAX:
            raise ScheduleError(
                f"Invalid repeat_every: {repeat_every} (must be 1 to {INTERVAL_MS_MAX} ms)"
            )
        timing = IntervalSchedule(repeat_every)
    assert timing is not None
    return timing


def _zone(tz: str | None) -> ZoneInfo:
    if tz is None:
        return ZoneInfo("UTC")
    size = len(tz.encode())
    if size > TIME_ZONE_BYTES_MAX:
        raise ScheduleError(f"Time zone too long ({size} chars, max {TIME_ZONE_BYTES_MAX} chars)")
    try:
        if tz.partition("/")[0] in _NOT_ZONES:
            raise ZoneInfoNotFoundError(tz)
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # ValueError: not a name, or a file that is no zone; OSError: a directory such as "America".
        raise ScheduleError(f"Unknown time zone '{tz}'") from None


def _from_schedule(schedule: str, zone: ZoneInfo) -> Schedule:
    size = len(schedule.encode())
    if size > SCHEDULE_BYTES_MAX:
        raise ScheduleError(
            f"Cron schedule too long ({size} chars, max {SCHEDULE_BYTES_MAX} chars)"
        )
    fields = schedule.split()
    if fields and fields[0].startswith("*/") and len(fields) not in (5, 6):
        seconds = _INTERVAL.fullmatch(fields[0]) if len(fields) == 1 else None
        interval_ms = int(seconds[1]) * 1000 if seconds else 0
        if not 1 <= interval_ms <= INTERVAL_MS_MAX:
            raise ScheduleError(f"Invalid interval format: {schedule}")
        return IntervalSchedule(interval_ms)
    try:
        return _from_fields(fields, zone)
    except ScheduleError as reason:
        raise ScheduleError(f"Invalid cron expression '{schedule}': {reason}") from None


def _from_fields(fields: list[str], zone: ZoneInfo) -> CronSchedule:
    """Raises ScheduleError with the bare reason."""
    if fields and fields[0].startswith("@"):
        fields = _named(fields)
    if len(fields) not in (5, 6):
        raise ScheduleError(f"expected 5 or 6 fields, got {len(fields)}")
    if len(fields) == 5:
        fields = ["0", *fields]
    items = [_items(index, text) for index, text in enumerate(fields)]
    searches = []
    for day, weekday in _ways_to_match_a_day(items[_DAY], items[_WEEKDAY]):
        chosen = [*items[:_DAY], day, items[4], weekday]
        search = _search([",".join(field) for field in chosen])
        try:
            search.get_next(datetime, start_time=_PROOF_START)
        except CroniterBadDateError:
            continue
        searches.append(search)
    if not searches:
        raise ScheduleError("it never matches any date")
    hour = _search(["*", "*", ",".join(items[_HOUR]), "*", "*", "*"]).expanded[1]
    every_hour = hour == ["*"] or any(item.startswith("*") for item in items[_HOUR])
    return CronSchedule(tuple(searches), zone, every_hour)


def _named(words: list[str]) -> list[str]:
    """The fields that a nickname stands for; raises ScheduleError with the bare reason."""
    nickname = words[0].lower()
    if nickname == "@every":
        raise ScheduleError("intervals are given by repeat_every, in ms, or by */N, in seconds")
    if len(words) > 1 or nickname not in _NICKNAMES:
        raise ScheduleError(f"unknown nickname; there are {', '.join(_NICKNAMES)}")
    return _NICKNAMES[nickname].split()


def _search(fields: list[str]) -> croniter[datetime]:
    """One croniter over naive local time; raises ValueError for what it cannot read.

    It never sees a clock: a start is given here and with every question.
    """
    return croniter(" ".join(fields), _PROOF_START, ret_type=datetime, second_at_beginning=True)


def _items(index: int, text: str) -> list[str]:
    """The items of a field's list, rewritten for croniter and each checked with it."""
    field = _FIELDS[index]
    items = list(dict.fromkeys(_rewritten(index, item) for item in text.lower().split(",")))
    for item in items:
        alone = ["*"] * len(_FIELDS)
        alone[index] = item
        try:
            # An empty item would shift the fields after it; croniter's own H (hashed) and R
            # (random) must not get through, and no name starts with them.
            if not item or item.startswith(("h", "r")) or (item == "?" and len(items) > 1):
                raise ValueError
            _search(alone)
        except ValueError:
            raise ScheduleError(
                f"{field.name} field '{text}' is not valid (takes {field.takes})"
            ) from None
    return items


def _rewritten(index: int, item: str) -> str:
    """An item that croniter would misread or not know, in its own words."""
    values = _FIELDS[index].values
    if ends := _RANGE.fullmatch(item):
        low, high = (values.get(end, end).lstrip("0") or "0" for end in ends.groups())
        if low == high or (index == _WEEKDAY and (low, high) == ("7", "0")):
            return low  # croniter reads an equal range as the whole cycle
    if index == _WEEKDAY and (last := _LAST_WEEKDAY.fullmatch(item)):
        return "l" + values.get(last[1], last[1])
    return item


def _ways_to_match_a_day(days: list[str], weekdays: list[str]) -> list[tuple[list[str], list[str]]]:
    """Pairs of day-of-month and day-of-week items; a day matches if it matches any of them.

    Separate searches, because croniter takes a ``W`` only alone in its field, ``#`` not beside
    plain days, and with either of them joins the two fields by AND.
    """
    ways: list[tuple[list[str], list[str]]] = []
    if not _is_free(days):
        plain = [item for item in days if "w" not in item]
        ways += [([item], ["*"]) for item in days if "w" in item]
        ways += [(plain, ["*"])] if plain else []
    if not _is_free(weekdays):
        # A name such as "wed" has no "#", and "l" stands only in the rewritten "l5".
        special = [item for item in weekdays if "#" in item or item.startswith("l")]
        plain = [item for item in weekdays if item not in special]
        ways += [(["*"], part) for part in (special, plain) if part]
    return ways or [(["*"], ["*"])]


def _is_free(items: list[str]) -> bool:
    """Whether a day field restricts nothing, so that the other one alone decides."""
    return not {"*", "?", "*/1"}.isdisjoint(items)
