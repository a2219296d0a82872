"""`flashq queue`: lists, counts and limits."""

from __future__ import annotations

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import COUNTS, QUEUE, teach
from tests.unit.client.fake_server import FakeServer


def test_list(ask: Run, fake: FakeServer) -> None:
    """Sorted by name, and in a pipe never cut off, however narrow a terminal would be."""
    long = {**QUEUE, "name": "a" * 200, "paused": False}
    fake.answer("LISTQUEUES", lambda _: {"ok": True, "queues": [QUEUE, long]})
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


def test_limits(ask: Run, fake: FakeServer) -> None:
    """Set with a number, lifted with `off`, refused otherwise."""
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
