"""`flashq job`: what is shown of a job, and the changing of many."""

from __future__ import annotations

from typing import Any

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import JOB, teach
from tests.unit.client.fake_server import FakeServer, error


def test_a_job_is_shown_with_its_history(ask: Run, fake: FakeServer) -> None:
    """Times and durations as people read them, and why each attempt failed."""
    teach(fake)
    shown = ask("job", "show", "7").out
    assert '{"to":"ada"}' in shown
    assert "1 min 30 s" in shown
    assert "2023-11-1" in shown
    assert "failed" in shown
    assert "no route" in shown
    document = ask("job", "show", "7", "--json").document
    assert document["job"]["history"] == JOB["history"]
    assert document["job"]["state"] == "failed"


def test_an_unknown_job(ask: Run, fake: FakeServer) -> None:
    """One sentence, for `show` and for what needs to know the job first."""
    fake.answer("GETJOB", lambda _: {"ok": True, "job": None, "state": "unknown"})
    fake.answer("GETJOBBYCUSTOMID", lambda _: {"ok": True, "job": None, "state": "unknown"})
    assert ask("job", "show", "9") == (1, "", "flashq: Job 9 not found\n")
    assert ask("job", "retry", "9") == (1, "", "flashq: Job 9 not found\n")
    assert ask("job", "find", "letter").status == 1


def test_a_list_says_how_many_there_are(ask: Run, fake: FakeServer) -> None:
    """The page is short, the total exact."""
    teach(fake)
    outcome = ask("job", "list", "--queue", "mail", "--state", "failed", "--offset", "10")
    assert "1 of 30; --limit and --offset show others" in outcome.out
    (body,) = fake.seen("GETJOBS")
    assert (body["queue"], body["state"], body["limit"], body["offset"]) == (
        "mail",
        "failed",
        20,
        10,
    )
    assert ask("job", "list", "7", "--queue", "mail").status == 2


def test_many_jobs_are_changed_past_one_that_refuses(ask: Run, fake: FakeServer) -> None:
    """The others are done, and the status says that not all were."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return error("wrong_state", "Job 8 is active") if body["id"] == 8 else {"ok": True}

    fake.answer("PROMOTE", answer)
    outcome = ask("job", "promote", "7", "8", "9")
    assert outcome == (1, "7 promoted\n9 promoted\n", "flashq: Job 8 is active\n")


def test_retry_finds_the_queue_itself(ask: Run, fake: FakeServer) -> None:
    """A dead letter goes back to the queue that it came from; other jobs are told what they are."""
    teach(fake)
    assert ask("job", "retry", "7") == (0, "7 back to work\n", "")
    assert (fake.seen("RETRYDLQ")[0]["queue"], fake.seen("RETRYDLQ")[0]["id"]) == ("mail", 7)
    fake.answer("RETRYDLQ", lambda _: {"ok": True, "ids": [0]})
    assert "only a dead letter can be retried" in ask("job", "retry", "7").err


def test_logs_and_children(ask: Run, fake: FakeServer) -> None:
    """In words, each on its line."""
    teach(fake)
    assert ask("job", "logs", "7").out.endswith("info: began\n")
    assert ask("job", "children", "3").out.endswith("1 of 2 child jobs completed\n")
