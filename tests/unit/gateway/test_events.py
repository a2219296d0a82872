"""Events on their way to whoever listens at the doors."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from msgspec import Raw

from flashq.errors import FlashQError
from flashq.gateway.events import (
    Dropped,
    EventFan,
    Happening,
    Listener,
    Missed,
    event_line,
    notice_line,
    wanted_events,
)
from flashq.gateway.subscribing import Ready
from flashq.protocol.objects import Event
from flashq.protocol.sessions import EventNotice, GapNotice


def event(name: str = "completed", queue: str = "q", **fields: Any) -> Event:
    """Return an event of two jobs."""
    return Event(seq=1, shard=0, epoch=1, event=name, queue=queue, at=5, ids=[4, 8], **fields)


class Site:
    """A fan, and what it has asked the router for."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.ready: list[FlashQError | None] = []
        self.wakes = 0
        self.fan = EventFan(self._subscribe, self.subscribed.remove)

    def listener(self, queue: str = "q", *events: str, buffered_max: int = 10) -> Listener:
        """Let somebody listen."""
        listener = Listener(queue, events, self._wake, buffered_max)
        self.fan.add(listener, self.ready.append)
        return listener

    def _subscribe(self, queue: str, ready: Ready) -> None:
        if queue not in self.subscribed:
            self.subscribed.append(queue)
        ready(None)

    def _wake(self) -> None:
        self.wakes += 1


def jobs_of(listener: Listener) -> list[int]:
    """Return the jobs whose events a listener has not read yet."""
    return [
        item.event.ids[item.index] for item in listener.take_all() if isinstance(item, Happening)
    ]


def test_listeners_of_a_queue_share_one_subscription() -> None:
    """It begins with the first and ends with the last of them."""
    site = Site()
    first, second = site.listener("a"), site.listener("a")
    site.listener("*")
    assert site.subscribed == ["a", "*"]
    assert site.ready == [None] * 3
    site.fan.remove(first)
    assert site.subscribed == ["a", "*"]
    site.fan.remove(second)
    site.fan.remove(second)
    assert site.subscribed == ["*"]


def test_an_event_goes_to_those_who_want_it() -> None:
    """By queue and by name; one item for each job."""
    site = Site()
    own, every, other = site.listener("q"), site.listener("*"), site.listener("x")
    failed = site.listener("q", "failed")
    site.fan.tell(EventNotice(event=event()))
    assert jobs_of(own) == jobs_of(every) == [4, 8]
    assert jobs_of(other) == jobs_of(failed) == []
    assert site.wakes == 4
    assert own.take() is None


def test_what_a_listener_leaves_unread_is_bounded_in_bytes_too() -> None:
    """A thousand events may have a megabyte each; one alone may be as large as it is."""
    site = Site()
    slow, quick = (
        Listener("q", (), site._wake, buffered_max=1000, bytes_max=1000) for _ in range(2)
    )
    for listener in (slow, quick):
        site.fan.add(listener, site.ready.append)
    for _ in range(3):
        data = [Raw(msgpack.packb("x" * size)) for size in (300, 5000)]
        site.fan.tell(EventNotice(event=event(data=data)))
        if quick.dropped:
            break
        assert len(list(quick.take_all())) <= 2
    assert slow.dropped
    assert list(slow.take_all()) == [Dropped()]
    alone = Listener("q", (), site._wake, bytes_max=1000)
    alone.offer(Happening(event(data=[Raw(bytes(5000))] * 2), 0))
    assert not alone.dropped
    assert len(list(alone.take_all())) == 1
    alone.offer(Happening(event(data=[Raw(bytes(900))] * 2), 0))
    assert not alone.dropped, "what was read counts no more"


def test_a_listener_that_does_not_read_is_dropped_with_a_notice() -> None:
    """What it had not read goes with it, and nothing more comes."""
    site = Site()
    slow, fast = site.listener(buffered_max=3), site.listener()
    for _ in range(3):
        site.fan.tell(EventNotice(event=event()))
        assert jobs_of(fast) == [4, 8]
    assert [type(item) for item in slow.take_all()] == [Dropped]
    assert slow.dropped
    assert len(site.fan) == 1


def test_gaps_are_told_to_everybody() -> None:
    """Whose events are missing is not known."""
    site = Site()
    own, every = site.listener("q"), site.listener("*")
    site.fan.tell(GapNotice(shard=3, first_missed=5, next=9))
    site.fan.interrupted()
    expected = [
        Missed(reason="server", shard=3, first_missed=5, next=9),
        Missed(reason="connection"),
    ]
    assert list(own.take_all()) == list(every.take_all()) == expected


def test_older_clients_read_one_job_in_each_event() -> None:
    """The keys are theirs, and what is empty is left out."""
    data = [Raw(msgpack.packb({"x": 1})), None]
    told = event(data=data, error="e", progress=7)
    first = {"event_type": "completed", "queue": "q", "job_id": 4, "timestamp": 5}
    first |= {"data": {"x": 1}, "error": "e", "progress": 7}
    assert json.loads(event_line(Happening(told, 0), json=True)) == {"event": first}
    assert msgpack.unpackb(event_line(Happening(told, 0), json=False)) == {"event": first}
    second = json.loads(Happening(told, 1).json)
    assert "data" not in second
    assert list(json.loads(Happening(event(), 0).json)) == [
        "event_type",
        "queue",
        "job_id",
        "timestamp",
    ]


def test_a_payload_that_json_cannot_say_is_left_out() -> None:
    """The event itself still counts."""
    told = event(data=[Raw(msgpack.packb({(1, 2): 1})), None])
    assert "data" not in json.loads(Happening(told, 0).json)


@pytest.mark.parametrize("is_json", [False, True])
def test_notices_of_what_is_missing(is_json: bool) -> None:
    """A client can tell them from events by their key."""
    decode = json.loads if is_json else msgpack.unpackb
    missed = Missed(reason="server", shard=1, first_missed=5, next=6)
    assert decode(notice_line(missed, json=is_json)) == {
        "missed": {"reason": "server", "shard": 1, "first_missed": 5, "next": 6}
    }
    assert list(decode(notice_line(Dropped(), json=is_json))) == ["dropped"]


def test_names_of_events() -> None:
    """The older documents wrote them with a prefix; none means all."""
    assert wanted_events(["job.completed", "failed"]) == {"completed", "failed"}
    assert wanted_events([]) == wanted_events(["failed", "*"]) == frozenset()
    with pytest.raises(ValueError, match="unknown event `x`"):
        wanted_events(["x"])
