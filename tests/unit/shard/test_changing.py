"""What may be done to a job in which state: wire-contract 4.15 as a table, with the exact texts."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.unit.shard.harness import Shard

STATES: Final = (
    *("waiting", "delayed", "active", "completed", "failed"),
    *("waitingchildren", "waitingparent", "cancelled", "unknown"),
)
NF: Final = "Job {id} not found"
NP: Final = "Job {id} not in processing"
NFP: Final = "Job {id} not found in processing"
CANNOT: Final = "Job {id} cannot be cancelled (already completed/failed)"
PRIORITY: Final = "Job {id} not found or cannot change priority"
NOT_DELAYED: Final = "Job {id} not found or not in delayed state"
DISCARD: Final = "Job {id} not found or already in DLQ/completed"

#: by command and state: an error's text, or the state that the job is in afterwards
MATRIX: Final[dict[str, dict[str, str]]] = {
    "ACK": dict.fromkeys(STATES, NF) | {"active": "completed"},
    "FAIL": dict.fromkeys(STATES, NF) | {"active": "waiting"},
    "CANCEL": dict.fromkeys(STATES, "cancelled")
    | {"completed": CANNOT, "failed": CANNOT, "unknown": NF}
    | {"cancelled": "Job {id} cannot be cancelled (already cancelled)"},
    "PROGRESS": dict.fromkeys(STATES, NFP) | {"active": "active"},
    "GETPROGRESS": dict.fromkeys(STATES, NF) | {"active": "active"},
    "HEARTBEAT": dict.fromkeys(STATES, NP) | {"active": "active"},
    "LOG": {state: state for state in STATES} | {"unknown": NF},
    "CHANGEPRIORITY": {state: state for state in STATES}
    | {"completed": PRIORITY, "cancelled": PRIORITY, "unknown": PRIORITY},
    "MOVETODELAYED": dict.fromkeys(STATES, NP) | {"active": "delayed"},
    "PROMOTE": dict.fromkeys(STATES, NOT_DELAYED)
    | {"delayed": "waiting", "waiting": "Job {id} is not delayed"},
    "UPDATEJOB": dict.fromkeys(STATES, NF)
    | {state: state for state in ("waiting", "delayed", "active", "failed")},
    "DISCARD": dict.fromkeys(STATES, DISCARD)
    | dict.fromkeys(("waiting", "delayed", "active"), "failed"),
}
FIELDS: Final[dict[str, dict[str, Any]]] = {
    "PROGRESS": {"progress": 5},
    "LOG": {"message": "m"},
    "CHANGEPRIORITY": {"priority": 9},
    "MOVETODELAYED": {"delay": 1000},
    "UPDATEJOB": {"data": "new"},
}


def job_in(shard: Shard, state: str, **fields: Any) -> int:
    """Return a job in this state."""
    if state == "waiting":
        return shard.push(**fields)
    if state == "delayed":
        return shard.push(delay=60_000, **fields)
    if state == "active":
        return shard.make_active(**fields)
    if state == "completed":
        return shard.make_completed(**fields)
    if state == "failed":
        return shard.make_failed(**fields)
    if state == "cancelled":
        job_id = shard.push(**fields)
        shard.ask("CANCEL", id=job_id)
        return job_id
    if state == "waitingchildren":
        return shard.push(depends_on=[shard.push("first")], **fields)
    if state == "waitingparent":
        child = {"queue": "children", "data": 1}
        return int(shard.ask("FLOW", queue="q", data=1, children=[child], **fields)["parent_id"])
    return 999


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("cmd", MATRIX)
@pytest.mark.parametrize("crashed", [False, True])
def test_the_matrix(shard: Shard, cmd: str, state: str, crashed: bool) -> None:
    """Each command on a job in each state, before and after a restart."""
    job_id = job_in(shard, state)
    assert shard.state_of(job_id) == state
    if crashed:
        shard = shard.crash()
    expected = MATRIX[cmd][state]
    if "{id}" in expected:
        _, text = shard.refuse(cmd, id=job_id, **FIELDS.get(cmd, {}))
        assert text == expected.format(id=job_id)
        assert shard.state_of(job_id) == state
        return
    shard.ask(cmd, id=job_id, **FIELDS.get(cmd, {}))
    assert shard.state_of(job_id) == expected
    shard.check_recovery()


@pytest.mark.parametrize("state", STATES)
def test_ack_batch_and_release_leave_out_what_is_not_active(shard: Shard, state: str) -> None:
    """ACKB and RELEASE never fail because of a state: they count."""
    job_id = job_in(shard, state)
    is_active = state == "active"
    assert shard.ask("RELEASE", ids=[job_id])["count"] == is_active
    if is_active:
        shard.pull()
    reply = shard.ask("ACKB", ids=[job_id])
    assert reply["ids"] == [is_active]
    assert reply.get("lost", []) == ([] if is_active else [job_id])


@pytest.mark.parametrize("state", STATES)
def test_looking_never_fails(shard: Shard, state: str) -> None:
    """Reads answer for a job in any state, and for none."""
    job_id = job_in(shard, state)
    reply = shard.ask("GETJOB", id=job_id)
    assert reply["state"] == state
    assert (reply["job"] is None) == (state == "unknown")
    assert shard.ask("GETRESULT", id=job_id)["result"] is None
    assert shard.ask("GETLOGS", id=job_id) == {"ok": True, "id": job_id, "logs": []}
    assert shard.ask("RETRYDLQ", queue="q", id=job_id)["ids"] == [state == "failed"]


class TestCancel:
    def test_the_worker_learns_by_its_lease(self, shard: Shard) -> None:
        job_id = shard.push()
        job = shard.pull()
        shard.ask("CANCEL", id=job_id)
        assert shard.refuse("ACK", id=job_id, token=job["token"])[0] == "lease_lost"
        assert shard.refuse("ACK", id=job_id)[0] == "job_not_found"
        assert shard.ask("METRICS")["metrics"]["total_cancelled"] == 1

    def test_the_job_is_kept_with_reason_and_time(self, shard: Shard) -> None:
        """It used to vanish: nobody could say whether there ever was such a job."""
        first = shard.push("q", {"n": 1}, tags=["t"])
        shard.advance(50)
        second = shard.push()
        shard.ask("CANCEL", id=first, reason="not needed any more")
        cancelled_at = shard.now_ms
        shard.advance(50)
        shard.ask("CANCEL", id=second)
        for some in (shard, shard.crash(downtime_ms=0)):
            job = some.ask("GETJOB", id=first)["job"]
            assert (job["cancelled_at"], job["cancel_reason"]) == (
                cancelled_at,
                "not needed any more",
            )
            assert job["data"] == {"n": 1}
            assert "completed_at" not in job
            plain = some.ask("GETJOB", id=second)["job"]
            assert plain["cancelled_at"] == cancelled_at + 50
            assert "cancel_reason" not in plain
            reply = some.ask("GETJOBS", queue="q", state="cancelled")
            assert [one["id"] for one in reply["jobs"]] == [second, first]
            assert {one["state"] for one in reply["jobs"]} == {"cancelled"}
            assert reply["total"] == some.ask("GETJOBS", queue="q")["total"] == 2
            assert some.ask("GETJOBCOUNTS", queue="q")["cancelled"] == 2
            assert some.ask("STATS")["cancelled"] == 2
            full = some.job(first)
            assert (full["completed_at"], full["cancelled_at"]) == (0, cancelled_at)

    def test_older_clients_have_it_that_the_job_is_gone(self, shard: Shard) -> None:
        """They know no such state, and no such count."""
        job_id = shard.push(job_id="mine")
        shard.ask("CANCEL", id=job_id)
        assert shard.ask("GETSTATE", id=job_id, older=True)["state"] == "unknown"
        reply = shard.ask("GETJOB", id=job_id, older=True, full=True)
        assert (reply["job"], reply["state"]) == (None, "unknown")
        for more in ({}, {"state": "cancelled"}):
            reply = shard.ask("GETJOBS", queue="q", older=True, **more)
            assert (reply["jobs"], reply["total"]) == ([], 0)
        assert shard.ask("GETJOBSBATCH", ids=[job_id], older=True)["jobs"] == []
        assert "cancelled" not in shard.ask("GETJOBCOUNTS", queue="q", older=True)
        assert "cancelled" not in shard.ask("STATS", older=True)
        text = ("job_not_found", f"Job {job_id} not found")
        assert shard.refuse("CANCEL", id=job_id, older=True) == text
        text = ("wait_job_not_found", "Job not found")
        assert shard.refuse("WAITJOB", id=job_id, older=True) == text

    def test_one_who_waits_is_told_why(self, shard: Shard) -> None:
        """Before and after; an older client is told what it knows."""
        job_id = shard.push()
        waiting = shard.send("WAITJOB", id=job_id, timeout=1000)
        older = shard.send("WAITJOB", id=job_id, timeout=1000, older=True)
        shard.ask("CANCEL", id=job_id, reason="too late")
        told = shard.answer(waiting)
        assert told is not None
        assert (told["code"], told["error"]) == ("job_cancelled", "Job cancelled: too late")
        told = shard.answer(older)
        assert told is not None
        assert told["error"] == "Job not found"
        text = ("job_cancelled", "Job cancelled: too late")
        assert shard.refuse("WAITJOB", id=job_id) == text

    def test_a_reason_is_bounded(self, shard: Shard) -> None:
        job_id = shard.push()
        text = "Field reason too large (1001 characters, max 1000)"
        assert shard.refuse("CANCEL", id=job_id, reason="x" * 1001) == ("field_too_large", text)
        shard.ask("CANCEL", id=job_id, reason="x" * 1000)

    def test_its_keys_are_free(self, shard: Shard) -> None:
        """The same push again is a new job, and the cancelled one stays what it is."""
        first = shard.push(unique_key="k", job_id="mine")
        shard.ask("CANCEL", id=first)
        second = shard.push(unique_key="k", job_id="mine")
        assert second != first
        shard = shard.crash()
        found = shard.ask("GETJOBBYCUSTOMID", queue="q", job_id="mine")
        assert found["job"]["id"] == second
        shard.ask("CANCEL", id=second)
        assert shard.ask("GETJOBBYCUSTOMID", queue="q", job_id="mine")["job"] is None
        assert shard.ask("GETJOB", id=first)["job"]["custom_id"] == "mine"
        shard.check_recovery()

    def test_retention_is_that_of_completed_jobs(self) -> None:
        """Bounds of the shard, age, count, removal at once; both states count together."""
        shard = Shard(completed_jobs_max=2)

        def cancelled(**options: Any) -> int:
            job_id = shard.push(**options)
            shard.ask("CANCEL", id=job_id)
            shard.advance(1)
            return job_id

        first, second = cancelled(), shard.make_completed()
        third = cancelled()
        assert [shard.state_of(key) for key in (first, second, third)] == [
            *("unknown", "completed", "cancelled")
        ]
        assert shard.state_of(cancelled(remove_on_complete=True)) == "unknown"
        aged = cancelled(keep_completed_age=500)
        counted = [cancelled(queue="c", keep_completed_count=2) for _ in range(3)]
        assert [shard.state_of(key) for key in counted] == ["unknown", "cancelled", "cancelled"]
        shard = shard.crash(downtime_ms=0)
        assert shard.state_of(aged) == "cancelled"
        shard.advance(500)
        assert shard.state_of(aged) == "unknown"
        assert shard.ask("METRICS")["metrics"]["total_cancelled"] == 7
        shard.check_recovery()

    def test_cleaned_and_obliterated(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(3)]
        for job_id in jobs:
            shard.ask("CANCEL", id=job_id)
        assert shard.ask("CLEAN", queue="q", grace=0, state="cancelled", limit=1)["count"] == 1
        assert shard.ask("GETJOBCOUNTS", queue="q")["cancelled"] == 2
        shard.ask("OBLITERATE", queue="q")
        assert shard.state.queues == {}

    def test_the_event_says_why(self, shard: Shard) -> None:
        shard.listen("q")
        job_id = shard.push()
        shard.ask("CANCEL", id=job_id, reason="too late")
        event = shard.events[-1]
        assert (event.event, event.ids, event.error) == ("cancelled", [job_id], "too late")

    def test_a_push_that_depends_on_a_cancelled_job_fails(self, shard: Shard) -> None:
        """As one that was pushed before."""
        first = shard.push()
        before = shard.push(depends_on=[first])
        shard.ask("CANCEL", id=first)
        after = shard.push(depends_on=[first])
        for job_id in (before, after):
            assert shard.state_of(job_id) == "failed"
            assert shard.job(job_id)["error"] == f"dependency {first} removed: cancelled"

    def test_from_the_middle_of_a_queue(self, shard: Shard) -> None:
        jobs = [shard.push(priority=n % 2) for n in range(6)]
        for job_id in (jobs[1], jobs[2]):
            shard.ask("CANCEL", id=job_id)
        assert shard.pull_ids() == [jobs[3], jobs[5], jobs[0], jobs[4]]


class TestChangePriority:
    def test_a_waiting_job_moves_to_its_new_place(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(3)]
        shard.ask("CHANGEPRIORITY", id=jobs[2], priority=5)
        shard.ask("CHANGEPRIORITY", id=jobs[0], priority=-5)
        assert shard.pull_ids() == [jobs[2], jobs[1], jobs[0]]

    def test_there_and_back_keeps_the_place(self, shard: Shard) -> None:
        jobs = [shard.push() for _ in range(3)]
        shard.ask("CHANGEPRIORITY", id=jobs[0], priority=5)
        shard.ask("CHANGEPRIORITY", id=jobs[0], priority=0)
        assert shard.pull_ids() == jobs

    @pytest.mark.parametrize("state", ["delayed", "active", "failed", "waitingchildren"])
    def test_counts_when_the_job_is_ready_again(self, shard: Shard, state: str) -> None:
        job_id = job_in(shard, state)
        shard.ask("CHANGEPRIORITY", id=job_id, priority=5)
        other = shard.push(priority=1)
        if state == "active":
            shard.ask("RELEASE", ids=[job_id])
        elif state == "failed":
            shard.ask("RETRYDLQ", queue="q")
        elif state == "waitingchildren":
            shard.ask("ACK", id=shard.pull("first")["id"])
        shard.advance(60_000)
        assert shard.pull_ids() == [job_id, other]


class TestMoveToDelayed:
    def test_starts_over_without_an_attempt(self, shard: Shard) -> None:
        job_id = shard.make_active()
        shard.ask("PROGRESS", id=job_id, progress=50, message="half")
        shard.ask("MOVETODELAYED", id=job_id, delay=500)
        job = shard.job(job_id)
        assert (job["started_at"], job["progress"], job["progress_msg"]) == (0, 0, None)
        assert (job["attempts"], job["run_at"]) == (0, shard.now_ms + 500)

    def test_no_delay_is_waiting(self, shard: Shard) -> None:
        job_id = shard.make_active()
        shard.ask("MOVETODELAYED", id=job_id, delay=0)
        assert shard.state_of(job_id) == "waiting"


class TestUpdate:
    def test_replaces_the_payload_and_the_bytes_that_are_counted(self, shard: Shard) -> None:
        job_id = shard.push(data="x" * 100)
        size = shard.state.bytes
        shard.ask("UPDATEJOB", id=job_id, data="y")
        assert shard.state.bytes == size - 100
        assert shard.pull()["data"] == "y"

    def test_in_another_encoding_and_under_the_older_word(self, shard: Shard) -> None:
        job_id = shard.push(data={"a": 1}, unique_key="k")
        shard.ask("UPDATE", id=job_id, data={"b": 2}, json=True)
        assert shard.job(job_id)["data"] == {"b": 2}
        shard.check_recovery()
        shard.ask("UPDATEJOB", id=job_id, data=[3])
        assert shard.job(job_id)["data"] == [3]

    def test_the_size_is_checked(self) -> None:
        """It used not to be."""
        shard = Shard(payload_bytes_max=10)
        job_id = shard.push(data=1)
        assert shard.refuse("UPDATEJOB", id=job_id, data="x" * 20)[0] == "payload_too_large"


class TestDiscard:
    def test_is_a_failure_that_counts_no_attempt(self, shard: Shard) -> None:
        job_id = shard.push(unique_key="k")
        shard.ask("DISCARD", id=job_id)
        job = shard.job(job_id)
        assert (job["attempts"], job["error"]) == (0, "discarded")
        assert shard.ask("METRICS")["metrics"]["total_failed"] == 1
        assert shard.refuse("PUSH", queue="q", data=1, unique_key="k")[0] == "duplicate"

    @pytest.mark.parametrize("state", ["waiting", "delayed", "active"])
    def test_a_job_that_is_not_kept_is_gone(self, shard: Shard, state: str) -> None:
        """Discarding a waiting one used to take it out of its lane twice."""
        job_id = job_in(shard, state, remove_on_fail=True)
        shard.ask("DISCARD", id=job_id)
        assert shard.state_of(job_id) == "unknown"
        shard.check_recovery()
