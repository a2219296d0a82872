"""The command line against a real server: the life of a job, as somebody types it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from tests.server import Server, eventually


class Shell:
    """Runs `flashq` against a server, each time as a process of its own."""

    def __init__(self, server: Server) -> None:
        self._environ = {"FLASHQ_URL": server.ipc_url, "PATH": "/usr/bin:/bin"}

    def __call__(self, *words: str, stdin: str = "", status: int | None = 0) -> list[Any]:
        """Run one verb with --json, and return the documents that it printed. Its exit status has
        to be `status`, if that is a number."""
        done = subprocess.run(
            [sys.executable, "-m", "flashq", "--json", *words],
            input=stdin,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert status is None or done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return [msgspec.json.decode(line) for line in done.stdout.splitlines()]


@pytest.fixture
def flashq(shared_server: Server) -> Shell:
    """Return a shell in which FLASHQ_URL is set."""
    return Shell(shared_server)


def test_a_job_from_push_to_its_result(flashq: Shell) -> None:
    """Pulled by one process and completed by another: the lease is no session's."""
    (pushed,) = flashq("push", "cli-life", '{"to": "ada"}', "--tag", "x")
    (pulled,) = flashq("pull", "cli-life", "--timeout", "5s")
    assert pulled["id"] == pushed["id"]
    (shown,) = flashq("job", "show", str(pulled["id"]))
    assert shown["job"]["state"] == "active"
    words = ("ack", str(pulled["id"]), "--token", str(pulled["token"]))
    flashq(*words, "--result", '"sent"')
    flashq(*words, status=1)
    (waited,) = flashq("wait", str(pulled["id"]))
    assert waited["result"] == "sent"


def test_a_job_that_fails_for_good_and_is_retried(flashq: Shell) -> None:
    """From the queue to the dead letters and back."""
    (pushed,) = flashq("push", "cli-dead", "1", "--max-attempts", "1")
    job_id = str(pushed["id"])
    flashq("pull", "cli-dead", "--timeout", "5s")
    (failed,) = flashq("fail", job_id, "--error", "no route")
    assert failed["state"] == "failed"
    (letter,) = flashq("dlq", "list", "cli-dead")
    assert (letter["id"], letter["error"]) == (pushed["id"], "no route")
    flashq("wait", job_id, status=1)
    flashq("job", "retry", job_id)
    (counts,) = flashq("queue", "counts", "cli-dead")
    assert (counts["waiting"], counts["failed"]) == (1, 0)
    assert flashq("queue", "drain", "cli-dead", "--yes") == [{"queue": "cli-dead", "count": 1}]


def test_lines_through_a_queue(flashq: Shell) -> None:
    """As many come out as went in, in their order, and pull's status ends the loop."""
    lines = "".join(f"{number}\n" for number in range(2500))
    ids = [one["id"] for one in flashq("push", "cli-lines", "-", stdin=lines)]
    pulled = flashq("pull", "cli-lines", "--count", "3000", "--ack")
    assert [job["id"] for job in pulled] == ids
    assert [job["data"] for job in pulled] == list(range(2500))
    flashq("pull", "cli-lines", status=1)


def test_the_doctor_finds_nothing_wrong(flashq: Shell, shared_server: Server) -> None:
    """With a healthy server every question has its answer, and every program its process. It is
    asked again when a program had to wait for the machine: the doctor gives each only 2 s."""

    def healthy() -> Any:
        (found,) = flashq("doctor", status=None)
        wrong = [one for one in found["findings"] if one["verdict"] == "wrong"]
        assert all("no answer within" in one["text"] for one in wrong), wrong
        return None if wrong else found

    found = eventually(healthy, "a doctor who finds nothing wrong")
    asked = {one["check"] for one in found["findings"]}
    assert {"router", "coordinator", "shards", "shard sockets", "run directory"} <= asked
    pids = shared_server.pids()
    assert found["processes"]["router"] == pids["flashq-router"]
    assert found["processes"]["shard-3"] == pids["flashq-shard 3"]


def test_crons_stats_top_and_bench(flashq: Shell) -> None:
    """What is left of the verbs, once each."""
    flashq("cron", "add", "cli-cron", "cli-crons", "1", "--schedule", "0 3 * * *")
    assert "cli-cron" in [one["name"] for one in flashq("cron", "list")]
    flashq("cron", "delete", "cli-cron", "--yes")
    (stats,) = flashq("stats")
    assert len(stats["shards"]) == 4
    (top,) = flashq("top")
    assert top["metrics"]["total_pushed"] >= 0
    figures = flashq("bench", "--count", "200", "--batch", "50", "--singles", "20")
    assert [one["jobs"] for one in figures] == [200, 200, 20, 20, 20]
