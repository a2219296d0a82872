"""Dead letters, pause, limits, and the removal of many jobs at once."""

from __future__ import annotations

import pytest

from tests.contract.dealer import Dealer
from tests.contract.refusals import refused
from tests.contract.states import job_in, pull, push


@pytest.mark.covers("DLQ", "RETRYDLQ", "PURGEDLQ")
def test_dead_letters_are_listed_retried_and_purged(dealer: Dealer, queue: str) -> None:
    """Oldest failure first; a retried one starts again with no attempts."""
    ids = [job_in(dealer, queue, "failed") for _ in range(4)]
    reply = dealer.ask("DLQ", queue=queue)
    assert list(reply) == ["ok", "jobs"]
    assert [job["id"] for job in reply["jobs"]] == ids
    assert [job["error"] for job in reply["jobs"]] == ["no luck"] * 4
    assert [job["id"] for job in dealer.ask("DLQ", queue=queue, count=2)["jobs"]] == ids[:2]
    assert dealer.ask("RETRYDLQ", queue=queue, id=ids[1]) == {"ok": True, "ids": [1]}
    job = pull(dealer, queue)
    assert (job["id"], job.get("attempts", 0)) == (ids[1], 0)
    assert dealer.ask("PURGEDLQ", queue=queue) == {"ok": True, "count": 3}
    assert dealer.ask("PURGEDLQ", queue=queue) == {"ok": True, "count": 0}
    assert dealer.ask("RETRYDLQ", queue=queue) == {"ok": True, "ids": [0]}
    assert dealer.ask("GETSTATE", id=ids[0])["state"] == "unknown"


@pytest.mark.covers("RETRYDLQ")
def test_all_dead_letters_go_back_in_one_request(dealer: Dealer, queue: str) -> None:
    """The one element of `ids` is how many."""
    for _ in range(3):
        job_in(dealer, queue, "failed")
    assert dealer.ask("RETRYDLQ", queue=queue) == {"ok": True, "ids": [3]}
    assert dealer.ask("COUNT", queue=queue)["count"] == 3


@pytest.mark.covers("PAUSE", "RESUME", "ISPAUSED")
def test_a_paused_queue_takes_jobs_and_gives_none(dealer: Dealer, queue: str) -> None:
    """A parked pull waits on, and has its job at the resume. All of it may be said twice."""
    for _ in range(2):
        assert dealer.ask("PAUSE", queue=queue) == {"ok": True}
    assert dealer.ask("ISPAUSED", queue=queue) == {"ok": True, "paused": True}
    job_id = push(dealer, queue)
    assert dealer.ask("PULL", queue=queue, timeout=0)["job"] is None
    parked = dealer.send("PULL", queue=queue)
    for _ in range(2):
        assert dealer.ask("RESUME", queue=queue) == {"ok": True}
    assert dealer.answer(parked)["job"]["id"] == job_id
    assert dealer.ask("ISPAUSED", queue=queue) == {"ok": True, "paused": False}


@pytest.mark.covers("RATELIMIT", "RATELIMITCLEAR")
def test_a_rate_limit_bounds_batches_too_and_clearing_lifts_it(dealer: Dealer, queue: str) -> None:
    """The bucket starts full; 0 lets nothing pass."""
    for _ in range(6):
        push(dealer, queue)
    assert dealer.ask("RATELIMIT", queue=queue, limit=2) == {"ok": True}
    assert len(dealer.ask("PULLB", queue=queue, count=6, timeout=0)["jobs"]) == 2
    assert dealer.ask("RATELIMIT", queue=queue, limit=0) == {"ok": True}
    assert dealer.ask("PULL", queue=queue, timeout=0)["job"] is None
    for _ in range(2):
        assert dealer.ask("RATELIMITCLEAR", queue=queue) == {"ok": True}
    assert dealer.ask("PULLB", queue=queue, count=6, timeout=0)["jobs"]


@pytest.mark.covers("SETCONCURRENCY", "CLEARCONCURRENCY")
def test_concurrency_counts_jobs_that_are_active_already(dealer: Dealer, queue: str) -> None:
    """A slot comes back with the end of a job, and lifts a parked pull."""
    ids = [push(dealer, queue) for _ in range(4)]
    pull(dealer, queue)
    assert dealer.ask("SETCONCURRENCY", queue=queue, limit=2) == {"ok": True}
    assert len(dealer.ask("PULLB", queue=queue, count=4, timeout=0)["jobs"]) == 1
    parked = dealer.send("PULL", queue=queue)
    assert dealer.ask("ACK", id=ids[0]) == {"ok": True}
    assert dealer.answer(parked)["job"]["id"] == ids[2]
    assert dealer.ask("SETCONCURRENCY", queue=queue, limit=0) == {"ok": True}
    assert dealer.ask("PULL", queue=queue, timeout=0)["job"] is None
    for _ in range(2):
        assert dealer.ask("CLEARCONCURRENCY", queue=queue) == {"ok": True}
    assert pull(dealer, queue)["id"] == ids[3]


@pytest.mark.covers("QUEUECONFIG")
def test_a_queues_defaults_are_set_and_told(dealer: Dealer, queue: str) -> None:
    """Only what is named changes; later pushes follow it."""
    before = {"ok": True, "durability": None, "keep_completed_age": 0, "keep_completed_count": 0}
    assert dealer.ask("QUEUECONFIG", queue=queue) == before
    changed = before | {"durability": "durable"}
    assert dealer.ask("QUEUECONFIG", queue=queue, durability="durable") == changed
    changed["keep_completed_count"] = 1
    assert dealer.ask("QUEUECONFIG", queue=queue, keep_completed_count=1) == changed
    first, second = (job_in(dealer, queue, "completed") for _ in range(2))
    assert dealer.ask("GETSTATE", id=second)["state"] == "completed"
    assert dealer.ask("GETSTATE", id=first)["state"] == "unknown"
    text = refused(dealer, "QUEUECONFIG", queue=queue, durability="forever")
    assert text.startswith("Invalid: ")


@pytest.mark.covers("DRAIN")
def test_draining_removes_what_waits_and_nothing_else(dealer: Dealer, queue: str) -> None:
    """Waiting and delayed jobs with their keys; the count is theirs."""
    kept = [job_in(dealer, queue, state) for state in ("active", "failed", "completed")]
    push(dealer, queue, unique_key="k")
    push(dealer, queue, delay=3_600_000)
    assert dealer.ask("DRAIN", queue=queue) == {"ok": True, "count": 2}
    states = [dealer.ask("GETSTATE", id=job_id)["state"] for job_id in kept]
    assert states == ["active", "failed", "completed"]
    push(dealer, queue, unique_key="k")


@pytest.mark.covers("OBLITERATE")
def test_obliterating_removes_everything(dealer: Dealer, queue: str) -> None:
    """Jobs in every state, keys, pause and limits, and crons that push there."""
    states = ("failed", "active", "waitingparent", "waitingchildren", "delayed", "waiting")
    ids = [job_in(dealer, queue, state) for state in states]
    dealer.ask("PAUSE", queue=queue)
    dealer.ask("SETCONCURRENCY", queue=queue, limit=1)
    dealer.ask("CRON", name=queue, queue=queue, data=1, schedule="0 0 1 1 *")
    assert dealer.ask("OBLITERATE", queue=queue) == {"ok": True, "count": len(states)}
    assert {dealer.ask("GETSTATE", id=job_id)["state"] for job_id in ids} == {"unknown"}
    assert dealer.ask("ISPAUSED", queue=queue)["paused"] is False
    names = [info["name"] for info in dealer.ask("LISTQUEUES")["queues"]]
    assert queue not in names


@pytest.mark.covers("CLEAN")
def test_cleaning_removes_one_state_oldest_first(dealer: Dealer, queue: str) -> None:
    """`limit` of 7 leaves the rest; a grace keeps what is younger."""
    for state in ("waiting", "delayed", "completed", "failed"):
        name = f"{queue}-{state}"
        ids = [job_in(dealer, name, state) for _ in range(7)]
        other = "delayed" if state == "waiting" else "waiting"
        kept = job_in(dealer, name, other)
        clean = {"queue": name, "state": state.upper()}
        assert dealer.ask("CLEAN", **clean, grace=3_600_000) == {"ok": True, "count": 0}
        assert dealer.ask("CLEAN", **clean, grace=0, limit=2) == {"ok": True, "count": 2}
        left = [dealer.ask("GETSTATE", id=job_id)["state"] for job_id in ids]
        assert left == ["unknown"] * 2 + [state] * 5
        assert dealer.ask("CLEAN", **clean, grace=0) == {"ok": True, "count": 5}
        assert dealer.ask("GETSTATE", id=kept)["state"] == other


@pytest.mark.covers("CLEAN")
@pytest.mark.parametrize("state", ["active", "", "no-such"])
def test_cleaning_another_state_is_refused(dealer: Dealer, queue: str, state: str) -> None:
    """The text names those there are."""
    text = refused(dealer, "CLEAN", queue=queue, grace=0, state=state)
    assert text == "Invalid state. Use: waiting, delayed, completed, failed, cancelled"
