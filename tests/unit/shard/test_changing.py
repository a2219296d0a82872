"""What may be done to a job in which state: wire-contract 4.15 as a table, with the exact texts."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.unit.shard.harness import Shard

STATES: Final = (
    *("waiting", "delayed", "active", "completed", "failed"),
    *("waitingchildren", "waitingparent", "unknown"),
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
    "CANCEL": dict.fromkeys(STATES, "unknown")
    | {"completed": CANNOT, "failed": CANNOT, "unknown": NF},
    "PROGRESS": dict.fromkeys(STATES, NFP) | {"active": "active"},
    "GETPROGRESS": dict.fromkeys(STATES, NF) | {"active": "active"},
    "HEARTBEAT": dict.fromkeys(STATES, NP) | {"active": "active"},
    "LOG": {state: state for state in STATES} | {"unknown": NF},
    "CHANGEPRIORITY": {state: state for state in STATES}
    | {"completed": PRIORITY, "unknown": PRIORITY},
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
        assert shard.refuse("ACK", id=job_id, token=job["token"])[0] == "job_not_found"
        assert shard.ask("METRICS")["metrics"]["total_cancelled"] == 1

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
