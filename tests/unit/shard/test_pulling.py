"""PULL, PULLB and WAITJOB: who gets what, who waits, and that nobody waits for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.shard.harness import ALICE, BOB, Shard


def ticket(number: int) -> bytes:
    """Return a ticket."""
    return bytes([number]) * 16


class TestOrder:
    def test_priority_then_lifo_then_time_then_id(self, shard: Shard) -> None:
        plain = shard.push()
        high = shard.push(priority=1)
        lifo_1 = shard.push(lifo=True)
        lifo_2 = shard.push(lifo=True)
        late = shard.push()
        assert shard.pull_ids() == [high, lifo_2, lifo_1, plain, late]

    def test_a_delayed_job_never_hides_a_ready_one(self, shard: Shard) -> None:
        """A delayed job of high priority used to block all below it (W22)."""
        shard.push(priority=9, delay=1000)
        ready = shard.push()
        assert shard.pull_ids() == [ready]

    def test_a_lifo_job_goes_before_older_ones_whenever_it_came(self, shard: Shard) -> None:
        """`lifo` used to matter only within one millisecond (W23)."""
        old = shard.push()
        shard.advance(50)
        new = shard.push(lifo=True)
        assert shard.pull_ids() == [new, old]

    def test_a_retry_stands_behind_what_was_pushed_before_it(self, shard: Shard) -> None:
        first = shard.make_active()
        second = shard.push()
        shard.advance(10)
        shard.ask("FAIL", id=first)
        assert shard.pull_ids() == [second, first]

    def test_a_released_job_keeps_its_place(self, shard: Shard) -> None:
        first = shard.make_active()
        second = shard.push()
        shard.advance(10)
        shard.ask("RELEASE", ids=[first])
        assert shard.pull_ids() == [first, second]


def test_jobs_in_json_are_not_given_as_columns(shard: Shard) -> None:
    """Columns hold MessagePack: a job that was pushed in JSON is transcoded, and stands alone."""
    shard.ask("PUSH", queue="q", data={"a": 1}, json=True)
    shard.push(data=2)
    reply = shard.ask("PULLB", queue="q", count=2, timeout=0, columns=True)
    assert [job["data"] for job in reply["jobs"]] == [{"a": 1}, 2]
    shard.push(data=3)
    reply = shard.ask("PULLB", queue="q", count=2, timeout=0, columns=True)
    assert reply["columns"]["data"] == [b"\x03"]


@pytest.mark.parametrize("name", ["", "a b", "q" * 257])
def test_a_pull_from_a_name_that_no_queue_can_have_is_refused(shard: Shard, name: str) -> None:
    """A worker that waits there would wait for ever, and nobody would know why."""
    for word, fields in {"PULL": {}, "PULLB": {"count": 5}, "PUSH": {"data": 1}}.items():
        assert shard.refuse(word, queue=name, **fields)[0].startswith("queue_name_")
    assert name not in shard.state.queues


class TestWaiting:
    def test_a_push_is_handed_to_a_waiter_at_once(self, shard: Shard) -> None:
        corr = shard.send("PULL", queue="q", timeout=1000)
        assert shard.answer(corr) is None
        job_id = shard.push(data={"x": 1})
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == job_id
        assert reply["job"]["data"] == {"x": 1}

    def test_first_come_first_served(self, shard: Shard) -> None:
        waiters = [shard.send("PULL", queue="q", timeout=1000) for _ in range(3)]
        jobs = [shard.push() for _ in range(3)]
        replies = [shard.answer(corr) for corr in waiters]
        assert [reply["job"]["id"] for reply in replies if reply] == jobs

    def test_null_after_the_time_out_and_not_before(self, shard: Shard) -> None:
        single = shard.send("PULL", queue="q", timeout=500)
        batch = shard.send("PULLB", queue="q", count=5, timeout=600)
        shard.advance(499)
        assert shard.answer(single) is None
        shard.advance(1)
        assert shard.answer(single) == {"ok": True, "job": None}
        shard.advance(100)
        assert shard.answer(batch) == {"ok": True, "jobs": [], "job": None}
        assert shard.engine.waiters == 0

    def test_waits_a_minute_by_default(self, shard: Shard) -> None:
        corr = shard.send("PULL", queue="q")
        shard.advance(59_999)
        assert shard.answer(corr) is None
        shard.advance(1)
        assert shard.answer(corr) == {"ok": True, "job": None}

    def test_timeout_0_does_not_wait(self, shard: Shard) -> None:
        assert shard.ask("PULL", queue="q", timeout=0) == {"ok": True, "job": None}
        assert shard.ask("PULLB", queue="q", count=2, timeout=0)["jobs"] == []

    def test_a_batch_is_answered_with_the_first_job(self, shard: Shard) -> None:
        corr = shard.send("PULLB", queue="q", count=10, timeout=1000)
        job_id = shard.push()
        reply = shard.answer(corr)
        assert reply is not None
        assert [job["id"] for job in reply["jobs"]] == [job_id]

    def test_count_0_waits_its_time_out_and_keeps_nobody(self, shard: Shard) -> None:
        """1. a PULLB for nothing is parked; 2. somebody who wants jobs asks without waiting: the
        parked one must not stand before the jobs that are there."""
        nothing = shard.send("PULLB", queue="q", count=0, timeout=1000)
        job_id = shard.push()
        assert shard.answer(nothing) is None
        assert shard.pull()["id"] == job_id
        waiting = shard.send("PULL", queue="q", timeout=500)
        second = shard.push()
        reply = shard.answer(waiting)
        assert reply is not None
        assert reply["job"]["id"] == second
        shard.advance(1000)
        assert shard.answer(nothing) == {"ok": True, "jobs": [], "job": None}
        assert shard.engine.waiters == 0

    def test_a_waiter_is_taken_back_by_its_ticket(self, shard: Shard) -> None:
        """Who has asked is gone: the next job goes to the next one at once, and nobody is told."""
        gone = [
            shard.send("PULL", queue="q", ticket=ticket(1)),
            shard.send("PULLB", queue="q", count=2, ticket=ticket(2)),
        ]
        there = shard.send("PULL", queue="q", ticket=ticket(3))
        for number in (1, 2):
            assert shard.ask("WITHDRAW", ticket=ticket(number)) == {"ok": True, "count": 1}
            assert shard.ask("WITHDRAW", ticket=ticket(number)) == {"ok": True, "count": 0}
        assert shard.engine.waiters == 1
        job_id = shard.push()
        reply = shard.answer(there)
        assert reply is not None
        assert reply["job"]["id"] == job_id
        shard.advance(60_000)
        assert [shard.answer(corr) for corr in gone] == [None, None]
        assert shard.ask("WITHDRAW", ticket=ticket(3)) == {"ok": True, "count": 0}

    def test_a_ticket_is_worth_nothing_once_its_time_is_up(self, shard: Shard) -> None:
        """Nor is one that was never given, or of a pull that was answered at once."""
        shard.send("PULL", queue="q", timeout=10, ticket=ticket(1))
        shard.advance(10)
        shard.push()
        shard.ask("PULL", queue="q", ticket=ticket(2))
        for number in (1, 2, 3):
            assert shard.ask("WITHDRAW", ticket=ticket(number))["count"] == 0

    def test_a_withdrawal_in_the_middle_leaves_the_others_their_places(self, shard: Shard) -> None:
        """First come, first served, among those that are there."""
        corrs = [shard.send("PULL", queue="q", ticket=ticket(n)) for n in range(5)]
        for number in (0, 2, 3):
            shard.ask("WITHDRAW", queue="q", ticket=ticket(number))
        for corr in (corrs[1], corrs[4]):
            job_id = shard.push()
            reply = shard.answer(corr)
            assert reply is not None
            assert reply["job"]["id"] == job_id

    def test_a_delayed_job_goes_to_a_waiter_when_it_is_due(self, shard: Shard) -> None:
        corr = shard.send("PULL", queue="q", timeout=10_000)
        job_id = shard.push(delay=300)
        assert shard.engine.next_deadline_ms() == shard.mono_ms + 300
        shard.advance(299)
        assert shard.answer(corr) is None
        shard.advance(1)
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == job_id

    @pytest.mark.parametrize("back", ["FAIL", "RELEASE", "RETRYDLQ", "PROMOTE", "MOVETODELAYED"])
    def test_a_job_that_comes_back_goes_to_a_waiter(self, shard: Shard, back: str) -> None:
        fields: dict[str, Any] = {"queue": "q"}
        if back == "RETRYDLQ":
            job_id = shard.make_failed()
        elif back == "PROMOTE":
            job_id = shard.push(delay=5000)
            fields = {"id": job_id}
        else:
            job_id = shard.make_active()
            fields = {"ids": [job_id]} if back == "RELEASE" else {"id": job_id}
        if back == "MOVETODELAYED":
            fields["delay"] = 0
        corr = shard.send("PULL", queue="q", timeout=1000)
        shard.ask(back, **fields)
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == job_id

    def test_too_many_waiters_are_busy(self) -> None:
        shard = Shard(waiters_max=2)
        shard.send("PULL", queue="q", timeout=1000)
        shard.send("WAITJOB", id=shard.push("other"), timeout=1000)
        code, text = shard.refuse("PULL", queue="q", timeout=1000)
        assert code == "busy"
        assert "2 requests are waiting" in text
        shard.advance(1000)
        assert shard.answer(shard.send("PULL", queue="q", timeout=1000)) is None

    def test_a_queue_that_nobody_knows_is_waited_on(self, shard: Shard) -> None:
        """A PULL makes no queue."""
        assert shard.answer(shard.send("PULL", queue="no-such-name", timeout=10)) is None
        assert shard.ask("LISTQUEUES")["queues"] == []

    def test_a_batch_is_cut_to_the_bound(self) -> None:
        shard = Shard(batch_jobs_max=3)
        for _ in range(5):
            shard.push()
        assert len(shard.pull_ids(count=10**9)) == 3


class TestLimits:
    def test_paused(self, shard: Shard) -> None:
        shard.push()
        shard.ask("PAUSE", queue="q")
        assert shard.pull_ids() == []
        corr = shard.send("PULL", queue="q", timeout=1000)
        shard.ask("RESUME", queue="q")
        assert shard.answer(corr) is not None

    def test_concurrency_counts_what_is_active_already(self, shard: Shard) -> None:
        """Setting a limit used to forget the running jobs (W28)."""
        jobs = [shard.push() for _ in range(5)]
        assert shard.pull_ids(count=2) == jobs[:2]
        shard.ask("SETCONCURRENCY", queue="q", limit=3)
        assert shard.pull_ids() == [jobs[2]]
        corr = shard.send("PULL", queue="q", timeout=1000)
        assert shard.answer(corr) is None
        shard.ask("ACK", id=jobs[0])
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == jobs[3]

    @pytest.mark.parametrize("end", ["ACK", "FAIL", "CANCEL", "DISCARD", "MOVETODELAYED"])
    def test_every_end_gives_the_slot_back(self, shard: Shard, end: str) -> None:
        """Slots used to leak on stall and DISCARD (W28)."""
        shard.ask("SETCONCURRENCY", queue="q", limit=1)
        first = shard.make_active(max_attempts=1)
        second = shard.push()
        corr = shard.send("PULL", queue="q", timeout=1000)
        shard.ask(end, id=first, **({"delay": 5000} if end == "MOVETODELAYED" else {}))
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == second

    def test_a_stalled_job_gives_its_slot_back(self, shard: Shard) -> None:
        shard.ask("SETCONCURRENCY", queue="q", limit=1)
        shard.make_active(stall_timeout=500, backoff=60_000)
        second = shard.push()
        corr = shard.send("PULL", queue="q", timeout=10_000)
        shard.advance(500)
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == second

    def test_concurrency_0_stops_the_queue(self, shard: Shard) -> None:
        shard.ask("SETCONCURRENCY", queue="q", limit=0)
        shard.push()
        assert shard.pull_ids() == []
        corr = shard.send("PULL", queue="q", timeout=1000)
        shard.ask("CLEARCONCURRENCY", queue="q")
        assert shard.answer(corr) is not None


class TestRate:
    def test_starts_full_and_bounds_a_batch(self, shard: Shard) -> None:
        """PULLB used to pass the limit (W29)."""
        shard.ask("RATELIMIT", queue="q", limit=3)
        for _ in range(10):
            shard.push()
        assert len(shard.pull_ids()) == 3
        assert shard.pull_ids() == []

    def test_only_jobs_that_are_handed_out_spend(self, shard: Shard) -> None:
        """Idle polling used to spend the tokens (W29)."""
        shard.ask("RATELIMIT", queue="q", limit=2)
        for _ in range(20):
            shard.pull_ids()
        for _ in range(2):
            shard.push()
        assert len(shard.pull_ids()) == 2

    def test_the_first_waiter_is_woken_by_the_next_token(self, shard: Shard) -> None:
        """1. the bucket is empty, jobs are ready, nobody waits; 2. a pull comes and is parked:
        it must be served when the next token is there, though nothing else happens to the
        queue."""
        shard.ask("RATELIMIT", queue="q", limit=10)
        jobs = [shard.push() for _ in range(12)]
        assert shard.pull_ids() == jobs[:10]
        corr = shard.send("PULL", queue="q", timeout=10_000)
        assert shard.answer(corr) is None
        assert shard.engine.next_deadline_ms() == shard.mono_ms + 100
        shard.advance(100)
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == jobs[10]

    def test_waiters_are_served_one_token_at_a_time(self, shard: Shard) -> None:
        shard.ask("RATELIMIT", queue="q", limit=2)
        for _ in range(8):
            shard.push()
        shard.pull_ids()
        waiters = [shard.send("PULL", queue="q", timeout=60_000) for _ in range(3)]
        answered = []
        for _ in range(3):
            shard.advance(500)
            answered.append([shard.answer(corr) is not None for corr in waiters])
        assert answered == [[True, False, False], [False, True, False], [False, False, True]]

    def test_a_limit_that_is_lifted_serves_the_waiters(self, shard: Shard) -> None:
        shard.ask("RATELIMIT", queue="q", limit=0)
        shard.push()
        corr = shard.send("PULL", queue="q", timeout=10_000)
        assert shard.answer(corr) is None
        shard.ask("RATELIMITCLEAR", queue="q")
        assert shard.answer(corr) is not None

    def test_a_release_of_what_never_ran_gives_its_token_back(self, shard: Shard) -> None:
        """1. A worker takes more than it has places for, and gives the rest back. 2. Those used to
        have spent their tokens, so that a limited queue starved."""
        shard.ask("RATELIMIT", queue="q", limit=2)
        shard.ask("SETCONCURRENCY", queue="q", limit=2)
        for _ in range(5):
            shard.push()
        for _ in range(10):
            taken = shard.pull_ids(session=ALICE)
            assert len(taken) == 2
            assert shard.ask("RELEASE", ids=[*taken, 99], session=ALICE)["count"] == 2
        waiting = shard.pull_ids(session=ALICE)
        corr = shard.send("PULL", queue="q", timeout=10_000)
        shard.ask("RELEASE", ids=waiting[:1], session=ALICE)
        assert shard.answer(corr) is not None

    def test_a_release_of_another_gives_nothing_back(self, shard: Shard) -> None:
        """Neither a job that is somebody else's, nor one twice."""
        shard.ask("RATELIMIT", queue="q", limit=2)
        for _ in range(5):
            shard.push()
        first, second = shard.pull_ids()
        assert shard.ask("RELEASE", ids=[first, second], tokens=[1, 1])["count"] == 0
        assert shard.pull_ids() == []
        assert shard.ask("RELEASE", ids=[first, first])["count"] == 1
        assert len(shard.pull_ids()) == 1

    @pytest.mark.parametrize("word", ["HEARTBEAT", "PROGRESS"])
    def test_what_was_worked_on_has_spent_its_token(self, shard: Shard, word: str) -> None:
        """The limit is on what runs."""
        shard.ask("RATELIMIT", queue="q", limit=1)
        shard.push()
        job = shard.pull(session=ALICE)
        more = {"progress": 5} if word == "PROGRESS" else {}
        shard.ask(word, id=job["id"], **more)
        shard.ask("RELEASE", ids=[job["id"]])
        assert shard.pull_ids() == []

    def test_a_delivery_that_came_back_gives_its_token_back(self, shard: Shard) -> None:
        """It never arrived."""
        shard.ask("RATELIMIT", queue="q", limit=1)
        shard.push()
        job = shard.pull()
        shard.engine.bounced([(job["id"], job["token"])], shard.now_ms, shard.mono_ms)
        assert shard.pull()["id"] == job["id"]
        shard.ask("RELEASE", ids=[job["id"]])
        shard.pull(session=ALICE)
        shard.ask("GOODBYE", session=ALICE)
        assert shard.pull()["id"] == job["id"]

    def test_the_same_limit_again_changes_nothing(self, shard: Shard) -> None:
        """1. an app sets its limit with each deployment; 2. the bucket used to be full again each
        time, so that 100 deployments let 100 bursts through."""
        shard.ask("RATELIMIT", queue="q", limit=2)
        for _ in range(5):
            shard.push()
        assert len(shard.pull_ids()) == 2
        corr = shard.send("PULL", queue="q", timeout=10_000)
        seq = shard.state.seq
        for _ in range(3):
            shard.ask("RATELIMIT", queue="q", limit=2)
        assert shard.answer(corr) is None
        assert shard.state.seq == seq
        shard.advance(500)
        assert shard.answer(corr) is not None

    def test_limits_that_take_turns_give_no_more_than_the_higher(self, shard: Shard) -> None:
        """Two deployments that disagree do not fill each other's bucket."""
        shard.ask("RATELIMIT", queue="q", limit=2)
        for _ in range(9):
            shard.push()
        assert len(shard.pull_ids()) == 2
        for limit in (3, 2, 3, 2):
            shard.ask("RATELIMIT", queue="q", limit=limit)
            assert shard.pull_ids() == []

    def test_a_lower_limit_cuts_what_is_saved_up(self, shard: Shard) -> None:
        shard.ask("RATELIMIT", queue="q", limit=50)
        for _ in range(9):
            shard.push()
        shard.ask("RATELIMIT", queue="q", limit=3)
        assert len(shard.pull_ids()) == 3

    def test_an_obliterated_queue_starts_its_next_limit_full(self, shard: Shard) -> None:
        """Nothing of the queue is left, neither the limit nor its bucket."""
        shard.ask("RATELIMIT", queue="q", limit=2)
        for _ in range(2):
            shard.push()
        assert len(shard.pull_ids()) == 2
        shard.ask("OBLITERATE", queue="q")
        shard.ask("RATELIMIT", queue="q", limit=2)
        for _ in range(2):
            shard.push()
        assert len(shard.pull_ids()) == 2

    def test_a_higher_limit_does_not_wait_for_the_refill_of_the_lower_one(
        self, shard: Shard
    ) -> None:
        """1. a pull waits a second for the next token; 2. the limit is raised a hundredfold; 3. the
        next token is there in 10 ms, not when the old limit had it."""
        shard.ask("RATELIMIT", queue="q", limit=1)
        jobs = [shard.push() for _ in range(3)]
        assert shard.pull_ids() == jobs[:1]
        corr = shard.send("PULL", queue="q", timeout=60_000)
        shard.ask("RATELIMIT", queue="q", limit=100)
        assert shard.answer(corr) is None
        shard.advance(10)
        assert shard.answer(corr) is not None

    def test_the_bucket_is_empty_after_a_restart_and_fills_from_then_on(self) -> None:
        """A crash must not let more through, and the time since the restart counts."""
        shard = Shard()
        shard.ask("RATELIMIT", queue="q", limit=10)
        for _ in range(20):
            shard.push()
        shard = shard.crash()
        assert shard.pull_ids() == []
        shard = shard.crash()
        shard.advance(300)
        assert len(shard.pull_ids()) == 3


class TestWaitJob:
    def test_the_result_of_a_completed_job(self, shard: Shard) -> None:
        job_id = shard.make_completed({"a": 1})
        assert shard.ask("WAITJOB", id=job_id) == {"ok": True, "result": {"a": 1}}

    def test_waits_for_the_result(self, shard: Shard) -> None:
        job_id = shard.make_active()
        corr = shard.send("WAITJOB", id=job_id)
        shard.ask("ACK", id=job_id, result=[1])
        assert shard.answer(corr) == {"ok": True, "result": [1]}

    def test_no_result_is_null(self, shard: Shard) -> None:
        job_id = shard.make_active()
        corr = shard.send("WAITJOB", id=job_id)
        shard.ask("ACKB", ids=[job_id])
        assert shard.answer(corr) == {"ok": True, "result": None}

    def test_gets_the_result_of_a_job_that_is_not_kept(self, shard: Shard) -> None:
        job_id = shard.make_active(remove_on_complete=True)
        corr = shard.send("WAITJOB", id=job_id)
        shard.ask("ACK", id=job_id, result=5)
        assert shard.answer(corr) == {"ok": True, "result": 5}

    @pytest.mark.parametrize(
        ("end", "text"),
        [
            ("FAIL", "Job failed"),
            ("DISCARD", "Job failed"),
            ("CANCEL", "Job cancelled"),
        ],
    )
    @pytest.mark.parametrize("remove_on_fail", [False, True])
    def test_is_woken_by_every_end(
        self, shard: Shard, end: str, text: str, remove_on_fail: bool
    ) -> None:
        """Failure, cancel and discard used to leave it waiting (W36)."""
        job_id = shard.make_active(max_attempts=1, remove_on_fail=remove_on_fail)
        corr = shard.send("WAITJOB", id=job_id)
        shard.ask(end, id=job_id)
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["error"] == text

    @pytest.mark.parametrize("bulk", ["DRAIN", "OBLITERATE", "CLEAN"])
    def test_is_woken_by_removal(self, shard: Shard, bulk: str) -> None:
        job_id = shard.push()
        corr = shard.send("WAITJOB", id=job_id)
        shard.ask(bulk, queue="q", **({"state": "waiting", "grace": 0} if bulk == "CLEAN" else {}))
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["error"] == "Job not found"

    def test_is_woken_by_expiry_and_time_out(self, shard: Shard) -> None:
        expiring = shard.push("a", ttl=50)
        slow = shard.make_active(timeout=60, max_attempts=1)
        waits = [shard.send("WAITJOB", id=job_id) for job_id in (expiring, slow)]
        shard.advance(100)
        replies = [shard.answer(corr) for corr in waits]
        assert [reply["error"] for reply in replies if reply] == ["Job not found", "Job failed"]

    def test_a_retry_does_not_wake_it(self, shard: Shard) -> None:
        job_id = shard.make_active()
        corr = shard.send("WAITJOB", id=job_id)
        shard.ask("FAIL", id=job_id)
        assert shard.answer(corr) is None

    def test_times_out(self, shard: Shard) -> None:
        job_id = shard.push()
        corr = shard.send("WAITJOB", id=job_id, timeout=250)
        default = shard.send("WAITJOB", id=job_id)
        shard.advance(250)
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["error"] == f"Timeout waiting for job {job_id} after 250ms"
        assert reply["code"] == "wait_timeout"
        shard.advance(29_749)
        assert shard.answer(default) is None
        shard.advance(1)
        reply = shard.answer(default)
        assert reply is not None
        assert reply["error"] == f"Timeout waiting for job {job_id} after 30000ms"
        assert shard.engine.waiters == 0

    def test_is_taken_back_by_its_ticket(self, shard: Shard) -> None:
        """Another wait for the same job goes on."""
        job_id = shard.make_active()
        gone = shard.send("WAITJOB", id=job_id, ticket=ticket(1))
        there = shard.send("WAITJOB", id=job_id, ticket=ticket(2))
        assert shard.ask("WITHDRAW", ticket=ticket(1))["count"] == 1
        assert shard.engine.waiters == 1
        shard.ask("ACK", id=job_id, result=1)
        assert shard.answer(there) == {"ok": True, "result": 1}
        shard.advance(30_000)
        assert shard.answer(gone) is None
        assert shard.ask("WITHDRAW", ticket=ticket(2))["count"] == 0

    def test_failed_and_unknown_at_once(self, shard: Shard) -> None:
        assert shard.refuse("WAITJOB", id=shard.make_failed()) == ("job_failed", "Job failed")
        assert shard.refuse("WAITJOB", id=999) == ("wait_job_not_found", "Job not found")


class TestRepeatedPulls:
    def test_gets_the_same_jobs_while_they_are_held(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(3)]
        first = shard.ask("PULLB", queue="q", count=2, timeout=0, session=ALICE, n=1)
        again = shard.ask("PULLB", queue="q", count=2, timeout=0, session=ALICE, n=1)
        assert again == first
        assert [job["id"] for job in again["jobs"]] == jobs[:2]

    def test_gets_those_that_are_still_held(self, shard: Shard) -> None:
        """One job of the delivery was cancelled meanwhile: the other two are still this session's,
        whether or not there was a restart between."""
        jobs = [shard.push() for _ in range(4)]
        shard.ask("PULLB", queue="q", count=3, timeout=0, session=ALICE, n=1)
        shard.ask("CANCEL", id=jobs[1])
        for _ in range(2):
            again = shard.ask("PULLB", queue="q", count=3, timeout=0, session=ALICE, n=1)
            assert [job["id"] for job in again["jobs"]] == [jobs[0], jobs[2]]
            shard = shard.crash()

    def test_is_a_new_pull_when_nothing_of_it_is_held(self, shard: Shard) -> None:
        first, second = shard.push(), shard.push()
        assert shard.pull(session=ALICE, n=1)["id"] == first
        shard.ask("ACK", id=first)
        assert shard.pull(session=ALICE, n=1)["id"] == second

    def test_takes_the_place_of_the_parked_one(self, shard: Shard) -> None:
        """The connection broke while the pull waited; its repeat must not wait behind others, and
        the first asker gets no answer."""
        lost = shard.send("PULL", queue="q", timeout=5000, session=ALICE, n=1)
        other = shard.send("PULL", queue="q", timeout=5000, session=BOB, n=1)
        repeat = shard.send("PULL", queue="q", timeout=5000, session=ALICE, n=1)
        assert shard.engine.waiters == 2
        job_id = shard.push()
        assert shard.answer(lost) is None
        assert shard.answer(other) is None
        reply = shard.answer(repeat)
        assert reply is not None
        assert reply["job"]["id"] == job_id

    def test_a_reply_is_marked_as_a_delivery(self, shard: Shard) -> None:
        """Whoever cannot deliver it sends it back (BOUNCED)."""
        shard.push()
        corr = shard.send("PULL", queue="q", timeout=0)
        assert shard.replies[corr].delivery
        corr = shard.send("PULL", queue="q", timeout=0)
        assert not shard.replies[corr].delivery
