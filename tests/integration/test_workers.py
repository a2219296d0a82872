"""Workers against a real server: both kinds of handlers, failures, and every way to end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flashq import errors
from flashq.client.sync_client import Client
from flashq.worker.process import Worker
from tests.server import Server, eventually

StartServer = Callable[..., Server]


def sync_handler(job: Any) -> Any:
    """Do what the payload says."""
    if job.data == "fail":
        raise ValueError("as asked")
    job.progress(50, "half")
    job.log(f"working on {job.data}")
    job.update({"was": job.data})
    return {"done": job.data, "attempts": job.attempts}


async def async_handler(job: Any) -> Any:
    """Do what the payload says, in the worker's loop."""
    if job.data == "fail":
        raise ValueError("as asked")
    await job.progress(50, "half")
    await job.log(f"working on {job.data}")
    await job.update({"was": job.data})
    return {"done": job.data, "attempts": job.attempts}


@pytest.mark.parametrize("handler", [sync_handler, async_handler])
def test_handlers_say_what_they_do_and_fail_as_they_like(
    shared_server: Server, handler: Callable[[Any], Any]
) -> None:
    """Results, progress, logs, updates arrive; an exception is a failed attempt with its text."""
    queue = f"handlers-{handler.__name__}-{os.getpid()}"
    with Client(shared_server.url) as client, Worker(queue, handler, url=shared_server.url):
        good = client.push_batch(queue, [{"data": n} for n in range(20)])
        bad = client.push(queue, "fail", max_attempts=2)
        for n, job_id in enumerate(good):
            assert client.finished(job_id, 20_000) == {"done": n, "attempts": 0}
        with pytest.raises(errors.JobFailed):
            client.finished(bad, 20_000)
        job = client.get_job(good[3])
        assert job is not None
        assert job.data == {"was": 3}
        assert (job.progress, job.progress_msg) == (50, "half")
        assert [entry.message for entry in client.get_logs(good[3])] == ["working on 3"]
        (dead,) = client.get_dlq(queue)
        assert dead.attempts == 2
        assert dead.error is not None
        assert dead.error.startswith("ValueError: as asked")
        assert "raise ValueError" in dead.error


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_cancelled_job_stops_its_handler(start_server: StartServer, kind: str) -> None:
    """
    1. A handler works; its job is cancelled by somebody else.
    2. A coroutine is cancelled where it awaits, a thread hears of it by its event; what either
       returns counts for nothing.
    3. The same for a job whose time-out is over.
    """
    server = start_server("--heartbeat-interval-ms", "100")
    started, stopped = threading.Semaphore(0), threading.Semaphore(0)
    reasons: list[str] = []

    def wait(job: Any) -> str:
        started.release()
        assert job.stop_event.wait(20)
        reasons.append(job.stop_reason)
        stopped.release()
        return "for nothing"

    async def wait_async(job: Any) -> str:
        started.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            reasons.append(str(error))
            stopped.release()
        return "for nothing"

    handler: Any = wait if kind == "sync" else wait_async
    with Client(server.url) as client, Worker("q", handler, url=server.url) as worker:
        job_id = client.push("q", 1)
        assert started.acquire(timeout=20)
        client.cancel(job_id)
        assert stopped.acquire(timeout=20)
        assert client.push("q", 2, max_attempts=1, timeout=1) > job_id
        assert started.acquire(timeout=20)
        assert stopped.acquire(timeout=20)
        eventually(lambda: client.get_dlq("q"), "the time-out")
    assert worker.completed == 0
    assert reasons[0] == "the job was cancelled"
    assert "timed out" in reasons[1]


def test_a_worker_of_many_queues_is_handed_no_more_than_it_runs(start_server: StartServer) -> None:
    """
    1. 40 queues have jobs, and a worker has three places: each job is handed out once, and no queue
       waits for another to be empty.
    2. Jobs that come later, one by one, are found too.
    """
    server = start_server()
    queues = [f"q{number}" for number in range(40)]
    ran: list[str] = []

    async def handle(job: Any) -> None:
        ran.append(job.queue)
        await asyncio.to_thread(threading.Event().wait, 0.003)

    with Client(server.url) as client:
        for queue in queues:
            client.push_batch(queue, [{"data": n} for n in range(5)])
        with Worker(queues, handle, url=server.url, concurrency=3):
            eventually(lambda: len(ran) == 200, "all jobs")
            assert len(set(ran[:60])) > 30
            for queue in queues[::7]:
                client.push(queue, "later")
            eventually(lambda: len(ran) == 206, "the later ones")
            eventually(
                lambda: not any(client.get_job_counts(queue).active for queue in queues),
                "their ends",
            )
            taken = sum(worker.jobs_processed for worker in client.list_workers())
    assert taken == 206


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_job_dies_of_its_time_out_before_it_has_begun(
    start_server: StartServer, kind: str
) -> None:
    """
    1. A worker has fetched ahead, since the first jobs took no time; then one takes long.
    2. What waits behind it has a time-out that is shorter: none dies unstarted, each runs once.
    """
    server = start_server("--heartbeat-interval-ms", "100")
    ran: list[int] = []

    def handle(job: Any) -> None:
        ran.append(job.data)
        if job.data % 20 == 19:
            threading.Event().wait(0.3)

    async def handle_async(job: Any) -> None:
        ran.append(job.data)
        if job.data % 20 == 19:
            await asyncio.to_thread(threading.Event().wait, 0.3)

    handler: Any = handle if kind == "sync" else handle_async
    with Client(server.url) as client:
        client.push_batch("q", [{"data": n, "timeout": 20_000} for n in range(60)])
        client.push_batch(
            "q", [{"data": n, "timeout": 400, "max_attempts": 1} for n in range(60, 100)]
        )
        with Worker("q", handler, url=server.url, concurrency=1):
            eventually(lambda: len(ran) == 100, "all jobs")
            eventually(lambda: client.get_job_counts("q").active == 0, "their ends")
        assert client.get_job_counts("q").failed == 0
    assert sorted(ran) == list(range(100))


def test_a_coroutine_that_blocks_its_loop_keeps_its_job(start_server: StartServer) -> None:
    """
    1. A coroutine blocks the worker's loop for three times the server's session time-out.
    2. Nobody else is given its job, which is done once.
    """
    server = start_server("--heartbeat-interval-ms", "100", "--session-timeout-ms", "500")
    ran: list[int] = []

    async def block(job: Any) -> str:
        ran.append(job.id)
        threading.Event().wait(1.5)
        return "done"

    with Client(server.url) as client:
        job_id = client.push("q", 1)
        with (
            Worker("q", block, url=server.url, concurrency=1),
            Worker("q", block, url=server.url, concurrency=1),
        ):
            assert client.finished(job_id, 20_000) == "done"
        job = client.get_job(job_id)
    assert ran == [job_id]
    assert job is not None
    assert job.lost == 0


def test_a_time_out_of_a_thread_ends_no_sooner_than_it_does(start_server: StartServer) -> None:
    """
    1. A handler takes six times its job's time-out, and looks at nothing.
    2. The server hands the job out again, to the same worker, which has places free: the copies
       run one after the other.
    """
    server = start_server("--heartbeat-interval-ms", "100")
    lock = threading.Lock()
    running, most, runs = 0, 0, 0

    def slow(job: Any) -> None:
        nonlocal running, most, runs
        with lock:
            running += 1
            runs += 1
            most = max(most, running)
        threading.Event().wait(0.6)
        with lock:
            running -= 1

    with Client(server.url) as client, Worker("q", slow, url=server.url, concurrency=5):
        client.push("q", 1, timeout=100, max_attempts=3, backoff=10)
        eventually(lambda: client.get_dlq("q"), "its third time-out")
        (dead,) = client.get_dlq("q")
    assert most == 1
    assert runs >= 2
    assert dead.attempts == 3


def test_stopping_finishes_what_runs_and_gives_the_rest_back(shared_server: Server) -> None:
    """
    1. A worker has two jobs running and more fetched ahead when it is told to stop.
    2. The running ones are finished within the grace time; all others are waiting, uncounted.
    """
    queue = f"stopping-{os.getpid()}"
    running, go_on = threading.Barrier(3), threading.Event()

    def handle(job: Any) -> int:
        running.wait(20)
        go_on.wait(20)
        return int(job.data)

    with Client(shared_server.url) as client:
        ids = client.push_batch(queue, [{"data": n} for n in range(20)])
        worker = Worker(queue, handle, url=shared_server.url, concurrency=2).start()
        running.wait(20)
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        eventually(lambda: client.get_job_counts(queue).active == 2, "the rest given back")
        go_on.set()
        stopping.join(20)
        counts = client.get_job_counts(queue)
        assert (counts.completed, counts.active, counts.waiting) == (2, 0, 18)
        assert [client.get_result(job_id) for job_id in ids[:2]] == [0, 1]
        jobs = client.pull_batch(queue, 20)
        assert {(job.attempts, job.lost) for job in jobs} == {(0, 0)}


FORKING = """
import os, sys, threading
from flashq import Client, Worker
ended = threading.Event()
def handle(job):
    os.write(1, f"{os.getpid()} {job.data}\\n".encode())  # in one piece
worker = Worker("q", handle, url=sys.argv[1], concurrency=1)
started = worker.start() if sys.argv[2] == "started" else None
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        threading.Thread(target=lambda: (sys.stdin.readline(), worker.stop())).start()
        worker.run()
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
worker.stop()
"""


@pytest.mark.parametrize("when", ["made", "started"])
def test_a_worker_made_before_a_fork_begins_anew_in_each_process(
    start_server: StartServer, when: str
) -> None:
    """
    1. A program makes a worker (or has started it, too) and forks three processes that run it.
    2. Each has a session of its own: every job is done, and once.
    """
    server = start_server()
    with Client(server.url) as client:
        program = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FORKING, server.url, when],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdin is not None
        workers = 4 if when == "started" else 3
        eventually(lambda: len(client.list_workers()) >= workers, "the workers")
        client.push_batch("q", [{"data": n} for n in range(200)])
        eventually(lambda: client.get_job_counts("q").completed == 200, "the jobs")
        said, _ = program.communicate("end\nend\nend\n", timeout=30)
    assert program.returncode == 0
    lines = [line.split() for line in said.splitlines()]
    assert sorted(int(data) for _, data in lines) == list(range(200))


PROGRAM = """
import sys, time
from flashq.worker.process import Worker
def handle(job):
    print(f"took {job.id}\\n", end="", flush=True)  # in one piece
    while not job.cancelled:
        time.sleep(0.01)
Worker("q", handle, url=sys.argv[1], concurrency=2, grace=200).run()
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_process_ends_by_a_signal_and_its_jobs_go_back(
    start_server: StartServer, number: signal.Signals
) -> None:
    """What the grace time is not enough for goes back at once, not by somebody's time-out."""
    server = start_server()
    with Client(server.url) as client:
        ids = client.push_batch("q", [{"data": n} for n in range(5)])
        worker = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, server.url], stdout=subprocess.PIPE, text=True
        )
        try:
            assert worker.stdout is not None
            taken = {int(worker.stdout.readline().split()[1]) for _ in range(2)}
            assert taken == set(ids[:2])
            worker.send_signal(number)
            assert worker.stdout.readline() == "ended\n"
            assert worker.wait(20) == 0
        finally:
            worker.kill()
            worker.communicate()
        jobs = client.pull_batch("q", 5, 0)
        assert sorted(job.id for job in jobs) == ids
        assert {(job.attempts, job.lost) for job in jobs} == {(0, 0)}


def test_many_workers_share_a_queue_and_no_job_is_done_twice(start_server: StartServer) -> None:
    """Four workers of both kinds, 5,000 jobs over eight queues: each is handled exactly once."""
    server = start_server()
    queues = [f"shared-{n}" for n in range(8)]
    handled: list[int] = []

    def handle(job: Any) -> None:
        handled.append(job.id)

    async def handle_async(job: Any) -> None:
        handled.append(job.id)

    workers = [
        Worker(queues, handler, url=server.ipc_url).start()
        for handler in (handle, handle_async, handle, handle_async)
    ]
    with Client(server.url) as client:
        ids = [
            job_id
            for n in range(50)
            for job_id in client.push_batch(queues[n % 8], [{"data": n}] * 100)
        ]
        eventually(lambda: client.stats().completed == 5000, "5,000 completed jobs")
        for worker in workers:
            worker.stop()
        assert sorted(handled) == sorted(ids)
        assert sum(worker.completed for worker in workers) == 5000
        stats = client.stats()
        assert (stats.queued, stats.processing, stats.dlq) == (0, 0, 0)
