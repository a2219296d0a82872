"""The asyncio client against a fake server: cancelling, closing, one loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.happenings import Completed
from flashq.client.results import Delivered, Event, Gap
from flashq.errors import (
    ConnectionClosed,
    JobNotFound,
    NotAllowed,
    RequestTimeout,
    TokenInvalid,
)
from tests.unit.client.fake_server import SHARDS, FakeServer, error


async def in_thread(function: Any, *arguments: Any) -> Any:
    """Wait for the fake server without blocking the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def test_the_life_of_a_job(server: FakeServer) -> None:
    """Push, pull, ack with a result, and the result is there."""
    async with AsyncClient(server.url) as client:
        job_id = await client.push("q", {"a": 1}, delay=0)
        job = await client.pull("q")
        assert job is not None
        assert (job.id, job.data) == (job_id, {"a": 1})
        await client.ack(job, [1, 2])
        assert await client.get_result(job_id) == [1, 2]


async def test_batches_over_several_shards(server: FakeServer) -> None:
    """Split, sent at once, merged."""
    async with AsyncClient(server.url) as client:
        for queue in "abcdef":
            await client.push_batch(queue, [{"data": 1}] * 3)
        found = [job for queue in "abcdef" for job in await client.pull_batch(queue, 10)]
        assert await client.ack_batch(found) == 18
    assert len(server.seen("ACKB")) == len({job.id % SHARDS for job in found})


async def test_many_coroutines_share_messages(server: FakeServer) -> None:
    """And each gets its own answer."""
    async with AsyncClient(server.url) as client:
        ids = await asyncio.gather(*(client.push("q", number) for number in range(200)))
    assert [server.jobs[job_id]["data"] for job_id in ids] == list(range(200))


async def test_errors_are_the_catalogues(server: FakeServer) -> None:
    """As in the blocking client."""
    server.answer("CANCEL", lambda _: error("job_not_found"))
    server.answer("ACKB", lambda _: error("not_allowed"))
    async with AsyncClient(server.url) as client:
        with pytest.raises(JobNotFound):
            await client.cancel(5)
        with pytest.raises(NotAllowed):
            await client.ack_batch([4, 5])


async def test_a_silent_server_is_a_timeout(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait ends. The client is connected before, which may take its time."""
    server.answer("COUNT", lambda _: None)
    async with AsyncClient(server.url) as client:
        monkeypatch.setattr(client, "_timeout", 1000)
        with pytest.raises(RequestTimeout):
            await client.count("q")


async def test_without_a_server_a_call_says_so(url: str) -> None:
    """And that nothing was sent."""
    client = AsyncClient(url, timeout=50)
    with pytest.raises(ConnectionClosed, match="no server at"):
        await client.connect()
    with pytest.raises(ConnectionClosed, match="not sent"):
        await client.push("q", 1)
    await client.close()


async def test_a_cancelled_pull_gives_back_what_it_brings(server: FakeServer) -> None:
    """1. A pull is parked, and its task cancelled. 2. A job comes for it."""
    async with AsyncClient(server.url) as client:
        task = asyncio.create_task(client.pull("q"))
        await in_thread(server.wait_for, "PULL")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        job_id = await client.push("q", 1)
        (release,) = await in_thread(server.wait_for, "RELEASE")
        assert release["ids"] == [job_id]


@pytest.mark.parametrize("first", ["answered", "cancelled"])
async def test_a_pull_cancelled_as_its_answer_comes_gives_it_back(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """1. The reply comes, and the task is cancelled before it runs again, or just before the reply.
    The job would be held by nobody, and kept from everybody by our heartbeats."""
    async with AsyncClient(server.url) as client:
        job_id = await client.push("q", 1)
        task = asyncio.create_task(client.pull("q"))
        complete = client._complete

        def cancelling(outcome: Completed) -> None:
            if first == "answered":
                complete(outcome)
            if isinstance(outcome.reply, Delivered):
                task.cancel()
            if first == "cancelled":
                complete(outcome)

        monkeypatch.setattr(client, "_complete", cancelling)
        with pytest.raises(asyncio.CancelledError):
            await task
        (release,) = await in_thread(server.wait_for, "RELEASE")
        assert release["ids"] == [job_id]


async def test_cancelled_batches_leave_nothing_behind(server: FakeServer) -> None:
    """No caller waits for any part of a split request, which goes on: its jobs are done with."""
    server.answer("ACKB", lambda _: None)
    async with AsyncClient(server.url) as client:
        task = asyncio.create_task(client.ack_batch([4, 5, 6]))
        await in_thread(server.wait_for, "ACKB", 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client._connection.outstanding == 3
        assert not client._waiting


async def test_losses_are_told(beaten: FakeServer) -> None:
    """From a heartbeat's answer; a mistake in the callback ends nothing."""
    lost: asyncio.Queue[list[int]] = asyncio.Queue()

    def on_lost(ids: list[int]) -> None:
        lost.put_nowait(ids)
        raise ValueError("a mistake")

    async with AsyncClient(beaten.url, on_leases_lost=on_lost) as client:
        job_id = await client.push("q", 1)
        await client.pull("q")
        beaten.lost.add(job_id)
        assert await asyncio.wait_for(lost.get(), 10) == [job_id]
        await client.push("q", 2)


async def test_a_silent_router_is_left_for_a_fresh_socket(beaten: FakeServer) -> None:
    """1. Two heartbeats stay unanswered. 2. On the new connection the pull is asked again."""
    async with AsyncClient(beaten.url) as client:
        task = asyncio.create_task(client.pull("q"))
        await in_thread(beaten.wait_for, "PULL")
        beaten.answer("SESSIONHEARTBEAT", lambda _: None)
        first, again, *_ = await in_thread(beaten.wait_for, "PULL", 2)
        del beaten.answers["SESSIONHEARTBEAT"]
        assert first["n"] == again["n"]
        assert len(beaten.seen("HELLO")) >= 2
        await client.push("q", "after")
        job = await task
        assert job is not None
        assert job.data == "after"


async def test_a_wrong_token_can_be_corrected(server: FakeServer) -> None:
    """The error names it."""
    server.token = "right"
    client = AsyncClient(server.url, token="wrong")
    with pytest.raises(TokenInvalid):
        await client.connect()
    assert "wrong" not in repr(client)
    await client.auth("right")
    await client.push("q", 1)
    await client.close()


async def test_closing_ends_calls_under_way(server: FakeServer) -> None:
    """With an error that says so; closing twice is nothing."""
    client = AsyncClient(server.url)
    task = asyncio.create_task(client.pull("q"))
    await in_thread(server.wait_for, "PULL")
    await client.close()
    await client.close()
    with pytest.raises(ConnectionClosed):
        await task
    with pytest.raises(ConnectionClosed):
        await client.count("q")
    assert len(server.seen("GOODBYE")) == 2


async def test_a_server_that_does_not_answer_the_goodbye(server: FakeServer) -> None:
    """Holds up closing for a moment only."""
    server.answer("GOODBYE", lambda _: None)
    async with AsyncClient(server.url) as client:
        await client.push("q", 1)


async def test_a_client_that_was_never_used_closes() -> None:
    """It has opened nothing."""
    await AsyncClient("ipc:///nowhere/at.all").close()


EVENT = {
    "seq": 1, "shard": 0, "epoch": 1, "event": "completed", "queue": "q", "at": 5, "ids": [4],
}  # fmt: skip


async def test_a_subscription_is_an_asynchronous_iterator(server: FakeServer) -> None:
    """Of events and gaps, until it is closed."""
    async with AsyncClient(server.url) as client:
        async with client.subscribe("q", "completed") as events:
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            await in_thread(server.notify, {"notice": "event", "event": EVENT})
            assert isinstance(await waiting, Event)
            gap = {"notice": "gap", "shard": 0, "first_missed": 2, "next": 9}
            await in_thread(server.notify, gap)
            assert isinstance(await anext(events), Gap)
            other = client.subscribe("q", "failed")
            waiting = asyncio.ensure_future(anext(other))
            await in_thread(server.wait_for, "SUBSCRIBE", 2)
            await other.close()
            with pytest.raises(StopAsyncIteration):
                await waiting
            assert not server.seen("UNSUBSCRIBE")
        assert [event async for event in events] == []
        assert len(server.seen("UNSUBSCRIBE")) == 1


async def test_a_refused_subscription_is_an_error(server: FakeServer) -> None:
    """At its first event, and nothing of it stays."""
    server.answer("SUBSCRIBE", lambda _: error("not_allowed"))
    async with AsyncClient(server.url) as client:
        events = client.subscribe()
        with pytest.raises(NotAllowed):
            await anext(events)
        assert not client._connection._asked.all()


async def test_closing_the_client_ends_its_subscriptions(server: FakeServer) -> None:
    """A loop over events ends like any other."""
    client = AsyncClient(server.url)
    events = client.subscribe()
    waiting = asyncio.ensure_future(anext(events))
    await in_thread(server.wait_for, "SUBSCRIBE")
    await client.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_closing_the_client_ends_a_subscription_that_nobody_has_answered(
    server: FakeServer,
) -> None:
    """It was asked for, and the answer is still to come."""
    server.answer("SUBSCRIBE", lambda _: None)
    client = AsyncClient(server.url)
    waiting = asyncio.ensure_future(anext(client.subscribe()))
    await in_thread(server.wait_for, "SUBSCRIBE")
    await client.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
