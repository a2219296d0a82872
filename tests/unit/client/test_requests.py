"""Numbers, queues and deadlines of requests, without a conversation."""

from __future__ import annotations

from typing import Any

from flashq.client.calls import prepare
from flashq.client.requests import RETRY_MAX_MS, RequestTable
from flashq.errors import Busy, ConnectionClosed, RequestTimeout
from flashq.protocol.jobs import GetState, Promote

SESSION = b"s" * 16
CHANGE = prepare(Promote(id=1))
READ = prepare(GetState(id=1))


def table(**bounds: Any) -> RequestTable:
    """Return an empty table."""
    return RequestTable(**{"requests_max": 10, "bytes_max": 10_000, **bounds})


def test_numbers_rise_and_reads_have_none() -> None:
    """The server needs no memory of reads."""
    requests = table()
    assert [requests.add(CHANGE, SESSION, 0, 10).n for _ in range(3)] == [1, 2, 3]
    assert requests.add(READ, SESSION, 0, 10).n is None


def test_a_stamp_in_a_new_session_has_a_new_number() -> None:
    """The old one is no longer outstanding."""
    requests = table()
    request = requests.add(CHANGE, SESSION, 0, 10)
    requests.stamp(request, b"t" * 16)
    assert (request.n, request.session) == (2, b"t" * 16)
    assert request.body.endswith((2).to_bytes(8, "big"))


def test_a_request_stands_in_the_queue_once() -> None:
    """However many reasons there are to send it."""
    requests = table()
    request = requests.add(CHANGE, SESSION, 0, 10)
    requests.enqueue(request)
    requests.enqueue(request)
    requests.enqueue_all()
    assert requests.next_unsent() is request
    assert requests.next_unsent() is None


def test_a_removed_request_is_not_sent() -> None:
    """Its caller has gone."""
    requests = table()
    request = requests.add(CHANGE, SESSION, 0, 10)
    requests.enqueue(request)
    requests.remove(request)
    assert requests.next_unsent() is None
    assert request.corr not in requests


def test_backoff_doubles_up_to_its_bound() -> None:
    """A server that is busy for long is asked twice a second."""
    requests = table()
    request = requests.add(CHANGE, SESSION, 0, 100_000)
    now, waits = 0, []
    for _ in range(8):
        requests.refused(request, Busy(detail="x"), now)
        due = requests.next_deadline()
        assert due is not None
        waits.append(due - now)
        now = due
        requests.retry_due(now)
        assert requests.next_unsent() is request
    assert waits == [10, 20, 40, 80, 160, 320, RETRY_MAX_MS, RETRY_MAX_MS]


def test_a_refusal_undoes_one_copy_only_when_it_was_the_only_one() -> None:
    """Of two copies, the other may have been carried out."""
    requests = table()
    request = requests.add(CHANGE, SESSION, 0, 10)
    request.sent = 1
    requests.refused(request, Busy(detail="x"), 0)
    assert request.sent == 0
    request.sent = 2
    requests.refused(request, Busy(detail="x"), 0)
    assert request.sent == 2


def test_what_expires_tells_the_truth() -> None:
    """Refused, unanswered, or never sent: three different things to a caller."""
    requests = table()
    refused = requests.add(CHANGE, SESSION, 0, 10)
    requests.refused(refused, Busy(detail="full"), 0)
    unanswered = requests.add(CHANGE, SESSION, 0, 10)
    unanswered.sent = 1
    requests.add(CHANGE, SESSION, 0, 10)
    assert requests.expired(9) == []
    kinds = [type(error) for _, error in requests.expired(10)]
    assert kinds == [Busy, RequestTimeout, ConnectionClosed]


def test_a_refusal_is_the_truth_only_if_no_other_copy_is_out() -> None:
    """The first copy was carried out and its answer lost, the second met a full server: the caller
    was told that nothing had happened (simulated seed 5)."""
    requests = table()
    request = requests.add(CHANGE, SESSION, 0, 10)
    request.sent = 2
    requests.refused(request, Busy(detail="full"), 0)
    [(_, error)] = requests.expired(10)
    assert isinstance(error, RequestTimeout)


def test_bounds_count_bodies_as_they_are_sent() -> None:
    """A stamp is part of what a repeat keeps in memory."""
    requests = table(bytes_max=2 * len(CHANGE.body))
    request = requests.add(CHANGE, SESSION, 0, 10)
    assert isinstance(requests.objection(), Busy)
    requests.remove(request)
    assert requests.objection() is None
    assert len(requests) == 0
