"""ACK, ACKB, FAIL, RELEASE, HEARTBEAT and PROGRESS, with tokens and without."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.shard.harness import ALICE, BOB, Shard

HOLDERS: list[tuple[str, dict[str, Any]]] = [
    ("ACK", {}),
    ("FAIL", {}),
    ("HEARTBEAT", {}),
    ("PROGRESS", {"progress": 5}),
    ("MOVETODELAYED", {"delay": 5000}),
]


class TestTokens:
    @pytest.mark.parametrize(("cmd", "more"), HOLDERS)
    def test_one_that_is_not_current_is_refused(
        self, shard: Shard, cmd: str, more: dict[str, Any]
    ) -> None:
        """A late worker used to be able to end an attempt that belongs to another by now."""
        job_id = shard.push()
        old = shard.pull()
        shard.ask("RELEASE", ids=[job_id])
        new = shard.pull()
        code, text = shard.refuse(cmd, id=job_id, token=old["token"], **more)
        assert (code, text) == ("lease_lost", f"lease lost: job {job_id} is no longer yours")
        shard.ask(cmd, id=job_id, token=new["token"], **more)

    @pytest.mark.parametrize(("cmd", "more"), HOLDERS)
    def test_none_is_as_before(self, shard: Shard, cmd: str, more: dict[str, Any]) -> None:
        job_id = shard.make_active()
        shard.ask(cmd, id=job_id, **more)

    @pytest.mark.parametrize("end", ["ACK", "CANCEL", "RELEASE"])
    def test_of_a_job_that_is_no_longer_held(self, shard: Shard, end: str) -> None:
        job_id = shard.push()
        job = shard.pull()
        shard.ask(end, **({"ids": [job_id]} if end == "RELEASE" else {"id": job_id}))
        code, _ = shard.refuse("ACK", id=job_id, token=job["token"])
        assert code == "lease_lost"

    def test_batches_leave_out_what_is_not_held(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(4)]
        held = shard.ask("PULLB", queue="q", count=4, timeout=0)["jobs"]
        token = held[0]["token"]
        shard.ask("RELEASE", ids=[jobs[1]])
        shard.pull()
        ids = [jobs[0], jobs[1], jobs[2], jobs[2], 999]
        reply = shard.ask("ACKB", ids=ids, tokens=[token, token, None, token, None])
        assert reply["ids"] == [2]
        assert reply["lost"] == [jobs[1], jobs[2], 999]
        assert shard.ask("RELEASE", ids=[jobs[1], jobs[3], jobs[3]], tokens=[token] * 3) == {
            "ok": True,
            "count": 1,
        }
        shard.check_recovery()


class TestLostDeliveries:
    """1. a job is handed out; 2. the shard is killed before that record is safe; 3. the
    worker, which knows nothing of it, goes on: whatever it says with its token is taken."""

    @pytest.mark.parametrize("delayed", [False, True])
    @pytest.mark.parametrize(
        ("cmd", "more", "state"),
        [
            ("ACK", {"result": 5}, "completed"),
            ("FAIL", {"error": "no"}, "waiting"),
            ("HEARTBEAT", {}, "active"),
            ("PROGRESS", {"progress": 7}, "active"),
            ("MOVETODELAYED", {"delay": 100}, "delayed"),
        ],
    )
    @pytest.mark.parametrize("session", [None, ALICE])
    def test_single(
        self, shard: Shard, cmd: str, more: dict[str, Any], state: str, session: Any, delayed: bool
    ) -> None:
        job_id = shard.push(delay=50_000 if delayed else 0)
        if delayed:
            shard.ask("PROMOTE", id=job_id)
        job = shard.pull(session=session)
        shard = shard.crash(lose=2 if delayed else 1)
        assert shard.state_of(job_id) == ("delayed" if delayed else "waiting")
        shard.ask(cmd, id=job_id, token=job["token"], session=session, **more)
        assert shard.state_of(job_id) == state
        shard.check_recovery()

    @pytest.mark.parametrize("cmd", ["ACKB", "RELEASE"])
    def test_batch(self, shard: Shard, cmd: str) -> None:
        jobs = [shard.push() for _ in range(3)]
        first = shard.pull(session=ALICE)
        rest = shard.ask("PULLB", queue="q", count=2, timeout=0, session=ALICE)["jobs"]
        shard = shard.crash(lose=1)
        held = [first, *rest]
        fields = {"ids": jobs, "tokens": [job["token"] for job in held]}
        shard.ask(cmd, **fields, session=ALICE)
        expected = "completed" if cmd == "ACKB" else "waiting"
        assert [shard.state_of(job_id) for job_id in jobs] == [expected] * 3
        shard.check_recovery()

    def test_a_job_kept_alive_without_a_session_stalls_in_the_end(self, shard: Shard) -> None:
        job_id = shard.push()
        job = shard.pull()
        shard = shard.crash(lose=1)
        shard.ask("HEARTBEAT", id=job_id, token=job["token"])
        shard.advance(29_999)
        assert shard.state_of(job_id) == "active"
        shard.advance(1)
        assert shard.state_of(job_id) == "waiting"

    def test_not_after_the_job_was_handed_out_again(self, shard: Shard) -> None:
        job_id = shard.push()
        job = shard.pull()
        shard = shard.crash(lose=1)
        shard.pull(session=BOB)
        assert shard.refuse("ACK", id=job_id, token=job["token"])[0] == "lease_lost"
        shard.ask("RELEASE", ids=[job_id])
        assert shard.refuse("ACK", id=job_id, token=job["token"])[0] == "lease_lost"


class TestResults:
    @pytest.mark.parametrize("result", [None, 0, False, "", {"a": [1]}, b"raw"])
    def test_are_given_back(self, shard: Shard, result: Any) -> None:
        job_id = shard.make_completed(result)
        assert shard.ask("GETRESULT", id=job_id)["result"] == result

    def test_of_a_batch_in_line_with_its_ids(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(3)]
        shard.pull_ids()
        shard.ask("ACKB", ids=[jobs[2], 999, jobs[0], jobs[1]], results=[2, 9, None, 1])
        given = [shard.ask("GETRESULT", id=job_id)["result"] for job_id in jobs]
        assert given == [None, 1, 2]
        assert shard.state.results == 2

    def test_across_encodings(self, shard: Shard) -> None:
        job_id = shard.make_active()
        shard.ask("ACK", id=job_id, result={"x": [1, None]}, json=True)
        assert shard.ask("GETRESULT", id=job_id)["result"] == {"x": [1, None]}
        corr = shard.send("GETRESULT", id=job_id, json=True)
        assert bytes(shard.replies[corr].body.result) == b'{"x":[1,null]}'

    def test_null_is_none_in_json_too(self, shard: Shard) -> None:
        job_id = shard.make_active()
        shard.ask("ACK", id=job_id, result=None, json=True)
        assert shard.state.results == 0

    def test_too_large_and_nothing_happens(self) -> None:
        shard = Shard(payload_bytes_max=10)
        job_id = shard.make_active()
        assert shard.refuse("ACK", id=job_id, result="x" * 20)[0] == "payload_too_large"
        assert shard.refuse("ACKB", ids=[job_id], results=["x" * 20])[0] == "payload_too_large"
        assert shard.state_of(job_id) == "active"

    @pytest.mark.parametrize("fields", [{"tokens": [1]}, {"results": [1]}, {"tokens": [None] * 3}])
    def test_lists_that_are_not_in_line(self, shard: Shard, fields: dict[str, Any]) -> None:
        code, text = shard.refuse("ACKB", ids=[1, 2], **fields)
        assert code == "invalid"
        assert "beside 2 ids" in text

    def test_the_bound_on_batches(self) -> None:
        shard = Shard(batch_jobs_max=2)
        assert shard.refuse("ACKB", ids=[1, 2, 3])[0] == "batch_too_large"
        assert shard.refuse("RELEASE", ids=[1, 2, 3])[0] == "batch_too_large"


class TestAckBatchDoesEverything:
    """ACKB used to skip nearly all that ACK does (W35)."""

    def test_removal_events_waiters_flows_and_keys(self, shard: Shard) -> None:
        shard.listen()
        flow = shard.ask("FLOW", queue="p", data=1, children=[{"queue": "q", "data": 1}])
        gone = shard.push(remove_on_complete=True, unique_key="k")
        dependent = shard.push("d", depends_on=[gone])
        corr = shard.send("WAITJOB", id=gone)
        shard.pull_ids()
        shard.happened()
        shard.ask("ACKB", ids=[*flow["children_ids"], gone], results=[1, 2])
        assert shard.state_of(gone) == "unknown"
        assert shard.state_of(flow["parent_id"]) == "waiting"
        assert shard.state_of(dependent) == "waiting"
        assert shard.answer(corr) == {"ok": True, "result": 2}
        assert shard.push(unique_key="k")
        assert shard.happened()[0] == ("completed", [*flow["children_ids"], gone])


class TestFail:
    def test_retries_with_backoff_and_keeps_the_history(self, shard: Shard) -> None:
        job_id = shard.push(max_attempts=3, backoff=100)
        for attempt, delay in ((1, 100), (2, 200)):
            shard.pull()
            started = shard.now_ms
            shard.advance(5)
            shard.ask("FAIL", id=job_id, error=f"e{attempt}")
            job = shard.job(job_id)
            assert (job["attempts"], job["progress_msg"]) == (attempt, f"e{attempt}")
            assert job["run_at"] == shard.now_ms + delay
            assert job["history"][-1] == {
                "at": shard.now_ms,
                "reason": "failed",
                "error": f"e{attempt}",
                "started_at": started,
            }
            shard.advance(delay)
        shard.pull()
        shard.ask("FAIL", id=job_id)
        job = shard.job(job_id)
        assert shard.state_of(job_id) == "failed"
        assert (job["attempts"], job["error"], len(job["history"])) == (3, "failed", 3)
        shard.check_recovery()

    def test_the_history_is_bounded(self, shard: Shard) -> None:
        job_id = shard.push()
        for _ in range(30):
            shard.advance(1000)
            shard.pull()
            shard.ask("FAIL", id=job_id, error="e")
        assert len(shard.job(job_id)["history"]) == 20
        assert shard.job(job_id)["attempts"] == 30

    def test_of_a_long_text_head_and_tail_are_kept(self, shard: Shard) -> None:
        """Its end used to be cut off, with an `ok`; the reply says how much is left out."""
        text = "head" + "x" * 20_000 + "tail"
        job_id = shard.push(max_attempts=1)
        shard.pull()
        said = shard.ask("PROGRESS", id=job_id, progress=1, message=text)
        message = shard.job(job_id)["progress_msg"]
        assert shard.ask("FAIL", id=job_id, error=text)["cut"] == said["cut"]
        assert shard.job(job_id)["error"] == message
        assert len(message) <= 10_000
        assert message.startswith("headx")
        assert message.endswith("xtail")
        assert f"{said['cut']} characters left out" in message

    def test_shows_the_reason_in_the_dead_letters(self, shard: Shard) -> None:
        """It used not to be on the job (W41)."""
        shard.make_failed("because")
        (job,) = shard.ask("DLQ", queue="q")["jobs"]
        assert job["error"] == "because"


class TestProgress:
    @pytest.mark.parametrize(
        ("said", "kept"),
        [
            (0, 0),
            (55, 55),
            (300, 100),
            (-5, 0),
            (49.6, 50),
            (2**63, 100),
            (float("inf"), 100),
            (float("-inf"), 0),
            (float("nan"), 0),
        ],
    )
    def test_is_rounded_and_clamped(self, shard: Shard, said: float, kept: int) -> None:
        job_id = shard.make_active()
        shard.ask("PROGRESS", id=job_id, progress=said, message="m")
        assert shard.ask("GETPROGRESS", id=job_id)["progress"] == {
            "id": job_id,
            "progress": kept,
            "message": "m",
        }

    def test_no_message_clears_the_last_one(self, shard: Shard) -> None:
        job_id = shard.make_active()
        shard.ask("PROGRESS", id=job_id, progress=1, message="m")
        shard.ask("PROGRESS", id=job_id, progress=2)
        assert shard.ask("GETPROGRESS", id=job_id)["progress"]["message"] is None


class TestHeartbeat:
    def test_is_shown_on_the_job(self, shard: Shard) -> None:
        job_id = shard.make_active()
        assert shard.job(job_id)["last_heartbeat"] == shard.now_ms
        shard.advance(500)
        shard.ask("HEARTBEAT", job_id=job_id)
        assert shard.job(job_id)["last_heartbeat"] == shard.now_ms

    def test_needs_an_id(self, shard: Shard) -> None:
        assert shard.refuse("HEARTBEAT") == ("invalid", "Invalid: missing field `id`")
