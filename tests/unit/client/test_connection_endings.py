"""What ends jobs, over a connection that loses answers: whose are they then, and who is told what?

A job that its holder has tried to end must not be active for as long as the client lives, and an
end that its caller was told about must be true.
"""

from __future__ import annotations

from typing import Any

import pytest

from flashq.client.heartbeats import UNANSWERED_MAX
from flashq.errors import (
    ConnectionClosed,
    FlashQError,
    InvalidRequest,
    OutcomeUnknown,
    RequestTimeout,
    StorageUnavailable,
)
from flashq.protocol import leases
from flashq.protocol.framing import ROUTE_ROUTER
from tests.unit.client.script import INTERVAL, Script, Sent, connected, holding

ENDINGS = [
    leases.Ack(id=4, token=11),
    leases.Ack(id=4),
    leases.Fail(id=4, error="x"),
    leases.MoveToDelayed(id=4, delay=5, token=11),
    leases.AckBatch(ids=[4], tokens=[11], results=[None]),
    leases.AckBatch(ids=[4]),
    leases.Release(ids=[4]),
]

all_endings = pytest.mark.parametrize("request_", ENDINGS, ids=lambda kind: type(kind).__name__)


def beats(script: Script) -> tuple[dict[int, Sent], list[Sent]]:
    """Let a heartbeat interval go by, answer the router's, and return all and what else is sent."""
    script.tick(INTERVAL)
    sent = script.sent()
    found = {one.route: one for one in sent if one.word == "SESSIONHEARTBEAT"}
    script.answer_beat(found[ROUTE_ROUTER])
    return found, [one for one in sent if one.word != "SESSIONHEARTBEAT"]


def outcome(script: Script) -> FlashQError | None:
    """Return the error of the one request that has ended."""
    (event,) = script.completed()
    return event.error


def is_named(script: Script) -> bool:
    """Tell whether the next heartbeat names job 4."""
    found, _ = beats(script)
    return 0 in found and found[0].body["leases"] == [4]


@all_endings
def test_a_job_whose_end_is_not_known_is_soon_not_named(request_: Any) -> None:
    """1. Nothing answers. 2. The caller learns that the outcome is unknown. 3. One more heartbeat
    names the lease, for a caller that tries again; then the server may give the job to others."""
    script = holding((4, 11))
    script.request(request_, timeout=10)
    script.sent()
    script.tick(10)
    error = outcome(script)
    assert isinstance(error, RequestTimeout)
    assert isinstance(error, OutcomeUnknown)
    assert [is_named(script) for _ in range(3)] == [True, False, False]
    assert script.connection.leases_held == 0


@all_endings
def test_a_second_try_keeps_the_lease_for_its_own_time(request_: Any) -> None:
    """The caller tries again after it learned that the outcome is unknown, and is answered."""
    script = holding((4, 11))
    script.request(request_, timeout=10)
    script.sent()
    script.tick(10)
    script.completed()
    script.request(request_)
    (again,) = script.sent()
    assert [is_named(script) for _ in range(2)] == [True, True]
    script.answer(again, ids=[1], count=1)
    assert outcome(script) is None
    assert not is_named(script)


@all_endings
def test_an_end_without_an_answer_is_repeated_under_its_number(request_: Any) -> None:
    """The router lives and answers heartbeats, and this one message has got lost."""
    script = holding((4, 11))
    script.request(request_)
    first = script.sent_one()
    repeats: list[Sent] = []
    for _ in range(UNANSWERED_MAX + 1):
        assert repeats == []
        found, repeats = beats(script)
        assert found[0].body["leases"] == [4]
    assert [(sent.corr, sent.body) for sent in repeats] == [(first.corr, first.body)]
    script.answer(repeats[0], ids=[1], count=1)
    assert outcome(script) is None
    assert beats(script)[1] == []


@all_endings
def test_an_end_whose_caller_has_gone_goes_on(request_: Any) -> None:
    """1. The caller is cancelled while it waits. 2. There is a new socket. 3. The end is repeated
    there, nobody is told of its answer, and the lease is over."""
    script = holding((4, 11))
    corr = script.request(request_)
    first = script.sent_one()
    script.connection.abandon(corr)
    script.connection.opened(script.now)
    script.hello()
    script.events()
    again = script.sent_one()
    assert again.body["n"] == first.body["n"]
    script.answer(again, ids=[1], count=1)
    assert script.events() == []
    assert script.connection.leases_held == 0
    assert script.connection.outstanding == 0


@all_endings
def test_an_end_whose_caller_has_gone_lets_go_in_the_end(request_: Any) -> None:
    """Nothing ever answers it."""
    script = holding((4, 11))
    corr = script.request(request_, timeout=10)
    script.sent()
    script.connection.abandon(corr)
    script.tick(10)
    assert script.events() == []
    assert [is_named(script) for _ in range(2)] == [True, False]


@all_endings
def test_an_end_that_was_never_sent_is_told_so_and_never_sent(request_: Any) -> None:
    """1. There is no server. 2. The caller learns that nothing was sent. 3. The server is back,
    and gets no copy; the job is let go, as for an unknown outcome."""
    script = holding((4, 11))
    for _ in range(UNANSWERED_MAX + 1):
        script.tick(INTERVAL)
        script.sent()
    script.events()
    script.connection.opened(script.now)
    script.sent()
    script.request(request_, timeout=10)
    script.tick(10)
    error = outcome(script)
    assert isinstance(error, ConnectionClosed)
    assert not isinstance(error, OutcomeUnknown)
    script.connection.opened(script.now)
    script.hello()
    assert script.sent() == []
    assert [is_named(script) for _ in range(2)] == [True, False]


@all_endings
def test_an_end_that_was_refused_for_a_while_is_not_sent_after_its_caller_was_told(
    request_: Any,
) -> None:
    """A retryable error promises that nothing happened: it must stay true."""
    script = holding((4, 11))
    script.request(request_, timeout=25)
    script.refuse(script.sent_one(), "storage_unavailable", retryable=True)
    script.tick(10)
    script.refuse(script.sent_one(), "storage_unavailable", retryable=True)
    script.tick(15)
    assert isinstance(outcome(script), StorageUnavailable)
    script.tick(600)
    assert script.sent() == []
    assert [is_named(script) for _ in range(2)] == [True, False]


@all_endings
def test_an_end_with_one_unanswered_copy_is_never_told_as_undone(request_: Any) -> None:
    """1. A copy has no answer. 2. On a new socket the second one is refused. 3. The first may have
    been carried out all the same."""
    script = holding((4, 11))
    script.request(request_, timeout=5000)
    script.sent()
    script.connection.opened(script.now)
    script.hello()
    script.refuse(script.sent_one(), "busy", retryable=True)
    script.tick(5000)
    ends = [event.error for event in script.completed()]
    assert [type(error) for error in ends] == [RequestTimeout]


def test_a_refused_request_leaves_the_job_with_its_holder() -> None:
    """A result that is too large, say: the holder can fail the job instead."""
    script = holding((4, 11))
    script.request(leases.Ack(id=4, token=11))
    script.refuse(script.sent_one(), "invalid")
    assert isinstance(outcome(script), InvalidRequest)
    assert [is_named(script) for _ in range(3)] == [True, True, True]


@pytest.mark.parametrize("code", ["session_expired", "shard_unavailable", "outcome_unknown"])
def test_an_answer_that_knows_no_outcome_lets_go(code: str) -> None:
    """Such an error comes from a server, instead of the client's own clock."""
    script = holding((4, 11))
    script.request(leases.Ack(id=4, token=11))
    first = script.sent_one()
    script.connection.opened(script.now)
    script.hello()
    script.refuse(script.sent_one(), code)
    assert outcome(script) is not None
    assert first.body["n"]
    assert [is_named(script) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    "request_",
    [leases.SetProgress(id=4, progress=1, token=11), leases.HeartbeatJob(id=4, token=11)],
    ids=lambda kind: type(kind).__name__,
)
def test_a_sign_of_life_without_an_answer_ends_no_lease(request_: Any) -> None:
    """The handler is at work on the job."""
    script = holding((4, 11))
    script.request(request_, timeout=10)
    script.sent()
    script.tick(10)
    assert isinstance(outcome(script), RequestTimeout)
    assert [is_named(script) for _ in range(4)] == [True] * 4


def test_the_jobs_of_a_batch_are_left_each_for_itself() -> None:
    """1. A batch over two jobs ends in a time-out. 2. One of them is failed in the meantime."""
    script = holding((4, 11), (8, 12))
    script.request(leases.AckBatch(ids=[4, 8]), timeout=10)
    script.sent()
    script.tick(10)
    script.completed()
    script.request(leases.Fail(id=8, token=12))
    script.sent()
    for named in ([4, 8], [8], [8]):
        found, _ = beats(script)
        assert found[0].body["leases"] == named


def test_a_job_of_somebody_else_is_never_named() -> None:
    """An ack by id of a job that another program holds."""
    script = connected()
    script.request(leases.Ack(id=4, token=99), timeout=10)
    script.sent()
    script.tick(10)
    assert isinstance(outcome(script), RequestTimeout)
    assert not is_named(script)
