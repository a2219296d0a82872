"""The bridge, as the doors without a connection of their own use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flashq.errors import ConfigError, FlashQError, InvalidRequest
from flashq.gateway.asking import Ask
from flashq.gateway.bridge import Bridge
from flashq.gateway.events import Happening, Listener
from flashq.gateway.lanes import Holder
from flashq.gateway.pending import Done, Pending
from tests.server import PATIENCE_S, Server


@pytest.fixture
async def bridge(doors: Server) -> AsyncIterator[Bridge]:
    """Return a bridge of the test's own."""
    bridge = Bridge(doors.ipc_url, 4)
    bridge.start()
    await bridge.greeted()
    yield bridge
    await bridge.close()


async def ask(bridge: Bridge, holder: Holder | None = None, **fields: Any) -> dict[str, Any]:
    """Have a request carried out, and return its reply."""
    answer = await bridge.request(json.dumps(fields).encode(), json=True, holder=holder)
    found = json.loads(answer.body)
    assert answer.ok == found["ok"]
    assert isinstance(found, dict)
    return found


async def test_many_requests_at_a_time(bridge: Bridge, queue: str) -> None:
    """Each gets its own reply."""
    pushes = [ask(bridge, cmd="PUSH", queue=queue, data=number) for number in range(500)]
    ids = [reply["id"] for reply in await asyncio.gather(*pushes)]
    found = await asyncio.gather(*(ask(bridge, cmd="GETJOB", id=job_id) for job_id in ids))
    assert [reply["job"]["data"] for reply in found] == list(range(500))
    assert bridge.outstanding == 0


async def test_errors_of_the_server_are_answers(bridge: Bridge) -> None:
    """What is no request at all raises."""
    reply = await ask(bridge, cmd="ACK", id=1)
    assert reply["code"] == "job_not_found"
    with pytest.raises(InvalidRequest):
        await bridge.request(b'{"cmd":"NOPE"}', json=True)


async def test_a_cancelled_pull_gives_back_what_it_still_brings(bridge: Bridge, queue: str) -> None:
    """1. a pull without a connection waits; 2. its caller goes; 3. a job comes: it goes back."""
    waiting = asyncio.ensure_future(ask(bridge, cmd="PULL", queue=queue, timeout=30_000))
    await ask(bridge, cmd="COUNT", queue=queue)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    pushed = await ask(bridge, cmd="PUSH", queue=queue, data=1)
    pulled = await ask(bridge, cmd="PULL", queue=queue, timeout=5000)
    assert pulled["job"]["id"] == pushed["id"]
    assert pulled["job"]["attempts"] == 0


async def test_a_holder_that_leaves_gives_back_its_jobs(bridge: Bridge, queue: str) -> None:
    """At once, and also those that are just on their way."""
    holder = Holder()
    for number in range(3):
        await ask(bridge, cmd="PUSH", queue=queue, data=number)
    await ask(bridge, holder, cmd="PULLB", queue=queue, count=2)
    assert holder.leases == 2
    asked = asyncio.ensure_future(ask(bridge, holder, cmd="PULL", queue=queue))
    await asyncio.sleep(0)
    bridge.leave(holder)
    asked.cancel()
    found: list[int] = []
    while len(found) < 3:
        reply = await ask(bridge, cmd="PULLB", queue=queue, count=3, timeout=5000)
        found += [job["data"] for job in reply["jobs"]]
    assert sorted(found) == [0, 1, 2]


@pytest.mark.parametrize("turn", ["before", "after"])
async def test_a_pull_cancelled_in_the_turn_of_its_answer_keeps_no_job(
    bridge: Bridge, queue: str, monkeypatch: pytest.MonkeyPatch, turn: str
) -> None:
    """1. a pull without a connection waits; 2. a job comes; 3. in that very turn of the loop its
    caller is cancelled, just before or just after: the job goes back, uncounted."""
    carry_out = bridge.ask
    pulling: asyncio.Future[dict[str, Any]]

    def asked(taken: Ask, holder: Holder | None, done: Done | None) -> Pending:
        def cancelled(body: bytes, ok: bool) -> None:
            assert done is not None
            if turn == "before":
                pulling.cancel()
            done(body, ok)
            pulling.cancel()

        return carry_out(taken, holder, cancelled)

    monkeypatch.setattr(bridge, "ask", asked)
    pulling = asyncio.ensure_future(ask(bridge, cmd="PULL", queue=queue, timeout=30_000))
    await asyncio.sleep(0)
    monkeypatch.undo()
    pushed = await ask(bridge, cmd="PUSH", queue=queue, data=1)
    with pytest.raises(asyncio.CancelledError):
        await pulling
    pulled = await ask(bridge, cmd="PULL", queue=queue, timeout=5000)
    assert pulled["job"]["id"] == pushed["id"]
    assert pulled["job"]["attempts"] == 0


async def ready(bridge: Bridge, listener: Listener) -> None:
    """Let somebody listen, and wait until nothing is missed any more."""
    future: asyncio.Future[FlashQError | None] = asyncio.get_running_loop().create_future()
    bridge.listen(listener, future.set_result)
    assert await asyncio.wait_for(future, PATIENCE_S) is None


async def test_an_event_after_the_answer_is_never_missed(bridge: Bridge, queue: str) -> None:
    """Also for the only listener of the whole server, of whom no shard knows before."""
    for number in range(40):
        arrived = asyncio.Event()
        listener = Listener(f"{queue}-{number}", ("pushed",), arrived.set)
        await ready(bridge, listener)
        await ask(bridge, cmd="PUSH", queue=f"{queue}-{number}", data=1)
        await asyncio.wait_for(arrived.wait(), PATIENCE_S)
        bridge.unlisten(listener)


async def test_events_are_shared(bridge: Bridge, queue: str) -> None:
    """Two listeners, one subscription; each sees the end of the job."""
    arrived = asyncio.Event()
    listeners = [Listener(queue, ("completed",), arrived.set) for _ in range(2)]
    for listener in listeners:
        await ready(bridge, listener)
    job_id = (await ask(bridge, cmd="PUSH", queue=queue, data=1))["id"]
    await ask(bridge, cmd="PULL", queue=queue, timeout=1000)
    await ask(bridge, cmd="ACK", id=job_id, result={"r": 1})
    await asyncio.wait_for(arrived.wait(), PATIENCE_S)
    for listener in listeners:
        first = listener.take()
        assert isinstance(first, Happening)
        assert json.loads(first.json)["data"] == {"r": 1}
        bridge.unlisten(listener)


async def test_a_server_with_another_number_of_shards_is_refused(doors: Server) -> None:
    """Every request would go to the wrong one."""
    bridge = Bridge(doors.ipc_url, 3)
    bridge.start()
    with pytest.raises(ConfigError, match="shards is 3, but the server has 4"):
        await bridge.greeted()
    await bridge.close()
