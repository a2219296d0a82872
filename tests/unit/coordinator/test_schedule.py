"""When a cron entry is due: syntax, error texts, calendars and daylight saving."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flashq.coordinator.schedule import (
    AFTER_MS_MAX,
    INTERVAL_MS_MAX,
    ScheduleError,
    parse,
)

# --- asking

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")


def ms(text: str, tz: str = "UTC", fold: int = 0) -> int:
    """The moment a local clock shows, e.g. ``2026-03-29 02:30``, as ms since the epoch."""
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold)
    return int(local.timestamp() * 1000)


def shown(moment_ms: int, tz: str = "UTC") -> str:
    """What the local clock shows, with its offset, so that two passes of an hour differ."""
    return datetime.fromtimestamp(moment_ms / 1000, ZoneInfo(tz)).strftime("%Y-%m-%d %H:%M:%S %z")


def due(schedule: str, start: str, count: int, tz: str = "UTC") -> list[str]:
    """The first ``count`` due times after the local time ``start``."""
    timing = parse(schedule, None, tz)
    at_ms = ms(start, tz)
    times = []
    for _ in range(count):
        at_ms = timing.next_after(at_ms)
        times.append(shown(at_ms, tz))
    return times


def hours(times: list[str]) -> list[str]:
    """Without date and seconds: ``02:30 +0100``."""
    return [time[11:16] + time[19:] for time in times]


def refusal(schedule: str | None, repeat_every: int | None = None, tz: str | None = None) -> str:
    """The text with which the timing is refused."""
    with pytest.raises(ScheduleError) as caught:
        parse(schedule, repeat_every, tz)
    return str(caught.value)


# --- intervals


def test_one_of_schedule_and_interval_is_needed() -> None:
    """Older SDKs match on this text."""
    assert refusal(None) == "Must provide either 'schedule' or 'repeat_every'"


def test_repeat_every_counts_from_the_moment_asked_about() -> None:
    """An interval keeps no grid: the next run is the last one plus the interval."""
    assert parse(None, 1_500, None).next_after(1_000_001) == 1_001_501


def test_repeat_every_decides_and_the_schedule_is_still_validated() -> None:
    """Both given: the interval gives the timing, yet a bad schedule does not slip in."""
    assert parse("0 0 * * *", 250, None).next_after(7) == 257
    assert refusal("61 * * * *", 250).startswith("Invalid cron expression '61 * * * *': ")
    assert refusal("*/0", 250) == "Invalid interval format: */0"


@pytest.mark.parametrize("repeat_every", [0, -1, INTERVAL_MS_MAX + 1, 2**64 - 1])
def test_an_interval_that_would_not_move_or_never_come_is_refused(repeat_every: int) -> None:
    """``repeat_every: 0`` would be due for ever at the same moment."""
    assert refusal(None, repeat_every) == (
        f"Invalid repeat_every: {repeat_every} (must be 1 to {INTERVAL_MS_MAX} ms)"
    )


@pytest.mark.parametrize(("schedule", "seconds"), [("*/1", 1), ("*/60", 60), (" */007 ", 7)])
def test_star_slash_n_alone_is_every_n_seconds(schedule: str, seconds: int) -> None:
    """The SDKs' tests create ``*/60``."""
    assert parse(schedule, None, None).next_after(123_456) == 123_456 + seconds * 1000


@pytest.mark.parametrize(
    "schedule",
    ["*/0", "*/", "*/x", "*/-5", "*/+5", "*/1.5", "*/٣", "*/5 *", "*/ 5", "*/9999999999999"],
)
def test_a_bad_interval_is_named(schedule: str) -> None:
    """``*/0`` once fired at every tick of the clock [W44]."""
    assert refusal(schedule) == f"Invalid interval format: {schedule}"


# --- reading fields


def test_schedules_that_begin_with_a_step_are_whole_cron_expressions_too() -> None:
    """The older server took ``*/5 * * * *`` for a broken interval [W44]."""
    assert hours(due("*/5 * * * *", "2026-01-01 00:00", 3)) == [
        "00:05 +0000",
        "00:10 +0000",
        "00:15 +0000",
    ]
    assert due("*/10 * * * * *", "2026-01-01 00:00:55", 2) == [
        "2026-01-01 00:01:00 +0000",
        "2026-01-01 00:01:10 +0000",
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("30 6 * * *", "2026-01-01 06:30:00"),  # five fields: second 0
        ("15 30 6 * * *", "2026-01-01 06:30:15"),  # six: second first
        ("0 */5 * * * *", "2026-01-01 00:05:00"),
        ("0 0 * FEB *", "2026-02-01 00:00:00"),
        ("0 0 * * Mon-fri", "2026-01-02 00:00:00"),  # the 1st is a Thursday
        ("0 0 * * 0", "2026-01-04 00:00:00"),
        ("0 0 * * 7", "2026-01-04 00:00:00"),
        ("0 0 * * 6-7", "2026-01-03 00:00:00"),
        ("0 0 ? * 1", "2026-01-05 00:00:00"),
        ("0 0 9 * ?", "2026-01-09 00:00:00"),
        ("0 22-2 * * *", "2026-01-01 01:00:00"),  # a range that wraps round
        ("0 9-9 * * *", "2026-01-01 09:00:00"),  # croniter alone: every hour
        ("0 0 * MAR-MAR *", "2026-03-01 00:00:00"),
        ("0 0 * * 7-0", "2026-01-04 00:00:00"),
        ("50/5 * * * *", "2026-01-01 00:50:00"),
        ("10-30/15 3 * * *", "2026-01-01 03:10:00"),
        ("0 0 L * *", "2026-01-31 00:00:00"),
        ("0 0 L 2 *", "2026-02-28 00:00:00"),
        ("0 0 31W * *", "2026-01-30 00:00:00"),  # the 31st is a Saturday
        ("0 0 1W 2 *", "2026-02-02 00:00:00"),  # a Sunday, and back would be January
        ("0 0 * * FRI#2", "2026-01-09 00:00:00"),
        ("0 0 * * 5L", "2026-01-30 00:00:00"),
        ("0 0 * * L5", "2026-01-30 00:00:00"),
        ("0 0 * * friL", "2026-01-30 00:00:00"),
        ("0 0 * * FRI#L", "2026-01-30 00:00:00"),
        ("0 0 1,L * *", "2026-01-31 00:00:00"),
        ("0 0 10W,20W * *", "2026-01-09 00:00:00"),  # the 10th is a Saturday
        ("0 0 * * MON,FRI#1", "2026-01-02 00:00:00"),
    ],
)
def test_syntax(schedule: str, expected: str) -> None:
    """Every form of a field, each by the first time it is due in 2026."""
    assert due(schedule, "2026-01-01 00:00:01", 1) == [f"{expected} +0000"]


@pytest.mark.parametrize(
    ("schedule", "days"),
    [
        ("0 0 13 * FRI", [2, 9, 13, 16, 23, 30]),
        ("0 0 13W * SUN", [4, 11, 13, 18, 25]),  # croniter alone: the 13th only
        ("0 0 13 * MON#2", [12, 13]),  # croniter alone: the 12th only
        ("0 0 L * WEDL", [28, 31]),
        ("0 0 */10 * *", [1, 11, 21, 31]),
        ("0 0 */1 * MON", [5, 12, 19, 26]),
        ("0 0 * * 1#5", []),
    ],
)
def test_a_day_matches_when_either_day_field_does(schedule: str, days: list[int]) -> None:
    """Day of month and day of week combine with OR, also next to ``W``, ``#`` and ``L``."""
    timing = parse(schedule, None, None)
    at_ms, end_ms = ms("2025-12-31 23:59"), ms("2026-02-01")
    found = []
    while (at_ms := timing.next_after(at_ms)) < end_ms:
        found.append(int(shown(at_ms)[8:10]))
    assert found == days


@pytest.mark.parametrize(
    ("nickname", "fields"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * SUN"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("@Daily", "0 0 * * *"),
    ],
)
def test_a_nickname_stands_for_its_fields(nickname: str, fields: str) -> None:
    """As in every cron since Vixie's."""
    start = "2026-03-07 10:20"
    assert due(nickname, start, 3) == due(fields, start, 3)


def test_a_date_that_cannot_be_leaves_the_other_day_field_alone() -> None:
    """30 February is no reason to lose the Mondays."""
    assert due("0 0 30 2 MON", "2026-01-01", 2) == [
        "2026-02-02 00:00:00 +0000",
        "2026-02-09 00:00:00 +0000",
    ]


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("", "expected 5 or 6 fields, got 0"),
        ("nonsense", "expected 5 or 6 fields, got 1"),
        (
            "@reboot",
            (
                "unknown nickname; there are @yearly, @annually, @monthly, @weekly, @daily, "
                "@midnight, @hourly"
            ),
        ),
        (
            "@every 5m",
            "intervals are given by repeat_every, in ms, or by */N, in seconds",
        ),
        ("* * * *", "expected 5 or 6 fields, got 4"),
        ("0 0 0 1 1 * 2030", "expected 5 or 6 fields, got 7"),
        ("60 * * * *", "minute field '60' is not valid (takes 0-59)"),
        ("60 * * * * *", "second field '60' is not valid (takes 0-59)"),
        ("*/0 * * * *", "minute field '*/0' is not valid (takes 0-59)"),
        ("1, * * * *", "minute field '1,' is not valid (takes 0-59)"),
        ("? * * * *", "minute field '?' is not valid (takes 0-59)"),
        ("H * * * *", "minute field 'H' is not valid (takes 0-59)"),
        ("R(0-29) * * * *", "minute field 'R(0-29)' is not valid (takes 0-59)"),
        ("0 24 * * *", "hour field '24' is not valid (takes 0-23)"),
        ("0 -1 * * *", "hour field '-1' is not valid (takes 0-23)"),
        ("0 0 0 * *", "day of month field '0' is not valid (takes 1-31, L, 15W or ?)"),
        ("0 0 LW * *", "day of month field 'LW' is not valid (takes 1-31, L, 15W or ?)"),
        ("0 0 L-3 * *", "day of month field 'L-3' is not valid (takes 1-31, L, 15W or ?)"),
        ("0 0 1,? * *", "day of month field '1,?' is not valid (takes 1-31, L, 15W or ?)"),
        ("0 0 * 13 *", "month field '13' is not valid (takes 1-12 or JAN-DEC)"),
        ("0 0 * FOO *", "month field 'FOO' is not valid (takes 1-12 or JAN-DEC)"),
        ("0 0 * * 8", "day of week field '8' is not valid (takes 0-7 or SUN-SAT, 5#2, 5L or ?)"),
        ("0 0 * * L", "day of week field 'L' is not valid (takes 0-7 or SUN-SAT, 5#2, 5L or ?)"),
        (
            "0 0 * * 5#6",
            "day of week field '5#6' is not valid (takes 0-7 or SUN-SAT, 5#2, 5L or ?)",
        ),
        ("0 0 30 2 *", "it never matches any date"),
        ("0 0 31 2,4,6,9,11 *", "it never matches any date"),
    ],
)
def test_a_bad_expression_is_refused_with_the_field_at_fault(schedule: str, reason: str) -> None:
    """The text begins as clients expect it and then says what to mend."""
    assert refusal(schedule) == f"Invalid cron expression '{schedule}': {reason}"


def test_a_long_schedule_is_refused_by_its_bytes() -> None:
    """256 bytes are read, 257 are not; a letter outside ASCII is more than one."""
    fits = "0 " * 4 + ",".join(["1"] * 124) + " "
    assert len(fits) == 256
    assert refusal(fits).startswith("Invalid cron expression")  # day 0
    assert refusal(fits + " ") == "Cron schedule too long (257 chars, max 256 chars)"
    assert refusal("é" * 129) == "Cron schedule too long (258 chars, max 256 chars)"


@given(st.text(alphabet="0123456789*/,-#?LWHRlwhrMONFRIjan()@ é\x00", max_size=40))
@example("0 0 , * *")
@example("1,, * * * *")
@example("0 0 * * ,")
@example("H/5 * * * *")
def test_any_text_is_read_or_refused(schedule: str) -> None:
    """No text makes the coordinator fail in another way than with its error."""
    try:
        timing = parse(schedule, None, "Europe/Berlin")
    except ScheduleError:
        return
    assert timing.next_after(0) > 0


# --- time zones


@pytest.mark.parametrize(
    "tz",
    ["", "Mars/Olympus", "America", "../UTC", "/etc/passwd", "a\x00b", "é", "localtime",
     "posixrules", "right/Europe/Berlin", "posix/Europe/Berlin"],
)  # fmt: skip
def test_an_unknown_time_zone_is_refused(tz: str) -> None:
    """Directories, paths, and names that mean this machine's own setting are no zones."""
    assert refusal("0 0 * * *", None, tz) == f"Unknown time zone '{tz}'"
    assert refusal(None, 1000, tz) == f"Unknown time zone '{tz}'"


def test_a_long_time_zone_is_not_echoed() -> None:
    """A name of a megabyte does not come back in the reply."""
    assert refusal("0 0 * * *", None, "x" * 65) == "Time zone too long (65 chars, max 64 chars)"


def test_fields_mean_local_time_and_utc_by_default() -> None:
    """Six in the morning in New York is eleven in UTC in winter."""
    start = ms("2026-01-01 00:00")
    assert parse("0 6 * * *", None, None).next_after(start) == ms("2026-01-01 06:00")
    in_new_york = parse("0 6 * * *", None, "America/New_York").next_after(start)
    assert shown(in_new_york) == "2026-01-01 11:00:00 +0000"


# --- daylight saving: appointments


@pytest.mark.parametrize(
    ("tz", "schedule", "start", "expected"),
    [
        # Berlin, 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
        ("Europe/Berlin", "30 2 * * *", "2026-03-28 12:00", ["03:00 +0200", "02:30 +0200"]),
        ("Europe/Berlin", "0 2,3 * * *", "2026-03-28 12:00", ["03:00 +0200", "02:00 +0200"]),
        ("Europe/Berlin", "*/20 2 * * *", "2026-03-28 12:00", ["03:00 +0200", "02:00 +0200"]),
        ("Europe/Berlin", "7 30 2 * * *", "2026-03-28 12:00", ["03:00 +0200", "02:30 +0200"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24 12:00", ["02:30 +0200", "02:30 +0100"]),
        ("Europe/Berlin", "0 1-3 * * *", "2026-10-24 12:00",
         ["01:00 +0200", "02:00 +0200", "03:00 +0100"]),
        ("Europe/Berlin", "*/30 2 * * *", "2026-10-24 12:00",
         ["02:00 +0200", "02:30 +0200", "02:00 +0100"]),
        # New York, 2026-03-08: 02:00 becomes 03:00. 2026-11-01: 02:00 becomes 01:00.
        ("America/New_York", "30 2 * * *", "2026-03-07 12:00", ["03:00 -0400", "02:30 -0400"]),
        ("America/New_York", "30 1 * * *", "2026-10-31 12:00", ["01:30 -0400", "01:30 -0500"]),
        # Lord Howe, by half an hour, 2026-04-05: 02:00 becomes 01:30. 2026-10-04: 02:00, 02:30.
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04 12:00", ["01:45 +1100", "01:45 +1030"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03 12:00", ["02:30 +1100", "02:15 +1100"]),
        ("Australia/Lord_Howe", "30 2 * * *", "2026-10-03 12:00", ["02:30 +1100", "02:30 +1100"]),
        # Cairo, 2026-04-24: midnight itself becomes 01:00.
        ("Africa/Cairo", "0 0 * * *", "2026-04-23 12:00", ["01:00 +0300", "00:00 +0300"]),
    ],
)  # fmt: skip
def test_an_appointment_is_due_once_per_local_time(
    tz: str, schedule: str, start: str, expected: list[str]
) -> None:
    """A named hour: what happens twice fires first time only, what is skipped fires after it."""
    assert hours(due(schedule, start, len(expected), tz)) == expected


def test_an_appointment_asked_for_in_the_second_pass_waits_for_the_next_day() -> None:
    """A coordinator restarted in the repeated hour does not fire the first pass's job again."""
    timing = parse("*/15 2 * * *", None, "Europe/Berlin")
    second_pass_ms = ms("2026-10-25 02:10", "Europe/Berlin", fold=1)
    following = shown(timing.next_after(second_pass_ms), "Europe/Berlin")
    assert following == "2026-10-26 02:00:00 +0100"


def test_an_appointment_right_after_the_second_pass_is_not_missed() -> None:
    """Asked during the repeated hour, the first moment after it is still to come."""
    timing = parse("0 3 * * *", None, "Europe/Berlin")
    second_pass_ms = ms("2026-10-25 02:10", "Europe/Berlin", fold=1)
    following = shown(timing.next_after(second_pass_ms), "Europe/Berlin")
    assert following == "2026-10-25 03:00:00 +0100"


def test_a_day_that_a_country_skipped_is_made_up_for_once() -> None:
    """Samoa went from 29 to 31 December 2011: the noon of the 30th is due when the 31st begins."""
    assert due("0 12 * * *", "2011-12-29 11:00", 3, "Pacific/Apia") == [
        "2011-12-29 12:00:00 -1000",
        "2011-12-31 00:00:00 +1400",
        "2011-12-31 12:00:00 +1400",
    ]


# --- daylight saving: rhythms


@pytest.mark.parametrize(
    ("tz", "schedule", "start", "expected"),
    [
        ("Europe/Berlin", "30 * * * *", "2026-03-29 01:00", ["01:30 +0100", "03:30 +0200"]),
        ("Europe/Berlin", "0 */2 * * *", "2026-03-28 23:00", ["00:00 +0100", "04:00 +0200"]),
        ("Europe/Berlin", "30 * * * *", "2026-10-25 01:45",
         ["02:30 +0200", "02:30 +0100", "03:30 +0100"]),
        ("Europe/Berlin", "30 0-23 * * *", "2026-10-25 01:45",
         ["02:30 +0200", "02:30 +0100", "03:30 +0100"]),
        ("Europe/Berlin", "0 */2 * * *", "2026-10-25 01:00",
         ["02:00 +0200", "02:00 +0100", "04:00 +0100"]),
        ("America/New_York", "59 * 1 11 *", "2026-11-01 00:59",
         ["01:59 -0400", "01:59 -0500", "02:59 -0500"]),
        ("Australia/Lord_Howe", "*/15 * * * *", "2026-04-05 01:30",
         ["01:45 +1100", "01:30 +1030", "01:45 +1030", "02:00 +1030"]),
        ("Australia/Lord_Howe", "0 * * * *", "2026-10-04 00:30", ["01:00 +1030", "03:00 +1100"]),
    ],
)  # fmt: skip
def test_a_rhythm_is_due_at_every_real_moment(
    tz: str, schedule: str, start: str, expected: list[str]
) -> None:
    """A wildcard hour: the repeated hour counts twice, the skipped one is not made up for."""
    assert hours(due(schedule, start, len(expected), tz)) == expected


@pytest.mark.parametrize("tz", ZONES)
@pytest.mark.parametrize("day", ["2026-03-08", "2026-03-29", "2026-10-25", "2026-11-01",
                                 "2026-04-05", "2026-10-04"])  # fmt: skip
def test_every_five_minutes_stays_every_five_minutes(tz: str, day: str) -> None:
    """Elapsed time between two firings is the same on the days the clocks change."""
    timing = parse("*/5 * * * *", None, tz)
    at_ms = start_ms = ms(f"{day} 00:00", tz)
    for number in range(1, 26 * 12):
        at_ms = timing.next_after(at_ms)
        assert at_ms == start_ms + number * 300_000


# --- calendars


def test_leap_days() -> None:
    """29 February: every four years, and not in 2100."""
    assert [time[:10] for time in due("0 0 29 2 *", "2024-02-29", 3)] == [
        "2028-02-29",
        "2032-02-29",
        "2036-02-29",
    ]
    assert due("0 0 29 2 *", "2096-03-01", 1) == ["2104-02-29 00:00:00 +0000"]
    assert due("0 0 L 2 *", "2027-03-01", 1) == ["2028-02-29 00:00:00 +0000"]


def test_the_longest_wait_is_found() -> None:
    """A fifth Thursday in February is 40 years apart over the year 2100."""
    assert due("0 0 * 2 4#5", "2068-03-01", 2) == [
        "2080-02-29 00:00:00 +0000",
        "2120-02-29 00:00:00 +0000",
    ]


def test_year_ends() -> None:
    """The last second of a year, and the first of the next, in the zone's own year."""
    assert due("59 59 23 31 12 *", "2026-12-31 23:59:58", 2) == [
        "2026-12-31 23:59:59 +0000",
        "2027-12-31 23:59:59 +0000",
    ]
    new_year = parse("0 0 1 1 *", None, "Australia/Lord_Howe").next_after(ms("2026-12-01"))
    assert shown(new_year) == "2026-12-31 13:00:00 +0000"


def test_the_answer_is_strictly_later_to_the_millisecond() -> None:
    """A due time itself is not after itself; one millisecond before it, it is."""
    timing = parse("0 12 * * *", None, None)
    noon_ms = ms("2026-06-01 12:00")
    assert timing.next_after(noon_ms - 1) == noon_ms
    assert timing.next_after(noon_ms) == noon_ms + 86_400_000
    assert timing.next_after(noon_ms + 1) == noon_ms + 86_400_000


def test_the_whole_range_of_moments_is_answered() -> None:
    """From the epoch to the bound, and beyond it is our own mistake."""
    timing = parse("0 0 1 1 *", None, "America/New_York")
    assert timing.next_after(0) > 0
    assert timing.next_after(AFTER_MS_MAX) > AFTER_MS_MAX
    with pytest.raises(AssertionError):
        timing.next_after(AFTER_MS_MAX + 1)


# --- properties, against a model that looks at each minute


@dataclass(frozen=True)
class Fields:
    """Cron fields as sets of numbers; an empty set is ``*``."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 to 6, Sunday first

    def text(self) -> str:
        return " ".join(
            ",".join(map(str, sorted(field))) or "*"
            for field in (self.minutes, self.hours, self.days, self.months, self.weekdays)
        )

    def match(self, wall: datetime) -> bool:
        day = wall.day in self.days
        weekday = (calendar.weekday(wall.year, wall.month, wall.day) + 1) % 7 in self.weekdays
        if not self.days and not self.weekdays:
            day = True
        return (
            (wall.minute in self.minutes or not self.minutes)
            and (wall.hour in self.hours or not self.hours)
            and (wall.month in self.months or not self.months)
            and (day or weekday)
        )


def subsets(low: int, high: int, size: int) -> st.SearchStrategy[frozenset[int]]:
    """Up to ``size`` numbers of a field."""
    return st.frozensets(st.integers(low, high), max_size=size)


FIELDS = st.builds(
    Fields,
    minutes=subsets(0, 59, 4),
    hours=subsets(0, 4, 3),
    days=subsets(1, 28, 3),
    months=subsets(1, 12, 3),
    weekdays=subsets(0, 6, 3),
)


def model(fields: Fields, tz: str, start: datetime, minutes: int) -> list[datetime]:
    """Every due moment in ``minutes`` minutes after ``start`` (UTC), found by looking at each.

    Walks through what the local clock shows; a jump forward has its skipped times looked at too.
    """
    found = []
    latest: datetime | None = None  # the furthest local time shown so far
    for number in range(-180, minutes + 1):
        moment = start + timedelta(minutes=number)
        wall = moment.astimezone(ZoneInfo(tz)).replace(tzinfo=None)
        if not fields.hours or latest is None:
            is_due = fields.match(wall)
        else:
            is_due = False
            while latest < wall:
                latest += timedelta(minutes=1)
                is_due = is_due or fields.match(latest)
        latest = wall if latest is None or wall > latest else latest
        if number > 0 and is_due:
            found.append(moment)
    return found


#: Moments of 2026 a day before clocks change in one of ZONES, and one when none does.
STARTS = st.sampled_from(
    [
        datetime(2026, 3, 7, 12, tzinfo=UTC),
        datetime(2026, 3, 28, 12, tzinfo=UTC),
        datetime(2026, 4, 4, 0, tzinfo=UTC),
        datetime(2026, 10, 3, 0, tzinfo=UTC),
        datetime(2026, 10, 24, 12, tzinfo=UTC),
        datetime(2026, 10, 31, 12, tzinfo=UTC),
        datetime(2027, 12, 31, 12, tzinfo=UTC),
    ]
)


@given(FIELDS, st.sampled_from(ZONES), STARTS, st.integers(0, 1200))
def test_due_times_are_those_of_the_model(
    fields: Fields, tz: str, start: datetime, shift_minutes: int
) -> None:
    """Nothing missed, nothing invented, nothing twice, around every change of the clocks."""
    start += timedelta(minutes=shift_minutes)
    window = 1500
    timing = parse(fields.text(), None, tz)
    at_ms = int(start.timestamp() * 1000)
    end_ms = at_ms + window * 60_000
    found = []
    while (at_ms := timing.next_after(at_ms)) <= end_ms:
        found.append(datetime.fromtimestamp(at_ms / 1000, UTC))
    assert found == model(fields, tz, start, window)


@given(
    FIELDS,
    st.sampled_from((*ZONES, "Africa/Casablanca", "Europe/Dublin", "America/Santiago")),
    st.integers(0, ms("2200-01-01")),
)
def test_every_due_time_is_later_and_matches_the_fields(
    fields: Fields, tz: str, after_ms: int
) -> None:
    """Strictly later each time; a time that does not match stands at the end of a gap only."""
    timing = parse(fields.text(), None, tz)
    for _ in range(3):
        due_ms = timing.next_after(after_ms)
        assert due_ms > after_ms
        assert due_ms % 60_000 == 0
        local = datetime.fromtimestamp(due_ms // 1000, ZoneInfo(tz))
        if not fields.match(local.replace(tzinfo=None)):
            before = datetime.fromtimestamp(due_ms // 1000 - 1, ZoneInfo(tz))
            assert fields.hours
            assert local.replace(tzinfo=None) - before.replace(tzinfo=None) > timedelta(seconds=1)
        after_ms = due_ms


@given(FIELDS, st.sampled_from(ZONES), st.integers(0, ms("2100-01-01")), st.data())
def test_a_later_question_has_no_earlier_answer(
    fields: Fields, tz: str, after_ms: int, data: st.DataObject
) -> None:
    """Monotone, and constant up to the due time, so that a restart anywhere finds the same one."""
    timing = parse(fields.text(), None, tz)
    due_ms = timing.next_after(after_ms)
    between_ms = data.draw(st.integers(after_ms, due_ms - 1))
    assert timing.next_after(between_ms) == due_ms
    assert timing.next_after(due_ms) > due_ms


@given(subsets(0, 59, 5), st.integers(0, 59), st.integers(0, ms("2100-01-01")))
def test_seconds_come_first(seconds: frozenset[int], minute: int, after_ms: int) -> None:
    """Six fields: each second named in the minute named, in order."""
    text = ",".join(map(str, sorted(seconds))) or "*"
    timing = parse(f"{text} {minute} * * * *", None, None)
    due_ms = timing.next_after(after_ms)
    wall = datetime.fromtimestamp(due_ms // 1000, UTC)
    assert wall.minute == minute
    assert wall.second in (seconds or range(60))
    assert after_ms < due_ms <= after_ms + 3_660_000
