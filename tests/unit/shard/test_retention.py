"""What is kept of ended jobs: bounds of the shard, bounds of the job, and always oldest first."""

from __future__ import annotations

import pytest

from tests.unit.shard.harness import Shard


def completed_of(shard: Shard, queue: str = "q") -> list[int]:
    """Return the completed jobs of a queue."""
    reply = shard.ask("GETJOBS", queue=queue, state="completed")
    assert reply["total"] == len(reply["jobs"])
    return sorted(job["id"] for job in reply["jobs"])


class TestShardBounds:
    def test_the_oldest_completed_jobs_go(self) -> None:
        """Eviction used to be in hash order, and took half of them (W38)."""
        shard = Shard(completed_jobs_max=3)
        jobs = [shard.push() for _ in range(5)]
        shard.pull_ids()
        for job_id in (jobs[4], jobs[0], jobs[1], jobs[2], jobs[3]):
            shard.advance(1)
            shard.ask("ACK", id=job_id)
        shard.tick()
        assert completed_of(shard) == [jobs[1], jobs[2], jobs[3]]
        assert shard.state_of(jobs[4]) == "unknown"
        assert shard.ask("METRICS")["metrics"]["total_evicted"] == 2
        shard.check_recovery()

    def test_a_sixteenth_of_slack_lets_many_go_at_a_time(self) -> None:
        shard = Shard(completed_jobs_max=32)
        jobs = [shard.push() for _ in range(34)]
        shard.ask("ACKB", ids=shard.pull_ids())
        shard.tick()
        assert len(completed_of(shard)) == 34
        shard.make_completed()
        shard.tick()
        assert len(completed_of(shard)) == 32
        assert shard.state_of(jobs[2]) == "unknown"
        assert shard.state_of(jobs[3]) == "completed"

    def test_the_oldest_results_go_before_their_jobs(self) -> None:
        shard = Shard(results_max=2)
        jobs = [shard.make_completed(number) for number in range(4)]
        shard.tick()
        kept = [shard.ask("GETRESULT", id=job_id)["result"] for job_id in jobs[2:]]
        assert kept == [2, 3]
        assert completed_of(shard) == jobs
        shard.check_recovery()

    @pytest.mark.parametrize("word", ["GETRESULT", "WAITJOB"])
    def test_a_result_that_is_no_longer_kept_is_not_none(self, word: str) -> None:
        """1. A job completes with a result, and is forgotten in part, then as a whole. 2. Who asks
        for the result was told None, as for a job that had none."""
        shard = Shard(results_max=1, completed_jobs_max=4)
        first = shard.make_completed("first")
        none = shard.make_completed(None)
        shard.make_completed("third")
        shard.tick()
        assert shard.state_of(first) == "completed"
        said = ("result_not_kept", f"result no longer kept: job {first} has completed")
        assert shard.refuse(word, id=first) == said
        assert shard.ask(word, id=none)["result"] is None
        shard = shard.crash()
        assert shard.refuse(word, id=first) == said
        for _ in range(4):
            shard.make_completed()
        shard.tick()
        assert shard.state_of(first) == "unknown"
        assert shard.refuse("GETRESULT", id=first) == said
        assert shard.refuse("WAITJOB", id=first) == ("wait_job_not_found", "Job not found")

    def test_older_clients_see_no_result_as_ever(self) -> None:
        """They know neither the refusal nor what it says."""
        shard = Shard(results_max=0)
        job_id = shard.make_completed("gone")
        shard.tick()
        assert shard.ask("GETRESULT", id=job_id, older=True)["result"] is None
        assert shard.ask("WAITJOB", id=job_id, older=True)["result"] is None

    def test_a_result_goes_with_its_job_and_not_a_second_time(self) -> None:
        """Both bounds passed at once: the shard died of dropping the results of removed jobs, and
        died of that again at each start (simulated seed 9)."""
        shard = Shard(completed_jobs_max=2, results_max=2)
        jobs = [shard.make_completed(number) for number in range(3)]
        jobs.append(shard.push())
        shard.push()
        for job_id in shard.pull_ids():
            shard.ask("ACK", id=job_id, result=1)
        shard.tick()
        assert len(completed_of(shard)) == 2
        assert shard.state_of(jobs[0]) == "unknown"
        shard.check_recovery()

    def test_the_oldest_dead_letters_of_the_shard_go_whatever_their_queue(self) -> None:
        shard = Shard(dlq_jobs_max=2)
        failed = []
        for queue in ("a", "b", "a", "c"):
            failed.append(shard.make_failed(queue=queue))
            shard.advance(1)
        assert [shard.state_of(job_id) for job_id in failed] == [
            *("unknown", "unknown", "failed", "failed")
        ]
        assert shard.ask("METRICS")["metrics"]["total_evicted"] == 2
        shard.check_recovery()

    def test_of_those_that_died_in_one_millisecond_the_first_queues_by_name_go(self) -> None:
        shard = Shard(dlq_jobs_max=2)
        failed = [shard.make_failed(queue=queue) for queue in ("b", "a", "b")]
        shard.tick()
        states = [shard.state_of(job_id) for job_id in failed]
        assert states == ["failed", "unknown", "failed"]
        shard.check_recovery()

    def test_many_deaths_at_once_make_room_for_each(self) -> None:
        shard = Shard(dlq_jobs_max=2)
        jobs = [shard.push(timeout=100, max_attempts=1) for _ in range(5)]
        shard.pull_ids()
        shard.advance(100)
        dead = [job["id"] for job in shard.ask("DLQ", queue="q")["jobs"]]
        assert dead == jobs[3:]

    def test_an_evicted_dead_letter_is_gone_for_who_waits_for_it(self) -> None:
        """A job that waits for the dead letter's retry can never run: it fails, with the reason."""
        shard = Shard(dlq_jobs_max=1)
        first = shard.make_failed()
        waiting = shard.push(depends_on=[first], on_dependency_failure="wait")
        assert shard.state_of(waiting) == "waitingchildren"
        shard.make_failed()
        shard.advance(0)
        assert shard.state_of(first) == "unknown"
        assert shard.state_of(waiting) == "failed"
        assert shard.job(waiting)["error"] == f"dependency {first} removed: evicted"


class TestRetained:
    @pytest.mark.parametrize("asked", ["keep_completed_age", "keep_completed_count"])
    def test_what_the_push_asked_for_is_kept_beyond_the_bounds_of_the_shard(
        self, asked: str
    ) -> None:
        """With its result; the bounds are for those that did not ask."""
        shard = Shard(completed_jobs_max=2, results_max=1)
        kept = [shard.make_completed(n, **{asked: 60_000}) for n in range(4)]
        loose = [shard.make_completed(n) for n in range(4)]
        shard.tick()
        assert completed_of(shard) == [*kept, *loose[2:]]
        assert [shard.ask("GETRESULT", id=key)["result"] for key in kept] == [0, 1, 2, 3]
        shard = shard.crash()
        shard.tick()
        assert completed_of(shard) == [*kept, *loose[2:]]
        assert [shard.ask("GETRESULT", id=key)["result"] for key in kept] == [0, 1, 2, 3]
        shard.check_recovery()

    def test_a_push_that_asks_is_refused_when_too_many_have(self) -> None:
        """Kept or refused: unfinished ones count, as they will have to be kept."""
        shard = Shard(retained_jobs_max=2)
        shard.make_completed(keep_completed_age=500)
        shard.push(keep_completed_count=3)
        text = "limit reached: shard 0 holds 2 jobs to be kept once completed (retained_jobs_max)"
        push = {"queue": "q", "data": 1, "keep_completed_age": 500}
        assert shard.refuse("PUSH", **push) == ("limit_reached", text)
        children = [{"queue": "q", "data": 1}]
        assert shard.refuse("FLOW", **push, children=children) == ("limit_reached", text)
        entry = {"data": 1, "keep_completed_age": 500}
        reply = shard.ask("PUSHB", queue="q", jobs=[entry, {"data": 2}])
        assert reply["ids"][0] is None
        assert reply["ids"][1] is not None
        shard.ask("QUEUECONFIG", queue="other", keep_completed_count=1)
        assert shard.refuse("PUSH", queue="other", data=1)[0] == "limit_reached"
        assert shard.ask("PUSHB", queue="other", payloads=[1, 2])["ids"] == [None, None]
        shard.advance(500)
        shard.push(keep_completed_age=500)

    def test_a_batch_is_kept_as_far_as_there_is_room(self) -> None:
        """Each of its entries counts for those behind it."""
        shard = Shard(retained_jobs_max=2)
        jobs = [{"data": n, "keep_completed_age": 5} for n in range(3)]
        reply = shard.ask("PUSHB", queue="q", jobs=jobs)
        assert [key is not None for key in reply["ids"]] == [True, True, False]

    def test_one_that_is_removed_at_once_is_not_to_be_kept(self) -> None:
        """Its own words contradict each other: gone is gone."""
        shard = Shard(retained_jobs_max=1)
        for _ in range(3):
            shard.make_completed(keep_completed_age=500, remove_on_complete=True)
        assert completed_of(shard) == []


class TestKeepCompletedAge:
    def test_goes_after_its_time(self) -> None:
        shard = Shard()
        short = shard.make_completed(1, keep_completed_age=500)
        shard.advance(100)
        long = shard.make_completed(2, keep_completed_age=50_000)
        shard.advance(399)
        assert completed_of(shard) == [short, long]
        shard.advance(1)
        assert completed_of(shard) == [long]
        assert shard.refuse("GETRESULT", id=short)[0] == "result_not_kept"
        shard.check_recovery()

    def test_counts_on_through_a_restart(self) -> None:
        shard = Shard()
        job_id = shard.make_completed(keep_completed_age=500)
        shard = shard.crash(downtime_ms=499)
        assert shard.state_of(job_id) == "completed"
        shard.advance(1)
        assert shard.state_of(job_id) == "unknown"

    def test_the_queues_default(self) -> None:
        shard = Shard()
        shard.ask("QUEUECONFIG", queue="q", keep_completed_age=300)
        own = shard.make_completed(keep_completed_age=900)
        default = shard.make_completed()
        shard.advance(300)
        assert completed_of(shard) == [own]
        assert shard.state_of(default) == "unknown"


class TestKeepCompletedCount:
    def test_does_not_take_what_another_push_asked_to_keep_for_a_time(self) -> None:
        """1. A job is to be kept for an hour. 2. One after it in the queue keeps the newest two,
        and used to remove it."""
        shard = Shard()
        hour = shard.make_completed(keep_completed_age=3_600_000)
        first, second, third = [shard.make_completed(keep_completed_count=2) for _ in range(3)]
        assert completed_of(shard) == [hour, second, third]
        assert shard.state_of(first) == "unknown"
        shard = shard.crash()
        fourth = shard.make_completed(keep_completed_count=2)
        assert completed_of(shard) == [hour, third, fourth]
        shard.check_recovery()
        assert shard.ask("CLEAN", queue="q", grace=0, state="completed")["count"] == 3

    def test_keeps_the_newest_of_the_queue(self) -> None:
        shard = Shard()
        other = shard.make_completed(queue="other")
        jobs = [shard.make_completed(keep_completed_count=2) for _ in range(4)]
        assert completed_of(shard) == jobs[2:]
        assert completed_of(shard, "other") == [other]
        shard.check_recovery()

    def test_a_batch_is_as_good_as_one_after_the_other(self) -> None:
        """Three complete at once where one is to be kept: two of the three go too."""
        shard = Shard()
        old = shard.make_completed()
        jobs = [shard.push(keep_completed_count=1) for _ in range(3)]
        shard.pull_ids()
        shard.ask("ACKB", ids=jobs)
        assert completed_of(shard) == jobs[2:]
        assert shard.state_of(old) == "unknown"
        shard.check_recovery()

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_only_a_job_with_a_count_lets_others_go(self, order: tuple[int, int]) -> None:
        shard = Shard()
        jobs = [shard.push(keep_completed_count=1), shard.push()]
        shard.pull_ids()
        acknowledged = [jobs[place] for place in order]
        shard.ask("ACKB", ids=acknowledged)
        expected = jobs if order == (0, 1) else jobs[:1]
        assert completed_of(shard) == expected

    def test_a_job_that_is_not_kept_counts_for_nothing(self) -> None:
        shard = Shard()
        kept = shard.make_completed()
        shard.make_completed(keep_completed_count=1, remove_on_complete=True)
        assert completed_of(shard) == [kept]

    def test_the_waiter_of_a_removed_one_gets_its_result(self) -> None:
        shard = Shard()
        jobs = [shard.push(keep_completed_count=1) for _ in range(2)]
        shard.pull_ids()
        waits = [shard.send("WAITJOB", id=job_id) for job_id in jobs]
        shard.ask("ACKB", ids=jobs, results=[1, 2])
        replies = [shard.answer(corr) for corr in waits]
        assert [reply["result"] for reply in replies if reply] == [1, 2]
