"""What a connection repeats after losses, and how it keeps leases: by script, time by hand."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest

from flashq.client.calls import prepare
from flashq.client.happenings import (
    Disconnected,
    LeasesLost,
)
from flashq.errors import (
    LeaseLost,
    SessionExpired,
)
from flashq.protocol import jobs, leases
from flashq.protocol.framing import (
    DELIVERY,
    ROUTE_ROUTER,
)
from tests.unit.client.script import INTERVAL, SHARDS, connected, holding

QUEUE_SHARD = crc32(b"q") % SHARDS
DATA: Any = {"a": 1}
PULL = leases.PullBatch(queue="q", count=10, timeout=60_000)


def push(**options: Any) -> Any:
    """Return a push request."""
    return jobs.Push(queue="q", data=DATA, **options)


def large(size: int) -> Any:
    """Return a payload of about that many bytes."""
    return b"x" * size


# --- repeats


def test_a_fresh_socket_repeats_everything_under_the_same_numbers() -> None:
    """The connection broke with requests under way: some were carried out, some were not."""
    script = connected()
    script.request(push())
    script.request(jobs.GetJob(id=4))
    before = script.sent()
    script.connection.opened(script.now)
    script.hello()
    after = script.sent()
    assert [(s.corr, s.body) for s in after] == [(s.corr, s.body) for s in before]


@pytest.mark.parametrize("reply", [{"boot": 2}, {"known": False}])
def test_a_router_that_forgot_us_is_greeted_again(reply: dict[str, Any]) -> None:
    """It restarted behind the same address; what it had in hand is gone."""
    script = connected()
    script.request(push())
    before = script.sent_one()
    script.answer_beat(script.beats()[ROUTE_ROUTER], **reply)
    script.hello(boot=2)
    assert script.sent_one().body["n"] == before.body["n"]
    script.answer_beat(script.beats()[ROUTE_ROUTER], boot=2)
    assert script.sent() == []


def test_two_heartbeats_without_an_answer_end_the_socket() -> None:
    """The peer's machine may be gone without a word; TCP would take minutes to say so."""
    script = connected()
    script.beats()
    script.beats()
    assert script.events() == []
    assert script.beats() == {}
    assert any(isinstance(event, Disconnected) for event in script.events())


def test_an_answered_heartbeat_counts_as_life() -> None:
    """One lost answer is not the end."""
    script = connected()
    script.beats()
    script.answer_beat(script.beats()[ROUTE_ROUTER])
    script.beats()
    assert script.events() == []


def test_a_shard_that_came_back_gets_its_requests_again() -> None:
    """Pulls, waits and pushes that a killed shard had in hand; others are left alone."""
    script = connected()
    script.request(PULL)
    script.request(jobs.WaitJob(id=QUEUE_SHARD))
    script.request(push())
    script.request(jobs.GetJob(id=QUEUE_SHARD + 1))
    before = script.sent()
    script.notify(notice="shard", shard=QUEUE_SHARD, epoch=2)
    after = script.sent()
    assert [s.corr for s in after] == [s.corr for s in before[:3]]
    script.notify(notice="shard", shard=QUEUE_SHARD, epoch=2)
    assert script.sent() == []


def test_a_missed_announcement_shows_in_the_next_heartbeat() -> None:
    """Notices can be lost; the router's answers carry every epoch."""
    script = connected()
    script.request(PULL)
    pull = script.sent_one()
    beat = script.beats()[ROUTE_ROUTER]
    script.answer_beat(beat, epochs=[2] * SHARDS)
    assert script.sent_one().corr == pull.corr


def test_a_shard_that_is_not_ready_is_not_sent_to_again_yet() -> None:
    """Epoch 0 is no new life; the one it had may be that of the restart after it."""
    script = connected()
    script.request(PULL)
    script.sent()
    script.notify(notice="shard", shard=QUEUE_SHARD, epoch=0)
    assert script.sent() == []


def test_a_request_expired_by_its_only_copy_becomes_a_new_one() -> None:
    """1. The client slept for an hour. 2. The shard forgot the session, and did nothing. 3. A fresh
    session can ask anew."""
    script = connected()
    old = script.connection.session
    script.request(push())
    first = script.sent_one()
    script.refuse(first, "session_expired")
    hello, again = script.sent()
    assert hello.word == "HELLO"
    assert hello.body["session"] == script.connection.session != old
    assert again.body["session"] == script.connection.session
    assert again.body["n"] > first.body["n"]
    script.answer(again, id=4)
    assert script.outcome().error is None


def test_every_single_copy_survives_the_renewal_of_the_session() -> None:
    """Several requests were under way in the expired session; one renewal serves them all."""
    script = connected()
    for _ in range(3):
        script.request(push())
    for sent in script.sent():
        script.refuse(sent, "session_expired")
    _, *again = script.sent()
    assert {sent.body["session"] for sent in again} == {script.connection.session}
    assert len(again) == 3
    assert script.completed() == []


def test_a_request_expired_after_a_repeat_has_an_unknown_outcome() -> None:
    """The first copy may have been carried out before the session was forgotten."""
    script = connected()
    script.request(push())
    script.sent()
    script.connection.opened(script.now)
    script.hello()
    script.refuse(script.sent_one(), "session_expired")
    assert isinstance(script.outcome().error, SessionExpired)


# --- leases


def test_heartbeats_name_what_each_shard_gave_out() -> None:
    """A lease that is not named twice goes back to its queue."""
    script = holding((4, 11), (8, 12), (5, 13))
    beats = script.beats()
    assert beats.keys() == {ROUTE_ROUTER, 0, 1}
    assert beats[ROUTE_ROUTER].body == {
        "cmd": "SESSIONHEARTBEAT",
        "session": script.connection.session,
    }
    assert (beats[0].body["leases"], beats[0].body["tokens"]) == ([4, 8], [11, 12])
    assert beats[1].body["leases"] == [5]


def test_heartbeats_go_to_shards_that_are_waited_on() -> None:
    """A parked pull of a silent session is dropped after 10 s."""
    script = connected()
    script.request(PULL)
    pull = script.sent_one()
    assert QUEUE_SHARD in script.beats()
    script.answer(pull, DELIVERY, jobs=[])
    assert script.beats().keys() == {ROUTE_ROUTER}


@pytest.mark.parametrize(
    "request_",
    [
        leases.Ack(id=4, token=11),
        leases.Ack(id=4),
        leases.Fail(id=4, token=11),
        leases.MoveToDelayed(id=4, delay=5, token=11),
        leases.AckBatch(ids=[4], tokens=[11]),
        leases.Release(ids=[4]),
    ],
    ids=lambda request_: type(request_).__name__,
)
def test_a_settled_lease_is_no_longer_named(request_: Any) -> None:
    """But until the answer has come it is: the request may have got lost."""
    script = holding((4, 11))
    script.request(request_)
    sent = script.sent_one()
    assert 0 in script.beats()
    script.answer(sent, ids=[1], count=1)
    assert script.beats().keys() == {ROUTE_ROUTER}


def test_a_refused_ack_ends_the_lease() -> None:
    """The job is somebody else's now; a heartbeat must not claim it."""
    script = holding((4, 11))
    script.request(leases.Ack(id=4, token=11))
    script.refuse(script.sent_one(), "lease_lost")
    assert isinstance(script.outcome().error, LeaseLost)
    assert script.connection.leases_held == 0


def test_a_job_handed_out_anew_survives_the_end_of_its_older_lease() -> None:
    """1. A job fails and is at once delivered to our other pull. 2. The answer to FAIL comes later.
    It must not take the new lease along."""
    script = holding((4, 11))
    script.request(leases.Fail(id=4, token=11))
    script.request(PULL)
    fail, pull = script.sent()
    script.deliver(pull, (4, 12))
    script.answer(fail)
    assert script.beats()[0].body["tokens"] == [12]


def test_a_lost_lease_is_told_once() -> None:
    """The shard requeued the job, or somebody cancelled it."""
    script = holding((4, 11), (8, 12))
    script.answer(script.beats()[0], lost=[4])
    assert [event for event in script.events() if isinstance(event, LeasesLost)] == [
        LeasesLost([4])
    ]
    beat = script.beats()[0]
    assert beat.body["leases"] == [8]


def test_a_lost_lease_of_an_older_delivery_is_not_the_new_one() -> None:
    """1. A heartbeat names delivery 11. 2. The job is handed to us again as 12. 3. The answer says
    that 11 is lost."""
    script = holding((4, 11))
    beat = script.beats()[0]
    script.request(PULL)
    script.deliver(next(sent for sent in script.sent() if sent.word == "PULLB"), (4, 12))
    script.events()
    script.answer(beat, lost=[4])
    assert script.events() == []
    assert script.connection.leases_held == 1


def test_a_heartbeat_that_overtakes_an_ack_is_not_a_loss() -> None:
    """Heartbeats are not held back by the log; the answer to the ack is, and it decides."""
    script = holding((4, 11))
    script.request(leases.Ack(id=4, token=11))
    ack = script.sent_one()
    script.answer(script.beats()[0], lost=[4])
    assert script.events() == []
    script.answer(ack)
    assert script.outcome().error is None


def test_a_shard_that_cannot_answer_a_heartbeat_loses_nothing() -> None:
    """It is starting: after that, the next heartbeat re-adopts the leases."""
    script = holding((4, 11))
    script.refuse(script.beats()[0], "starting", retryable=True)
    assert script.events() == []
    assert script.connection.leases_held == 1


def test_leases_settled_by_a_batch_over_several_shards() -> None:
    """An ACKB that the router scatters settles each of its jobs."""
    script = holding((4, 11), (5, 12))
    script.connection.request(prepare(leases.AckBatch(ids=[4, 5])), script.now, 1000)
    script.answer(script.sent_one(), ids=[2])
    assert script.beats().keys() == {ROUTE_ROUTER}
    assert script.now % INTERVAL == 0
