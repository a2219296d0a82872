"""PULL, PULLB, ACK, ACKB, FAIL, RELEASE, HEARTBEAT, PROGRESS and the log of a job."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.contract.dealer import DELIVERY, JSON, Dealer
from tests.contract.refusals import refused
from tests.contract.states import NEVER_PUSHED, job_in, pull, push


@pytest.mark.covers("PULL")
def test_an_empty_queue_gives_null_and_no_error(dealer: Dealer, queue: str) -> None:
    """At once when asked not to wait, else after the time-out."""
    assert dealer.ask("PULL", queue=queue, timeout=0) == {"ok": True, "job": None}
    assert dealer.ask("PULL", queue=queue, timeout=5) == {"ok": True, "job": None}


@pytest.mark.covers("PULL")
def test_a_parked_pull_is_answered_by_a_push_and_does_not_stall_its_connection(
    dealer: Dealer, queue: str
) -> None:
    """Requests behind it on the same connection are answered before it."""
    parked = dealer.send("PULL", queue=queue)
    job_id = push(dealer, queue)
    job = dealer.answer(parked)["job"]
    assert job["id"] == job_id
    assert dealer.headers[parked][0] & DELIVERY


@pytest.mark.covers("PULL")
def test_higher_priority_comes_first_and_a_delayed_job_hides_nobody(
    dealer: Dealer, queue: str
) -> None:
    """Then lifo jobs, newest first; then as they came."""
    options: list[dict[str, Any]] = [
        {},
        {"priority": 2},
        {"lifo": True},
        {"priority": 9, "delay": 3_600_000},
        {},
        {"lifo": True},
        {"priority": -1},
    ]
    ids = [push(dealer, queue, **option) for option in options]
    order = [pull(dealer, queue)["id"] for _ in range(6)]
    assert order == [ids[place] for place in (1, 5, 2, 0, 4, 6)]
    assert dealer.ask("PULL", queue=queue, timeout=0)["job"] is None


@pytest.mark.covers("PULLB")
def test_plain_jobs_come_as_columns_when_asked_for(dealer: Dealer, queue: str) -> None:
    """A column of one stands for all. Special jobs, and whoever reads JSON, get them as ever."""
    low = push(dealer, queue, data=3, priority=-1)
    ids = [push(dealer, queue, data=number) for number in range(3)]
    reply = dealer.ask("PULLB", queue=queue, count=3, timeout=0, columns=True)
    if dealer.flags & JSON:
        assert [job["id"] for job in reply["jobs"]] == ids
        return
    assert list(reply) == ["ok", "columns"]
    columns = reply["columns"]
    assert (columns["queue"], columns["ids"], columns["priority"]) == (queue, ids, [0])
    assert columns["data"] == [b"\x00", b"\x01", b"\x02"]
    assert dealer.ask("ACKB", ids=ids, tokens=[columns["token"]] * 3)["ids"] == [3]
    special = push(dealer, queue, tags=["a"])
    reply = dealer.ask("PULLB", queue=queue, count=3, timeout=0, columns=True)
    assert [job["id"] for job in reply["jobs"]] == [special, low]


@pytest.mark.covers("PULLB")
def test_a_batch_is_what_there_is_up_to_count(dealer: Dealer, queue: str) -> None:
    """It does not wait to fill up; a time-out reads as an empty list and as null."""
    ids = [push(dealer, queue) for _ in range(5)]
    reply = dealer.ask("PULLB", queue=queue, count=3, timeout=0)
    assert list(reply) == ["ok", "jobs"]
    assert [job["id"] for job in reply["jobs"]] == ids[:3]
    reply = dealer.ask("PULLB", queue=queue, count=1_000_000_000, timeout=0)
    assert [job["id"] for job in reply["jobs"]] == ids[3:]
    for timeout in (0, 5):
        reply = dealer.ask("PULLB", queue=queue, count=3, timeout=timeout)
        assert reply == {"ok": True, "jobs": [], "job": None}
    assert dealer.ask("PULLB", queue=queue, count=0, timeout=5)["jobs"] == []


@pytest.mark.covers("ACK", "GETRESULT")
@pytest.mark.parametrize("result", [{"r": [1]}, "text", 0, False, None])
def test_a_result_is_kept_and_null_is_none(dealer: Dealer, queue: str, result: object) -> None:
    """A second ack finds nothing active."""
    job_id = push(dealer, queue)
    pull(dealer, queue)
    assert dealer.ask("ACK", id=job_id, result=result) == {"ok": True}
    assert dealer.ask("GETRESULT", id=job_id) == {"ok": True, "id": job_id, "result": result}
    assert refused(dealer, "ACK", id=job_id) == f"Job {job_id} not found"


@pytest.mark.covers("ACKB")
def test_a_batch_of_acks_does_all_that_single_ones_do(dealer: Dealer, queue: str) -> None:
    """The one element of `ids` is how many; results, keys and counts over several shards too."""
    queues = [f"{queue}-{n}" for n in range(6)]
    ids = [push(dealer, name, unique_key="k") for name in queues]
    tokens = [pull(dealer, name)["token"] for name in queues]
    results = [{"n": n} for n in range(6)]
    reply = dealer.ask("ACKB", ids=[*ids, 4], tokens=[*tokens, None], results=[*results, None])
    assert (reply["ok"], reply["ids"], reply["lost"]) == (True, [6], [4])
    assert [dealer.ask("GETRESULT", id=job_id)["result"] for job_id in ids] == results
    push(dealer, queues[0], unique_key="k")
    assert dealer.ask("ACKB", ids=[]) == {"ok": True, "ids": [0]}


@pytest.mark.covers("FAIL")
def test_a_failed_attempt_is_retried_until_they_are_used_up(dealer: Dealer, queue: str) -> None:
    """The reply is the same for a retry and for the dead letters; the error stays with the job."""
    job_id = push(dealer, queue, max_attempts=2)
    pull(dealer, queue)
    assert dealer.ask("FAIL", id=job_id, error="first") == {"ok": True}
    job = pull(dealer, queue)
    assert (job["id"], job["attempts"]) == (job_id, 1)
    assert dealer.ask("FAIL", id=job_id) == {"ok": True}
    found = dealer.ask("GETJOB", id=job_id)
    assert (found["state"], found["job"]["attempts"]) == ("failed", 2)
    assert [attempt.get("error") for attempt in found["job"]["history"]] == ["first", None]


@pytest.mark.covers("FAIL")
def test_backoff_doubles_from_its_base(dealer: Dealer, queue: str) -> None:
    """The wait before the first retry is the base itself."""
    job_id = push(dealer, queue, backoff=3_600_000)
    pull(dealer, queue)
    before = int(time.time() * 1000)
    dealer.ask("FAIL", id=job_id)
    found = dealer.ask("GETJOB", id=job_id)
    assert found["state"] == "delayed"
    waited = (
        found["job"]["run_at"] - before
    )  # by two clocks, of which each may have been read early
    assert abs(waited - 3_600_000) < 600_000


@pytest.mark.covers("RELEASE")
def test_a_released_job_goes_back_without_an_attempt(dealer: Dealer, queue: str) -> None:
    """And is handed out again at once, under another token; the old one is lost."""
    job_id = push(dealer, queue)
    token = pull(dealer, queue)["token"]
    assert dealer.ask("RELEASE", ids=[job_id], tokens=[token]) == {"ok": True, "count": 1}
    job = pull(dealer, queue)
    assert job.get("attempts", 0) == 0
    assert job["token"] != token
    lost = f"lease lost: job {job_id} is no longer yours"
    for word, fields in {
        "ACK": {},
        "FAIL": {},
        "HEARTBEAT": {},
        "PROGRESS": {"progress": 1},
    }.items():
        assert refused(dealer, word, id=job_id, token=token, **fields) == lost
    assert dealer.ask("ACK", id=job_id, token=job["token"]) == {"ok": True}


@pytest.mark.covers("PROGRESS", "GETPROGRESS")
def test_progress_is_rounded_and_clamped_and_a_missing_message_clears(
    dealer: Dealer, queue: str
) -> None:
    """The TypeScript client forwards fractions."""
    job_id = push(dealer, queue)
    pull(dealer, queue)
    for said, kept in ((0, 0), (50.4, 50), (99, 99), (250, 100), (-3, 0)):
        assert dealer.ask("PROGRESS", id=job_id, progress=said, message="m") == {"ok": True}
        progress = {"id": job_id, "progress": kept, "message": "m"}
        assert dealer.ask("GETPROGRESS", id=job_id) == {"ok": True, "progress": progress}
    dealer.ask("PROGRESS", id=job_id, progress=7)
    assert dealer.ask("GETPROGRESS", id=job_id)["progress"]["message"] is None


@pytest.mark.covers("HEARTBEAT")
def test_a_heartbeat_moves_the_jobs_last_one(dealer: Dealer, queue: str) -> None:
    """With the right token or without one."""
    job_id = push(dealer, queue)
    job = pull(dealer, queue)
    assert dealer.ask("HEARTBEAT", id=job_id) == {"ok": True}
    assert dealer.ask("HEARTBEAT", id=job_id, token=job["token"]) == {"ok": True}
    beaten = dealer.ask("GETJOB", id=job_id)["job"]["last_heartbeat"]
    assert beaten >= job["started_at"]


@pytest.mark.covers("MOVETODELAYED")
def test_moving_to_delayed_starts_the_job_afresh(dealer: Dealer, queue: str) -> None:
    """No attempt is counted, progress is gone; a delay of 0 is waiting."""
    job_id = push(dealer, queue)
    pull(dealer, queue)
    dealer.ask("PROGRESS", id=job_id, progress=50, message="m")
    assert dealer.ask("MOVETODELAYED", id=job_id, delay=3_600_000) == {"ok": True}
    found = dealer.ask("GETJOB", id=job_id)
    job = found["job"]
    assert found["state"] == "delayed"
    assert [job.get(key, 0) for key in ("started_at", "progress", "attempts")] == [0, 0, 0]
    assert job.get("progress_msg") is None
    dealer.ask("PROMOTE", id=job_id)
    pull(dealer, queue)
    dealer.ask("MOVETODELAYED", id=job_id, delay=0)
    assert dealer.ask("GETSTATE", id=job_id)["state"] == "waiting"


@pytest.mark.covers("LOG", "GETLOGS")
def test_a_log_is_kept_in_order_with_its_levels(dealer: Dealer, queue: str) -> None:
    """Oldest first, `info` unless told; of an unknown job it is empty."""
    job_id = job_in(dealer, queue, "completed")
    assert dealer.ask("LOG", id=job_id, message="one") == {"ok": True}
    assert dealer.ask("LOG", id=job_id, message="two", level="warn") == {"ok": True}
    reply = dealer.ask("GETLOGS", id=job_id)
    assert (reply["ok"], reply["id"]) == (True, job_id)
    assert [(entry["message"], entry["level"]) for entry in reply["logs"]] == [
        ("one", "info"),
        ("two", "warn"),
    ]
    assert all(sorted(entry) == ["level", "message", "timestamp"] for entry in reply["logs"])
    unknown = dealer.ask("GETLOGS", id=NEVER_PUSHED)
    assert unknown == {"ok": True, "id": NEVER_PUSHED, "logs": []}


@pytest.mark.covers("LOG")
def test_only_the_last_hundred_entries_are_kept(dealer: Dealer, queue: str) -> None:
    """The oldest go first."""
    job_id = push(dealer, queue)
    asked = [dealer.send("LOG", id=job_id, message=str(n)) for n in range(105)]
    assert all(dealer.answer(corr)["ok"] for corr in asked)
    logs = dealer.ask("GETLOGS", id=job_id)["logs"]
    assert [entry["message"] for entry in logs] == [str(n) for n in range(5, 105)]
