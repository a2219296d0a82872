"""Waiting for a queue without taking: who is told of a job, and when the next one is."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.errors import Busy
from flashq.shard.calling import CALL_MS
from tests.unit.shard.harness import ALICE, BOB, CARL, Shard

EMPTY: Any = {"ok": True, "jobs": [], "job": None}
CALLED: Any = {"ok": True, "jobs": [], "ready": True}
PEOPLE = (ALICE, BOB, CARL)


def wait(shard: Shard, session: bytes = ALICE, n: int = 1, timeout: int = 5000) -> int:
    """Wait for the queue."""
    return shard.send(
        "PULLB", queue="q", count=0, ready=True, timeout=timeout, session=session, n=n
    )


def take(shard: Shard, session: bytes, count: int = 1, n: int = 2) -> list[int]:
    """Come for jobs, or pass with a count of 0."""
    reply = shard.ask("PULLB", queue="q", count=count, timeout=0, session=session, n=n)
    return [job["id"] for job in reply["jobs"]]


def test_nothing_is_taken(shard: Shard) -> None:
    """The job stays in its queue, for whoever comes first."""
    corr = wait(shard)
    assert shard.answer(corr) is None
    job_id = shard.push()
    assert shard.answer(corr) == CALLED
    assert shard.state_of(job_id) == "waiting"
    assert take(shard, BOB) == [job_id]


@pytest.mark.parametrize("timeout", [0, 1000])
def test_a_queue_that_has_jobs_is_told_of_at_once(shard: Shard, timeout: int) -> None:
    """Without waiting, or with."""
    shard.push()
    assert shard.answer(wait(shard, timeout=timeout)) == CALLED


def test_time_is_up_with_an_empty_answer(shard: Shard) -> None:
    """As of any pull."""
    assert shard.answer(wait(shard, timeout=0)) == EMPTY
    corr = wait(shard, n=2, timeout=100)
    shard.advance(99)
    assert shard.answer(corr) is None
    shard.advance(1)
    assert shard.answer(corr) == EMPTY
    assert shard.engine.waiters == 0


def test_one_job_calls_one_worker(shard: Shard) -> None:
    """A hundred that wait are not all woken for it; the first that came is told."""
    corrs = [wait(shard, session) for session in PEOPLE]
    shard.push()
    assert [shard.answer(corr) for corr in corrs] == [CALLED, None, None]
    shard.push()
    assert [shard.answer(corr) for corr in corrs] == [None, CALLED, None]


def test_as_many_are_called_as_there_are_jobs(shard: Shard) -> None:
    """A batch calls several at once."""
    corrs = [wait(shard, session) for session in PEOPLE]
    shard.ask("PUSHB", queue="q", jobs=[{"data": 1}, {"data": 2}])
    assert [shard.answer(corr) for corr in corrs] == [CALLED, CALLED, None]


def test_what_one_leaves_is_told_to_the_next(shard: Shard) -> None:
    """1. One of three is called for a job; meanwhile there is another. 2. It comes and has room for
    one. 3. The next one is called."""
    first = wait(shard, ALICE)
    shard.push()
    assert shard.answer(first) == CALLED
    later = wait(shard, BOB)
    assert shard.answer(later) is None
    shard.push()
    assert shard.answer(later) == CALLED
    last = wait(shard, CARL)
    assert shard.answer(last) is None
    assert len(take(shard, ALICE)) == 1
    assert shard.answer(last) is None
    assert len(take(shard, BOB)) == 1
    assert shard.answer(last) is None
    assert take(shard, CARL) == []


def test_a_worker_without_room_passes_the_call_on(shard: Shard) -> None:
    """It has found work elsewhere in the meantime."""
    first, second = wait(shard, ALICE), wait(shard, BOB)
    job_id = shard.push()
    assert shard.answer(first) == CALLED
    assert take(shard, ALICE, count=0) == []
    assert shard.answer(second) == CALLED
    assert take(shard, BOB) == [job_id]


def test_a_worker_that_does_not_come_is_not_waited_for(shard: Shard) -> None:
    """It is dead, or far away: after a while the next one is called."""
    first, second = wait(shard, ALICE), wait(shard, BOB)
    shard.push()
    assert shard.answer(first) == CALLED
    shard.advance(CALL_MS - 1)
    assert shard.answer(second) is None
    shard.advance(1)
    assert shard.answer(second) == CALLED


def test_somebody_elses_pull_does_not_end_a_call(shard: Shard) -> None:
    """1. One is called for a job. 2. Another program takes a second job: that says nothing of the
    first one."""
    first, second = wait(shard, ALICE), wait(shard, BOB)
    shard.push()
    assert shard.answer(first) == CALLED
    assert len(take(shard, CARL)) == 1
    job_id = shard.push()
    assert shard.answer(second) is None
    assert take(shard, ALICE) == [job_id]


def test_those_who_take_go_first(shard: Shard) -> None:
    """They have come earlier or later: a parked pull needs no second trip."""
    waits = wait(shard, ALICE)
    takes = shard.send("PULL", queue="q", timeout=1000)
    shard.push()
    answer = shard.answer(takes)
    assert answer is not None
    assert answer["job"] is not None
    assert shard.answer(waits) is None


@pytest.mark.parametrize("limit", ["pause", "concurrency", "rate"])
def test_a_job_that_may_not_be_handed_out_calls_nobody(shard: Shard, limit: str) -> None:
    """Until it may."""
    if limit == "pause":
        shard.ask("PAUSE", queue="q")
    elif limit == "concurrency":
        shard.ask("SETCONCURRENCY", queue="q", limit=1)
        active = shard.make_active()
    else:
        shard.ask("RATELIMIT", queue="q", limit=1)
        shard.make_active()
    corr = wait(shard)
    shard.push()
    assert shard.answer(corr) is None
    if limit == "pause":
        shard.ask("RESUME", queue="q")
    elif limit == "concurrency":
        shard.ask("ACK", id=active)
    else:
        shard.advance(1000)
    assert shard.answer(corr) == CALLED


def test_a_repeat_takes_the_place_of_what_waits(shard: Shard) -> None:
    """A client that reconnected asks again under the same number, and waits once."""
    wait(shard)
    corr = wait(shard)
    assert shard.engine.waiters == 1
    shard.push()
    assert shard.answer(corr) == CALLED


@pytest.mark.parametrize("end", ["goodbye", "silence"])
def test_those_whose_session_is_over_are_not_called(shard: Shard, end: str) -> None:
    """The job is told to one who lives."""
    gone = wait(shard, ALICE, timeout=60_000)
    if end == "goodbye":
        shard.ask("GOODBYE", session=ALICE)
    else:
        shard.advance(60_000)
        shard.answer(gone)
    alive = wait(shard, BOB)
    shard.push()
    assert shard.answer(gone) is None
    assert shard.answer(alive) == CALLED


def test_a_shard_that_takes_no_changes_calls_nobody(shard: Shard) -> None:
    """What it cannot hand out it does not tell of; once it can, it does."""
    shard.push(delay=100)
    corr = wait(shard)
    shard.engine.refusal = Busy(detail="storage lags")
    shard.advance(100)
    assert shard.answer(corr) is None
    shard.engine.accept()
    shard.tick()
    assert shard.answer(corr) == CALLED


def test_without_a_session_all_that_counts_is_the_time(shard: Shard) -> None:
    """A client without a session is told as well."""
    corr = shard.send("PULLB", queue="q", count=0, ready=True, timeout=1000)
    other = shard.send("PULLB", queue="q", count=0, ready=True, timeout=1000)
    shard.push()
    assert shard.answer(corr) == CALLED
    assert shard.answer(other) is None
    shard.advance(CALL_MS)
    assert shard.answer(other) == CALLED


class TestStarts:
    """Time-outs that count from the start of the work."""

    def handed_out(self, shard: Shard, timeout: int = 500, session: bytes = ALICE) -> Any:
        """Return a job handed out to one who says when it starts."""
        shard.push(timeout=timeout)
        reply = shard.ask("PULLB", queue="q", count=1, timeout=0, starts=True, session=session, n=1)
        return reply["jobs"][0]

    def live(self, shard: Shard, job: Any, ms: int) -> None:
        """Let time pass with heartbeats that name the job."""
        for _ in range(ms // 1000):
            shard.advance(1000)
            shard.ask("SESSIONHEARTBEAT", session=ALICE, leases=[job["id"]], tokens=[job["token"]])

    def test_a_job_that_has_not_started_does_not_time_out(self, shard: Shard) -> None:
        """1. It waits in a worker's buffer for ten times its time-out. 2. It starts: from then its
        time-out counts."""
        job = self.handed_out(shard)
        self.live(shard, job, 5000)
        assert shard.state_of(job["id"]) == "active"
        shard.ask("HEARTBEAT", id=job["id"], token=job["token"])
        shard.advance(499)
        assert shard.state_of(job["id"]) == "active"
        shard.advance(1)
        assert shard.state_of(job["id"]) != "active"

    def test_only_the_first_heartbeat_starts_the_clock(self, shard: Shard) -> None:
        """Further ones do not give more time."""
        job = self.handed_out(shard)
        shard.ask("HEARTBEAT", id=job["id"], token=job["token"])
        shard.advance(400)
        shard.ask("HEARTBEAT", id=job["id"], token=job["token"])
        shard.advance(100)
        assert shard.state_of(job["id"]) != "active"

    def test_an_end_before_the_time_out_is_an_end(self, shard: Shard) -> None:
        """And the next attempt has a clock of its own."""
        job = self.handed_out(shard)
        shard.ask("HEARTBEAT", id=job["id"], token=job["token"])
        shard.advance(300)
        shard.ask("RELEASE", ids=[job["id"]], tokens=[job["token"]])
        (again,) = shard.ask("PULLB", queue="q", count=1, timeout=0, starts=True, session=BOB, n=1)[
            "jobs"
        ]
        shard.advance(300)
        assert shard.state_of(again["id"]) == "active"

    def test_one_that_is_silent_loses_it_all_the_same(self, shard: Shard) -> None:
        """Its session is over: nobody will ever start it."""
        job = self.handed_out(shard)
        shard.advance(60_000)
        assert shard.state_of(job["id"]) != "active"

    def test_others_count_from_the_delivery(self, shard: Shard) -> None:
        """Whoever does not ask for it, with a session or without one."""
        for fields in ({"session": ALICE, "n": 1}, {}):
            job_id = shard.push(timeout=500)
            shard.ask("PULLB", queue="q", count=1, timeout=0, **fields)
            shard.advance(500)
            assert shard.state_of(job_id) != "active"
            shard.ask("CANCEL", id=job_id)

    def test_without_a_session_it_counts_from_the_delivery(self, shard: Shard) -> None:
        """Nothing else would ever end it."""
        job = self.handed_out(shard, session=None)  # type: ignore[arg-type]
        shard.advance(500)
        assert shard.state_of(job["id"]) != "active"

    def test_a_stall_time_out_counts_from_the_start_too(self, shard: Shard) -> None:
        """And anew from each sign of work."""
        shard.push(stall_timeout=500)
        reply = shard.ask("PULLB", queue="q", count=1, timeout=0, starts=True, session=ALICE, n=1)
        (job,) = reply["jobs"]
        self.live(shard, job, 2000)
        for _ in range(3):
            assert shard.state_of(job["id"]) == "active"
            shard.ask("PROGRESS", id=job["id"], token=job["token"], progress=1)
            shard.advance(400)
        shard.advance(100)
        assert shard.state_of(job["id"]) != "active"

    def test_each_job_of_a_delivery_has_its_own_clock(self, shard: Shard) -> None:
        """One starts long after the other."""
        ids = [shard.push(timeout=500), shard.push(timeout=500)]
        reply = shard.ask("PULLB", queue="q", count=2, timeout=0, starts=True, session=ALICE, n=1)
        first, second = reply["jobs"]
        shard.ask("HEARTBEAT", id=ids[0], token=first["token"])
        shard.advance(400)
        shard.ask("HEARTBEAT", id=ids[1], token=second["token"])
        shard.advance(100)
        assert [shard.state_of(job_id) == "active" for job_id in ids] == [False, True]
        shard.advance(400)
        assert shard.state_of(ids[1]) != "active"


def test_a_heartbeat_says_what_became_of_lost_jobs(shard: Shard) -> None:
    """So that a worker can say why it stops a handler."""
    cancelled, failed = shard.push(), shard.push(max_attempts=1)
    jobs = shard.ask("PULLB", queue="q", count=2, timeout=0, session=ALICE, n=1)["jobs"]
    shard.ask("CANCEL", id=cancelled)
    shard.ask("FAIL", id=failed)
    reply = shard.ask(
        "SESSIONHEARTBEAT",
        session=ALICE,
        leases=[job["id"] for job in jobs],
        tokens=[job["token"] for job in jobs],
    )
    assert reply["lost"] == [cancelled, failed]
    assert reply["states"] == [shard.state_of(cancelled), "failed"]
