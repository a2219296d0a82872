"""The log of events that readers share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flashq.errors import Busy, RequestTimeout
from flashq.gateway import http_events
from flashq.gateway.events import Dropped, EventFan, Happening, Listener, Missed
from flashq.gateway.http_events import TAKEN_BYTES_MAX, EventLogs, Reader, Told
from flashq.gateway.subscribing import Ready
from flashq.protocol.codec import encode_msgpack
from flashq.protocol.objects import Event
from flashq.protocol.sessions import EventNotice, GapNotice


class Site:
    """Logs in front of a fan instead of a bridge."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        #: who waits for the router to say that events come, while they do not come at once
        self.unready: list[Ready] | None = None
        self.fan = EventFan(self._subscribe, self.subscribed.remove)
        self.logs = EventLogs(self, "boot")

    def _subscribe(self, queue: str, ready: Ready) -> None:
        self.subscribed.append(queue)
        if self.unready is None:
            ready(None)
        else:
            self.unready.append(ready)

    def listen(self, listener: Listener, ready: Ready) -> None:
        """Let a log listen."""
        self.fan.add(listener, ready)

    def unlisten(self, listener: Listener) -> None:
        """Let it go."""
        self.fan.remove(listener)

    def happen(self, *ids: int, queue: str = "q", **fields: Any) -> None:
        """Let something happen to jobs."""
        event = Event(
            seq=1, shard=0, epoch=1, event="pushed", queue=queue, at=5, ids=list(ids), **fields
        )
        self.fan.tell(EventNotice(event=event))


async def taken(reader: Reader) -> list[int]:
    """Return the numbers of what a reader is given next."""
    found = await reader.take(0)
    assert isinstance(found, list)
    return [told.number for told in found]


async def test_reading_begins_when_nothing_is_missed_any_more() -> None:
    """Every reader of a log waits for the same."""
    site = Site()
    site.unready = []
    readers = [site.logs.read("q") for _ in range(2)]
    waiting = [asyncio.ensure_future(reader.ready()) for reader in readers]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    site.unready.pop()(None)
    await asyncio.gather(*waiting, site.logs.read("q").ready())


async def test_a_log_that_never_begins_is_none() -> None:
    """Its readers are told why, and the next one tries anew."""
    site = Site()
    site.unready = []
    reader = site.logs.read("q")
    site.unready.pop()(RequestTimeout(timeout=1, detail="SUBSCRIBE"))
    with pytest.raises(RequestTimeout):
        await reader.ready()
    reader.close()
    assert site.subscribed == []
    again = site.logs.read("q")
    site.unready.pop()(None)
    await again.ready()


async def test_the_end_of_all_logs_keeps_nobody_waiting() -> None:
    """A gateway that stops has nothing to say."""
    site = Site()
    site.unready = []
    reader = site.logs.read("q")
    site.logs.close()
    await reader.ready()
    assert await reader.take() is None


async def test_readers_share_one_subscription_and_read_by_themselves() -> None:
    """A second reader begins with what happens after he came."""
    site = Site()
    first = site.logs.read("q")
    site.happen(1)
    second = site.logs.read("q")
    site.happen(2, 3)
    site.happen(9, queue="other")
    assert site.subscribed == ["q"]
    assert await taken(first) == [1, 2, 3]
    assert await taken(second) == [2, 3]
    assert await taken(first) == []
    assert site.logs.readers == 2


async def test_a_reader_that_waits_is_woken() -> None:
    """By whatever happens next."""
    site = Site()
    reader = site.logs.read("q")
    waiting = asyncio.ensure_future(reader.take())
    await asyncio.sleep(0)
    site.happen(4)
    found = await waiting
    assert isinstance(found, list)
    (told,) = found
    assert told == Told(
        1, "pushed", b'{"event_type":"pushed","queue":"q","job_id":4,"timestamp":5}'
    )


async def test_waiting_leaves_nothing_behind() -> None:
    """Keep-alives of an idle stream would otherwise pile up what nobody waits for any more."""
    site = Site()
    reader = site.logs.read("q")
    for _ in range(3):
        assert await reader.take(0) == []
    assert not reader._log._waiting


async def test_who_falls_behind_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log keeps so many, and no more for anybody's sake."""
    monkeypatch.setattr(http_events, "LOG_EVENTS_MAX", 10)
    site = Site()
    slow, quick = site.logs.read("q"), site.logs.read("q")
    for n in range(8):
        site.happen(n)
    assert len(await taken(quick)) == 8
    for n in range(8):
        site.happen(n)
    assert len(await taken(quick)) == 8
    assert isinstance(await slow.take(0), Dropped)
    assert slow._log.first == 7


async def test_a_log_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest event stays, however large."""
    monkeypatch.setattr(http_events, "LOGS_BYTES_MAX", 900)
    site = Site()
    reader = site.logs.read("q")
    data = [encode_msgpack("x" * 400)]
    for n in range(3):
        site.happen(n, data=data)
    assert (reader._log.first, reader._log.next) == (3, 4)
    site.happen(9, data=[encode_msgpack("x" * 5000)])
    assert (reader._log.first, reader._log.next) == (4, 5)


async def test_all_logs_have_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queues are followed. The one that grows gives up what is more than its share;
    those that have been quiet for longest give up theirs, and keep who has read them."""
    monkeypatch.setattr(http_events, "LOGS_BYTES_MAX", 4000)
    site = Site()
    readers = [site.logs.read(f"q-{n}") for n in range(8)]
    slow = site.logs.read("q-0")
    data = [encode_msgpack("x" * 300)]
    for n, reader in enumerate(readers):
        for _ in range(3):
            site.happen(n, queue=f"q-{n}", data=data)
            assert len(await taken(reader)) == 1
        logs = [one._log for one in readers]
        assert sum(log.bytes for log in logs) == site.logs._bytes <= 4000
    assert len(readers[0]._log) == 0
    assert len(readers[7]._log) > 0
    assert await taken(readers[0]) == []
    assert isinstance(await slow.take(0), Dropped)
    for reader in (*readers, slow):
        reader.close()
    site.logs.close()
    assert site.logs._bytes == 0


async def test_a_reader_takes_so_many_bytes_at_a_time() -> None:
    """What was taken waits for this reader alone, and joined into one piece it did so twice: forty
    readers that did not read held more than a gigabyte."""
    site = Site()
    reader = site.logs.read("q")
    for n in range(300):
        site.happen(n, data=[encode_msgpack("x" * 1000)])
    site.happen(300, data=[encode_msgpack("x" * 2 * TAKEN_BYTES_MAX)])
    seen = 0
    while found := await reader.take(0):
        assert isinstance(found, list)
        size = sum(len(told.body) for told in found)
        assert size <= TAKEN_BYTES_MAX or len(found) == 1
        seen += len(found)
    assert seen == 301


async def test_a_long_log_is_cut_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places in it stay right."""
    monkeypatch.setattr(http_events, "LOG_EVENTS_MAX", 100)
    site = Site()
    reader = site.logs.read("q")
    for n in range(5000):
        site.happen(n)
    log = reader._log
    assert (log.first, log.next) == (4901, 5001)
    assert len(log._entries) < 2500
    assert [told.number for told in log.after(4990)] == list(range(4991, 5001))


async def test_who_comes_back_goes_on() -> None:
    """With the id of what he read last."""
    site = Site()
    reader = site.logs.read("q")
    site.happen(1, 2, 3)
    reader.close()
    site.happen(4)
    back = site.logs.read("q", site.logs.name_of(2))
    assert await taken(back) == [3, 4]


async def test_who_comes_back_too_late_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is then given what is still there."""
    monkeypatch.setattr(http_events, "LOG_EVENTS_MAX", 2)
    site = Site()
    reader = site.logs.read("q")
    site.happen(1, 2, 3, 4)
    reader.close()
    back = site.logs.read("q", site.logs.name_of(1))
    assert isinstance(await back.take(0), Missed)
    assert await taken(back) == [3, 4]


@pytest.mark.parametrize(
    "last_id", ["other-1", "boot-99", "boot-", "boot-x", "1", "boot-" + "9" * 50]
)
async def test_an_id_of_elsewhere_is_no_place(last_id: str) -> None:
    """Of another gateway, or made up."""
    site = Site()
    site.logs.read("q")
    site.happen(1)
    back = site.logs.read("q", last_id)
    assert isinstance(await back.take(0), Missed)
    site.happen(2)
    assert await taken(back) == [2]


async def test_a_gap_is_an_event_of_its_own() -> None:
    """Everybody reads it at its place."""
    site = Site()
    reader = site.logs.read("q")
    site.happen(1)
    site.fan.tell(GapNotice(shard=3, first_missed=5, next=9))
    found = await reader.take(0)
    assert isinstance(found, list)
    assert found[1].kind == "missed"
    assert b'"shard":3' in found[1].body


async def test_the_last_reader_leaves_a_log_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the subscription ends with it; and only so many logs wait."""
    monkeypatch.setattr(http_events, "LINGERING_MAX", 2)
    site = Site()
    for name in ("a", "b", "c"):
        site.logs.read(name).close()
    assert site.subscribed == ["b", "c"]
    monkeypatch.setattr(http_events, "LINGER_S", 0.0)
    ended = site.logs.read("b")
    ended.close()
    assert await ended.take() is None
    assert site.subscribed == ["c"]


async def test_so_many_queues_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is told to come later."""
    monkeypatch.setattr(http_events, "LOGS_MAX", 1)
    site = Site()
    site.logs.read("a")
    with pytest.raises(Busy):
        site.logs.read("b")


async def test_the_end_ends_everybody() -> None:
    """Those who wait, and those who come later."""
    site = Site()
    reader = site.logs.read("q")
    waiting = asyncio.ensure_future(reader.take())
    await asyncio.sleep(0)
    site.logs.close()
    assert await waiting is None
    assert await site.logs.read("later").take() is None
    assert site.subscribed == []


async def test_a_payload_is_one_line() -> None:
    """A line break would end the message of a stream in the middle."""
    site = Site()
    reader = site.logs.read("q")
    event = Event(seq=1, shard=0, epoch=1, event="pushed", queue="q", at=5, ids=[1])
    happening = Happening(event, 0)
    happening._json = b'{"event_type":"pushed",\r\n "data": {\n "a": 1.50}}'
    reader._log.listener.offer(happening)
    found = await reader.take(0)
    assert isinstance(found, list)
    assert found[0].body == b'{"event_type":"pushed","data":{"a":1.50}}'
