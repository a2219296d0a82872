"""Who holds what: sessions, heartbeats, time-outs, stalls, and what a restart leaves of them."""

from __future__ import annotations

import pytest

from flashq.ids import lease_token
from flashq.protocol.internal import DependencyAnswer
from tests.unit.shard.harness import ALICE, BOB, CARL, Refused, Shard


def beat(shard: Shard, session: bytes, *held: dict[str, int]) -> list[int]:
    """Send a session's heartbeat that names these jobs; return which are lost."""
    reply = shard.ask(
        "SESSIONHEARTBEAT",
        session=session,
        leases=[job["id"] for job in held],
        tokens=[job["token"] for job in held],
    )
    return list(reply.get("lost", []))


class TestSilence:
    def test_a_silent_session_loses_its_jobs_at_once(self, shard: Shard) -> None:
        job_id = shard.push()
        shard.pull(session=ALICE)
        shard.advance(9_999)
        assert shard.state_of(job_id) == "active"
        shard.advance(1)
        job = shard.job(job_id)
        assert shard.state_of(job_id) == "waiting"
        assert (job["lost"], job["attempts"], job["started_at"]) == (1, 0, 0)

    def test_a_heartbeat_keeps_them(self, shard: Shard) -> None:
        shard.push()
        job = shard.pull(session=ALICE)
        for _ in range(20):
            shard.advance(2_000)
            assert beat(shard, ALICE, job) == []
        assert shard.state_of(job["id"]) == "active"

    def test_any_request_of_the_session_keeps_them(self, shard: Shard) -> None:
        shard.push()
        job = shard.pull(session=ALICE)
        shard.advance(8_000)
        shard.push("other", session=ALICE)
        shard.advance(8_000)
        assert shard.state_of(job["id"]) == "active"

    def test_silence_is_counted_from_the_last_word(self, shard: Shard) -> None:
        shard.push()
        job = shard.pull(session=ALICE)
        shard.advance(3_000)
        beat(shard, ALICE, job)
        shard.advance(9_999)
        assert shard.state_of(job["id"]) == "active"
        shard.advance(1)
        assert shard.state_of(job["id"]) == "waiting"

    def test_its_parked_pulls_are_dropped(self, shard: Shard) -> None:
        """A job handed to a dead session would be held for another 10 s."""
        corr = shard.send("PULL", queue="q", timeout=60_000, session=ALICE)
        shard.advance(10_000)
        assert shard.engine.waiters == 0
        job_id = shard.push()
        assert shard.answer(corr) is None
        assert shard.pull()["id"] == job_id

    def test_a_session_that_came_back_is_watched_as_before(self, shard: Shard) -> None:
        """1. the session is silent for 10 s; 2. it comes back and takes a job; 3. it dies
        again: its job must go back after 10 s, not when the answers of the first silence
        are forgotten."""
        beat(shard, ALICE)
        shard.advance(20_000)
        shard.push()
        job = shard.pull(session=ALICE)
        shard.advance(9_999)
        assert shard.state_of(job["id"]) == "active"
        shard.advance(1)
        assert shard.state_of(job["id"]) == "waiting"

    def test_coming_back_many_times_leaves_one_check(self, shard: Shard) -> None:
        for _ in range(30):
            beat(shard, ALICE)
            shard.advance(10_000)
        assert len(shard.engine._core.timers._heap) < 40
        shard.advance(400_000)
        assert shard.engine.sessions == 0
        assert shard.engine.next_deadline_ms() is None

    def test_the_third_loss_is_poison(self, shard: Shard) -> None:
        job_id = shard.push()
        for lost in (1, 2, 3):
            assert shard.pull(session=b"session-%08d" % lost)["id"] == job_id
            shard.advance(10_000)
        assert shard.state_of(job_id) == "failed"
        job = shard.job(job_id)
        assert (job["lost"], job["attempts"]) == (3, 0)
        assert job["error"] == "poison: 3 sessions were lost while they held it"

    def test_two_poison_jobs_at_once_when_the_dead_letters_are_full(self) -> None:
        """Both need room among the dead letters, and there is one old one to go."""
        shard = Shard(dlq_jobs_max=1)
        shard.make_failed()
        jobs = [shard.push(), shard.push()]
        for lost in (1, 2, 3):
            assert shard.pull_ids(session=b"session-%08d" % lost) == jobs
            shard.advance(10_000)
        assert [job["id"] for job in shard.ask("DLQ", queue="q")["jobs"]] == jobs[1:]

    def test_a_gap_in_the_process_itself_is_nobodys_silence(self, shard: Shard) -> None:
        """SIGSTOP for a minute: sessions, leases and waiters get the minute back."""
        shard.push()
        job = shard.pull(session=ALICE)
        other = shard.make_active(queue="other", stall_timeout=20_000)
        corr = shard.send("PULL", queue="q", timeout=15_000)
        shard.advance(5_000)
        shard.engine.stretch(60_000)
        shard.move_clock(60_000)
        shard.tick()
        assert shard.state_of(job["id"]) == shard.state_of(other) == "active"
        assert shard.answer(corr) is None
        assert shard.engine.next_deadline_ms() == shard.mono_ms + 5_000
        shard.advance(5_000)
        assert shard.state_of(job["id"]) == "waiting" or shard.answer(corr) is not None


class TestNaming:
    def test_a_lease_that_two_heartbeats_do_not_name_goes_back(self, shard: Shard) -> None:
        """A job whose delivery got lost on the way must not be kept alive for ever."""
        job_id = shard.push()
        shard.pull(session=ALICE)
        beat(shard, ALICE)
        assert shard.state_of(job_id) == "active"
        beat(shard, ALICE)
        job = shard.job(job_id)
        assert shard.state_of(job_id) == "waiting"
        assert (job.get("lost", 0), job["attempts"]) == (0, 0)

    def test_naming_it_starts_the_count_anew(self, shard: Shard) -> None:
        shard.push()
        job = shard.pull(session=ALICE)
        for _ in range(3):
            beat(shard, ALICE)
            beat(shard, ALICE, job)
        assert shard.state_of(job["id"]) == "active"

    def test_naming_an_older_token_does_not_keep_the_newer_delivery(self, shard: Shard) -> None:
        """1. the session loses a job by its own slowness; 2. it is handed the job again, but
        that reply gets lost; 3. it goes on naming the old token, and must not keep the new
        delivery alive."""
        job_id = shard.push(timeout=1_000)
        old = shard.pull(session=ALICE)
        shard.advance(1_000)
        assert shard.state_of(job_id) == "waiting"
        shard.pull(session=ALICE)
        assert beat(shard, ALICE, old) == [job_id]
        assert beat(shard, ALICE, old) == [job_id]
        assert shard.state_of(job_id) == "waiting"

    def test_is_told_what_is_no_longer_its_own(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(4)]
        held = shard.ask("PULLB", queue="q", count=4, timeout=0, session=ALICE)["jobs"]
        shard.ask("CANCEL", id=jobs[0])
        shard.ask("ACK", id=jobs[1])
        shard.ask("RELEASE", ids=[jobs[2]])
        shard.pull(session=BOB)
        assert beat(shard, ALICE, *held) == jobs[:3]

    def test_leases_without_tokens_are_checked_too(self, shard: Shard) -> None:
        job_id = shard.push()
        shard.pull(session=ALICE)
        reply = shard.ask("SESSIONHEARTBEAT", session=ALICE, leases=[job_id, 999])
        assert reply["lost"] == [999]
        for _ in range(3):
            shard.ask("SESSIONHEARTBEAT", session=ALICE, leases=[job_id])
        assert shard.state_of(job_id) == "active"


class TestTimeouts:
    def test_a_time_out_counts_an_attempt(self, shard: Shard) -> None:
        job_id = shard.make_active(timeout=500)
        shard.advance(499)
        assert shard.state_of(job_id) == "active"
        shard.advance(1)
        job = shard.job(job_id)
        assert shard.state_of(job_id) == "waiting"
        assert (job["attempts"], job["progress_msg"], job["started_at"]) == (1, "Job timed out", 0)
        assert job["history"] == [
            {
                "at": shard.now_ms,
                "reason": "timeout",
                "error": "Job timed out",
                "started_at": shard.now_ms - 500,
            }
        ]

    def test_the_last_one_goes_to_the_dead_letters(self, shard: Shard) -> None:
        job_id = shard.make_active(timeout=500, max_attempts=1)
        shard.advance(500)
        assert shard.state_of(job_id) == "failed"
        assert shard.job(job_id)["error"] == "Job timed out"
        assert shard.ask("METRICS")["metrics"]["total_timed_out"] == 1

    def test_remove_on_fail_holds_for_time_outs(self, shard: Shard) -> None:
        """It used to be ignored there."""
        job_id = shard.make_active(timeout=500, max_attempts=1, remove_on_fail=True)
        shard.advance(500)
        assert shard.state_of(job_id) == "unknown"

    def test_a_heartbeat_does_not_put_it_off(self, shard: Shard) -> None:
        shard.push(timeout=3_000)
        job = shard.pull(session=ALICE)
        shard.advance(2_000)
        beat(shard, ALICE, job)
        shard.ask("HEARTBEAT", id=job["id"])
        shard.advance(1_000)
        assert shard.state_of(job["id"]) == "waiting"

    def test_each_job_of_a_delivery_by_itself(self, shard: Shard) -> None:
        quick = shard.push(timeout=100)
        slow = shard.push(timeout=900)
        endless = shard.push()
        assert shard.pull_ids(session=ALICE) == [quick, slow, endless]
        shard.advance(100)
        assert [shard.state_of(job) for job in (quick, slow)] == ["waiting", "active"]
        shard.advance(800)
        assert [shard.state_of(job) for job in (slow, endless)] == ["waiting", "active"]

    def test_a_late_ack_is_refused(self, shard: Shard) -> None:
        job_id = shard.make_active(timeout=500)
        shard.advance(500)
        assert shard.refuse("ACK", id=job_id) == ("job_not_found", f"Job {job_id} not found")

    def test_input_comes_before_expiry(self, shard: Shard) -> None:
        """What has arrived while the shard was busy is handled before anything expires."""
        job_id = shard.make_active(timeout=500)
        shard.move_clock(2_000)
        shard.ask("ACK", id=job_id)
        shard.tick()
        assert shard.state_of(job_id) == "completed"


class TestStalls:
    def test_a_job_without_session_stalls_after_30_s_and_runs_again(self, shard: Shard) -> None:
        """Stalled jobs used to be killed, with their slot and key leaked (W27)."""
        job_id = shard.make_active()
        shard.advance(29_999)
        assert shard.state_of(job_id) == "active"
        shard.advance(1)
        job = shard.job(job_id)
        assert shard.state_of(job_id) == "waiting"
        assert (job["attempts"], job["stall_count"], job["progress_msg"]) == (1, 1, "Job stalled")

    def test_its_own_stall_timeout(self, shard: Shard) -> None:
        job_id = shard.make_active(stall_timeout=200)
        shard.advance(200)
        assert shard.state_of(job_id) == "waiting"

    def test_a_job_heartbeat_puts_it_off(self, shard: Shard) -> None:
        job_id = shard.make_active(stall_timeout=1_000)
        for _ in range(5):
            shard.advance(900)
            shard.ask("HEARTBEAT", id=job_id)
        shard.advance(999)
        assert shard.state_of(job_id) == "active"
        shard.advance(1)
        assert shard.state_of(job_id) == "waiting"

    def test_a_time_out_longer_than_the_servers_lease_is_the_lease(self, shard: Shard) -> None:
        """A pull without a connection has a lease of its timeout, else stall_timeout, else 30 s."""
        job_id = shard.make_active(timeout=120_000)
        shard.advance(119_999)
        assert shard.state_of(job_id) == "active"
        shard.advance(1)
        assert shard.job(job_id)["progress_msg"] == "Job timed out"

    def test_its_own_stall_timeout_holds_beside_a_time_out(self, shard: Shard) -> None:
        job_id = shard.make_active(timeout=120_000, stall_timeout=5_000)
        shard.advance(5_000)
        assert shard.job(job_id)["progress_msg"] == "Job stalled"

    def test_a_job_stalls_in_a_live_session_that_names_it_for_ever(self, shard: Shard) -> None:
        """1. A handler has ended, and its client goes on naming the lease. 2. The job used to be
        active for ever, and what depends on it waited, in spite of its stall timeout."""
        shard.push(stall_timeout=12_000)
        job = shard.pull(session=ALICE)
        for _ in range(2):
            shard.advance(5_000)
            assert beat(shard, ALICE, job) == []
        shard.advance(2_000)
        assert shard.state_of(job["id"]) == "waiting"
        assert shard.job(job["id"])["history"][0]["reason"] == "stalled"
        assert beat(shard, ALICE, job) == [job["id"]]

    @pytest.mark.parametrize("word", ["HEARTBEAT", "PROGRESS"])
    def test_signs_of_the_job_itself_keep_it_in_a_session(self, shard: Shard, word: str) -> None:
        """A handler that takes long says so."""
        shard.push(stall_timeout=8_000)
        job = shard.pull(session=ALICE)
        more = {"progress": 5} if word == "PROGRESS" else {}
        for _ in range(5):
            shard.advance(5_000)
            beat(shard, ALICE, job)
            shard.ask(word, id=job["id"], token=job["token"], **more)
        assert shard.state_of(job["id"]) == "active"
        shard.advance(5_000)
        beat(shard, ALICE, job)
        shard.advance(3_000)
        assert shard.state_of(job["id"]) == "waiting"

    def test_a_live_session_without_a_stall_timeout_does_not_stall(self, shard: Shard) -> None:
        """Only its silence ends its hold."""
        shard.push(tags=["t"])
        job = shard.pull(session=ALICE)
        for _ in range(10):
            shard.advance(5_000)
            beat(shard, ALICE, job)
        assert shard.state_of(job["id"]) == "active"

    def test_counts_for_max_attempts(self, shard: Shard) -> None:
        job_id = shard.make_active(stall_timeout=100, max_attempts=1)
        shard.advance(100)
        assert shard.state_of(job_id) == "failed"


class TestGoodbye:
    def test_gives_everything_back_uncounted(self, shard: Shard) -> None:
        job_id = shard.push()
        shard.pull(session=ALICE)
        corr = shard.send("PULL", queue="q", timeout=60_000, session=ALICE)
        shard.ask("GOODBYE", session=ALICE)
        job = shard.job(job_id)
        assert shard.state_of(job_id) == "waiting"
        assert (job.get("lost", 0), job["attempts"]) == (0, 0)
        assert shard.answer(corr) is None
        assert shard.engine.waiters == 0

    def test_counts_what_it_names_as_lost(self, shard: Shard) -> None:
        """A gateway says goodbye for a client that is gone without one."""
        first, second = shard.push(), shard.push()
        for _ in range(2):
            shard.pull(session=ALICE)
        shard.ask("GOODBYE", session=ALICE, lost=[first, 999])
        assert [shard.job(job_id).get("lost", 0) for job_id in (first, second)] == [1, 0]
        assert [shard.state_of(job_id) for job_id in (first, second)] == ["waiting"] * 2

    def test_ends_a_job_that_was_lost_too_often(self, shard: Shard) -> None:
        """A client that crashes of a job is not fed with it for ever."""
        job_id = shard.push()
        for session in (b"1" * 16, b"2" * 16, b"3" * 16):
            shard.pull(session=session)
            shard.ask("GOODBYE", session=session, lost=[job_id])
        assert shard.state_of(job_id) == "failed"
        assert shard.job(job_id)["error"].startswith("poison")

    def test_of_a_stranger_is_fine(self, shard: Shard) -> None:
        assert shard.ask("GOODBYE", session=ALICE)["ok"]

    def test_without_a_session_says_what_is_missing(self, shard: Shard) -> None:
        code, text = shard.refuse("GOODBYE")
        assert code == "invalid"
        assert "session" in text


class TestRestart:
    def test_a_lease_goes_on_for_a_session_that_names_it(self, shard: Shard) -> None:
        shard.push()
        job = shard.pull(session=ALICE)
        shard = shard.crash()
        shard.advance(9_000)
        assert beat(shard, ALICE, job) == []
        shard.advance(9_000)
        assert shard.state_of(job["id"]) == "active"
        shard.ask("ACK", id=job["id"], token=job["token"])
        shard.check_recovery()

    def test_what_nobody_names_within_10_s_goes_back(self, shard: Shard) -> None:
        shard.push()
        job = shard.pull(session=ALICE)
        shard = shard.crash()
        shard.advance(9_999)
        assert shard.state_of(job["id"]) == "active"
        shard.advance(1)
        assert shard.state_of(job["id"]) == "waiting"

    def test_a_time_out_and_a_stall_start_anew(self, shard: Shard) -> None:
        job_id = shard.make_active(timeout=1_000)
        other = shard.make_active(queue="other")
        shard.advance(900)
        shard = shard.crash()
        shard.advance(999)
        assert shard.state_of(job_id) == "active"
        shard.advance(1)
        assert shard.state_of(job_id) == "waiting"
        shard.advance(28_999)
        assert shard.state_of(other) == "active"
        shard.advance(1)
        assert shard.state_of(other) == "waiting"

    def test_every_delivery_without_session_is_watched_again(self, shard: Shard) -> None:
        """Deliveries that came back under one token but in several pieces each have a deadline."""
        memory = shard.push(durability="memory", job_id="m")
        durable = shard.push()
        assert shard.pull_ids() == [memory, durable]
        assert shard.push(job_id="m") == memory
        shard = shard.crash()
        assert shard.state_of(memory) == shard.state_of(durable) == "active"
        shard.advance(30_000)
        assert shard.state_of(memory) == shard.state_of(durable) == "waiting"

    def test_a_delivery_of_which_another_job_was_handed_out_since_is_watched(
        self, shard: Shard
    ) -> None:
        """The other job's delivery is a later one; this one's still has its own deadline."""
        first, second = shard.push(), shard.push()
        assert shard.pull_ids(count=2) == [first, second]
        shard.ask("RELEASE", ids=[first])
        assert shard.pull_ids(count=2) == [first]
        shard = shard.crash()
        shard.advance(29_999)
        assert shard.state_of(first) == shard.state_of(second) == "active"
        shard.advance(1)
        assert shard.state_of(first) == shard.state_of(second) == "waiting"

    def test_a_lost_delivery_is_adopted_by_the_session_that_names_it(self, shard: Shard) -> None:
        """1. a job is handed out; 2. the shard is killed before that record is safe; 3. the
        worker's heartbeat names it: the job is the worker's again, not handed out a second
        time."""
        job_id = shard.push()
        job = shard.pull(session=ALICE)
        shard = shard.crash(lose=1)
        assert shard.state_of(job_id) == "waiting"
        assert beat(shard, ALICE, job) == []
        assert shard.state_of(job_id) == "active"
        shard.advance(9_000)
        assert beat(shard, ALICE, job) == []
        shard.check_recovery()
        shard.ask("ACK", id=job_id, token=job["token"])

    def test_one_that_is_named_twice_is_adopted_once(self, shard: Shard) -> None:
        """A client may say anything: the same job again, or under two lost tokens."""
        shard.push()
        job = shard.pull(session=ALICE)
        shard = shard.crash(lose=1)
        other = {"id": job["id"], "token": job["token"] + 1}
        assert beat(shard, ALICE, job, job, other) == [job["id"]] * 2
        assert shard.state_of(job["id"]) == "active"
        assert shard.inner(job["id"]).lease.token == job["token"]  # type: ignore[union-attr]
        shard.check_recovery()

    def test_an_adopted_job_is_watched(self, shard: Shard) -> None:
        job_id = shard.push(timeout=3_000)
        job = shard.pull(session=ALICE)
        shard = shard.crash(lose=1)
        beat(shard, ALICE, job)
        shard.advance(3_000)
        assert shard.job(job_id)["progress_msg"] == "Job timed out"

    def test_a_job_that_has_become_delayed_again_is_adopted(self, shard: Shard) -> None:
        """1. a delayed job is promoted and handed out; 2. both records are lost with the
        shard; 3. the worker names it. Its state is delayed now, and adopting it must not
        stop the shard."""
        job_id = shard.push(delay=60_000)
        shard.ask("PROMOTE", id=job_id)
        job = shard.pull(session=ALICE)
        shard = shard.crash(lose=2)
        assert shard.state_of(job_id) == "delayed"
        assert beat(shard, ALICE, job) == []
        assert shard.state_of(job_id) == "active"
        shard.check_recovery()

    def test_a_job_handed_out_since_is_not_adopted(self, shard: Shard) -> None:
        job_id = shard.push()
        job = shard.pull(session=ALICE)
        shard = shard.crash(lose=1)
        other = shard.pull(session=BOB)
        assert beat(shard, ALICE, job) == [job_id]
        shard.ask("RELEASE", ids=[job_id], tokens=[other["token"]])
        assert beat(shard, ALICE, job) == [job_id]
        assert shard.state_of(job_id) == "waiting"

    def test_a_token_that_was_given_back_is_not_adopted(self, shard: Shard) -> None:
        shard.push()
        job = shard.pull(session=ALICE)
        shard.ask("RELEASE", ids=[job["id"]], tokens=[job["token"]])
        shard = shard.crash()
        assert beat(shard, ALICE, job) == [job["id"]]

    @pytest.mark.parametrize("token", [0, 1, 5, 2**32 - 1])
    def test_a_made_up_token_is_not_adopted(self, shard: Shard, token: int) -> None:
        """No epoch is 0, so no delivery ever had such a token."""
        job_id = shard.push()
        assert beat(shard, ALICE, {"id": job_id, "token": token}) == [job_id]
        with pytest.raises(Refused, match="lease lost"):
            shard.ask("ACK", id=job_id, token=token)
        assert shard.ask("ACKB", ids=[job_id], tokens=[token])["lost"] == [job_id]

    def test_the_current_epoch_has_no_lost_deliveries(self, shard: Shard) -> None:
        job_id = shard.push()
        job = {"id": job_id, "token": lease_token(1, 9)}
        assert beat(shard, CARL, job) == [job_id]


class TestAnswersForgotten:
    def test_a_session_silent_for_5_minutes_is_expired(self, shard: Shard) -> None:
        shard.push(session=ALICE, n=1)
        shard.advance(300_000)
        assert ALICE not in shard.state.sessions
        assert shard.refuse("PUSH", queue="q", data=1, session=ALICE, n=1)[0] == "session_expired"
        assert shard.engine.sessions == 0
        shard.check_recovery()

    def test_nothing_is_kept_for_a_session_without_answers(self, shard: Shard) -> None:
        beat(shard, ALICE)
        shard.advance(300_000)
        assert ALICE not in shard.state.expired_sessions
        assert shard.push(session=ALICE, n=1)

    def test_heartbeats_of_an_expired_session_hold_and_adopt_nothing(self, shard: Shard) -> None:
        """A session is either known or expired: it must not come to life by naming a lost
        delivery."""
        shard.push(session=ALICE, n=1)
        job_id = shard.push()
        shard.advance(300_000)
        shard = shard.crash()
        ghost = {"id": job_id, "token": lease_token(1, 50)}
        assert beat(shard, ALICE, ghost) == [job_id]
        assert shard.state_of(job_id) == "waiting"

    def test_an_expired_session_whose_push_still_waits_stays_expired(self) -> None:
        """The session expired while its push waited for another shard; after a restart it was met
        again, and the answer brought it back to life (simulated seed 9)."""
        shard = Shard(number=0, count=2)
        shard.send("PUSH", queue="q", data=1, session=ALICE, n=1, depends_on=[3])
        [dependent] = shard.state.awaiting
        shard.advance(300_000)
        assert ALICE in shard.state.expired_sessions
        shard = shard.crash()
        shard.mail(1, 1, DependencyAnswer(3, dependent, "pending"))
        assert ALICE not in shard.state.sessions
        assert shard.state_of(dependent) == "waitingchildren"

    def test_a_restart_gives_it_the_time_anew(self, shard: Shard) -> None:
        first = shard.push(session=ALICE, n=1)
        shard.advance(290_000)
        shard = shard.crash()
        shard.advance(290_000)
        assert shard.push(session=ALICE, n=1) == first
        shard.advance(300_000)
        assert shard.refuse("PUSH", queue="q", data=1, session=ALICE, n=1)[0] == "session_expired"


class TestBounced:
    def test_an_undeliverable_job_goes_back_uncounted(self, shard: Shard) -> None:
        job_id = shard.push()
        job = shard.pull(session=ALICE)
        held = [(job_id, job["token"]), (999, 1), (job_id, job["token"])]
        shard.engine.bounced(held, shard.now_ms, shard.mono_ms)
        shard._collect()
        again = shard.job(job_id)
        assert shard.state_of(job_id) == "waiting"
        assert (again.get("lost", 0), again["attempts"]) == (0, 0)

    def test_a_job_handed_out_since_stays(self, shard: Shard) -> None:
        job_id = shard.push()
        old = shard.pull()
        shard.ask("RELEASE", ids=[job_id])
        shard.pull()
        shard.engine.bounced([(job_id, old["token"])], shard.now_ms, shard.mono_ms)
        shard._collect()
        assert shard.state_of(job_id) == "active"
