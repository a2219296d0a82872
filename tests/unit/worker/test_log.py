"""What a worker says in the log: its life, each failure, each retry, each outage."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from flashq.client.sync_client import Client
from flashq.version import __version__
from flashq.worker.job import AsyncWorkerJob
from flashq.worker.process import Worker
from tests.unit.client.fake_server import FakeServer


def lines(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    """Return what the worker's logger said at a level."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == level and record.name == "flashq.worker"
    ]


async def moody(job: AsyncWorkerJob) -> None:
    """Fail at the first attempt."""
    if not job.attempts:
        raise ValueError("moody") from KeyError("weather")


def test_a_worker_says_what_it_does(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """Start, a failed attempt with its traceback, the retry, and a summary at its end."""
    caplog.set_level(logging.INFO, "flashq.worker")
    with Client(server.url) as client:
        job_id = client.push("mails", 1)
        with Worker(["mails", "calls"], moody, concurrency=7, url=server.url):
            server.wait_for("FAIL")
            server.order(lambda: server.add_again(job_id))
            server.wait_until(lambda: job_id in server.done)
    said = lines(caplog, "INFO")
    assert [line.split(":")[0].split(" after")[0] for line in said] == [
        "worker begins",
        "worker ends",
    ]
    begin, end = said
    for word in (__version__, server.url, "mails, calls", "at most 7", "server 0"):
        assert word in begin
    assert "1 jobs completed, 1 attempts failed, 0 jobs lost" in end
    (failure,) = lines(caplog, "ERROR")
    assert failure == f"job {job_id} of mails failed: attempt 1, as many as it takes"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert "ValueError: moody" in caplog.text
    assert "KeyError: 'weather'" in caplog.text
    assert lines(caplog, "WARNING") == [
        f"job {job_id} of mails is tried again: attempt 2, as many as it takes"
    ]


@pytest.mark.parametrize("blocking", [False, True])
def test_outages_and_returns_are_said_once(
    beaten: FakeServer, caplog: pytest.LogCaptureFixture, blocking: bool
) -> None:
    """By the worker, and by a client alone: when the server is gone, and when it is back."""

    async def handler(_: Any) -> None:
        """Do nothing."""

    name = "flashq.client" if blocking else "flashq.worker"

    def said() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == name and record.levelname == "WARNING"
        ]

    with Client(beaten.url) if blocking else Worker("q", handler, url=beaten.url):
        beaten.wait_for("SESSIONHEARTBEAT")
        beaten.answer("SESSIONHEARTBEAT", lambda _: None)
        beaten.answer("HELLO", lambda _: None)
        beaten.wait_until(lambda: len(said()) >= 1)
        hellos = len(beaten.seen("HELLO"))
        beaten.wait_for("HELLO", hellos + 2)
        beaten.answers.clear()
        beaten.wait_until(lambda: len(said()) >= 2)
    gone, back = said()
    assert gone == f"no server at {beaten.url}: 2 heartbeats without an answer; trying on"
    assert back.startswith(f"the server at {beaten.url} is back after ")
