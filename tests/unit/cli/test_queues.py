"""`flashq queue`: lists, counts and limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import COUNTS, QUEUE, teach
from tests.unit.client.fake_server import FakeServer


def test_list(ask: Run, fake: FakeServer) -> None:
    """All pages of it, and in a pipe never cut off, however narrow a terminal would be."""
    long = {**QUEUE, "name": "a" * 200, "paused": False}

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("after") is None:
            return {"ok": True, "queues": [long], "total": 2, "next": long["name"]}
        assert asked["after"] == long["name"]
        return {"ok": True, "queues": [QUEUE], "total": 2}

    fake.answer("LISTQUEUES", answer)
    _, first, second = ask("queue", "list").out.splitlines()
    assert first.startswith("a" * 200)
    assert second.split() == ["mail", "3", "1", "2", "5", "–", "paused"]
    assert [one["name"] for one in ask("queue", "list", "--json").documents] == ["a" * 200, "mail"]


def test_counts(ask: Run, fake: FakeServer) -> None:
    """By state, and whether the queue stands still."""
    teach(fake)
    assert ask("queue", "counts", "mail").out.endswith("mail is paused\n")
    document = ask("queue", "counts", "mail", "--json").document
    assert document == {"queue": "mail", **COUNTS, "pending": 3, "paused": True}


@pytest.mark.parametrize(
    "line",
    [
        "queue counts typo",
        "queue pause typo",
        "queue resume typo",
        "queue rate-limit typo 5",
        "queue rate-limit typo off",
        "queue concurrency typo 5",
        "queue config typo --durability async",
        "queue drain typo --yes",
        "queue obliterate typo --yes",
        "queue clean typo --state failed --grace 1h --yes",
        "dlq list typo",
        "dlq retry typo",
        "dlq purge typo --yes",
        "job list --queue typo",
    ],
)
def test_a_queue_that_is_not_known_is_named(ask: Run, fake: FakeServer, line: str) -> None:
    """A slip of the finger made a queue, or gave zeros, with exit status 0."""
    teach(fake)
    fake.answer("GETJOBCOUNTS", lambda _: {"ok": True, **COUNTS, "known": False})
    run = ask(*line.split())
    assert run.status == 1
    assert "no queue typo is known: it has neither jobs nor settings" in run.err
    asked = {body["cmd"] for body in fake.requests}
    assert asked <= {"HELLO", "SESSIONHEARTBEAT", "GOODBYE", "GETJOBCOUNTS"}


@pytest.mark.parametrize("line", ["pause", "rate-limit 5", "concurrency 5", "config"])
def test_what_sets_something_makes_a_queue_where_that_is_asked_for(
    ask: Run, fake: FakeServer, line: str
) -> None:
    """The sentence says how."""
    teach(fake)
    fake.answer("GETJOBCOUNTS", lambda _: {"ok": True, **COUNTS, "known": False})
    verb, *more = line.split()
    assert "--create makes it" in ask("queue", verb, "new", *more).err
    assert ask("queue", verb, "new", *more, "--create").status == 0


def test_limits(ask: Run, fake: FakeServer) -> None:
    """Set with a number, lifted with `off`, refused otherwise."""
    teach(fake)
    assert ask("queue", "rate-limit", "mail", "100").out == (
        "mail has a rate limit of 100 jobs a second\n"
    )
    assert ask("queue", "concurrency", "mail", "off").out == "mail has no concurrency limit\n"
    assert fake.seen("RATELIMIT")[0]["limit"] == 100
    assert ask("queue", "rate-limit", "mail", "many").status == 2
    assert ask("queue", "rate-limit", "mail", "4294967296").status == 2


def test_config_without_flags_only_shows(ask: Run, fake: FakeServer) -> None:
    """Nothing is set that was not named."""
    teach(fake)
    assert "keep completed age: 1 min\n" in ask("queue", "config", "mail").out
    (body,) = fake.seen("QUEUECONFIG")
    assert not {"durability", "keep_completed_age", "keep_completed_count"} & set(body)


def test_drain_asks_with_the_number_of_jobs(ask: Run, fake: FakeServer) -> None:
    """What is about to be lost stands in the question."""
    teach(fake)
    assert "Remove 3 waiting or delayed jobs of mail?" in ask("queue", "drain", "mail").err
