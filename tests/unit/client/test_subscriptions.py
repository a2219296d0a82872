"""Events reach those who want them, and what is dropped leaves a gap."""

from __future__ import annotations

import pytest

from flashq.client.happenings import EventsInterrupted, NoticeReceived, SubscriptionRefused
from flashq.client.results import Event, EventArrived, Gap
from flashq.client.subscriptions import EventBuffer, Readers, wanted_events
from flashq.errors import ConnectionClosed, NotAllowed
from flashq.protocol.sessions import GapNotice


def event(name: str = "completed", seq: int = 1) -> Event:
    """Return an event."""
    return Event(seq=seq, shard=0, epoch=1, event=name, queue="q", at=0, ids=[4])


def arrived(name: str) -> NoticeReceived:
    """Return the arrival of an event."""
    return NoticeReceived("q", EventArrived(event=event(name)))


def test_names_of_events_are_checked() -> None:
    """A misspelt name would wait for ever."""
    assert wanted_events("*") == {"*"}
    assert wanted_events(["completed", "failed"]) == {"completed", "failed"}
    with pytest.raises(ValueError, match="complete"):
        wanted_events("complete")
    with pytest.raises(ValueError, match="no such event"):
        wanted_events([])


def test_a_reader_that_is_too_slow_sees_a_gap_and_then_goes_on() -> None:
    """Memory is bounded, and nothing is dropped silently."""
    buffer = EventBuffer("q", frozenset("*"), events_max=2)
    for seq in range(5):
        buffer.offer(event(seq=seq))
    assert [buffer.take() for _ in range(4)] == [
        event(seq=0), event(seq=1), Gap(reason="buffer"), None,
    ]  # fmt: skip
    buffer.offer(event(seq=9))
    assert buffer.take() == event(seq=9)


def test_readers_of_one_queue_share_it_and_get_their_own_events() -> None:
    """One subscription at the server, two listeners here."""
    readers: Readers[EventBuffer] = Readers()
    done, everything = EventBuffer("q", frozenset(["completed"])), EventBuffer("q", frozenset("*"))
    readers.add(done)
    readers.add(everything)
    readers.add(EventBuffer("other", frozenset(["failed"])))
    assert readers.wanted("q") == {"completed", "*"}
    assert list(readers.dispatch(arrived("failed"))) == [done, everything]
    assert (done.take(), everything.take()) == (None, event("failed"))
    readers.remove(everything)
    assert readers.wanted("q") == {"completed"}
    readers.remove(done)
    readers.remove(done)
    assert readers.wanted("q") == frozenset()


def test_gaps_come_from_the_server_and_from_lost_connections() -> None:
    """A listener learns which, and where the server says so."""
    readers: Readers[EventBuffer] = Readers()
    buffer = EventBuffer("q", frozenset(["failed"]))
    readers.add(buffer)
    list(readers.dispatch(NoticeReceived("q", GapNotice(shard=1, first_missed=5, next=9))))
    list(readers.dispatch(EventsInterrupted("q")))
    assert buffer.take() == Gap(reason="server", shard=1, first_missed=5, next=9)
    assert buffer.take() == Gap(reason="connection")


def test_the_end_reaches_every_reader() -> None:
    """With its reason."""
    readers: Readers[EventBuffer] = Readers()
    refused, closed = EventBuffer("q", frozenset("*")), EventBuffer("r", frozenset("*"))
    readers.add(refused)
    readers.add(closed)
    error = NotAllowed(detail="events")
    assert list(readers.dispatch(SubscriptionRefused("q", error))) == [refused]
    assert refused.ended is error
    assert len(list(readers.end(ConnectionClosed()))) == 2
    assert isinstance(closed.ended, ConnectionClosed)
