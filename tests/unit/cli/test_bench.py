"""`flashq bench`: it does what it says and leaves nothing behind. Its figures are not tested."""

from __future__ import annotations

from tests.unit.cli.conftest import Run
from tests.unit.client.fake_server import FakeServer, error

SMALL = ("--count", "50", "--batch", "20", "--singles", "10", "--singles-in-flight", "4")


def test_every_measure(ask: Run, fake: FakeServer) -> None:
    """All jobs are pushed and completed, in batches as asked for, and the queue is removed."""
    fake.answer("OBLITERATE", lambda _: {"ok": True, "count": 0})
    outcome = ask("bench", *SMALL, "--payload", "3", "--json")
    assert outcome.status == 0, outcome.err
    assert [(one["measure"], one["jobs"]) for one in outcome.documents] == [
        ("push batches", 50),
        ("pull and ack batches", 50),
        ("push singles", 10),
        ("pull and ack singles", 10),
        ("push one at a time", 10),
    ]
    assert sorted(len(body["jobs"]) for body in fake.seen("PUSHB")) == [10, 20, 20]
    assert {body["data"] for body in fake.seen("PUSH")} == {"xxx"}
    assert len(fake.seen("PUSH")) == 20
    assert len(fake.done) == 60
    (queue,) = {body["queue"] for body in fake.seen("OBLITERATE")}
    assert queue.startswith("flashq-bench-")


def test_its_queue_is_removed_when_it_fails(ask: Run, fake: FakeServer) -> None:
    """A load that breaks off must not stay in the server."""
    fake.answer("PULLB", lambda _: error("not_allowed", "Not allowed: a producer's token"))
    fake.answer("OBLITERATE", lambda _: {"ok": True, "count": 50})
    outcome = ask("bench", *SMALL)
    assert outcome == (1, "", "flashq: Not allowed: a producer's token\n")
    assert fake.seen("OBLITERATE")
