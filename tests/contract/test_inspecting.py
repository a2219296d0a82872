"""WAITJOB, lookups by id, custom id and queue, counts and the server's own figures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.dealer import Dealer
from tests.contract.refusals import refused
from tests.contract.states import NEVER_PUSHED, job_in, pull, push
from tests.server import eventually


@pytest.mark.covers("WAITJOB")
def test_waiting_gives_the_result_when_the_job_ends(dealer: Dealer, queue: str) -> None:
    """Also with remove_on_complete, and at once for a job that has ended before."""
    for options in ({}, {"remove_on_complete": True}):
        job_id = push(dealer, queue, **options)
        waiting = dealer.send("WAITJOB", id=job_id)
        pull(dealer, queue)
        dealer.ask("ACK", id=job_id, result={"r": 1})
        assert dealer.answer(waiting) == {"ok": True, "result": {"r": 1}}
    done = job_in(dealer, queue, "completed")
    assert dealer.ask("WAITJOB", id=done) == {"ok": True, "result": {"r": 1}}


@pytest.mark.covers("WAITJOB")
def test_waiting_for_a_job_without_result_gives_null(dealer: Dealer, queue: str) -> None:
    """It is a success all the same."""
    job_id = push(dealer, queue)
    waiting = dealer.send("WAITJOB", id=job_id)
    pull(dealer, queue)
    dealer.ask("ACKB", ids=[job_id])
    assert dealer.answer(waiting) == {"ok": True, "result": None}


@pytest.mark.covers("WAITJOB")
def test_waiting_ends_with_the_words_of_the_contract(dealer: Dealer, queue: str) -> None:
    """Failed before or meanwhile, unknown, or not in time."""
    dead = job_in(dealer, f"{queue}-dead", "failed")
    assert refused(dealer, "WAITJOB", id=dead) == "Job failed"
    assert refused(dealer, "WAITJOB", id=NEVER_PUSHED) == "Job not found"
    job_id = push(dealer, queue, max_attempts=1)
    for timeout in (0, 5):
        text = refused(dealer, "WAITJOB", id=job_id, timeout=timeout)
        assert text == f"Timeout waiting for job {job_id} after {timeout}ms"
    waiting = dealer.send("WAITJOB", id=job_id)
    pull(dealer, queue)
    dealer.ask("FAIL", id=job_id)
    assert dealer.answer(waiting)["error"] == "Job failed"


@pytest.mark.covers("GETJOBBYCUSTOMID")
def test_a_custom_id_finds_its_job_with_and_without_the_queue(dealer: Dealer, queue: str) -> None:
    """Nothing found is null and `unknown`; a completed job is found while it is retained."""
    job_id = push(dealer, queue, job_id=f"c-{queue}")
    for where in ({}, {"queue": queue}):
        found = dealer.ask("GETJOBBYCUSTOMID", job_id=f"c-{queue}", **where)
        assert (found["job"]["id"], found["state"]) == (job_id, "waiting")
        none = dealer.ask("GETJOBBYCUSTOMID", job_id="nobody", **where)
        assert none == {"ok": True, "job": None, "state": "unknown"}
    pull(dealer, queue)
    dealer.ask("ACK", id=job_id)
    assert dealer.ask("GETJOBBYCUSTOMID", job_id=f"c-{queue}")["state"] == "completed"


@pytest.mark.covers("GETJOBSBATCH")
def test_jobs_by_id_come_in_the_order_asked_for(dealer: Dealer, queue: str) -> None:
    """Unknown ones are left out."""
    ids = [push(dealer, f"{queue}-{n}") for n in range(5)]
    asked = [ids[3], NEVER_PUSHED, ids[0], ids[4]]
    reply = dealer.ask("GETJOBSBATCH", ids=asked)
    assert [(job["id"], job["state"]) for job in reply["jobs"]] == [
        (job_id, "waiting") for job_id in (ids[3], ids[0], ids[4])
    ]
    assert dealer.ask("GETJOBSBATCH", ids=[])["jobs"] == []


@pytest.mark.covers("GETJOBS")
def test_jobs_are_listed_newest_first_with_the_exact_total(dealer: Dealer, queue: str) -> None:
    """Pages by limit and offset; `total` counts all that match."""
    ids = [push(dealer, queue) for _ in range(7)]
    reply = dealer.ask("GETJOBS", queue=queue, limit=3, offset=2)
    assert [job["id"] for job in reply["jobs"]] == ids[::-1][2:5]
    assert reply["total"] == 7
    beyond = dealer.ask("GETJOBS", queue=queue, offset=100)
    assert (beyond["jobs"], beyond["total"]) == ([], 7)


@pytest.mark.covers("GETJOBS")
def test_jobs_are_listed_by_state_in_either_spelling(dealer: Dealer, queue: str) -> None:
    """Hyphens and capitals do not matter; a state that does not exist is refused."""
    spelled = {
        "waiting": ["Waiting"],
        "delayed": ["DELAYED"],
        "active": ["active"],
        "completed": ["completed"],
        "failed": ["failed"],
        "waitingchildren": ["waiting-children", "waitingchildren"],
        "waitingparent": ["waiting-parent", "waitingparent"],
    }
    for state, spellings in spelled.items():
        job_id = job_in(dealer, f"{queue}-{state}", state)
        for spelling in spellings:
            reply = dealer.ask("GETJOBS", queue=f"{queue}-{state}", state=spelling)
            found = [(job["id"], job["state"]) for job in reply["jobs"]]
            assert (found, reply["total"]) == ([(job_id, state)], 1)
        others = [other for other in spelled if other != state]
        for other in (*others, "stalled"):
            assert dealer.ask("GETJOBS", queue=f"{queue}-{state}", state=other)["total"] == 0
        refused = dealer.ask("GETJOBS", queue=f"{queue}-{state}", state="no-such")
        assert refused["code"] == "state_invalid"


@pytest.mark.covers("GETJOBCOUNTS", "COUNT")
def test_counts_are_by_state(dealer: Dealer, queue: str) -> None:
    """COUNT is waiting and delayed together."""
    empty = dict.fromkeys(("waiting", "active", "delayed", "completed", "failed"), 0)
    reply = dealer.ask("GETJOBCOUNTS", queue=queue)
    assert empty.items() <= reply.items()
    for state in ("failed", "completed", "active", "waiting", "delayed"):
        job_in(dealer, queue, state)
    job_in(dealer, queue, "delayed")
    reply = dealer.ask("GETJOBCOUNTS", queue=queue)
    assert reply["ok"] is True
    assert [reply[key] for key in empty] == [1, 1, 2, 1, 1]
    assert dealer.ask("COUNT", queue=queue) == {"ok": True, "count": 3}


@pytest.mark.covers("LISTQUEUES")
def test_queues_are_listed_in_pages(dealer: Dealer, queue: str) -> None:
    """By name, each behind the one before; or those with most jobs."""
    names = sorted(f"{queue}-{n}" for n in range(7))
    for n, name in enumerate(names):
        for _ in range(1 + n % 3):
            push(dealer, name)
    found: list[str] = []
    page: dict[str, Any] = {}
    while "next" in page or not found:
        after = {"after": page["next"]} if page else {}
        page = dealer.ask("LISTQUEUES", search=queue, limit=3, **after)
        assert page["total"] == 7
        found += [info["name"] for info in page["queues"]]
    assert found == names
    fullest = dealer.ask("LISTQUEUES", search=queue, limit=3, fullest=True)
    assert [info["name"] for info in fullest["queues"]] == [names[2], names[5], names[1]]
    assert "next" not in fullest


@pytest.mark.covers("LISTQUEUES")
def test_queues_are_listed_with_what_limits_them(dealer: Dealer, queue: str) -> None:
    """Of all shards; a queue with nothing but dead letters counts too."""
    for n in range(6):
        push(dealer, f"{queue}-{n}")
    dealer.ask("PAUSE", queue=f"{queue}-0")
    dealer.ask("RATELIMIT", queue=f"{queue}-1", limit=5)
    dealer.ask("SETCONCURRENCY", queue=f"{queue}-2", limit=6)
    job_in(dealer, f"{queue}-dead", "failed")
    reply = dealer.ask("LISTQUEUES", search=queue.upper())
    assert list(reply) == ["ok", "queues", "total"]
    assert reply["total"] == len(reply["queues"]) == 7
    found = {info["name"]: info for info in reply["queues"] if info["name"].startswith(queue)}
    plain = {
        "pending": 1,
        "processing": 0,
        "dlq": 0,
        "paused": False,
        "rate_limit": None,
        "concurrency_limit": None,
    }
    changes: dict[str, dict[str, object]] = {
        f"{queue}-0": {"paused": True},
        f"{queue}-1": {"rate_limit": 5},
        f"{queue}-2": {"concurrency_limit": 6},
        f"{queue}-dead": {"pending": 0, "dlq": 1},
    }
    names = [f"{queue}-{n}" for n in range(6)] + [f"{queue}-dead"]
    assert found == {name: {"name": name} | plain | changes.get(name, {}) for name in names}


@pytest.mark.covers("STATS")
def test_stats_sum_over_all_shards(dealer: Dealer, queue: str) -> None:
    """The four figures of the contract, and each shard's condition."""
    before = dealer.ask("STATS")
    for n in range(5):
        for state in ("failed", "active", "waiting", "delayed"):
            job_in(dealer, f"{queue}-{n}", state)
    after = dealer.ask("STATS")
    keys = ("queued", "processing", "delayed", "dlq")
    assert [after[key] - before[key] for key in keys] == [5, 5, 5, 5]
    assert sorted(shard["shard"] for shard in after["shards"]) == [0, 1, 2, 3]
    assert "missing_shards" not in after


@pytest.mark.covers("METRICSHISTORY")
def test_history_has_a_point_for_each_interval(dealer: Dealer) -> None:
    """The coordinator makes the first one a moment after the shards serve."""
    point, *_ = eventually(lambda: list(dealer.ask("METRICSHISTORY")["points"]), "a point")
    assert list(point) == [
        "timestamp", "queued", "processing", "completed", "failed", "throughput", "latency_ms",
    ]  # fmt: skip
    assert type(point["throughput"]) is type(point["latency_ms"]) is float


@pytest.mark.covers("METRICS")
def test_metrics_count_what_has_happened(dealer: Dealer, queue: str) -> None:
    """Totals over all shards, floats where the contract has floats, and each queue."""
    before = dealer.ask("METRICS")["metrics"]
    for n in range(4):
        job_in(dealer, f"{queue}-{n}", "completed")
        job_in(dealer, f"{queue}-{n}", "failed")
    reply = dealer.ask("METRICS")
    assert list(reply) == ["ok", "metrics"]
    after = reply["metrics"]
    grown = {key: after[key] - before[key] for key in before if key.startswith("total_")}
    assert {key: count for key, count in grown.items() if count} == {
        "total_pushed": 8,
        "total_completed": 4,
        "total_failed": 4,
    }
    assert type(after["jobs_per_second"]) is float
    assert type(after["avg_latency_ms"]) is float
    queues = {info["name"]: info for info in after["queues"]}
    assert queues[f"{queue}-0"] == {
        "name": f"{queue}-0",
        "pending": 0,
        "processing": 0,
        "dlq": 1,
        "rate_limit": None,
    }
