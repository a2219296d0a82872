"""`flashq dlq`."""

from __future__ import annotations

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import teach
from tests.unit.client.fake_server import FakeServer


def test_list_says_why(ask: Run, fake: FakeServer) -> None:
    """Each dead letter with its error and payload."""
    teach(fake)
    _, row = ask("dlq", "list", "mail", "--count", "5").out.splitlines()
    assert row.split()[:2] == ["7", "2"]
    assert "no route" in row
    assert fake.seen("DLQ")[0]["count"] == 5


def test_retry_of_all_and_of_one(ask: Run, fake: FakeServer) -> None:
    """One that is no dead letter is an error; an empty list of them is not."""
    teach(fake)
    assert ask("dlq", "retry", "mail").out == "1 job back to work\n"
    assert "id" not in fake.seen("RETRYDLQ")[0]
    fake.answer("RETRYDLQ", lambda _: {"ok": True, "ids": [0]})
    assert ask("dlq", "retry", "mail").status == 0
    assert ask("dlq", "retry", "mail", "7").status == 1
    assert fake.seen("RETRYDLQ")[-1]["id"] == 7
