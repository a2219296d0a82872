"""Every ending of a handler is the one ending of its job, and frees its place."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from flashq.client.sync_client import Client
from flashq.worker import threads
from flashq.worker.job import AsyncWorkerJob, WorkerJob
from flashq.worker.process import Worker
from tests.unit.client.fake_server import FakeServer
from tests.unit.worker.endings import (
    ENDINGS,
    LATE_CANCELS,
    MARK,
    after_waiting,
    before_waiting,
    on_thread,
)

PATIENCE_S = 10
HANDLERS = (before_waiting, after_waiting, on_thread)


def ended(server: FakeServer) -> int:
    """Count the jobs that have ended, in one way or another."""
    return len(server.done) + len([body for body in server.requests if body["cmd"] == "FAIL"])


@pytest.mark.parametrize("handler", HANDLERS)
def test_every_ending_ends_its_job_and_frees_its_place(server: FakeServer, handler: Any) -> None:
    """
    1. A worker with one place gets jobs that end in every way there is, and a good one after each.
    2. Each bad one is failed with its type and reason; each good one is done, with no context
       variable of the bad one before it.
    """
    with Client(server.url) as client:
        wrong = {}
        for name in ENDINGS:
            wrong[client.push("q", name)] = name
            client.push("q", "good")
        with Worker("q", handler, concurrency=1, url=server.url) as worker:
            server.wait_until(lambda: ended(server) == 2 * len(ENDINGS))
    assert (worker.completed, worker.failed, worker.lost) == (len(ENDINGS), len(ENDINGS), 0)
    told = {wrong[body["id"]]: body["error"] for body in server.seen("FAIL")}
    assert told.keys() == ENDINGS.keys()
    for name, (_, start) in ENDINGS.items():
        assert told[name].startswith(start), name
        assert "StopIteration" not in told[name] or "stop iteration" in name
    assert "StopIteration" in told["stop iteration"]
    assert "SystemExit: 2" in told["group"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("handler", HANDLERS)
def test_random_endings_leave_every_place_free(server: FakeServer, handler: Any, seed: int) -> None:
    """Each job ends once, whatever the order and however many run at a time."""
    chance = random.Random(seed)
    names = [*ENDINGS, *["good"] * 5]
    payloads = [chance.choice(names) for _ in range(100)]
    with Client(server.url) as client:
        ids = client.push_batch("q", [{"data": name} for name in payloads])
        with Worker("q", handler, concurrency=chance.randint(1, 9), url=server.url):
            server.wait_until(lambda: ended(server) == len(payloads))
    failed = Counter(body["id"] for body in server.seen("FAIL"))
    assert set(failed.values()) == {1}
    expected = {job_id for job_id, name in zip(ids, payloads, strict=True) if name != "good"}
    assert set(failed) == expected
    assert set(server.done) == set(ids) - expected


@pytest.fixture
def late_cancels() -> Iterator[list[asyncio.Task[Any]]]:
    """Tasks of jobs that have ended; forgotten afterwards."""
    yield LATE_CANCELS
    LATE_CANCELS.clear()


@pytest.mark.parametrize("waits", [False, True])
def test_a_late_cancel_of_an_ended_jobs_task_hits_no_other_job(
    server: FakeServer, late_cancels: list[asyncio.Task[Any]], waits: bool
) -> None:
    """
    1. A handler keeps its task, and ends.
    2. The next jobs' handlers cancel the tasks of all ended jobs, before they wait themselves.
    3. No job notices, and all are done, one after the other on one place.
    """

    async def handler(_: AsyncWorkerJob) -> str:
        for earlier in late_cancels:
            earlier.cancel()
        task = asyncio.current_task()
        assert task is not None
        assert task not in late_cancels
        late_cancels.append(task)
        if waits:
            await asyncio.sleep(0)
        return "good"

    with Client(server.url) as client:
        client.push_batch("q", [{"data": n} for n in range(6)])
        with Worker("q", handler, concurrency=1, url=server.url) as worker:
            server.wait_until(lambda: len(server.done) == 6)
    assert worker.failed == 0


def test_what_is_kept_by_task_is_not_seen_by_the_next_job(server: FakeServer) -> None:
    """As libraries do that had to live without context variables."""
    by_task: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()

    async def handler(job: AsyncWorkerJob) -> int:
        task = asyncio.current_task()
        assert task is not None
        return by_task.setdefault(task, job.data)

    with Client(server.url) as client:
        ids = client.push_batch("q", [{"data": n} for n in range(20)])
        with Worker("q", handler, concurrency=1, url=server.url):
            server.wait_until(lambda: len(server.done) == 20)
    assert [server.done[job_id] for job_id in ids] == list(range(20))


def test_cancelling_everything_in_the_loop_does_not_wedge_the_worker(server: FakeServer) -> None:
    """1. A handler cancels all tasks of the loop that belong to jobs, also one that has not begun.
    2. Their jobs fail; what comes later runs."""
    cancelled = False

    async def handler(job: AsyncWorkerJob) -> str:
        nonlocal cancelled
        if job.data == "cancel" and not cancelled:
            cancelled = True
            for task in asyncio.all_tasks():
                if "_run" in repr(task.get_coro()):
                    task.cancel()
        elif job.data == "wait":
            await asyncio.Event().wait()
        return "good"

    with Client(server.url) as client:
        client.push_batch("q", [{"data": "wait"}] * 3 + [{"data": "cancel"}])
        with Worker("q", handler, concurrency=4, url=server.url):
            server.wait_until(lambda: ended(server) == 4)
            client.push_batch("q", [{"data": "later"}] * 8)
            server.wait_until(lambda: ended(server) == 12)
    assert {body["error"].split("\n")[0].split(":")[0] for body in server.seen("FAIL")} == {
        "asyncio.exceptions.CancelledError"
    }


def test_time_outs_in_handlers_do_not_reach_the_next_job(server: FakeServer) -> None:
    """`asyncio.timeout` cancels the current task: of that job alone."""

    async def handler(job: AsyncWorkerJob) -> str:
        try:
            async with asyncio.timeout(0):
                if job.data % 2:
                    await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "good"

    with Client(server.url) as client:
        ids = client.push_batch("q", [{"data": n} for n in range(40)])
        with Worker("q", handler, concurrency=3, url=server.url) as worker:
            server.wait_until(lambda: len(server.done) == 40)
    assert worker.failed == 0
    assert [server.done[job_id] for job_id in ids] == ["good", "timed out"] * 20


def test_each_job_begins_with_the_context_of_its_worker(server: FakeServer) -> None:
    """What was set before the worker began is there, in both kinds; what jobs set is not."""
    seen: list[str] = []

    async def handler(job: AsyncWorkerJob) -> None:
        seen.append(MARK.get())
        MARK.set(f"of {job.data}")
        if job.data % 2:
            await asyncio.sleep(0)
        assert MARK.get() == f"of {job.data}"
        await asyncio.create_task(check(f"of {job.data}"))

    async def check(mark: str) -> None:
        assert MARK.get() == mark

    def plain(job: WorkerJob) -> None:
        seen.append(MARK.get())
        MARK.set(f"of {job.data}")

    def work(kind: Any) -> None:
        server.done.clear()
        worker = Worker("q", kind, concurrency=1, url=server.url)

        def stop() -> None:
            server.wait_until(lambda: ended(server) >= 10)
            worker.stop()

        stopper = threading.Thread(target=stop)
        client.push_batch("q", [{"data": n} for n in range(10)])
        stopper.start()
        worker.run()
        stopper.join()

    def begin() -> None:
        MARK.set("worker's")
        work(handler)
        work(plain)

    with Client(server.url) as client:
        contextvars.copy_context().run(begin)
    assert seen == ["worker's"] * 20
    assert not server.seen("FAIL")


def test_what_a_plain_function_returns_to_be_awaited_is_refused(server: FakeServer) -> None:
    """Nobody would await it: the job has not been done."""

    def handler(job: Any) -> Any:
        return asyncio.sleep(0)

    with Client(server.url) as client:
        client.push("q", 1)
        with Worker("q", handler, url=server.url):
            (failure,) = server.wait_for("FAIL")
    assert "make it `async def`" in failure["error"]


def test_an_awaitable_that_is_no_coroutine_is_awaited(server: FakeServer) -> None:
    """As from a handler whose call is marked as a coroutine function by a decorator."""

    class Promise:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "kept"

    class Handler:
        async def __call__(self, job: AsyncWorkerJob) -> Any:
            return await Promise()

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        with Worker("q", Handler(), url=server.url):
            server.wait_until(lambda: server.done.get(job_id) == "kept")


def test_no_thread_to_be_had_fails_jobs_and_not_the_worker(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    1. The system gives the worker's pool no thread: the job fails with that reason.
    2. It gives one: jobs run on it, one after the other.
    """
    refusals = iter([True, False, True, True])
    real = threads.ThreadRunners._start_thread

    def start(runners: threads.ThreadRunners) -> None:
        if next(refusals, True):
            raise RuntimeError("can't start new thread")
        real(runners)

    monkeypatch.setattr(threads.ThreadRunners, "_start_thread", start)
    with Client(server.url) as client:
        client.push("q", "good")
        with Worker("q", on_thread, concurrency=4, url=server.url) as worker:
            (failure,) = server.wait_for("FAIL")
            assert "start new thread" in failure["error"]
            client.push_batch("q", [{"data": "good"}] * 10)
            server.wait_until(lambda: len(server.done) == 10)
    assert worker.failed == 1


def test_a_handler_that_takes_no_cancelling_does_not_keep_the_worker_from_ending(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`run` returns, and says whose handler goes on, and where."""
    monkeypatch.setattr("flashq.worker.shift.PATIENCE_S", 0.05)
    monkeypatch.setattr("flashq.worker.loop.PATIENCE_S", 0.05)
    workers: list[Worker] = []
    release = asyncio.Event()

    async def stubborn(_: AsyncWorkerJob) -> None:
        workers[0].stop()
        while not release.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        workers.append(Worker("q", stubborn, grace=0, url=server.url))
        workers[0].run()
    assert server.seen("RELEASE")[0]["ids"] == [job_id]
    (said,) = [r.getMessage() for r in caplog.records if "whose handler does not" in r.getMessage()]
    assert "in stubborn" in said


async def generator_handler(_: AsyncWorkerJob) -> Any:
    """Yield, as no handler may."""
    yield 1


def plain_generator_handler(_: WorkerJob) -> Any:
    """Yield, as no handler may."""
    yield 1


@pytest.mark.parametrize("handler", [generator_handler, plain_generator_handler, "name", None])
def test_what_is_no_handler_is_refused(handler: Any) -> None:
    """Before anything starts, instead of failing each job."""
    with pytest.raises(TypeError, match="a handler"):
        Worker("q", handler)
