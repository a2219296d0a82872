"""`flashq cron`."""

from __future__ import annotations

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import teach
from tests.unit.client.fake_server import FakeServer


def test_add(ask: Run, fake: FakeServer) -> None:
    """Either a schedule or an interval."""
    assert ask("cron", "add", "beat", "mail", '{"x": 1}', "--every", "10m").status == 0
    (body,) = fake.seen("CRON")
    assert (body["name"], body["queue"], body["data"], body["repeat_every"]) == (
        "beat",
        "mail",
        {"x": 1},
        600_000,
    )
    assert ask("cron", "add", "beat", "mail", "1").status == 2
    both = ("--every", "1h", "--schedule", "* * * * *")
    assert ask("cron", "add", "beat", "mail", "1", *both).status == 2


def test_list(ask: Run, fake: FakeServer) -> None:
    """When, where and how often already."""
    teach(fake)
    _, row = ask("cron", "list").out.splitlines()
    assert row.split()[:2] == ["nightly", "mail"]
    assert "0 3 * * * Europe/Vienna" in row
    assert "2/10" in row
