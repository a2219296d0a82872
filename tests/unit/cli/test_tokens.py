"""`flashq token`: a token, and the entry that lets it in."""

from __future__ import annotations

from flashq.protocol.command import Role
from flashq.tokens import Grant, Guard, Keyring, read_entries
from tests.unit.cli.conftest import Run


def test_a_made_token_is_let_in_by_its_entry(run: Run) -> None:
    """Queues and name are in the entry; the token is not."""
    line = ("token", "worker", "--queue", "mail-*", "--queue", "x", "--name", "a box", "--json")
    made = run(*line).document
    assert made["token"] not in made["entry"]
    guard = Guard(Keyring(entries=read_entries(made["entry"], "f")))
    grant = guard.show(made["token"], None, 0).grant(guard)
    assert grant == Grant(Role.WORKER, ("mail-*", "x"), "a box")


def test_the_entry_can_be_appended_to_the_file(run: Run) -> None:
    """So it alone is on stdout, and the token on stderr, where people see it once."""
    first, second = run("token", "admin"), run("token", "read")
    assert len(read_entries(first.out + second.out, "f")) == 2
    assert "shown again" in first.err
    assert first.err != second.err


def test_a_role_that_is_none_is_refused(run: Run) -> None:
    """Anyone is what commands say, not tokens."""
    assert run("token", "anyone").status == 2
    assert run("token", "read", "--queue", "").status == 1
