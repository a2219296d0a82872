"""`flashq webhook`."""

from __future__ import annotations

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import teach
from tests.unit.client.fake_server import FakeServer


def test_add_takes_the_secret_from_a_file(ask: Run, fake: FakeServer) -> None:
    """What stands on a command line is there for everybody on the machine to read."""
    teach(fake)
    line = ("webhook", "add", "https://example.com/", "failed", "--secret-file", "-")
    assert ask(*line, stdin=b"tell nobody\n").status == 0
    (body,) = fake.seen("WEBHOOK")
    assert (body["events"], body["secret"]) == (["failed"], "tell nobody")
    assert ask("webhook", "add", "https://example.com/").status == 2


def test_lists_say_what_went_wrong(ask: Run, fake: FakeServer) -> None:
    """Why the last attempt failed, and why a delivery is dead."""
    teach(fake)
    _, row = ask("webhook", "list").out.splitlines()
    assert row.split()[:2] == ["wh_1", "https://example.com/"]
    assert row.endswith("answered with status 500")
    _, row = ask("webhook", "dead").out.splitlines()
    assert row.split()[:5] == ["wh_1", "12", "failed", "7", "10"]


def test_retrying_one_that_is_not_dead_fails(ask: Run, fake: FakeServer) -> None:
    """So that a script notices."""
    teach(fake)
    fake.answer("WEBHOOKRETRY", lambda _: {"ok": True, "count": 0})
    outcome = ask("webhook", "retry", "wh_1", "99")
    assert outcome.status == 1
    assert "99 is no dead delivery of wh_1" in outcome.err
