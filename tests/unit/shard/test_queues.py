"""Whole queues: settings, removal, dead letters, totals."""

from __future__ import annotations

import pytest

from flashq.protocol.internal import COORDINATOR, Obliterated
from tests.unit.shard.harness import Shard


def names(shard: Shard) -> list[str]:
    """Return the names of the queues that are listed."""
    return sorted(info["name"] for info in shard.ask("LISTQUEUES")["queues"])


class TestSettings:
    def test_are_shown_and_survive_a_restart(self, shard: Shard) -> None:
        """They used to be in memory only (W12)."""
        shard.ask("PAUSE", queue="q")
        shard.ask("RATELIMIT", queue="q", limit=5)
        shard.ask("SETCONCURRENCY", queue="q", limit=6)
        shard = shard.crash()
        (info,) = shard.ask("LISTQUEUES")["queues"]
        assert info == {
            "name": "q",
            "pending": 0,
            "processing": 0,
            "dlq": 0,
            "paused": True,
            "rate_limit": 5,
            "concurrency_limit": 6,
        }
        assert shard.ask("ISPAUSED", queue="q")["paused"]
        for cmd in ("RESUME", "RATELIMITCLEAR", "CLEARCONCURRENCY"):
            shard.ask(cmd, queue="q")
        assert names(shard) == []
        shard.check_recovery()

    def test_setting_what_is_set_changes_nothing(self, shard: Shard) -> None:
        shard.ask("PAUSE", queue="q")
        seq = shard.state.seq
        shard.ask("PAUSE", queue="q")
        shard.ask("RATELIMITCLEAR", queue="other")
        assert shard.state.seq == seq
        assert names(shard) == ["q"]

    def test_the_defaults_of_pushes(self, shard: Shard) -> None:
        assert shard.ask("QUEUECONFIG", queue="q") == {
            "ok": True,
            "durability": None,
            "keep_completed_age": 0,
            "keep_completed_count": 0,
        }
        shard.ask("QUEUECONFIG", queue="q", durability="memory", keep_completed_count=4)
        reply = shard.ask("QUEUECONFIG", queue="q", keep_completed_age=9)
        assert (reply["durability"], reply["keep_completed_count"]) == ("memory", 4)
        shard.push()
        assert shard.state.volatile_jobs == 1
        shard.push(durability="durable")
        assert shard.state.volatile_jobs == 1

    def test_a_level_that_is_none_is_refused(self, shard: Shard) -> None:
        with pytest.raises(Exception, match="Invalid"):
            shard.ask("QUEUECONFIG", queue="q", durability="forever")

    def test_a_queue_is_listed_as_long_as_it_has_anything(self, shard: Shard) -> None:
        shard.make_failed(queue="dead")
        shard.make_completed(queue="done")
        shard.push("parked", depends_on=[shard.push("first")])
        assert names(shard) == ["dead", "done", "first", "parked"]
        shard.ask("PURGEDLQ", queue="dead")
        assert names(shard) == ["done", "first", "parked"]


class TestRemoval:
    def test_drain_takes_waiting_and_delayed(self, shard: Shard) -> None:
        kept = [shard.make_active(), shard.make_failed(), shard.make_completed()]
        gone = [shard.push(), shard.push(delay=500), shard.push(priority=3)]
        other = shard.push("other")
        assert shard.ask("DRAIN", queue="q") == {"ok": True, "count": 3}
        assert [shard.state_of(job_id) for job_id in gone] == ["unknown"] * 3
        states = [shard.state_of(job_id) for job_id in [*kept, other]]
        assert states == ["active", "failed", "completed", "waiting"]
        shard.check_recovery()

    def test_what_a_clean_of_many_leaves_is_delivered_in_order(self, shard: Shard) -> None:
        """Plain jobs go together; of those that stay each lane still knows how many and which."""
        jobs = [{"data": number, "priority": number % 2} for number in range(40)]
        ids = shard.ask("PUSHB", queue="q", jobs=jobs)["ids"]
        special = shard.push(tags=["t"])
        assert shard.ask("CLEAN", queue="q", grace=0, state="waiting", limit=30)["count"] == 30
        shard.check_recovery()
        left = ids[30:]
        assert [shard.state_of(job_id) for job_id in ids[:30]] == ["unknown"] * 30
        assert shard.ask("COUNT", queue="q")["count"] == 11
        pulled = shard.ask("PULLB", queue="q", count=20, timeout=0)["jobs"]
        assert [job["id"] for job in pulled] == [*left[1::2], *left[::2], special]
        shard.check_recovery()

    def test_obliterate_takes_everything(self, shard: Shard) -> None:
        shard.make_active()
        shard.make_failed(unique_key="k")
        shard.make_completed(job_id="mine")
        shard.push(delay=500, debounce_id="d")
        shard.push(depends_on=[shard.push("first")])
        shard.ask("FLOW", queue="q", data=1, children=[{"queue": "child", "data": 1}])
        shard.ask("PAUSE", queue="q")
        shard.ask("RATELIMIT", queue="q", limit=0)
        assert shard.ask("OBLITERATE", queue="q")["count"] == 5
        assert names(shard) == ["child", "first"]
        mailbox = shard.state.mailboxes[COORDINATOR]
        assert [body for _, _, body in mailbox.pending] == [Obliterated("q")]
        assert shard.push(unique_key="k", job_id="mine", debounce_id="d")
        assert shard.pull_ids() != []
        shard.check_recovery()

    def test_a_pull_that_waits_outlives_it(self, shard: Shard) -> None:
        shard.ask("PAUSE", queue="q")
        corr = shard.send("PULL", queue="q", timeout=5000)
        shard.push()
        shard.ask("OBLITERATE", queue="q")
        job_id = shard.push()
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == job_id

    @pytest.mark.parametrize("state", ["waiting", "delayed", "completed", "failed"])
    def test_clean_takes_one_state_of_one_queue_by_age(self, shard: Shard, state: str) -> None:
        """It used to take waiting for delayed, and completed of all queues whatever their age
        (W37)."""
        made = {}
        for queue in ("q", "other"):
            for name in ("old", "new"):
                made[queue, name] = {
                    "completed": shard.make_completed(queue=queue, priority=9),
                    "failed": shard.make_failed(queue=queue, priority=9),
                    "waiting": shard.push(queue),
                    "delayed": shard.push(queue, delay=90_000),
                }
                shard.advance(500)
        assert shard.ask("CLEAN", queue="q", grace=2001, state=state.upper())["count"] == 0
        assert shard.ask("CLEAN", queue="q", grace=2000, state=state)["count"] == 1
        gone = {
            (queue, age, name)
            for (queue, age), jobs in made.items()
            for name, job_id in jobs.items()
            if shard.state_of(job_id) == "unknown"
        }
        assert gone == {("q", "old", state)}
        shard.check_recovery()

    def test_clean_takes_the_oldest_up_to_its_limit(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(7)]
        assert shard.ask("CLEAN", queue="q", grace=0, state="waiting", limit=2)["count"] == 2
        assert shard.pull_ids() == jobs[2:]

    def test_clean_knows_five_states(self, shard: Shard) -> None:
        for state in ("active", "nonsense", "waitingchildren"):
            assert shard.refuse("CLEAN", queue="q", grace=0, state=state) == (
                "state_invalid",
                "Invalid state. Use: waiting, delayed, completed, failed, cancelled",
            )


class TestDeadLetters:
    def test_oldest_failure_first(self, shard: Shard) -> None:
        jobs = [shard.push(max_attempts=1) for _ in range(3)]
        shard.pull_ids()
        for job_id in (jobs[1], jobs[2], jobs[0]):
            shard.ask("FAIL", id=job_id)
            shard.advance(1)
        expected = [jobs[1], jobs[2], jobs[0]]
        for some in (shard, shard.crash()):
            reply = some.ask("DLQ", queue="q")
            assert [job["id"] for job in reply["jobs"]] == expected
            assert len(some.ask("DLQ", queue="q", count=2)["jobs"]) == 2
        assert shard.ask("DLQ", queue="none")["jobs"] == []

    def test_a_hundred_by_default(self, shard: Shard) -> None:
        shard.ask("PUSHB", queue="q", jobs=[{"data": 1, "max_attempts": 1}] * 105)
        for job_id in shard.pull_ids(count=200):
            shard.ask("DISCARD", id=job_id)
        assert len(shard.ask("DLQ", queue="q")["jobs"]) == 100
        assert shard.refuse("DLQ", queue="q", count=10_001)[0] == "field_too_large"
        assert len(shard.ask("DLQ", queue="q", count=10_001, older=True)["jobs"]) == 105
        assert shard.ask("PURGEDLQ", queue="q")["count"] == 105

    def test_retry_one_or_all(self, shard: Shard) -> None:
        jobs = [shard.make_failed(unique_key=f"k{n}") for n in range(3)]
        shard.advance(100)
        assert shard.ask("RETRYDLQ", queue="q", id=jobs[1])["ids"] == [1]
        assert shard.ask("RETRYDLQ", queue="other", id=jobs[0])["ids"] == [0]
        job = shard.job(jobs[1])
        assert (job["attempts"], job.get("error"), job["run_at"]) == (0, None, shard.now_ms)
        assert len(job["history"]) == 1
        assert shard.ask("RETRYDLQ", queue="q")["ids"] == [2]
        assert shard.pull_ids() == [jobs[0], jobs[1], jobs[2]]
        shard.check_recovery()

    def test_the_ttl_of_a_retried_dead_letter_starts_anew(self, shard: Shard) -> None:
        """1. A job with a ttl becomes a dead letter, and its ttl passes. 2. Somebody puts it back
        to work, and was told that it is; it used to expire at that very moment, and was gone."""
        job_id = shard.make_failed(ttl=1000)
        created = shard.job(job_id)["created_at"]
        shard.advance(5000)
        assert shard.ask("RETRYDLQ", queue="q")["ids"] == [1]
        shard.advance(0)
        assert shard.state_of(job_id) == "waiting"
        assert shard.job(job_id)["created_at"] == created
        shard = shard.crash(downtime_ms=0)
        shard.advance(1000)
        assert shard.state_of(job_id) == "waiting"
        shard.check_recovery()
        shard.advance(1)
        assert shard.state_of(job_id) == "unknown"
        assert shard.ask("METRICS")["metrics"]["total_expired"] == 1

    def test_a_retried_poison_job_has_its_losses_forgiven(self, shard: Shard) -> None:
        job_id = shard.push()
        for lost in range(3):
            shard.pull(session=b"session-%08d" % lost)
            shard.advance(10_000)
        shard.ask("RETRYDLQ", queue="q")
        shard.pull(session=b"another-session-")
        shard.advance(10_000)
        assert shard.state_of(job_id) == "waiting"


class TestTotals:
    def test_metrics(self, shard: Shard) -> None:
        """Time-outs and discards used not to be counted as failed (W43)."""
        shard.make_completed()
        shard.advance(40)
        shard.make_failed()
        shard.ask("DISCARD", id=shard.push())
        shard.make_active(timeout=10, max_attempts=1)
        shard.advance(10)
        shard.ask("CANCEL", id=shard.push())
        job_id = shard.make_active()
        shard.ask("FAIL", id=job_id)
        metrics = shard.ask("METRICS")["metrics"]
        assert {key: value for key, value in metrics.items() if value} == {
            "total_pushed": 6,
            "total_completed": 1,
            "total_failed": 3,
            "total_cancelled": 1,
            "total_retried": 1,
            "total_timed_out": 1,
            "queues": [{"name": "q", "pending": 1, "processing": 0, "dlq": 3, "rate_limit": None}],
        }
        after = shard.crash().ask("METRICS")["metrics"]
        assert after == metrics

    def test_latency_and_throughput(self, shard: Shard) -> None:
        """Both used to be wrong (W43)."""
        shard.ask("METRICS")
        for _ in range(10):
            job_id = shard.make_active()
            shard.advance(100)
            shard.ask("ACK", id=job_id)
        metrics = shard.ask("METRICS")["metrics"]
        assert metrics["avg_latency_ms"] == 100
        assert metrics["jobs_per_second"] == 10
