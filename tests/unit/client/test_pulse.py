"""Leases outlive a blocked event loop, and a stuck one lets go of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.pulse import (
    LOOK_MS_MAX,
    LOOK_MS_MIN,
    Finding,
    LoopWatch,
    Pulse,
    look_every_ms,
    stack_of,
)
from tests.unit.client.fake_server import FakeServer

LOG = logging.getLogger("flashq.client")

# --- what a look finds


def look(watch: LoopWatch, *, turned: bool, since_ms: float = 100) -> Finding:
    """Look at a loop every 100 ms."""
    return watch.look(turned=turned, since_ms=since_ms, planned_ms=100)


def test_a_loop_is_blocked_then_stuck_and_each_is_found_once() -> None:
    """From the first look at which it has not turned."""
    watch = LoopWatch(250)
    assert look(watch, turned=True) is Finding.TURNS
    found = [look(watch, turned=False) for _ in range(5)]
    assert found == [
        Finding.BLOCKED,
        Finding.STILL_BLOCKED,
        Finding.STUCK,
        Finding.STILL_STUCK,
        Finding.STILL_STUCK,
    ]
    assert look(watch, turned=True) is Finding.TURNS_AGAIN
    assert look(watch, turned=True) is Finding.TURNS
    assert look(watch, turned=False) is Finding.BLOCKED


def test_time_in_which_the_process_did_not_run_is_not_the_loops() -> None:
    """1. A process is stopped for a minute. 2. It goes on, and the pulse looks before the loop
    has turned."""
    watch = LoopWatch(1000)
    assert look(watch, turned=False, since_ms=60_000) is Finding.BLOCKED
    assert watch.blocked_ms == 200


def test_looks_are_more_frequent_than_heartbeats_and_bounded() -> None:
    """So that no heartbeat is late by more than half of its interval."""
    assert look_every_ms(200) == 100
    assert look_every_ms(1) == LOOK_MS_MIN
    assert look_every_ms(60_000) == look_every_ms(None) == LOOK_MS_MAX


def test_the_stack_of_a_thread_that_has_ended_is_empty() -> None:
    """It may end between a look and its report."""
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert stack_of(thread.ident) == ""


# --- a client in a blocked loop


def beats_naming(server: FakeServer, job_id: int) -> int:
    """Count the heartbeats that named a lease."""
    return sum(job_id in body.get("leases", ()) for body in server.seen("SESSIONHEARTBEAT"))


async def test_a_lease_outlives_a_blocked_loop(
    beaten: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """
    1. A coroutine that holds a job blocks its loop while many heartbeats are due.
    2. They come all the same, and the log says what blocks the loop.
    3. The coroutine ends, and the job is still its own.
    """
    async with AsyncClient(beaten.url) as client:
        job_id = await client.push("q", 1)
        job = await client.pull("q")
        assert job is not None

        def a_handler_that_blocks() -> None:
            before = beats_naming(beaten, job_id)
            beaten.wait_until(lambda: beats_naming(beaten, job_id) >= before + 6)

        a_handler_that_blocks()
        await client.ack(job, "done")
    assert beaten.done[job_id] == "done"
    (warning,) = [r.getMessage() for r in caplog.records if "is blocked" in r.getMessage()]
    assert "in a_handler_that_blocks" in warning


async def test_what_arrives_while_the_loop_is_blocked_waits_for_it(beaten: FakeServer) -> None:
    """
    1. A pull is parked; the loop is blocked; a job is pushed and delivered.
    2. The pulse takes it in and names it in heartbeats, so that it does not go to others.
    3. The loop turns again, and the pull has its job.
    """
    async with AsyncClient(beaten.url) as client:
        pull = asyncio.ensure_future(client.pull("q"))
        await asyncio.get_running_loop().run_in_executor(None, beaten.wait_for, "PULL")
        ids: list[int] = []
        beaten.order(lambda: ids.append(beaten.add("q", 7)))
        beaten.wait_until(lambda: beats_naming(beaten, ids[0]) >= 2)
        job = await asyncio.wait_for(pull, 10)
        assert job is not None
        assert (job.id, job.data) == (ids[0], 7)
        await client.ack(job)


async def test_the_pulse_reconnects_while_the_loop_is_blocked(beaten: FakeServer) -> None:
    """
    1. The loop is blocked, and the router answers no heartbeat any more: it has become another.
    2. The pulse says hello on a new socket, and goes on naming the lease there.
    3. The loop turns again, and uses the new socket.
    """
    async with AsyncClient(beaten.url) as client:
        job_id = await client.push("q", 1)
        job = await client.pull("q")
        assert job is not None
        hellos = len(beaten.seen("HELLO"))
        beaten.answer("SESSIONHEARTBEAT", lambda _: None)
        beaten.wait_for("HELLO", hellos + 1)
        beaten.answers.clear()
        before = beats_naming(beaten, job_id)
        beaten.wait_until(lambda: beats_naming(beaten, job_id) >= before + 2)
        await client.ack(job, "done")
    assert beaten.done[job_id] == "done"


async def test_a_stuck_loop_lets_go(beaten: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """Once it has been blocked for longer than it may, the pulse looks on but beats no more."""
    said = threading.Event()

    class Hears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "heartbeats end" in record.getMessage():
                said.set()

    hears = Hears()
    LOG.addHandler(hears)
    try:
        async with AsyncClient(beaten.url, stuck_timeout=300) as client:
            await client.push("q", 1)
            job = await client.pull("q")
            assert job is not None
            assert said.wait(10)
    finally:
        LOG.removeHandler(hears)
    assert [record.levelname for record in caplog.records if "been blocked" in record.message] == [
        "ERROR"
    ]


def test_a_stuck_loop_is_not_stood_in_for() -> None:
    """The pulse stands in while a loop is blocked, and no more once it is stuck."""
    released, stuck = threading.Event(), threading.Event()
    stood_in: list[None] = []

    class Owner:
        def stand_in(self) -> None:
            stood_in.append(None)

        def every_ms(self) -> float:
            if len(stood_in) >= 2:
                looks_after.append(None)
                if len(looks_after) >= 8:
                    stuck.set()
            return 20.0

    looks_after: list[None] = []
    owner = Owner()

    async def blocking() -> None:
        pulse = Pulse(asyncio.get_running_loop(), "it", owner.stand_in, owner.every_ms, 80, LOG)
        pulse.start()
        assert stuck.wait(10)
        released.set()
        pulse.stop()

    asyncio.run(blocking())
    assert released.is_set()
    assert 2 <= len(stood_in) <= 4


def test_the_pulse_ends_with_its_object() -> None:
    """A client that nobody closed does not keep a thread for ever."""

    class Owner:
        def stand_in(self) -> None:
            """Never needed here."""

        def every_ms(self) -> float:
            return 20.0

    async def forgetting() -> None:
        owner = Owner()
        pulse = Pulse(asyncio.get_running_loop(), "it", owner.stand_in, owner.every_ms, 1000, LOG)
        pulse.start()
        del owner
        gc.collect()
        await asyncio.get_running_loop().run_in_executor(None, pulse._thread.join, 10)
        assert not pulse._thread.is_alive()

    asyncio.run(forgetting())


async def test_a_client_that_only_pushes_has_no_pulse(server: FakeServer) -> None:
    """It holds nothing that could be lost."""
    async with AsyncClient(server.url) as client:
        await client.push("q", 1)
        assert client._io is not None
        assert client._io.pulse is None
        assert await client.pull("empty", 0) is None
        assert client._io.pulse is not None
