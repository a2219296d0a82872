"""The buffer between pulling and sending, and the end of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flashq.errors import Busy
from flashq.gateway.grpc_requests import WAIT_MS, Requests
from flashq.gateway.grpc_streams import JobStream, until_one_ends
from tests.unit.gateway.grpc_port import GrpcPort, delivered


class Setting:
    """A stream of batches of 3 with a buffer of 5, that is being filled."""

    def __init__(self) -> None:
        self.port = GrpcPort()
        self.stream = JobStream(Requests(self.port), "q", batch_size=3, buffer_max=5)
        self.filling = asyncio.ensure_future(self.stream.fill())
        self.jobs = self.stream.jobs()

    async def next_id(self) -> int:
        """Take a job as the sender does."""
        return (await anext(self.jobs)).id


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    """Return a stream that is being filled."""
    one = Setting()
    yield one
    one.filling.cancel()
    await asyncio.gather(one.filling, return_exceptions=True)


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_jobs_are_pulled_ahead_as_far_as_there_is_room(setting: Setting) -> None:
    """Nothing more is taken from other workers: a batch, then what still fits, then none until a
    job is sent."""
    first = await setting.port.next("PULLB")
    assert first.fields == {"cmd": "PULLB", "queue": "q", "count": 3, "timeout": WAIT_MS}
    first.answer(**delivered(1, 2, 3))
    second = await setting.port.next("PULLB")
    assert second.fields["count"] == 2
    second.answer(**delivered(4, 5))
    await settled()
    assert setting.port.asked == []
    assert await setting.next_id() == 1
    assert (await setting.port.next("PULLB")).fields["count"] == 1
    assert [await setting.next_id() for _ in range(4)] == [2, 3, 4, 5]


async def test_a_pull_that_brings_nothing_is_asked_again(setting: Setting) -> None:
    """A stream has no time of its own."""
    (await setting.port.next("PULLB")).answer(jobs=[], job=None)
    (await setting.port.next("PULLB")).answer(**delivered(1))
    assert await setting.next_id() == 1


async def test_all_pulls_are_the_streams(setting: Setting) -> None:
    """Its jobs are held by it, and go back with it."""
    asked = await setting.port.next("PULLB")
    assert asked.ask.is_pull
    with setting.stream:
        assert setting.port.left == []
    assert setting.port.left == [setting.stream.holder]
    assert setting.port.lost == [False]


@pytest.mark.parametrize(
    ("error", "is_lost"), [(asyncio.CancelledError(), True), (Busy(detail="x"), False)]
)
async def test_a_stream_that_breaks_off_has_lost_what_it_was_sent(
    setting: Setting, error: BaseException, is_lost: bool
) -> None:
    """A client that dies of a job again and again is known by it; the server's own end is none."""
    (await setting.port.next("PULLB")).answer(**delivered(1, 2, 3))
    assert await setting.next_id() == 1
    with pytest.raises(type(error)), setting.stream:
        raise error
    assert setting.port.lost == [is_lost]
    assert setting.port.unsent == [{2, 3}]


async def test_a_refused_pull_ends_the_filling(setting: Setting) -> None:
    """With the error that the client is to see."""
    (await setting.port.next("PULLB")).answer(ok=False, error="busy: x", code="busy")
    with pytest.raises(Busy):
        await setting.filling


async def test_the_first_part_to_end_ends_all() -> None:
    """Whether it returns or raises; the others are cancelled and waited for."""
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("endless")

    async def brief() -> None:
        ended.append("brief")

    async def broken() -> None:
        raise Busy(detail="x")

    await until_one_ends(endless(), brief())
    assert ended == ["brief", "endless"]
    with pytest.raises(Busy):
        await until_one_ends(endless(), broken())
    assert ended == ["brief", "endless", "endless"]
    whole = asyncio.ensure_future(until_one_ends(endless(), endless()))
    await settled()
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert ended == ["brief", *["endless"] * 4]
