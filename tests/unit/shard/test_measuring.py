"""How long jobs wait and are worked on: what is counted, and in which bucket it is found."""

from __future__ import annotations

import msgspec
import pytest

from flashq.protocol.histogram import Distribution
from tests.unit.shard.harness import ALICE, Shard


def told(shard: Shard, name: str) -> Distribution:
    """Return what a shard tells of its durations."""
    return msgspec.convert(shard.ask("STATS")[name], Distribution)


def waits(shard: Shard) -> Distribution:
    """Return the waits counted so far."""
    return told(shard, "wait_seconds")


def work(shard: Shard) -> Distribution:
    """Return the attempts counted so far."""
    return told(shard, "processing_seconds")


def test_a_batch_is_counted_by_its_jobs(shard: Shard) -> None:
    """All pushed at once, handed out at once and done at once."""
    shard.ask("PUSHB", queue="q", jobs=[{"data": n} for n in range(100)])
    shard.advance(40)
    ids = shard.pull_ids()
    shard.advance(2_000)
    shard.ask("ACKB", ids=ids)
    assert (waits(shard).count, work(shard).count) == (100, 100)
    assert waits(shard).sum == pytest.approx(4.0)
    assert work(shard).sum == pytest.approx(200.0)
    assert (waits(shard).quantile(0.01), waits(shard).quantile(1.0)) == (0.05, 0.05)
    assert work(shard).quantile(1.0) == 2.5


def test_a_job_between_two_of_the_same_time_is_counted_by_its_own(shard: Shard) -> None:
    """Priorities put younger jobs before older ones."""
    shard.push(priority=1)
    shard.push(priority=3)
    shard.advance(1_000)
    shard.push(priority=2)
    shard.advance(1_000)
    shard.pull_ids(count=3)
    assert waits(shard).sum == pytest.approx(2.0 + 1.0 + 2.0)


def test_jobs_of_different_times_are_counted_apart(shard: Shard) -> None:
    """Handed out together, or acknowledged together."""
    for _ in range(3):
        shard.push()
        shard.advance(1_000)
    ids = shard.pull_ids(count=2)
    assert waits(shard).sum == pytest.approx(3.0 + 2.0)
    shard.advance(500)
    ids += shard.pull_ids()
    shard.advance(500)
    shard.ask("ACKB", ids=ids)
    assert waits(shard).sum == pytest.approx(3.0 + 2.0 + 1.5)
    assert work(shard).sum == pytest.approx(1.0 + 1.0 + 0.5)


def test_a_delay_is_no_wait_and_a_second_attempt_waits_anew(shard: Shard) -> None:
    """From when the job was due; each delivery counts, and each attempt that a worker ends."""
    shard.push(delay=5_000, backoff=1_000, max_attempts=3)
    shard.advance(5_200)
    job = shard.pull()
    shard.advance(300)
    shard.ask("FAIL", id=job["id"], error="no")
    assert waits(shard).sum == pytest.approx(0.2)
    assert work(shard).sum == pytest.approx(0.3)
    due = shard.inner(job["id"]).run_at - shard.now_ms
    shard.advance(due + 100)
    shard.ask("ACK", id=shard.pull()["id"])
    assert waits(shard).sum == pytest.approx(0.2 + 0.1)
    assert (waits(shard).count, work(shard).count) == (2, 2)


def test_a_parked_pull_that_is_served_counts(shard: Shard) -> None:
    """Its job has not waited at all."""
    shard.send("PULL", queue="q", session=ALICE, n=1)
    shard.push()
    assert (waits(shard).count, waits(shard).sum) == (1, 0.0)


@pytest.mark.parametrize("word", ["ACK", "ACKB", "FAIL"])
def test_an_end_whose_delivery_was_lost_is_not_counted(shard: Shard, word: str) -> None:
    """1. a job is handed out; 2. the shard is killed before that is safe; 3. the worker ends it:
    nobody knows when it began."""
    shard.push()
    job = shard.pull(session=ALICE)
    shard = shard.crash(lose=1)
    named = {"ids": [job["id"]], "tokens": [job["token"]]}
    shard.ask(word, **(named if word == "ACKB" else {"id": job["id"], "token": job["token"]}))
    assert work(shard).count == 0


def test_a_repeat_counts_once(shard: Shard) -> None:
    """An ACK that is answered a second time, and a pull."""
    shard.push()
    first = shard.ask("PULL", queue="q", timeout=0, session=ALICE, n=1)["job"]
    shard.ask("PULL", queue="q", timeout=0, session=ALICE, n=1)
    for _ in range(2):
        shard.ask("ACK", id=first["id"], session=ALICE, n=2)
    assert (waits(shard).count, work(shard).count) == (1, 1)
