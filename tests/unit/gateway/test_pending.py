"""Requests without an outcome: order, deadlines, repeats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flashq.errors import Busy, RequestTimeout, Starting
from flashq.gateway import pending as module
from flashq.gateway.asking import read_ask
from flashq.gateway.pending import ANSWER_MS, RETRY_MAX_MS, WAIT_MARGIN_MS, Pending, PendingTable


def one(corr: int, **fields: Any) -> Pending:
    """Return a request."""
    ask = read_ask(json.dumps(fields or {"cmd": "STATS"}).encode(), json=True)
    return Pending(ask, None, 0, None, corr)


def sent(table: PendingTable) -> list[int]:
    """Take everything that is to be sent."""
    found = []
    while (pending := table.next_unsent()) is not None:
        pending.sent += 1
        found.append(pending.corr)
    return found


def test_requests_are_sent_in_order_and_once() -> None:
    """One that is about to be sent is not sent a second time; one that has ended not at all."""
    table = PendingTable()
    first, second, third = one(1), one(2), one(3)
    for pending in (first, second, third):
        table.add(pending, 0)
    table.enqueue(first)
    assert table.remove(second)
    assert not table.remove(second)
    assert sent(table) == [1, 3]
    table.enqueue_all()
    assert sent(table) == [1, 3]
    assert not table.has_unsent


def test_everything_has_a_deadline() -> None:
    """Older clients give up after 5 s: they are told why before. A wait has its own time."""
    table = PendingTable()
    table.add(one(1), 0)
    table.add(one(2, cmd="PULL", queue="q", timeout=100), 0)
    assert sent(table) == [1, 2]
    assert table.next_deadline() == ANSWER_MS
    assert table.expired(ANSWER_MS - 1) == []
    ((pending, error),) = table.expired(ANSWER_MS)
    assert pending.corr == 1
    assert isinstance(error, RequestTimeout)
    table.remove(pending)
    assert table.next_deadline() == 100 + WAIT_MARGIN_MS
    ((pending, _),) = table.expired(100 + WAIT_MARGIN_MS)
    assert pending.corr == 2


def test_a_refused_one_is_tried_again_ever_more_seldom() -> None:
    """And at its deadline the refusal is the answer."""
    table, pending = PendingTable(), one(1)
    table.add(pending, 0)
    now, waits = 0, []
    for _ in range(9):
        assert sent(table) == [1]
        assert pending.sent == 1
        table.refused(pending, Busy(detail="x"), now)
        assert pending.sent == 0
        due = table.next_deadline()
        assert due is not None
        waits.append(due - now)
        table.retry_due(due - 1)
        assert not table.has_unsent
        table.retry_due(due)
        now = due
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_MAX_MS
    ((_, error),) = table.expired(ANSWER_MS)
    assert isinstance(error, Busy)


def test_a_refusal_says_nothing_of_a_copy_before_it() -> None:
    """
    1. The first copy is sent to a shard that then comes back under a new epoch.
    2. The second copy is refused with `starting`, until the time is up.
    3. The first may have been carried out: `starting` would promise that nothing happened.
    """
    table, pending = PendingTable(), one(1)
    table.add(pending, 0)
    assert sent(table) == [1]
    table.enqueue(pending)
    assert sent(table) == [1]
    table.refused(pending, Starting(shard=1), 1)
    ((_, error),) = table.expired(ANSWER_MS)
    assert isinstance(error, RequestTimeout)
    assert not error.retryable


def test_a_request_that_was_never_sent_has_not_happened() -> None:
    """The router was away for all of its time; a repeat can do no harm."""
    table = PendingTable()
    table.add(one(1), 0)
    ((_, error),) = table.expired(ANSWER_MS)
    assert isinstance(error, Busy)
    assert error.retryable


def test_one_that_has_ended_is_not_tried_again() -> None:
    """1. it is refused; 2. a copy's answer ends it; 3. its next try is due."""
    table, pending = PendingTable(), one(1)
    table.add(pending, 0)
    sent(table)
    table.refused(pending, Busy(detail="x"), 0)
    table.remove(pending)
    table.retry_due(1000)
    assert not table.has_unsent


def test_ended_waits_do_not_pile_up() -> None:
    """Their deadlines are a minute away, and pulls of a busy queue end in a millisecond."""
    table = PendingTable()
    for corr in range(1000):
        pending = one(corr, cmd="PULL", queue="q")
        table.add(pending, 0)
        table.remove(pending)
    assert len(table._deadlines) < 100


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and in bytes."""
    monkeypatch.setattr(module, "REQUESTS_MAX", 2)
    table = PendingTable()
    table.add(one(1), 0)
    assert not table.is_full
    table.add(one(2), 0)
    assert table.is_full
    monkeypatch.setattr(module, "REQUESTS_MAX", 100)
    monkeypatch.setattr(module, "REQUESTS_BYTES_MAX", 10)
    assert table.is_full
    for pending in list(table):
        table.remove(pending)
    assert not table.is_full
