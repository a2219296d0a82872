"""`flashq pull` and the verbs that end what it took."""

from __future__ import annotations

from typing import Any

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import teach
from tests.unit.client.fake_server import FakeServer, error


def test_a_pulled_job_outlives_the_verb(ask: Run, fake: FakeServer) -> None:
    """It is taken without a session: one that ends would give the job back at once."""
    ask("push", "mail", '{"to": "ada"}')
    fake.requests.clear()
    outcome = ask("pull", "mail", "--json")
    assert outcome.document["data"] == {"to": "ada"}
    assert [body["cmd"] for body in fake.requests] == ["PULLB"]
    assert "session" not in fake.requests[0]
    job_id, token = outcome.document["id"], outcome.document["token"]
    assert ask("ack", str(job_id), "--token", str(token), "--result", "[1]").status == 0
    assert fake.done == {job_id: [1]}


def test_text_of_a_pulled_job(ask: Run, fake: FakeServer) -> None:
    """Id, token and payload are what the next verb needs."""
    ask("push", "mail", '{"to": "ada"}')
    head, data = ask("pull", "mail").out.splitlines()
    (held,) = fake.active.items()
    assert head.startswith("job {} token {}, attempt 1".format(*held))
    assert data == '  {"to":"ada"}'


def test_pull_with_ack_completes_what_it_has_printed(ask: Run, fake: FakeServer) -> None:
    """At most `count`, the rest stays."""
    ask("push", "mail", "-", stdin=b"1\n2\n3\n")
    outcome = ask("pull", "mail", "--count", "2", "--ack", "--json")
    assert [job["data"] for job in outcome.documents] == [1, 2]
    assert sorted(fake.done) == [job["id"] for job in outcome.documents]
    assert len(fake.waiting["mail"]) == 1


def test_pull_with_ack_that_comes_too_late(ask: Run, fake: FakeServer) -> None:
    """Whoever works with the output has to know that somebody else will get the job too."""
    ask("push", "mail", "1")
    fake.answer("ACKB", lambda body: {"ok": True, "ids": [0], "lost": body["ids"]})
    outcome = ask("pull", "mail", "--ack")
    assert outcome.status == 1
    assert "1 of 1 job were lost" in outcome.err


def test_nothing_to_pull(ask: Run) -> None:
    """A status, so that a script's loop ends."""
    for flags in ((), ("--ack",), ("--json",)):
        assert ask("pull", "mail", *flags) == (1, "", "flashq: mail has no job to hand out\n")


def test_a_lease_that_is_lost(ask: Run, fake: FakeServer) -> None:
    """The token of a job is its lease, and goes with the request."""
    ask("push", "mail", "1")
    ask("pull", "mail")
    ((job_id, token),) = fake.active.items()
    outcome = ask("ack", str(job_id), "--token", str(token + 1))
    assert outcome.status == 1
    assert fake.seen("AUTH") == []


def test_fail_says_what_became_of_the_job(ask: Run, fake: FakeServer) -> None:
    """Retried, delayed or dead: the next thing that one wants to know."""
    teach(fake)
    fake.answer("FAIL", lambda _: {"ok": True})
    outcome = ask("fail", "7", "--error", "no route")
    assert outcome == (0, "failed 7, which is delayed now\n", "")
    assert fake.seen("FAIL")[0]["error"] == "no route"


def test_release_of_a_job_that_is_not_active(ask: Run, fake: FakeServer) -> None:
    """None went back, and the status tells."""
    assert ask("release", "8") == (1, "released 0 jobs\n", "")


def test_wait_prints_the_result_as_json(ask: Run, fake: FakeServer) -> None:
    """The result alone, ready for jq."""
    teach(fake)
    assert ask("wait", "7").out == '{"sent":true}\n'
    assert ask("wait", "7", "--json").document == {"id": 7, "result": {"sent": True}}


def test_wait_for_a_job_that_fails(ask: Run, fake: FakeServer) -> None:
    """Its error is the sentence."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert body["timeout"] == 2000
        return error("job_failed", "Job failed: no route")

    fake.answer("WAITJOB", answer)
    assert ask("wait", "7", "--timeout", "2s") == (1, "", "flashq: Job failed: no route\n")
