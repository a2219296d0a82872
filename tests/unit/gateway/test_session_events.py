"""What a connection of the older protocol is told that has subscribed."""

from __future__ import annotations

import pytest

from flashq.errors import RequestTimeout
from flashq.gateway.session import SUBSCRIPTIONS_MAX
from flashq.protocol.objects import Event
from flashq.protocol.sessions import EventNotice
from tests.unit.gateway.port import Talk


def happen(talk: Talk, event: str, queue: str = "q") -> None:
    """Let an event of two jobs arrive."""
    told = Event(seq=1, shard=0, epoch=1, event=event, queue=queue, at=5, ids=[4, 8])
    talk.port.fan.tell(EventNotice(event=told))


def test_a_subscription_delivers_on_the_connection() -> None:
    """One line for each job, of the wanted queue and name only."""
    talk = Talk()
    talk.line(cmd="SUBSCRIBE", queue="q", events=["job.completed"], reqId="s")
    assert talk.lines() == [{"reqId": "s", "ok": True}]
    happen(talk, "failed")
    happen(talk, "completed", queue="other")
    happen(talk, "completed")
    event = {"event_type": "completed", "queue": "q", "timestamp": 5}
    assert talk.lines() == [{"event": event | {"job_id": job_id}} for job_id in (4, 8)]
    talk.line(cmd="UNSUBSCRIBE", queue="q")
    happen(talk, "completed")
    assert talk.lines() == [{"ok": True}]


def test_a_subscription_is_answered_when_nothing_is_missed_any_more() -> None:
    """And its events come behind the answer, though the first may be there before."""
    talk = Talk()
    talk.port.events_come = False
    talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
    talk.line(cmd="STATS", reqId="s")
    happen(talk, "pushed")
    talk.port.asked[0].answer()
    assert talk.lines() == [{"reqId": "s", "ok": True}]
    talk.port.unready.pop()(None)
    answer, *events = talk.lines()
    assert answer == {"ok": True}
    assert len(events) == 2


@pytest.mark.parametrize("queue", ["", "a b", "a\0", "x" * 5000])
def test_a_queue_that_there_cannot_be_is_refused(queue: str) -> None:
    """Nothing would ever be heard of it."""
    talk = Talk()
    talk.line(cmd="SUBSCRIBE", queue=queue, events=["*"])
    (answer,) = talk.lines()
    assert not answer["ok"]
    assert answer["error"].startswith("Queue name ")


def test_a_subscription_that_never_begins_is_refused() -> None:
    """And nothing of it is left."""
    talk = Talk()
    talk.port.events_come = False
    talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
    talk.port.unready.pop()(RequestTimeout(timeout=5, detail="SUBSCRIBE"))
    assert talk.lines()[0]["ok"] is False
    assert len(talk.port.fan) == 0


@pytest.mark.parametrize("then", ["SUBSCRIBE", "UNSUBSCRIBE"])
def test_who_does_not_wait_for_a_subscription_is_answered(then: str) -> None:
    """It is replaced, or withdrawn."""
    talk = Talk()
    talk.port.events_come = False
    talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
    talk.port.events_come = True
    talk.line(cmd=then, queue="q", events=["*"])
    assert talk.lines() == [{"ok": True}] * 2
    talk.port.unready.pop()(None)
    assert talk.lines() == []


def test_one_who_subscribes_and_ends_is_finished() -> None:
    """Nothing could be brought to it."""
    talk = Talk()
    talk.port.events_come = False
    talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
    talk.conversation.eof()
    assert talk.lines() == [{"ok": True}]
    assert talk.conversation.is_finished


def test_frames_carry_events_too() -> None:
    """The binary mode has the same."""
    talk = Talk()
    talk.frame(cmd="SUBSCRIBE", queue="*", events=[])
    happen(talk, "pushed")
    assert [list(frame) for frame in talk.frames()] == [["ok"], ["event"], ["event"]]


def test_one_that_does_not_read_is_dropped_with_a_notice() -> None:
    """Its events do not pile up."""
    talk = Talk()
    talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
    talk.output()
    talk.conversation.is_output_blocked = True
    for _ in range(600):
        happen(talk, "pushed")
    assert talk.output() == b""
    talk.conversation.is_output_blocked = False
    (notice,) = talk.lines()
    assert "dropped" in notice
    assert len(talk.port.fan) == 0


def test_an_unknown_event_is_refused() -> None:
    """A misspelt name would wait for ever."""
    talk = Talk()
    talk.line(cmd="SUBSCRIBE", queue="q", events=["complete"])
    assert "unknown event `complete`" in talk.lines()[0]["error"]


def test_subscriptions_are_bounded() -> None:
    """One connection cannot fill the table."""
    talk = Talk()
    for number in range(SUBSCRIPTIONS_MAX + 1):
        talk.line(cmd="SUBSCRIBE", queue=f"q{number}", events=["*"])
    assert [reply["ok"] for reply in talk.lines()].count(False) == 1
