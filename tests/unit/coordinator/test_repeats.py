"""A repeated CRON or CRONDELETE is not a second one."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.coordinator import repeats
from flashq.coordinator.outbox import Outbox
from flashq.coordinator.repeats import Repeats
from flashq.protocol.base import Reply
from flashq.protocol.crons import CronsReply
from flashq.protocol.webhooks import SetWebhook
from flashq.storage.port import Put
from tests.unit.coordinator.bench import SHARDS, Bench, Outcome

SESSION = bytes(range(16))


def delete(bench: Bench, n: int | None, session: bytes | None = SESSION, **more: Any) -> Any:
    """Send a CRONDELETE under a session's number."""
    request = {"cmd": "CRONDELETE", "name": "c", "session": session, "n": n}
    return bench.ask(Outcome, **(request | more))


def add(bench: Bench, n: int | None = None) -> None:
    """Send a CRON under a session's number."""
    assert bench.ask(
        Reply, cmd="CRON", name="c", queue="q", data=1, repeat_every=1000, session=SESSION, n=n
    ).ok


def executions(bench: Bench) -> list[int]:
    """How often each cron has fired."""
    return [cron.executions for cron in bench.ask(CronsReply, cmd="CRONLIST").crons]


def test_a_repeated_delete_succeeds_again() -> None:
    """The first answer was lost with the connection: "not found" would be a lie."""
    bench = Bench()
    add(bench)
    assert delete(bench, 5).ok
    assert delete(bench, 5).ok
    assert not delete(bench, 6).ok
    assert not delete(bench, None).ok


def test_a_repeated_set_changes_nothing() -> None:
    """Executions go on, and a cron deleted since stays deleted."""
    bench = Bench()
    add(bench, 1)
    bench.pass_time(1000)
    add(bench, 1)
    assert executions(bench) == [1]
    delete(bench, 2)
    add(bench, 1)
    assert executions(bench) == []


def test_repeats_are_known_after_a_restart() -> None:
    """They are stored in the group of what they did."""
    bench = Bench()
    add(bench)
    delete(bench, 5)
    bench.restart(lose=False)
    assert delete(bench, 5).ok


def test_a_refused_request_stays_refused() -> None:
    """Of two copies the second was carried out, when the caller had been told of the first that
    nothing had happened."""
    bench = Bench()
    first = delete(bench, 5)
    assert not first.ok
    add(bench)
    bench.restart(lose=False)
    again = delete(bench, 5)
    assert (again.ok, again.error, again.code) == (False, first.error, first.code)
    assert executions(bench) == [0]
    assert delete(bench, 6).ok


def test_answers_that_nobody_needs_are_forgotten() -> None:
    """`done_below` tells; sessions are kept apart."""
    bench = Bench()
    for n in (5, 6):
        add(bench)
        delete(bench, n)
    add(bench)
    assert delete(bench, 7, done_below=6).ok
    assert not delete(bench, 5).ok
    assert delete(bench, 6).ok
    assert not delete(bench, 6, session=bytes(16)).ok


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session not heard of for longest goes first, and the lowest numbers of each."""
    monkeypatch.setattr(repeats, "SESSIONS_MAX", 2)
    monkeypatch.setattr(repeats, "NUMBERS_MAX", 3)
    bench = Bench()
    for n in range(5):
        add(bench)
        delete(bench, n)
    assert not delete(bench, 1).ok
    assert delete(bench, 2).ok
    for other in (b"a" * 16, b"b" * 16):
        add(bench)
        delete(bench, 1, session=other)
    assert not delete(bench, 2).ok
    stored = bench.storage.open(SHARDS).parts
    assert len([name for name in stored if name.startswith("session.")]) == 2


def test_a_repeat_is_told_the_number_that_the_first_was() -> None:
    """The id of a webhook, say; also after a restart."""
    outbox = Outbox()
    known = Repeats(outbox)
    request = SetWebhook(url="http://x/", events=["*"], session=SESSION, n=4)
    assert not known.has(request)
    known.note(request, number=17)
    assert known.has(request)
    assert known.number_of(request) == 17
    group = outbox.take_group()
    assert group is not None
    (put,) = group.writes
    assert isinstance(put, Put)
    again = Repeats(outbox)
    again.load({put.name: put.content})
    assert again.number_of(request) == 17
