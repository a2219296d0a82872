"""How a gRPC call's pull ends: with jobs, with its time, with its client, with the door."""

from __future__ import annotations

import asyncio

import pytest

from flashq.errors import Busy, JobNotFound, ShuttingDown
from flashq.gateway.grpc_requests import Requests
from flashq.gateway.lanes import Holder
from flashq.protocol.base import Reply
from flashq.protocol.leases import Ack
from tests.unit.gateway.grpc_port import GrpcPort, delivered


@pytest.fixture
def port() -> GrpcPort:
    """Return what stands for the bridge."""
    return GrpcPort()


@pytest.fixture
def requests(port: GrpcPort) -> Requests:
    """Return the door's way to it."""
    return Requests(port)


async def test_a_refusal_is_raised_as_what_it_is(port: GrpcPort, requests: Requests) -> None:
    """Its class has the status; its text is the shard's."""
    asking = asyncio.ensure_future(requests.ask(Ack(id=7), Reply))
    asked = await port.next("ACK")
    assert asked.fields == {"cmd": "ACK", "id": 7}
    assert not asked.ask.full
    asked.answer(ok=False, error="Job 7 not found", code="job_not_found")
    with pytest.raises(JobNotFound, match=r"^Job 7 not found$"):
        await asking


async def test_a_pull_brings_jobs(port: GrpcPort, requests: Requests) -> None:
    """Or none, after its time."""
    pulling = asyncio.ensure_future(requests.pull("q", 2, 500))
    asked = await port.next("PULLB")
    assert asked.fields == {"cmd": "PULLB", "queue": "q", "count": 2, "timeout": 500}
    asked.answer(**delivered(1, 2))
    assert [(job.id, bytes(job.data)) for job in await pulling] == [
        (1, b'{"n": 1}'),
        (2, b'{"n": 2}'),
    ]
    pulling = asyncio.ensure_future(requests.pull("q", 2, 500))
    (await port.next("PULLB")).answer(jobs=[], job=None)
    assert await pulling == []
    assert port.abandoned == []


async def test_a_pull_whose_call_ends_is_abandoned(port: GrpcPort, requests: Requests) -> None:
    """The bridge then gives back what it may still bring."""
    pulling = asyncio.ensure_future(requests.pull("q", 1, 500))
    await port.next("PULLB")
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert len(port.abandoned) == 1


async def test_jobs_that_come_in_the_moment_of_the_end_go_back(
    port: GrpcPort, requests: Requests
) -> None:
    """1. the reply is there; 2. before the call goes on, its client is gone; 3. nobody would ever
    see these jobs, and they are given back by the tokens of this very delivery."""
    pulling = asyncio.ensure_future(requests.pull("q", 2, 500))
    (await port.next("PULLB")).answer(**delivered(1, 2))
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert (await port.next("RELEASE")).fields == {
        "cmd": "RELEASE",
        "ids": [1, 2],
        "tokens": [1001, 1002],
    }


async def test_a_holders_jobs_are_given_back_with_the_holder(
    port: GrpcPort, requests: Requests
) -> None:
    """In the same moment; whoever ends the stream leaves for it."""
    pulling = asyncio.ensure_future(requests.pull("q", 1, 500, Holder()))
    (await port.next("PULLB")).answer(**delivered(1))
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert port.asked == []


async def test_a_refusal_in_the_moment_of_the_end_gives_nothing_back(
    port: GrpcPort, requests: Requests
) -> None:
    """There is nothing."""
    pulling = asyncio.ensure_future(requests.pull("q", 1, 500))
    (await port.next("PULLB")).answer(ok=False, error="busy", code="busy")
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert port.asked == []


async def test_nobody_waits_at_a_closed_door(port: GrpcPort, requests: Requests) -> None:
    """Those who do are told so, and those who come later too; one that has its jobs keeps them."""
    waiting = asyncio.ensure_future(requests.pull("q", 1, 500))
    await port.next("PULLB")
    served = asyncio.ensure_future(requests.pull("q", 1, 500))
    (await port.next("PULLB")).answer(**delivered(1))
    requests.close()
    with pytest.raises(ShuttingDown):
        await waiting
    with pytest.raises(ShuttingDown):
        await requests.pull("q", 1, 500)
    assert len(await served) == 1
    assert len(port.abandoned) == 1


async def test_what_is_not_taken_on_is_answered_too(
    port: GrpcPort, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that waits for its results to be carried out does not wait for ever."""
    answers: list[str] = []
    requests.settle(Ack(id=1), Holder(), lambda: answers.append("first"))
    assert answers == []
    (await port.next("ACK")).answer(ok=False, error="Job 1 not found", code="job_not_found")
    assert answers == ["first"]

    def refuse(*_: object) -> None:
        raise Busy(detail="too much")

    monkeypatch.setattr(port, "ask", refuse)
    requests.settle(Ack(id=2), Holder(), lambda: answers.append("second"))
    assert answers == ["first", "second"]
