"""SIGKILL of each program while it holds work: clients stay, and no job is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from flashq.client.results import Job
from flashq.client.sync_client import Client
from flashq.worker.process import Worker
from tests.integration.serving import queue_of
from tests.server import PATIENT, Server, eventually, free_ports

StartServer = Callable[..., Server]
DURABLE = ("--durability", "durable")
"""What was answered is safe in the coordinator: then a kill at any moment loses nothing of it."""
QUICK_HEARTBEATS = ("--session-timeout-ms", "30000", "--heartbeat-interval-ms", "300")
"""Clients notice in a moment that nobody answers them, and may themselves be slow."""
SHORT_SESSIONS = ("--session-timeout-ms", "5000", "--heartbeat-interval-ms", "300")
"""It takes a while until a client is missed; one that only stalls is not."""


@pytest.fixture
def connect() -> Iterator[Callable[[str], Client]]:
    """Return what makes clients that are closed after the test."""
    clients: list[Client] = []

    def connected(url: str) -> Client:
        clients.append(Client(url, timeout=20_000))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Return what makes a blocking call in a thread of its own."""
    with ThreadPoolExecutor(16) as pool:
        yield pool.submit


def work_off(client: Client, queue: str) -> list[Any]:
    """Take and acknowledge all that there is, and return the payloads."""
    done: list[Any] = []
    while client.count(queue):
        jobs = client.pull_batch(queue, 100, timeout=5000)
        assert client.ack_batch(jobs) == len(jobs)
        done += [job.data for job in jobs]
    return done


def is_worked_off(client: Client) -> bool:
    """Tell whether every shard says that there is nothing to do."""
    stats = client.stats()
    return not (stats.missing_shards or stats.queued or stats.processing)


def completed_in_all(client: Client) -> int:
    """Return how many jobs all shards have completed, once none of them is too slow to say it."""

    def told() -> list[int]:
        found = client.metrics()
        return [] if found.missing_shards else [found.metrics.total_completed]

    return eventually(told, "every shard's figures")[0]


def test_a_killed_shard_comes_back_with_every_job(
    start_server: StartServer, connect: Callable[[str], Client], aside: Callable[..., Future[Any]]
) -> None:
    """
    1. A shard holds waiting, delayed, active, completed and dead jobs, keys and a paused queue;
       one client holds jobs, waits for one, and another is parked with a pull.
    2. SIGKILL. Nobody reconnects, and nobody is told of an error.
    3. The held jobs are still their holder's, under the old tokens; the waiting ones come once
       each; whoever waited is answered.
    """
    server = start_server(*DURABLE)
    client, other = connect(server.url), connect(server.url)
    queue, empty = queue_of(1), queue_of(1, name="empty")
    ids = client.push_batch(queue, [{"data": n} for n in range(300)])
    held = client.pull_batch(queue, 50)
    assert client.ack_batch(held[:10], results=[{"r": n} for n in range(10)]) == 10
    dead = client.push(empty, "dead", max_attempts=1)
    client.fail(client.pull(empty) or 0, "no luck")
    client.push(empty, "later", delay=3_600_000, unique_key="k")
    client.pause(queue_of(1, name="paused"))
    awaited = aside(client.finished, held[20])
    parked = aside(other.pull, empty, 30_000)
    eventually(lambda: sum(s.waiters for s in client.stats().shards) == 2, "both parked")

    server.restart_shard(1)

    pushed = client.push(empty, "now")
    job = parked.result(20)
    assert (job.id, job.data) == (pushed, "now")
    other.ack(job)
    for job in held[10:]:
        client.ack(job, {"n": job.data})
    assert awaited.result(20) == {"n": 20}
    assert sorted(work_off(other, queue)) == list(range(50, 300))
    assert client.get_result(ids[3]) == {"r": 3}
    assert [job.id for job in client.get_dlq(empty)] == [dead]
    counts = client.get_job_counts(empty)
    assert (counts.delayed, counts.failed, counts.waiting) == (1, 1, 0)
    assert client.is_paused(queue_of(1, name="paused"))
    assert client.push(empty, "again", job_id="x") == client.push(empty, "again", job_id="x")


def test_a_repeat_after_the_restart_is_not_a_second_job(start_server: StartServer) -> None:
    """
    1. Pushes of a session are answered, and the shard is killed.
    2. The client, which may not have had the answers, repeats them: it gets the same ids.
    3. A pull that was parked is repeated as well, and one job goes out once.
    """
    server = start_server(*DURABLE)
    dealer = server.dealer()
    session, queue = os.urandom(16), queue_of(2)
    requests = [{"queue": queue, "data": n, "session": session, "n": n} for n in range(1, 41)]
    requests[7]["tags"] = ["not plain"]
    first = [dealer.ask("PUSH", **request) for request in requests]
    dealer.send("PULL", queue=queue_of(2, name="empty"), session=session, n=41)
    dealer.ask("COUNT", queue=queue)
    server.restart_shard(2)
    again = [dealer.ask("PUSH", **request) for request in requests]
    assert again == first
    assert dealer.ask("COUNT", queue=queue)["count"] == 40
    parked = [
        dealer.send("PULL", queue=queue_of(2, name="empty"), session=session, n=41)
        for _ in range(2)
    ]
    dealer.ask("PUSH", queue=queue_of(2, name="empty"), data=1, session=session, n=42)
    assert dealer.answer(parked[1])["job"]["data"] == 1
    dealer.close()


def test_jobs_pushed_and_worked_off_during_three_deaths_are_done_once_each(
    start_server: StartServer, connect: Callable[[str], Client], aside: Callable[..., Future[Any]]
) -> None:
    """
    1. One client pushes, single jobs and batches, while a worker works them off.
    2. Two shards and the router die on the way.
    3. Every push returned one id, every job was completed exactly once, and none is left.
    """
    server = start_server(*DURABLE, *QUICK_HEARTBEATS)
    client = connect(server.ipc_url)
    queues = [queue_of(shard) for shard in range(4)]
    killed = threading.Event()
    ids: list[int] = []
    handled: list[int] = []

    def push() -> None:
        for n in range(100):
            ids.extend(client.push(queue, n) for queue in queues)
            ids.extend(client.push_batch(queues[n % 4], [{"data": n}] * 20))
        killed.wait()
        ids.extend(client.push(queue, "last") for queue in queues)

    def handle(job: Any) -> int:
        handled.append(job.id)
        return len(handled)

    with Worker(queues, handle, url=server.ipc_url, concurrency=4):
        pushing = aside(push)
        for title in ("flashq-shard 1", "flashq-router", "flashq-shard 2"):
            seen = len(handled)
            eventually(lambda seen=seen: len(handled) > seen, "progress")  # type: ignore[misc]
            server.kill(title)
        killed.set()
        pushing.result(40)
        eventually(lambda: is_worked_off(client), "the end")
    assert len(ids) == len(set(ids)) == 100 * 24 + 4
    assert set(handled) == set(ids)
    assert completed_in_all(client) == len(ids)
    assert {client.get_state(job_id) for job_id in ids[-50:]} == {"completed"}


def test_a_killed_coordinator_takes_nothing_with_it(
    start_server: StartServer, connect: Callable[[str], Client]
) -> None:
    """
    1. The coordinator dies: with `memory:` the log dies too, but the shards have their state.
    2. The new one is told everything anew; work goes on.
    3. A shard that dies after that still comes back with every job.
    """
    server = start_server()
    client = connect(server.url)
    queue = queue_of(0)
    client.push_batch(queue, [{"data": n} for n in range(100)])
    held = client.pull_batch(queue, 10)
    server.kill("flashq-coordinator")
    eventually(lambda: all(server.epochs()), "all shards known to the new coordinator")
    client.push_batch(queue, [{"data": n} for n in range(100, 200)])
    client.add_cron("c", queue, "cron", schedule="0 0 1 1 *")
    assert [cron.name for cron in client.list_crons()] == ["c"]
    eventually(lambda: not any(s.unsafe_bytes for s in client.stats().shards), "a safe log")
    server.restart_shard(0)
    assert client.ack_batch(held) == 10
    assert sorted(work_off(client, queue)) == list(range(10, 200))


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_killed_router_is_only_a_pause(
    start_server: StartServer,
    connect: Callable[[str], Client],
    aside: Callable[..., Future[Any]],
    transport: str,
) -> None:
    """
    1. The router dies while pulls are parked, a job is held and somebody waits for its end.
    2. The clients find the new one by themselves and say again what they waited for.
    3. The held job is still its holder's: the shards never knew of a break.
    """
    server = start_server("--zmq-port", str(free_ports(1)[0]), *QUICK_HEARTBEATS)
    url = server.url if transport == "tcp" else server.ipc_url
    holder, waiter = connect(url), connect(url)
    queue, empty = queue_of(3), queue_of(1, name="empty")
    job_id = holder.push(queue, 1)
    held = holder.pull(queue)
    assert held is not None
    parked, awaited = aside(waiter.pull, empty, 30_000), aside(waiter.finished, job_id, 30_000)
    eventually(lambda: sum(s.waiters for s in holder.stats().shards) == 2, "both parked")
    server.kill("flashq-router")
    pushed = holder.push(empty, 2)
    assert parked.result(20).id == pushed
    holder.ack(held, {"r": 1})
    assert awaited.result(20) == {"r": 1}


WORKER = """
import sys, time
from flashq.worker.process import Worker
def handle(job):
    print(f"{job.id}\\n", end="", flush=True)  # in one piece
    time.sleep(60)
Worker("jobs", handle, url=sys.argv[1], concurrency=3).run()
"""


def test_a_killed_workers_jobs_go_back_within_the_session_timeout(
    start_server: StartServer, connect: Callable[[str], Client]
) -> None:
    """
    1. A worker process takes three jobs and is killed with SIGKILL.
    2. Nothing says so: its session is silent. After its time-out the jobs are somebody else's.
    3. No attempt is counted, but the loss is.
    """
    server = start_server(*SHORT_SESSIONS, *PATIENT)
    client = connect(server.url)
    ids = client.push_batch("jobs", [{"data": n, "tags": ["t"]} for n in range(3)])
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, server.url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout is not None
        taken = [int(worker.stdout.readline()) for _ in range(3)]
        assert sorted(taken) == ids
    finally:
        worker.kill()
        worker.communicate()
    jobs: list[Job] = []
    while len(jobs) < 3:
        found = client.pull_batch("jobs", 3, timeout=10_000)
        assert found, "the jobs never came back"
        jobs += found
    assert sorted(job.id for job in jobs) == ids
    assert [(job.attempts, job.lost) for job in jobs] == [(0, 1)] * 3
    assert client.metrics().metrics.total_lost == 3


def test_a_job_that_kills_its_workers_becomes_a_dead_letter(start_server: StartServer) -> None:
    """The third session that dies with a job in its hands is enough: poison."""
    server = start_server("--session-timeout-ms", "500", "--heartbeat-interval-ms", "100")
    dealer = server.dealer()
    job_id = dealer.ask("PUSH", queue="poison", data=1)["id"]

    def becomes(state: str) -> None:
        eventually(lambda: dealer.ask("GETSTATE", id=job_id)["state"] == state, state)

    for _ in range(3):
        becomes("waiting")
        pull = {"queue": "poison", "timeout": 0, "session": os.urandom(16), "n": 1}
        assert dealer.ask("PULL", **pull)["job"]["id"] == job_id
    becomes("failed")
    (job,) = dealer.ask("DLQ", queue="poison")["jobs"]
    assert (job["lost"], job.get("attempts", 0)) == (3, 0)
    dealer.close()


def test_a_client_that_vanishes_with_a_parked_pull_keeps_no_job_for_long(
    start_server: StartServer,
) -> None:
    """
    1. A client parks a pull and vanishes without a word; its connection is gone, its pull is not.
    2. The next job is delivered to it: the router cannot, and gives the job back, or, if it has not
       seen the end yet, the job's lease ends.
    3. Either way somebody else has it soon, with no attempt counted for what never arrived.
    """
    server = start_server(*SHORT_SESSIONS)
    other = server.dealer()
    for session in (None, os.urandom(16)):
        vanishing = server.dealer()
        vanishing.send("PULL", queue="v", session=session, n=None if session is None else 1)
        vanishing.ask("COUNT", queue="v")
        vanishing.close()
        stall = {"stall_timeout": 5000}
        job_id = other.ask("PUSH", queue="v", data=1, **stall)["id"]
        job = other.ask("PULL", queue="v", timeout=10_000)["job"]
        assert job["id"] == job_id
        assert other.ask("ACK", id=job_id, token=job["token"]) == {"ok": True}
    other.close()


def test_two_deaths_at_once_are_survived(
    start_server: StartServer, connect: Callable[[str], Client]
) -> None:
    """A shard and the router, and then all shards in the same moment."""
    server = start_server(*DURABLE)
    client = connect(server.ipc_url)
    for shard in range(4):
        client.push_batch(queue_of(shard), [{"data": n} for n in range(25)])
    before = server.epochs()
    server.signal("flashq-router", signal.SIGKILL)
    for shard in range(4):
        server.signal(f"flashq-shard {shard}", signal.SIGKILL)
    for shard in range(4):
        eventually(lambda s=shard: _epoch(client, s) > before[s], "a new epoch")  # type: ignore[misc]
    for shard in range(4):
        assert sorted(work_off(client, queue_of(shard))) == list(range(25))


def _epoch(client: Client, shard: int) -> int:
    return next((s.epoch for s in client.stats().shards if s.shard == shard), 0)
