"""A job that is cancelled or times out stops its handler; what does not stop is named."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from flashq.client.sync_client import Client
from flashq.worker.job import AsyncWorkerJob, JobStopped, WorkerJob
from flashq.worker.process import Worker
from tests.unit.client.fake_server import FakeServer

PATIENCE_S = 10


class Said(logging.Handler):
    """Hears what the worker's logger says, and lets a test wait for a word."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line in."""
        with self._changed:
            self._lines.append((record.levelname, record.getMessage()))
            self._changed.notify_all()

    def wait_for(self, word: str) -> tuple[str, str]:
        """Return the first line with this word, once it is there."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._with(word), PATIENCE_S)
            return self._with(word)[0]

    def _with(self, word: str) -> list[tuple[str, str]]:
        return [line for line in self._lines if word in line[1]]


@pytest.fixture
def said() -> Any:
    """What the worker says."""
    handler, logger = Said(), logging.getLogger("flashq.worker")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_a_coroutine_is_cancelled_where_it_awaits(beaten: FakeServer) -> None:
    """
    1. A coroutine waits; its job is cancelled by somebody else.
    2. `CancelledError` comes to it with the reason. Its outcome is dropped, and its place is free.
    """
    started = threading.Event()
    reasons: list[str] = []

    async def wait(job: AsyncWorkerJob) -> str:
        if job.data == "next":
            return "done"
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            reasons.append(str(error))
            assert job.cancelled
            raise
        return "never"

    with Client(beaten.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", wait, concurrency=1, url=beaten.url) as worker:
            assert started.wait(PATIENCE_S)
            beaten.lost.add(job_id)
            after = client.push("q", "next")
            beaten.wait_until(lambda: beaten.done.get(after) == "done")
    assert worker.lost == 1
    assert reasons == ["the job was cancelled, or is gone"]
    assert not beaten.seen("FAIL")


@pytest.mark.parametrize("call", ["progress", "log", "update", "heartbeat", "check"])
def test_a_thread_gets_an_event_and_an_exception(beaten: FakeServer, call: str) -> None:
    """The event at once, the exception at its next call of the job's methods."""
    started, seen = threading.Event(), threading.Event()

    def wait(job: WorkerJob) -> None:
        started.set()
        assert not job.stop_event.is_set()
        assert job.stop_event.wait(PATIENCE_S)
        arguments = {"progress": (1,), "log": ("text",), "update": (2,)}.get(call, ())
        with pytest.raises(JobStopped, match="cancelled"):
            getattr(job, call)(*arguments)
        seen.set()
        job.check()

    with Client(beaten.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", wait, url=beaten.url) as worker:
            assert started.wait(PATIENCE_S)
            beaten.lost.add(job_id)
            assert seen.wait(PATIENCE_S)
    assert worker.lost == 1
    assert not beaten.seen("FAIL")


@pytest.mark.parametrize("call", ["progress", "log", "update", "heartbeat", "check"])
def test_a_coroutine_that_goes_on_gets_the_exception(beaten: FakeServer, call: str) -> None:
    """It has swallowed its cancelling; each of the job's methods says so again."""
    started, seen = threading.Event(), threading.Event()

    async def go_on(job: AsyncWorkerJob) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            arguments = {"progress": (1,), "log": ("text",), "update": (2,)}.get(call, ())
            method = getattr(job, call)
            with pytest.raises(JobStopped):
                method() if call == "check" else await method(*arguments)
            seen.set()

    with Client(beaten.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", go_on, url=beaten.url):
            assert started.wait(PATIENCE_S)
            beaten.lost.add(job_id)
            assert seen.wait(PATIENCE_S)


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_does_not_stop_is_named_and_keeps_its_place(
    beaten: FakeServer, said: Said, kind: str
) -> None:
    """
    1. A handler goes on though its job is lost. The log says where it is.
    2. Its place is not given to another job; it ends at last, the log says so, and the next runs.
    """
    started, go_on = threading.Event(), threading.Event()

    async def stubborn(job: AsyncWorkerJob) -> str:
        if job.data == "next":
            return "done"
        started.set()
        while not go_on.is_set():
            try:
                await asyncio.to_thread(go_on.wait, PATIENCE_S)
            except asyncio.CancelledError:
                continue
        return "late"

    def stubborn_on_thread(job: WorkerJob) -> str:
        if job.data == "next":
            return "done"
        started.set()
        assert go_on.wait(PATIENCE_S)
        return "late"

    handler: Any = stubborn if kind == "async" else stubborn_on_thread
    with Client(beaten.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", handler, concurrency=1, url=beaten.url) as worker:
            assert started.wait(PATIENCE_S)
            beaten.lost.add(job_id)
            level, line = said.wait_for("has not stopped")
            assert level == "WARNING"
            assert f"job {job_id} of q" in line
            assert f"in {handler.__name__}" in line
            after = client.push("q", "next")
            assert after not in beaten.active
            go_on.set()
            beaten.wait_until(lambda: beaten.done.get(after) == "done")
            said.wait_for("has stopped at last")
    assert job_id not in beaten.done
    assert (worker.completed, worker.lost) == (1, 1)


def test_copies_of_a_job_do_not_overlap(beaten: FakeServer) -> None:
    """
    1. A handler goes on though its job's time-out is over; the server hands the job out again.
    2. The second copy begins when the first has ended, and not before.
    """
    started, go_on = threading.Event(), threading.Event()
    running, most = 0, 0
    lock = threading.Lock()

    def slow(job: WorkerJob) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        started.set()
        assert go_on.wait(PATIENCE_S)
        with lock:
            running -= 1
        return job.attempts

    with Client(beaten.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", slow, concurrency=3, url=beaten.url) as worker:
            assert started.wait(PATIENCE_S)

            def time_out() -> None:
                beaten.active.pop(job_id)
                beaten.jobs[job_id]["attempts"] = 1
                beaten.add_again(job_id)

            beaten.order(time_out)
            beaten.wait_until(lambda: job_id in beaten.active)
            other = client.push("q", 2)
            go_on.set()
            beaten.wait_until(lambda: {job_id, other} <= beaten.done.keys())
    assert beaten.done[job_id] == 1
    assert most <= 2  # the other job may run beside it
    assert worker.completed == 2


def test_a_time_out_counts_also_while_the_server_is_away(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has a clock of its own; what the handler says of it is reported."""
    monkeypatch.setattr("flashq.worker.engine.OVERTIME_MS", 0.0)

    async def wait(_: AsyncWorkerJob) -> None:
        await asyncio.Event().wait()

    def push() -> None:
        server.add("q", 1, timeout=20)

    with Worker("q", wait, url=server.url):
        server.order(push)
        (failure,) = server.wait_for("FAIL")
    assert failure["error"].startswith(
        "asyncio.exceptions.CancelledError: timed out: the job ran for more than 20 ms"
    )


def test_a_call_after_the_workers_end_is_refused(server: FakeServer) -> None:
    """A thread that outlives its worker hears so, and does not wait for ever."""
    started, go_on, heard = threading.Event(), threading.Event(), threading.Event()

    def late(job: WorkerJob) -> None:
        started.set()
        assert go_on.wait(PATIENCE_S)
        with pytest.raises(JobStopped, match="grace time"):
            job.progress(50)
        heard.set()

    with Client(server.url) as client:
        client.push("q", 1)
        worker = Worker("q", late, grace=0, url=server.url).start()
        assert started.wait(PATIENCE_S)
        worker.stop()
        go_on.set()
        assert heard.wait(PATIENCE_S)
