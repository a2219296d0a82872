"""The list of workers that say they are there."""

from __future__ import annotations

import pytest

from flashq.errors import Busy, FieldTooLarge
from flashq.gateway import workers
from flashq.gateway.workers import ALIVE_MS, Registration, Workers


def ids(known: Workers, now_ms: int) -> list[str]:
    """Return who is listed."""
    return [worker.id for worker in known.alive(now_ms)]


def test_a_worker_is_listed_for_as_long_as_it_says_so() -> None:
    """Its silence takes it off the list."""
    known = Workers()
    known.heard("a", Registration(queues=["q"], concurrency=2, jobs_processed=5), 1000)
    known.heard("b", Registration(), 2000)
    known.heard("a", Registration(queues=["q"]), 3000)
    assert ids(known, 3000) == ["b", "a"]
    assert ids(known, 2000 + ALIVE_MS) == ["a"]
    assert ids(known, 3000 + ALIVE_MS) == []


def test_the_last_heartbeat_counts() -> None:
    """Whatever it leaves out is nothing."""
    known = Workers()
    known.heard("a", Registration(queues=["q"], concurrency=2, jobs_processed=5), 1000)
    known.heard("a", Registration(concurrency=None, jobs_processed=None), 2000)
    (worker,) = known.alive(2000)
    assert (worker.queues, worker.concurrency, worker.jobs_processed) == ([], 0, 0)
    assert worker.last_heartbeat == 2000


def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In workers, and in what each may say."""
    monkeypatch.setattr(workers, "WORKERS_MAX", 2)
    known = Workers()
    for name in ("a", "b"):
        known.heard(name, Registration(), 0)
    known.heard("b", Registration(), 1)
    with pytest.raises(Busy):
        known.heard("c", Registration(), 1)
    known.heard("c", Registration(), ALIVE_MS)
    with pytest.raises(FieldTooLarge):
        known.heard("x" * 257, Registration(), 0)
    with pytest.raises(FieldTooLarge):
        known.heard("x", Registration(queues=["q"] * 1001), 0)
