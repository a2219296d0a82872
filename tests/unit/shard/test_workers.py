"""LISTWORKERS: who is at work, as people see it."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.shard import leases, workers
from flashq.shard.workers import ALIVE_MS
from tests.unit.shard.harness import ALICE, BOB, CARL, Shard


def listed(shard: Shard) -> list[dict[str, Any]]:
    """Return the list."""
    return list(shard.ask("LISTWORKERS")["workers"])


def one(shard: Shard) -> dict[str, Any]:
    """Return the only worker."""
    (worker,) = listed(shard)
    return worker


def test_who_takes_jobs_is_a_worker_and_who_pushes_is_none(shard: Shard) -> None:
    """With what it holds, what it waits for, and what it is done with."""
    for number in range(3):
        shard.push("mail", session=BOB, n=number + 1)
    shard.pull_ids("mail", session=ALICE, n=1)
    shard.send("PULL", queue="news", session=ALICE, n=2)
    worker = one(shard)
    assert worker["queues"] == ["mail", "news"]
    assert (worker["jobs_held"], worker["pulls_waiting"], worker["jobs_processed"]) == (3, 1, 0)
    assert worker["last_heartbeat"] == shard.now_ms
    assert worker["concurrency"] == 0


def test_jobs_that_it_holds_no_more_are_processed(shard: Shard) -> None:
    """Whether they ended or went back."""
    ids = [shard.push() for _ in range(3)]
    shard.pull_ids(session=ALICE, n=1)
    shard.ask("ACK", id=ids[0])
    shard.ask("FAIL", id=ids[1])
    worker = one(shard)
    assert (worker["jobs_held"], worker["jobs_processed"]) == (1, 2)


def test_a_session_is_not_told(shard: Shard) -> None:
    """Whoever knew it could end it."""
    shard.ask("PULL", queue="q", timeout=0, session=ALICE)
    assert one(shard)["id"] not in ALICE.hex()


def test_its_silence_takes_it_off_the_list(shard: Shard) -> None:
    """Whatever is heard of it puts it on again."""
    shard.ask("PULL", queue="q", timeout=0, session=ALICE)
    at = shard.now_ms
    shard.advance(ALIVE_MS - 1)
    assert one(shard)["last_heartbeat"] == at
    shard.advance(1)
    assert listed(shard) == []
    shard.ask("SESSIONHEARTBEAT", session=ALICE)
    assert one(shard)["last_heartbeat"] == shard.now_ms


def test_a_worker_says_of_itself_what_nobody_can_see(shard: Shard) -> None:
    """Its name and what it works on; the last word counts, and saying nothing changes nothing."""
    about = {"id": "w-1", "queues": ["a"], "concurrency": 4, "jobs_processed": 7}
    shard.ask("SESSIONHEARTBEAT", session=CARL, about=about)
    worker = one(shard)
    assert {name: worker[name] for name in about} == about
    shard.ask("SESSIONHEARTBEAT", session=CARL, about={"id": "w-1", "name": "mailer"})
    shard.ask("SESSIONHEARTBEAT", session=CARL)
    worker = one(shard)
    assert (worker["name"], worker["queues"], worker["concurrency"]) == ("mailer", [], 0)


def test_a_name_alone_makes_no_worker(shard: Shard) -> None:
    """A client that pushes says who it is, too."""
    shard.ask("SESSIONHEARTBEAT", session=ALICE, about={"name": "shop"})
    assert listed(shard) == []
    shard.push()
    shard.pull(session=ALICE)
    assert one(shard)["name"] == "shop"


def test_after_a_crash_it_is_known_by_what_it_holds(shard: Shard) -> None:
    """Until it pulls again."""
    shard.push("mail")
    shard.pull("mail", session=ALICE)
    before = one(shard)["id"]
    worker = one(shard.crash())
    assert (worker["id"], worker["queues"], worker["jobs_held"]) == (before, ["mail"], 1)


def test_a_goodbye_ends_it(shard: Shard) -> None:
    """At once."""
    shard.ask("PULL", queue="q", timeout=0, session=ALICE)
    shard.ask("GOODBYE", session=ALICE)
    assert listed(shard) == []


def test_the_list_is_bounded(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """In workers, of whom those heard of last are listed, and in the queues of each."""
    monkeypatch.setattr(workers, "LISTED_MAX", 2)
    monkeypatch.setattr(leases, "PULLED_QUEUES_MAX", 2)
    for session, queue in ((ALICE, "a"), (BOB, "b"), (CARL, "c")):
        shard.advance(10)
        shard.ask("PULL", queue=queue, timeout=0, session=session)
    assert sorted(worker["queues"] for worker in listed(shard)) == [["b"], ["c"]]
    for queue in "xyz":
        shard.ask("PULL", queue=queue, timeout=0, session=CARL)
    assert ["y", "z"] in [worker["queues"] for worker in listed(shard)]
