"""Whole workers against a fake server: both kinds of handlers, losses, signals, the end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.results import Job
from flashq.client.sync_client import Client
from flashq.errors import (
    ConnectionClosed,
    NotAllowed,
    QueueNameEmpty,
    QueueNameInvalid,
    QueueNameTooLong,
    TokenInvalid,
)
from flashq.worker.job import AsyncWorkerJob, WorkerJob
from flashq.worker.process import Worker
from tests.unit.client.fake_server import FakeServer, error

PATIENCE_S = 10


async def double(job: AsyncWorkerJob) -> int:
    """Return twice the payload; fail on 13."""
    if job.data == 13:
        raise ValueError("unlucky")
    if job.data % 3 == 0:
        await asyncio.sleep(0)
    return int(job.data) * 2


def double_on_threads(job: WorkerJob) -> int:
    """Do the same on a thread."""
    if job.data == 13:
        raise ValueError("unlucky")
    return int(job.data) * 2


@pytest.mark.parametrize("handler", [double, double_on_threads])
def test_every_job_ends_once(server: FakeServer, handler: Any) -> None:
    """Results are acknowledged in batches, and what raised is failed with its text."""
    with Client(server.url) as client:
        ids = client.push_batch("q", [{"data": number} for number in range(300)])
        with Worker(["q", "other"], handler, url=server.url) as worker:
            server.wait_until(lambda: len(server.done) == 299 and bool(server.seen("FAIL")))
    assert (worker.completed, worker.failed, worker.lost) == (299, 1, 0)
    assert [server.done.get(job_id) for job_id in ids] == [
        None if number == 13 else 2 * number for number in range(300)
    ]
    (failure,) = server.seen("FAIL")
    assert failure["id"] == ids[13]
    assert failure["error"].startswith("ValueError: unlucky\n")
    assert "double" in failure["error"]
    assert len(server.seen("ACKB")) < 299


def test_a_handler_can_be_any_callable(server: FakeServer) -> None:
    """Also an object with an asynchronous call."""

    class Handler:
        async def __call__(self, job: AsyncWorkerJob) -> str:
            assert isinstance(job, AsyncWorkerJob)
            return "object"

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", Handler(), url=server.url):
            server.wait_until(lambda: server.done.get(job_id) == "object")


def test_waiting_handlers_run_side_by_side(server: FakeServer) -> None:
    """Each handler waits for all the others: only concurrency ends that."""
    arrived = 0
    all_there = asyncio.Event()

    async def meet(_: AsyncWorkerJob) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            all_there.set()
        async with asyncio.timeout(PATIENCE_S):
            await all_there.wait()

    with Client(server.url) as client:
        client.push_batch("q", [{"data": 1}] * 20)
        with Worker("q", meet, concurrency=20, url=server.url) as worker:
            server.wait_until(lambda: len(server.done) == 20)
    assert worker.failed == 0


def test_concurrency_is_a_bound(server: FakeServer) -> None:
    """Of threads too."""
    running, most = 0, 0
    lock = threading.Lock()
    both = threading.Barrier(2)

    def count(_: WorkerJob) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(PATIENCE_S)
        with lock:
            running -= 1

    with Client(server.url) as client:
        client.push_batch("q", [{"data": 1}] * 10)
        with Worker("q", count, concurrency=2, url=server.url):
            server.wait_until(lambda: len(server.done) == 10)
    assert most == 2


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_handler_can_say_how_far_it_is(server: FakeServer, kind: str) -> None:
    """Progress, log and payload, with the job's own lease where the protocol has one."""

    async def report(job: AsyncWorkerJob) -> None:
        await job.progress(50, "half")
        await job.log("hello", "warn")
        await job.update({"step": 2})

    def report_on_thread(job: WorkerJob) -> None:
        job.progress(50, "half")
        job.log("hello", "warn")
        job.update({"step": 2})

    handler: Any = report if kind == "async" else report_on_thread
    with Client(server.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", handler, url=server.url):
            server.wait_until(lambda: job_id in server.done)
    (progress,) = server.seen("PROGRESS")
    assert (progress["progress"], progress["message"], progress["token"]) == (50, "half", 1)
    assert server.seen("LOG")[0]["level"] == "warn"
    assert server.seen("UPDATEJOB")[0]["data"] == {"step": 2}


def test_a_job_has_what_its_handler_needs() -> None:
    """Without going through `job.job`."""
    fields: dict[str, Any] = {
        "id": 4, "queue": "q", "data": None, "attempts": 2, "max_attempts": 5, "priority": 7,
        "created_at": 9, "tags": ("t",),
    }  # fmt: skip
    job = AsyncWorkerJob(Job(**fields), AsyncClient("ipc:///nowhere/at.all"))
    assert (job.id, job.queue, job.data, job.attempts, job.max_attempts) == (4, "q", None, 2, 5)
    assert (job.priority, job.created_at, job.tags, job.cancelled) == (7, 9, ("t",), False)
    assert "id=4" in repr(job)


def test_a_result_that_cannot_be_encoded_fails_the_job(server: FakeServer) -> None:
    """Not the worker."""

    async def odd(_: AsyncWorkerJob) -> object:
        return object()

    with Client(server.url) as client:
        client.push("q", 1)
        with Worker("q", odd, url=server.url):
            assert "cannot be encoded" in server.wait_for("FAIL")[0]["error"]


def test_a_result_that_is_refused_fails_its_job_alone(server: FakeServer) -> None:
    """Here every result is too large for the server."""
    server.answer("ACKB", lambda _: error("payload_too_large", "Job data too large"))
    with Client(server.url) as client:
        client.push_batch("q", [{"data": 1}] * 2)
        with Worker("q", double, url=server.url):
            failures = server.wait_for("FAIL", 2)
    assert {failure["error"] for failure in failures} == {"Job data too large"}


def test_a_job_that_was_failed_by_somebody_else_is_lost(server: FakeServer) -> None:
    """The report is refused, and not repeated."""
    server.answer("FAIL", lambda _: error("lease_lost"))

    async def bad(_: AsyncWorkerJob) -> None:
        raise asyncio.CancelledError

    with Client(server.url) as client:
        client.push("q", 1)
        with Worker("q", bad, url=server.url) as worker:
            server.wait_for("FAIL")
    assert (worker.failed, worker.lost) == (0, 1)


def test_stop_lets_running_jobs_finish(server: FakeServer) -> None:
    """1. A job runs, stop is called. 2. It ends within the grace time: it is acknowledged."""
    started, go_on = threading.Event(), threading.Event()

    def slow(_: WorkerJob) -> str:
        started.set()
        assert go_on.wait(PATIENCE_S)
        return "finished"

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        worker = Worker("q", slow, url=server.url).start()
        assert started.wait(PATIENCE_S)
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        go_on.set()
        stopping.join()
        assert server.done[job_id] == "finished"
        assert server.seen("GOODBYE")
        late = client.push("q", 2)
        assert late in server.waiting["q"]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_the_grace_time_is_not_enough_for_goes_back(server: FakeServer, kind: str) -> None:
    """The handler is told, and what it says afterwards is dropped."""
    started, told, go_on = threading.Event(), threading.Event(), threading.Event()

    async def endless(job: AsyncWorkerJob) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert job.cancelled
            told.set()

    def endless_on_thread(job: WorkerJob) -> None:
        started.set()
        assert go_on.wait(PATIENCE_S)
        assert job.cancelled
        told.set()

    handler: Any = endless if kind == "async" else endless_on_thread
    with Client(server.url) as client:
        job_id = client.push("q", 1)
        worker = Worker("q", handler, grace=0, url=server.url).start()
        assert started.wait(PATIENCE_S)
        worker.stop()
        go_on.set()
        assert told.wait(PATIENCE_S)
        assert server.seen("RELEASE")[0]["ids"] == [job_id]
        assert not server.done
    words = [body["cmd"] for body in server.requests if body["cmd"] in ("HEARTBEAT", "RELEASE")]
    assert words[:2] == ["HEARTBEAT", "RELEASE"], "it was worked on, which costs its token"


def test_a_job_with_a_time_out_says_when_it_begins(server: FakeServer) -> None:
    """1. Two jobs have time-outs; one takes no time, and nothing is said of it. 2. The other waits:
    its beginning is said, with its lease."""
    go_on = threading.Event()

    async def handler(job: AsyncWorkerJob) -> None:
        if job.data == "slow":
            await asyncio.to_thread(go_on.wait, PATIENCE_S)

    def push() -> None:
        server.add("q", "quick", timeout=5000)
        server.add("q", "slow", timeout=5000)

    with Worker("q", handler, concurrency=1, url=server.url):
        server.order(push)
        (begun,) = server.wait_for("HEARTBEAT")
        assert server.jobs[begun["id"]]["data"] == "slow"
        assert begun["token"] == server.active[begun["id"]]
        go_on.set()
        server.wait_until(lambda: len(server.done) == 2)
    assert len(server.seen("HEARTBEAT")) == 1
    assert all(body["starts"] for body in server.seen("PULLB"))


def test_a_job_that_has_waited_too_long_is_asked_about_first(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. What waits here is asked about before it starts. 2. One is lost: it does not start."""
    monkeypatch.setattr("flashq.worker.engine.CONFIRM_MS", -1.0)
    ran: list[Any] = []

    async def handler(job: AsyncWorkerJob) -> None:
        ran.append(job.data)

    def answer(body: Any) -> Any:
        return error("lease_lost") if server.jobs[body["id"]]["data"] == "lost" else {"ok": True}

    server.answer("HEARTBEAT", answer)
    with Client(server.url) as client:
        client.push_batch("q", [{"data": "kept"}, {"data": "lost"}, {"data": "too"}])
        with Worker("q", handler, concurrency=1, url=server.url) as worker:
            server.wait_until(lambda: len(server.done) == 2)
    assert ran == ["kept", "too"]
    assert (worker.completed, worker.lost) == (2, 1)


def test_a_worker_of_several_queues_takes_what_it_can_run(server: FakeServer) -> None:
    """One place, three queues with jobs: no job is handed out before there is a place for it."""
    most = 0

    async def handler(_: AsyncWorkerJob) -> None:
        nonlocal most
        most = max(most, len(server.active))
        await asyncio.sleep(0)

    with Client(server.url) as client:
        for queue in ("a", "b", "c"):
            client.push_batch(queue, [{"data": 1}] * 4)
        with Worker(["a", "b", "c"], handler, batch=1, concurrency=1, url=server.url):
            server.wait_until(lambda: len(server.done) == 12)
    assert most <= 3  # the one that runs, one ahead, one whose end is on its way
    assert not server.seen("RELEASE")


def test_a_handler_can_stop_its_worker(server: FakeServer) -> None:
    """It does not wait for itself."""
    workers: list[Worker] = []

    async def last(_: AsyncWorkerJob) -> None:
        workers[0].stop()

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        workers.append(Worker("q", last, url=server.url))
        workers[0].run()
        assert job_id in server.done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully(server: FakeServer, number: int) -> None:
    """As systemd and Ctrl-C send it; the job at hand is finished."""

    async def stop(_: AsyncWorkerJob) -> str:
        os.kill(os.getpid(), number)
        return "finished"

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        Worker("q", stop, url=server.url).run()
        assert server.done[job_id] == "finished"


def test_a_second_signal_does_not_wait(server: FakeServer) -> None:
    """A handler hangs, and somebody presses Ctrl-C again."""

    async def hang(_: AsyncWorkerJob) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        Worker("q", hang, grace=10**9, url=server.url).run()
        assert server.seen("RELEASE")[0]["ids"] == [job_id]


def test_a_worker_that_may_not_take_jobs_says_so(server: FakeServer) -> None:
    """Instead of asking for ever."""
    server.answer("PULLB", lambda _: error("not_allowed", "Not allowed: worker"))
    with pytest.raises(NotAllowed):
        Worker("q", double, url=server.url).run()


def test_a_worker_without_a_token_says_so(server: FakeServer) -> None:
    """At its start, also when it has a thread of its own."""
    server.token = "right"
    with pytest.raises(TokenInvalid):
        Worker("q", double, url=server.url, token="wrong").start()


def test_a_worker_goes_on_when_a_fetch_fails(server: FakeServer) -> None:
    """A shard was away: the queue is tried again."""
    failed = threading.Event()

    def once(_: Any) -> Any:
        del server.answers["PULLB"]
        failed.set()
        return error("shard_unavailable", "shard 1 does not answer")

    server.answer("PULLB", once)
    with Client(server.url) as client, Worker("q", double, url=server.url):
        assert failed.wait(PATIENCE_S)
        job_id = client.push("q", 2)
        server.wait_until(lambda: server.done.get(job_id) == 4)


def test_a_worker_without_a_server_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the client's time-out."""
    monkeypatch.setattr("flashq.worker.shift.CALL_TIMEOUT_MS", 50)
    worker = Worker("q", double, url=url)
    with pytest.raises(ConnectionClosed, match="no server"):
        worker.run()


def test_nonsense_is_refused() -> None:
    """Before anything starts."""
    nonsense: list[dict[str, Any]] = [{"concurrency": 0}, {"batch": 0}, {"grace": -1}]
    for arguments in nonsense:
        with pytest.raises(ValueError, match="at least"):
            Worker("q", double, **arguments)
    with pytest.raises(ValueError, match="queue"):
        Worker([], double)
    with pytest.raises(TypeError, match="a queue's name is text, not int"):
        Worker(["q", 5], double)  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["", "a b", "q*", "q/r", "x" * 300, "new\nline"])
def test_a_name_that_no_queue_can_have_is_refused(name: str) -> None:
    """At once: a worker that waits there would wait for ever."""
    with pytest.raises((QueueNameEmpty, QueueNameInvalid, QueueNameTooLong)):
        Worker(["good", name], double)


# --- again, and elsewhere


@pytest.mark.parametrize("handler", [double, double_on_threads])
def test_a_worker_works_again(server: FakeServer, handler: Any) -> None:
    """Once it has ended: with a session of its own, in a loop of its own."""
    worker = Worker("q", handler, url=server.url)
    with Client(server.url) as client:

        def work_once() -> None:
            job_id = client.push("q", 2)
            with worker:
                server.wait_until(lambda: server.done.get(job_id) == 4)
            assert worker.completed == 1

        work_once()
        work_once()
    sessions = {body["session"] for body in server.seen("ACKB")}
    assert len(sessions) == 2


def test_a_worker_does_not_work_twice_at_a_time(server: FakeServer) -> None:
    """In a second thread, or a second loop."""
    worker = Worker("q", double, url=server.url)
    with worker:
        with pytest.raises(RuntimeError, match="works already"):
            worker.start()
        with pytest.raises(RuntimeError, match="works already"):
            worker.run()


async def test_a_worker_does_not_run_inside_a_loop(server: FakeServer) -> None:
    """There it is served."""
    worker = Worker("q", double, url=server.url)
    with pytest.raises(RuntimeError, match="await serve"):
        worker.run()
    serving = asyncio.ensure_future(worker.serve())
    await asyncio.to_thread(server.wait_for, "PULLB")
    worker.stop()
    await asyncio.wait_for(serving, PATIENCE_S)


def test_a_stop_that_comes_first_ends_it_at_once(server: FakeServer) -> None:
    """A signal may come before the work begins; the next time it works."""
    worker = Worker("q", double, url=server.url)
    worker.stop()
    worker.run()
    assert not server.seen("PULLB")
    with Client(server.url) as client, worker:
        job_id = client.push("q", 2)
        server.wait_until(lambda: server.done.get(job_id) == 4)
