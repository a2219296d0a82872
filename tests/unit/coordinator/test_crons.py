"""Crons: what may be set, when they fire, and that a firing is exactly one job's message."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from msgspec.msgpack import decode

from flashq.coordinator import crons
from flashq.coordinator.engine import POSTPONED_MS
from flashq.ids import shard_of_queue
from flashq.protocol.base import ErrorReply, Reply
from flashq.protocol.codec import encode
from flashq.protocol.crons import CronsReply
from flashq.protocol.internal import Fire, Mail, MailAck
from flashq.protocol.jobs import JobOptions
from tests.unit.coordinator.bench import NOW_MS, SHARDS, Bench, Outcome

SHARD = shard_of_queue("reports", SHARDS)
IDENTITY = b"shard-%d" % SHARD


def set_cron(bench: Bench, name: str = "nightly", **fields: Any) -> Any:
    """Send a CRON for the queue `reports`, every minute unless it says otherwise."""
    request: dict[str, Any] = {"cmd": "CRON", "name": name, "queue": "reports", "data": {"n": 1}}
    if "schedule" not in fields:
        request["repeat_every"] = 60_000
    return bench.ask(Outcome, **(request | fields))


def listed(bench: Bench, *, json: bool = False) -> list[Any]:
    """The crons as CRONLIST gives them."""
    reply = bench.ask(CronsReply, json=json, cmd="CRONLIST")
    assert isinstance(reply, CronsReply)
    return reply.crons


def fired(bench: Bench) -> list[Fire]:
    """The firings sent to the shard of `reports` in the last turn; acknowledged at once."""
    mails = [message for message in bench.said_to(IDENTITY) if isinstance(message, Mail)]
    if mails:
        ack = MailAck(receiver=SHARD, incarnation=mails[-1].incarnation, number=mails[-1].number)
        bench.say(IDENTITY, ack)
    return [mail.body for mail in mails if isinstance(mail.body, Fire)]


def after(bench: Bench, ms: int) -> list[Fire]:
    """Let time pass, and return what fired."""
    bench.sent.clear()
    bench.pass_time(ms)
    return fired(bench)


@pytest.fixture
def bench() -> Bench:
    """A coordinator whose shard of `reports` serves."""
    bench = Bench()
    bench.start_shard(SHARD)
    return bench


# --- setting, listing, deleting


def test_a_cron_is_listed_as_it_was_set(bench: Bench) -> None:
    """Every field, in the encoding of whoever asks."""
    assert set_cron(bench, priority=5, limit=9, tz="Europe/Berlin", schedule="0 0 2 * * *").ok
    [cron] = listed(bench)
    assert (cron.name, cron.queue, cron.priority, cron.limit) == ("nightly", "reports", 5, 9)
    assert (cron.schedule, cron.repeat_every, cron.tz) == ("0 0 2 * * *", None, "Europe/Berlin")
    assert cron.executions == 0
    assert cron.next_run > NOW_MS
    assert bytes(cron.data) == encode({"n": 1})
    [cron] = listed(bench, json=True)
    assert bytes(cron.data) == b'{"n":1}'


def test_crons_are_listed_by_name(bench: Bench) -> None:
    """So that two lists are the same."""
    for name in ("b", "a", "c"):
        set_cron(bench, name)
    assert [cron.name for cron in listed(bench)] == ["a", "b", "c"]


def test_a_payload_without_a_json_form_does_not_break_the_list(bench: Bench) -> None:
    """A map with a key that JSON cannot hold is shown as null to a reader of JSON."""
    weird = Raw(b"\x81\xc0\x01")  # {nil: 1}
    assert set_cron(bench, data=weird).ok
    [cron] = listed(bench, json=True)
    assert bytes(cron.data) == b"null"
    [cron] = listed(bench)
    assert bytes(cron.data) == bytes(weird)


def test_a_deleted_cron_is_gone(bench: Bench) -> None:
    """And deleting what is not there says so."""
    set_cron(bench)
    assert bench.ask(Reply, cmd="CRONDELETE", name="nightly").ok
    assert listed(bench) == []
    reply = bench.ask(ErrorReply, cmd="CRONDELETE", name="nightly")
    assert (reply.ok, reply.error) == (False, "Cron job not found")
    assert after(bench, 60_000) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"repeat_every": None}, "Must provide either 'schedule' or 'repeat_every'"),
        ({"schedule": "x" * 257}, "Cron schedule too long (257 chars, max 256 chars)"),
        ({"schedule": "*/x"}, "Invalid interval format: */x"),
        ({"schedule": "61 * * * *"}, "Invalid cron expression '61 * * * *': "),
        ({"tz": "Mars/Base"}, "Unknown time zone 'Mars/Base'"),
        ({"limit": 0}, "Invalid limit: 0 (the cron would never fire)"),
        ({"name": ""}, "Cron name cannot be empty"),
        ({"name": "é" * 129}, "Cron name too long (258 chars, max 256 chars)"),
        ({"queue": ""}, "Queue name cannot be empty"),
        ({"queue": "q" * 257}, "Queue name too long (max 256 chars)"),
        (
            {"queue": "a b"},
            "Queue name must contain only alphanumeric characters, underscores, hyphens, or dots",
        ),
        ({"data": "x" * 1_048_576}, "Job data too large (1048581 bytes, max 1048576 bytes)"),
        ({"queue": 5}, "Invalid: invalid type: "),
        ({"depends_on": [1]}, "A cron cannot have depends_on: each of its jobs would wait for one"),
        ({"tags": ["x"] * 65}, "Field tags too large (65 tags, max 64)"),
        ({"unique_key": "x" * 1025}, "Field unique_key too large (1025 bytes, max 1024 bytes)"),
        ({"max_attempts": -1}, "Invalid: "),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    bench: Bench, fields: dict[str, Any], text: str
) -> None:
    """With the texts that clients know, and nothing is stored."""
    reply = set_cron(bench, **fields)
    assert not reply.ok
    assert reply.error.startswith(text)
    assert listed(bench) == []


def test_the_number_of_crons_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused; replacing one of them is not."""
    monkeypatch.setattr(crons, "CRONS_MAX", 2)
    assert set_cron(bench, "a").ok
    assert set_cron(bench, "b").ok
    assert set_cron(bench, "c").code == "limit_reached"
    assert set_cron(bench, "b").ok


# --- firing


def test_a_cron_fires_when_it_is_due_and_not_before(bench: Bench) -> None:
    """The message carries what the push needs; then the next run is one interval later."""
    set_cron(bench, priority=3)
    assert after(bench, 59_999) == []
    [fire] = after(bench, 1)
    assert (fire.name, fire.queue) == ("nightly", "reports")
    assert decode(fire.options) == {"priority": 3}
    assert fire.due == NOW_MS + 60_000
    assert (fire.data, fire.payload_json) == (encode({"n": 1}), False)
    [cron] = listed(bench)
    assert (cron.executions, cron.next_run) == (1, NOW_MS + 120_000)


def test_a_payload_in_json_stays_json(bench: Bench) -> None:
    """It is tagged as it came; nobody transcodes it on the way."""
    request = {"cmd": "CRON", "name": "n", "queue": "reports", "data": {"a": 1}}
    assert bench.ask(Reply, json=True, repeat_every=1000, **request).ok
    [fire] = after(bench, 1000)
    assert (fire.data, fire.payload_json) == (b'{"a":1}', True)


def test_the_process_sleeps_until_the_next_one(bench: Bench) -> None:
    """It wakes exactly then, and at once when one is overdue."""
    set_cron(bench, repeat_every=500)
    coordinator = bench.coordinator
    assert coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) == 500
    assert coordinator.next_wait_ms(bench.now_ms + 501, bench.mono_ms) == 0


def test_missed_firings_are_not_made_up_for(bench: Bench) -> None:
    """The machine slept for an hour: one firing, then the next regular time."""
    set_cron(bench)
    [fire] = after(bench, 3_600_000)
    assert fire.due == NOW_MS + 60_000
    assert after(bench, 0) == []
    [cron] = listed(bench)
    assert cron.next_run == NOW_MS + 3_660_000


def test_after_its_limit_a_cron_is_gone_at_once(bench: Bench) -> None:
    """Not at its next due time: the list does not show what will never fire."""
    set_cron(bench, limit=2)
    assert len(after(bench, 60_000)) == 1
    assert len(after(bench, 60_000)) == 1
    assert listed(bench) == []
    assert after(bench, 60_000) == []


def test_a_cron_of_the_same_name_replaces_the_old_one(bench: Bench) -> None:
    """Executions start again, the old time does not fire, and the generation is another."""
    set_cron(bench)
    [old] = after(bench, 60_000)
    set_cron(bench, repeat_every=90_000)
    [cron] = listed(bench)
    assert cron.executions == 0
    assert after(bench, 60_000) == []
    [new] = after(bench, 30_000)
    assert new.generation > old.generation


OPTIONS: dict[str, Any] = {
    "priority": 2,
    "delay": 3,
    "ttl": 4000,
    "timeout": 5,
    "max_attempts": 6,
    "backoff": 7,
    "jitter": 0.5,
    "unique_key": "one",
    "tags": ["red"],
    "lifo": True,
    "remove_on_complete": True,
    "remove_on_fail": True,
    "stall_timeout": 8,
    "debounce_id": "soon",
    "debounce_ttl": 9,
    "job_id": "mine",
    "keep_completed_age": 10,
    "keep_completed_count": 11,
    "durability": "async",
}


def test_a_cron_carries_every_option_of_a_push(bench: Bench) -> None:
    """All but those about jobs to wait for; the list shows them, and a restart keeps them."""
    assert set_cron(bench, **OPTIONS).ok
    bench.restart(lose=False)
    bench.start_shard(SHARD, IDENTITY)
    [cron] = listed(bench)
    left = set(JobOptions.__struct_fields__) - {"depends_on", "on_dependency_failure"}
    assert set(OPTIONS) == left
    assert {name: getattr(cron, name) for name in OPTIONS} == OPTIONS
    [fire] = after(bench, 60_000)
    assert decode(fire.options) == OPTIONS


# --- setting again


def test_a_cron_set_again_unchanged_goes_on_as_it_was(bench: Bench) -> None:
    """
    1. An app sets its cron for every minute whenever it starts, and starts every 40 s.
    2. The interval used to begin anew each time, so that the cron never fired.
    """
    fires = []
    for _ in range(6):
        set_cron(bench, tags=["a"], limit=9, data={"b": 1, "a": [2]})
        fires += after(bench, 40_000)
    assert [fire.due - NOW_MS for fire in fires] == [60_000, 140_000, 220_000]
    assert len({fire.generation for fire in fires}) == 1
    [cron] = listed(bench)
    assert cron.executions == 3


def test_the_same_payload_is_known_in_another_order_and_encoding(bench: Bench) -> None:
    """Some languages write the keys of a map in an order that changes, and doors differ."""
    request: dict[str, Any] = {"cmd": "CRON", "name": "n", "queue": "reports"}
    request["repeat_every"] = 60_000
    assert bench.ask(Reply, **request, data={"a": 1, "b": [2]}).ok
    after(bench, 30_000)
    assert bench.ask(Reply, **request, data={"b": [2], "a": 1}).ok
    assert bench.ask(Reply, json=True, **request, data={"b": [2], "a": 1}).ok
    assert len(after(bench, 30_000)) == 1


@pytest.mark.parametrize(
    "change",
    [{"data": {"n": True}}, {"priority": 1}, {"limit": 5}, {"tags": ["b"]}, {"timeout": 7}],
)
def test_a_cron_with_the_same_timing_keeps_its_next_run(
    bench: Bench, change: dict[str, Any]
) -> None:
    """What it pushes is another from now on, and it starts to count its firings again."""
    set_cron(bench)
    first = after(bench, 60_000)
    after(bench, 40_000)
    set_cron(bench, **change)
    [cron] = listed(bench)
    assert (cron.executions, cron.next_run) == (0, NOW_MS + 120_000)
    [fire] = after(bench, 20_000)
    assert fire.generation > first[0].generation


def test_a_cron_with_another_timing_starts_anew(bench: Bench) -> None:
    """Its old times mean nothing any more."""
    set_cron(bench)
    after(bench, 40_000)
    set_cron(bench, tz="Europe/Berlin")
    [cron] = listed(bench)
    assert cron.next_run == bench.now_ms + 60_000


# --- a clock that goes wrong


def restart_at(bench: Bench, now_ms: int) -> None:
    """Start the coordinator anew, by a clock that shows this."""
    bench.now_ms = now_ms
    bench.restart(lose=False)
    bench.start_shard(SHARD, IDENTITY)


@pytest.mark.parametrize("schedule", ["0 * * * *", "*/5 * * * *", "30 3 * * *"])
@pytest.mark.parametrize("ahead_ms", [600_000, 3_600_000, 86_400_000])
def test_no_time_fires_twice_when_the_clock_was_ahead(
    bench: Bench, schedule: str, ahead_ms: int
) -> None:
    """
    1. The clock is set forward, and the cron fires what comes due by it.
    2. The clock is set back, and the coordinator started anew.
    3. What has fired does not fire again: each due time is later than the one before.
    """
    set_cron(bench, schedule=schedule)
    restart_at(bench, bench.now_ms + ahead_ms)
    fires = fired(bench) + after(bench, 1000)
    for _ in range(3):
        fires += after(bench, 3_600_000)
    restart_at(bench, NOW_MS + 10_000)
    for _ in range(60):
        fires += after(bench, 3_600_000)
    dues = [fire.due for fire in fires]
    assert len(dues) > 1
    assert dues == sorted(set(dues))


def test_an_interval_does_not_fire_for_one_time_twice(bench: Bench) -> None:
    """A clock that was ahead by just the interval gives the same time again."""
    set_cron(bench)
    fires = after(bench, 60_000)
    restart_at(bench, NOW_MS)
    for _ in range(3):
        fires += after(bench, 60_001)
    keys = [(fire.generation, fire.due) for fire in fires]
    assert len(keys) == len(set(keys)) == 4


@pytest.mark.parametrize("schedule", ["0 * * * *", "30 3 * * *"])
def test_no_cron_is_silent_for_a_month(bench: Bench, schedule: str) -> None:
    """
    1. The clock was a month ahead for long enough to be believed, and a cron fired.
    2. Back in time it fires at its next time, not after a month.
    """
    set_cron(bench, schedule=schedule)
    restart_at(bench, NOW_MS + 30 * 86_400_000)
    old = fired(bench) + after(bench, 1000)
    old += after(bench, 86_400_000)
    restart_at(bench, NOW_MS)
    [cron] = listed(bench)
    assert cron.next_run <= NOW_MS + 86_400_000
    new = after(bench, 86_400_000)
    assert len(new) == 1
    keys = [(fire.generation, fire.due) for fire in old + new]
    assert len(keys) == len(set(keys))


def test_no_cron_waits_for_a_clock_that_was_set_back(bench: Bench) -> None:
    """
    1. The machine's clock is a day ahead, and a cron for every minute fires.
    2. The clock is corrected, and the coordinator is started anew.
    3. The cron fires a minute later, not a day later.
    """
    bench.now_ms += 86_400_000
    set_cron(bench)
    assert len(after(bench, 60_000)) == 1
    bench.now_ms -= 86_400_000
    bench.restart(lose=False)
    [cron] = listed(bench)
    assert NOW_MS < cron.next_run <= bench.now_ms + 60_000


def test_next_run_and_message_are_one_record(bench: Bench) -> None:
    """
    1. A cron fires, and the coordinator is killed before the message has left.
    2. The new one has the new next run and the message: one job, not two and not none.
    """
    set_cron(bench)
    bench.pass_time(60_000)
    bench.restart(lose=False)
    bench.start_shard(SHARD, IDENTITY)
    [fire] = fired(bench)
    assert fire.due == NOW_MS + 60_000
    [cron] = listed(bench)
    assert (cron.executions, cron.next_run) == (1, NOW_MS + 120_000)
    assert after(bench, 0) == []


def test_a_firing_that_is_not_safe_has_not_left(bench: Bench) -> None:
    """The message waits for the commit of its group."""
    set_cron(bench)
    bench.sent.clear()
    bench.now_ms += 60_000
    bench.coordinator.tick(bench.now_ms, bench.mono_ms)
    bench.take_sent()
    assert bench.said_to(IDENTITY) == []
    bench.turn()
    assert len(fired(bench)) == 1


def test_a_shard_that_takes_no_mail_postpones_its_crons(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    1. The shard is away, and its crons fire into the mailbox until that is full.
    2. From then on they wait; the table does not grow, and the coordinator does not spin.
    3. The shard is back: what was in the mailbox, and one firing for all that were missed.
    """
    monkeypatch.setattr("flashq.coordinator.mailboxes.PENDING_MAX", 3)
    bench = Bench()
    set_cron(bench)
    for _ in range(10):
        bench.pass_time(60_000)
    [cron] = listed(bench)
    assert cron.executions == 3
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) > 0
    bench.start_shard(SHARD, IDENTITY)
    assert len(fired(bench)) == 3
    [fire] = after(bench, 1000)
    assert fire.due == cron.next_run
    assert after(bench, 1000) == []


def test_crons_wait_while_storage_is_away(bench: Bench) -> None:
    """What was missed is one firing, like after any other absence."""
    set_cron(bench, repeat_every=1000)
    bench.coordinator.set_trouble("disk full")
    for _ in range(5):
        assert after(bench, 1000) == []
    assert bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms) == POSTPONED_MS
    bench.coordinator.set_trouble("")
    assert [fire.due for fire in after(bench, 1000)] == [NOW_MS + 1000]
    assert len(after(bench, 1000)) == 1
