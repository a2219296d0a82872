"""The shared options and questions, which every verb has alike."""

from __future__ import annotations

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import teach
from tests.unit.client.fake_server import FakeServer

DESTRUCTIVE = (
    (("queue", "drain", "mail"), "DRAIN"),
    (("queue", "obliterate", "mail"), "OBLITERATE"),
    (("queue", "clean", "mail", "--state", "completed", "--grace", "7d"), "CLEAN"),
    (("dlq", "purge", "mail"), "PURGEDLQ"),
    (("job", "cancel", "7", "8"), "CANCEL"),
    (("cron", "delete", "nightly"), "CRONDELETE"),
)


@pytest.mark.parametrize("words", [("--json", "queue", "list"), ("queue", "list", "--json")])
def test_json_stands_before_or_behind_the_verb(
    ask: Run, fake: FakeServer, words: list[str]
) -> None:
    """Nobody has to remember where it goes."""
    teach(fake)
    assert ask(*words).document["name"] == "mail"


def test_url_behind_the_verb_wins_over_the_environment(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was typed is meant."""
    teach(fake)
    monkeypatch.setenv("FLASHQ_URL", "ipc:///nowhere/router.sock")
    assert run("stats", "--url", fake.url).status == 0
    assert run("--url", fake.url, "stats").status == 0
    assert run("stats").status == 1


def test_token_is_shown_to_the_server_and_to_nobody_else(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment or from the option; neither output ever has it."""
    teach(fake)
    fake.token = "tell-nobody"
    monkeypatch.setenv("FLASHQ_URL", fake.url)
    monkeypatch.setenv("FLASHQ_TOKEN", "tell-nobody")
    outcomes = [run("stats"), run("stats", "--help"), run("--help"), run("doctor", "--json")]
    monkeypatch.setenv("FLASHQ_TOKEN", "wrong-one")
    outcomes.append(run("stats", "--token", "tell-nobody"))
    outcomes.append(run("stats"))
    assert [outcome.status for outcome in outcomes[:3]] == [0, 0, 0]
    assert [outcome.status for outcome in outcomes[4:]] == [0, 1]
    assert {body["token"] for body in fake.seen("AUTH")} == {"tell-nobody", "wrong-one"}
    printed = "".join(outcome.out + outcome.err for outcome in outcomes)
    assert "tell-nobody" not in printed
    assert "wrong-one" not in printed


@pytest.mark.parametrize(("words", "word"), DESTRUCTIVE, ids=[word for _, word in DESTRUCTIVE])
def test_what_destroys_asks_first(
    ask: Run, fake: FakeServer, words: tuple[str, ...], word: str
) -> None:
    """Anything but yes leaves everything as it was, also where nobody is there to answer."""
    teach(fake)
    for answer in (b"n\n", b"\n", b""):
        outcome = ask(*words, stdin=answer)
        assert outcome.status == 1
        assert outcome.out == ""
    assert fake.seen(word) == []
    assert ask(*words, stdin=b"y\n").status == 0
    asked = len(fake.seen(word))
    assert asked
    assert ask(*words, "--yes").status == 0
    assert ask(*words, "-y", "--json").status == 0
    assert len(fake.seen(word)) == 3 * asked


def test_one_job_is_cancelled_without_a_question(ask: Run, fake: FakeServer) -> None:
    """Only the cancelling of many is worth a second thought."""
    assert ask("job", "cancel", "7") == (0, "7 cancelled\n", "")
    assert [body["id"] for body in fake.seen("CANCEL")] == [7]


def test_a_shard_that_did_not_answer_is_named(ask: Run, fake: FakeServer) -> None:
    """A list that is not whole says so, and leaves stdout to what there is."""
    fake.answer("LISTQUEUES", lambda _: {"ok": True, "queues": [], "missing_shards": [2, 3]})
    outcome = ask("queue", "list", "--json")
    assert outcome.out == ""
    assert "shard 2, 3 did not answer in time" in outcome.err
