"""`flashq push`: every option, stdin, and what becomes of half a batch."""

from __future__ import annotations

from typing import Any

from flashq.cli.pushing import push
from flashq.protocol.jobs import JobOptions
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_server import FakeServer


def test_every_option_of_a_job_has_a_flag() -> None:
    """A new option of the protocol is one that people can give."""
    flags = {parameter.name for parameter in push.params}
    assert set(JobOptions.__struct_fields__) - flags == set()


def test_options_reach_the_server(ask: Run, fake: FakeServer) -> None:
    """Durations as milliseconds, repeated options as lists, and nothing that was not said."""
    outcome = ask(
        *("push", "mail", '{"to": "ada"}', "--priority", "-3", "--delay", "1.5s", "--ttl", "1h"),
        *("--tag", "a", "--tag", "b", "--depends-on", "12", "--lifo", "--jitter", "0.5"),
    )
    assert outcome.status == 0
    (body,) = fake.seen("PUSH")
    said = {key: body[key] for key in body if key[0] != "_" and key not in _FRAME}
    assert said == {
        "queue": "mail",
        "data": {"to": "ada"},
        "priority": -3,
        "delay": 1500,
        "ttl": 3_600_000,
        "tags": ["a", "b"],
        "depends_on": [12],
        "lifo": True,
        "jitter": 0.5,
    }


_FRAME = ("cmd", "session", "n", "done_below")


def test_the_id_is_all_that_is_printed(ask: Run, fake: FakeServer) -> None:
    """`id=$(flashq push ...)` just works."""
    outcome = ask("push", "mail", "1")
    assert outcome.out == f"{max(fake.jobs)}\n"
    assert ask("push", "mail", "1", "--json").document == {"id": max(fake.jobs)}


def test_data_that_is_no_json(ask: Run, fake: FakeServer) -> None:
    """It is refused before anybody is asked."""
    outcome = ask("push", "mail", "hello")
    assert outcome.status == 2
    assert "'hello' is not JSON" in outcome.err
    assert fake.requests == []


def test_stdin_is_pushed_in_batches(ask: Run, fake: FakeServer) -> None:
    """Each line is a job, in order, with the options of all."""
    lines = b"".join(b'{"n": %d}\n' % number for number in range(5))
    outcome = ask("push", "mail", "-", "--batch", "2", "--priority", "4", stdin=lines)
    assert outcome == (0, "pushed 5 jobs to mail\n", "")
    batches = [body["jobs"] for body in fake.seen("PUSHB")]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    jobs = [job for batch in batches for job in batch]
    assert jobs == [{"data": {"n": number}, "priority": 4} for number in range(5)]
    assert len(ask("push", "mail", "-", "--json", stdin=b"1\n2").documents) == 2


def test_a_line_that_is_no_json_is_named(ask: Run, fake: FakeServer) -> None:
    """What stood before it is pushed, and the output says how much that was."""
    outcome = ask("push", "mail", "-", stdin=b"1\n2\nthree\n4\n")
    assert outcome.status == 1
    assert outcome.out == "pushed 2 jobs to mail\n"
    assert "line 3 is not JSON" in outcome.err
    assert len(fake.jobs) == 2


def test_entries_that_the_server_refuses_are_named_by_line(ask: Run, fake: FakeServer) -> None:
    """The batches after them are pushed all the same."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        wrong = {"index": 1, "error": "too large", "code": "payload_too_large"}
        ids = [10, None] if len(body["jobs"]) == 2 else [11]
        return {"ok": True, "ids": ids, "errors": [wrong] if len(ids) == 2 else []}

    fake.answer("PUSHB", answer)
    outcome = ask("push", "mail", "-", "--batch", "2", stdin=b"1\n2\n3\n")
    assert outcome == (1, "pushed 2 jobs to mail\n", "flashq: line 2: too large\n")


def test_an_id_of_ones_own_is_not_for_many(ask: Run, fake: FakeServer) -> None:
    """All lines would be the same job."""
    for flag in ("--job-id", "--unique-key", "--debounce-id"):
        outcome = ask("push", "mail", "-", flag, "x", stdin=b"1\n")
        assert outcome.status == 2
        assert flag in outcome.err
    assert fake.requests == []
