"""What programs do with a queue, through each of the clients that exist."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.gateway.clients import BinaryTypeScriptClient, Client, ServerSaid

JOB_KEYS = frozenset((
    "id", "queue", "data", "priority", "created_at", "run_at", "started_at", "attempts",
    "max_attempts", "backoff", "ttl", "timeout", "unique_key", "depends_on", "progress",
    "progress_msg", "tags", "lifo", "remove_on_complete", "remove_on_fail", "last_heartbeat",
    "stall_timeout", "stall_count", "parent_id", "children_ids", "children_completed", "custom_id",
    "keep_completed_age", "keep_completed_count", "completed_at",
))  # fmt: skip

OPTIONS: dict[str, Any] = {
    "priority": 5,
    "ttl": 600_000,
    "timeout": 30_000,
    "max_attempts": 3,
    "backoff": 100,
    "unique_key": "key-1",
    "tags": ["a", "b"],
    "lifo": True,
    "remove_on_complete": True,
    "remove_on_fail": True,
    "stall_timeout": 60_000,
    "keep_completed_age": 1000,
    "keep_completed_count": 7,
}


def pulled(client: Client, queue: str) -> dict[str, Any]:
    """Pull a job that has to be there."""
    job = client.pull(queue, 4000)
    assert job is not None
    return job


def fails(client: Client, text: str, cmd: str, **fields: Any) -> None:
    """Ask for something that has to be refused with this text."""
    with pytest.raises(ServerSaid, match=f"^{re.escape(text)}$"):
        client.ask(cmd, **fields)


def test_push_with_every_option_pull_and_ack(client: Client, queue: str) -> None:
    """A job comes out as it went in, with all thirty keys."""
    data = {"text": "grüße 队列", "n": [1, 2.5, None, True], "deep": {"a": {"b": []}}}
    job_id = client.push(queue, data, **OPTIONS)
    job = pulled(client, queue)
    assert set(job) >= JOB_KEYS
    assert (job["id"], job["data"], job["queue"]) == (job_id, data, queue)
    assert {name: job[name] for name in OPTIONS} == OPTIONS
    assert job["attempts"] == 0
    assert job["started_at"] >= job["created_at"] > 1_600_000_000_000
    assert client.ask("GETSTATE", id=job_id)["state"] == "active"
    acked = client.ask("ACK", id=job_id, result={"done": True})
    assert {key: value for key, value in acked.items() if key != "reqId"} == {"ok": True}
    assert client.ask("GETSTATE", id=job_id)["state"] == "unknown"
    fails(client, f"Job {job_id} not found", "ACK", id=job_id)


def test_results(client: Client, queue: str) -> None:
    """A result is there for whoever asks, and for whoever waits."""
    job_id = client.push(queue, None)
    assert client.ask("GETRESULT", id=job_id)["result"] is None
    pulled(client, queue)
    client.ask("ACK", id=job_id, result={"sum": 3})
    assert client.ask("GETRESULT", id=job_id)["result"] == {"sum": 3}
    assert client.ask("WAITJOB", id=job_id, timeout=1000)["result"] == {"sum": 3}
    assert client.ask("GETJOB", id=job_id)["state"] == "completed"


def test_batches(client: Client, queue: str) -> None:
    """Ids in order; an acknowledged batch is counted."""
    ids = client.push_batch(queue, [{"data": number, "priority": 1} for number in range(20)])
    assert ids == sorted(set(ids))
    assert len(ids) == 20
    jobs = client.ask("PULLB", queue=queue, count=20, timeout=1000)["jobs"]
    assert [job["id"] for job in jobs] == ids
    assert [job["data"] for job in jobs] == list(range(20))
    assert client.ask("ACKB", ids=[*ids, 1])["ids"] == [20]
    empty = client.ask("PULLB", queue=queue, count=5, timeout=0)
    assert (empty["jobs"], empty["job"]) == ([], None)


def test_a_batch_treats_each_entry_like_a_push(client: Client, queue: str) -> None:
    """A duplicate is left out, and named beside the ids of the others."""
    keys: list[str | None] = ["k", "k", None]
    jobs = [{"data": 1, **client.options({"unique_key": key})} for key in keys]
    reply = client.ask("PUSHB", queue=queue, jobs=jobs)
    assert len(reply["ids"]) == 2
    assert [(error["index"], error["error"]) for error in reply["errors"]] == [
        (1, "Duplicate job with key: k")
    ]


def test_order(client: Client, queue: str) -> None:
    """Higher priority first, then first come, first served."""
    for data, priority in (("c", 0), ("a", 9), ("d", 0), ("b", 5)):
        client.push(queue, data, priority=priority)
    assert "".join(pulled(client, queue)["data"] for _ in range(4)) == "abcd"


def test_retries_and_the_dead_letters(client: Client, queue: str) -> None:
    """The second failure of two is final; a dead letter comes back with no attempts counted."""
    job_id = client.push(queue, 1, max_attempts=2)
    for attempts in range(2):
        assert pulled(client, queue)["attempts"] == attempts
        client.ask("FAIL", id=job_id, error="broken")
    assert client.ask("GETSTATE", id=job_id)["state"] == "failed"
    (dead,) = client.ask("DLQ", queue=queue, count=100)["jobs"]
    assert (dead["id"], dead["attempts"]) == (job_id, 2)
    assert client.ask("RETRYDLQ", queue=queue, id=1)["ids"] == [0]
    assert client.ask("RETRYDLQ", queue=queue, id=None)["ids"] == [1]
    assert pulled(client, queue)["attempts"] == 0
    client.ask("DISCARD", id=job_id)
    assert client.ask("PURGEDLQ", queue=queue)["count"] == 1


def test_waiting_for_a_job(client: Client, queue: str) -> None:
    """Its failure and its lateness are errors that say so."""
    job_id = client.push(queue, 1, max_attempts=1)
    fails(client, f"Timeout waiting for job {job_id} after 20ms", "WAITJOB", id=job_id, timeout=20)
    pulled(client, queue)
    client.ask("FAIL", id=job_id, error=None)
    fails(client, "Job failed", "WAITJOB", id=job_id)
    fails(client, "Job not found", "WAITJOB", id=1)


def test_duplicates_debounce_and_custom_ids(client: Client, queue: str) -> None:
    """Three ways of not doing a thing twice."""
    client.push(queue, 1, unique_key="k")
    with pytest.raises(ServerSaid, match=r"^Duplicate job with key: k$"):
        client.push(queue, 1, unique_key="k")
    client.push(queue, 1, debounce_id="d", debounce_ttl=60_000)
    with pytest.raises(ServerSaid, match=r"^Debounced: job with id 'd' was pushed recently$"):
        client.push(queue, 1, debounce_id="d", debounce_ttl=60_000)
    job_id = client.push(queue, 1, job_id=f"{queue}-mine")
    assert client.push(queue, 2, job_id=f"{queue}-mine") == job_id
    found = client.ask("GETJOBBYCUSTOMID", job_id=f"{queue}-mine")
    assert (found["job"]["id"], found["state"]) == (job_id, "waiting")
    missing = client.ask("GETJOBBYCUSTOMID", job_id=f"{queue}-nobody")
    assert (missing["job"], missing["state"]) == (None, "unknown")


def test_flows(client: Client, queue: str) -> None:
    """The parent runs after its children; both names of its payload are known."""
    children = [{"queue": queue, "data": number} for number in range(2)]
    flow = client.ask("FLOW", queue=f"{queue}-p", parent_data={"p": 1}, children=children,
                      priority=0)  # fmt: skip
    parent = flow["parent_id"]
    assert len(flow["children_ids"]) == 2
    assert client.ask("GETSTATE", id=parent)["state"] == "waitingparent"
    found = client.ask("GETCHILDREN", parent_id=parent)
    assert (found["children_ids"], found["total"]) == (flow["children_ids"], 2)
    assert {child["parent_id"] for child in found["children"]} == {parent}
    assert client.pull(f"{queue}-p") is None
    for _ in range(2):
        client.ask("ACK", id=pulled(client, queue)["id"])
    job = pulled(client, f"{queue}-p")
    assert (job["id"], job["data"]) == (parent, {"p": 1})


def test_dependencies(client: Client, queue: str) -> None:
    """A job waits for the one it depends on."""
    first = client.push(queue, 1)
    second = client.push(queue, 2, depends_on=[first])
    assert client.ask("GETSTATE", id=second)["state"] == "waitingchildren"
    assert pulled(client, queue)["id"] == first
    client.ask("ACK", id=first)
    assert pulled(client, queue)["id"] == second


def test_crons(client: Client, queue: str) -> None:
    """All fields come back; unknown ones are an error; `*/N` and six fields are known."""
    name = f"{queue}-cron"
    fields: dict[str, Any] = {"name": name, "queue": queue, "data": {"c": 1}, "priority": 3}
    client.ask("CRON", **fields, schedule="0 */5 * * * *", repeat_every=None, limit=None)
    (cron,) = [one for one in client.ask("CRONLIST")["crons"] if one["name"] == name]
    assert {key: cron[key] for key in fields} == fields
    assert cron["schedule"] == "0 */5 * * * *"
    assert (cron["repeat_every"], cron["executions"], cron["limit"]) == (None, 0, None)
    client.ask("CRON", name=name, queue=queue, data=1, schedule="*/60")
    client.ask("CRONDELETE", name=name)
    fails(client, "Cron job not found", "CRONDELETE", name=name)
    with pytest.raises(ServerSaid, match="Invalid cron expression 'nonsense'"):
        client.ask("CRON", name=name, queue=queue, data=1, schedule="nonsense")


def test_limits_and_pause(client: Client, queue: str) -> None:
    """Nothing passes a paused queue, a full one, or one without tokens."""
    client.push_batch(queue, [{"data": number} for number in range(4)])
    client.ask("PAUSE", queue=queue)
    assert client.ask("ISPAUSED", queue=queue)["paused"] is True
    assert client.pull(queue) is None
    client.ask("RESUME", queue=queue)
    client.ask("SETCONCURRENCY", queue=queue, limit=1)
    job = pulled(client, queue)
    assert client.pull(queue) is None
    client.ask("ACK", id=job["id"])
    assert client.pull(queue) is not None
    client.ask("CLEARCONCURRENCY", queue=queue)
    client.ask("RATELIMIT", queue=queue, limit=0)
    assert client.pull(queue) is None
    (info,) = [one for one in client.ask("LISTQUEUES")["queues"] if one["name"] == queue]
    assert set(info) == {
        "name", "pending", "processing", "dlq", "paused", "rate_limit", "concurrency_limit"
    }  # fmt: skip
    assert (info["rate_limit"], info["concurrency_limit"], info["paused"]) == (0, None, False)
    client.ask("RATELIMITCLEAR", queue=queue)
    assert client.pull(queue) is not None


def test_progress_logs_and_heartbeats(client: Client, queue: str) -> None:
    """By either name of the job's id; a fraction of progress is rounded."""
    job_id = client.push(queue, 1)
    fails(client, f"Job {job_id} not found in processing", "PROGRESS", id=job_id, progress=1)
    fails(client, f"Job {job_id} not in processing", "HEARTBEAT", job_id=job_id)
    pulled(client, queue)
    client.ask("PROGRESS", id=job_id, progress=50.4, message="half")
    progress = client.ask("GETPROGRESS", id=job_id)["progress"]
    assert progress == {"id": job_id, "progress": 50, "message": "half"}
    client.ask("HEARTBEAT", job_id=job_id)
    client.ask("LOG", job_id=job_id, message="one", level="warn")
    client.ask("LOG", id=job_id, message="two")
    logs = client.ask("GETLOGS", job_id=job_id)["logs"]
    assert [(log["message"], log["level"]) for log in logs] == [("one", "warn"), ("two", "info")]
    assert set(logs[0]) == {"timestamp", "message", "level"}


def test_looking_at_jobs(client: Client, queue: str) -> None:
    """Flat for some clients, nested for one."""
    ids = client.push_batch(queue, [{"data": number} for number in range(3)])
    delayed = client.push(queue, 3, delay=60_000)
    found = client.ask("GETJOBS", queue=queue, state=None, limit=100, offset=0)
    assert found["total"] == 4
    assert [job["id"] for job in found["jobs"]] == [delayed, *reversed(ids)]
    first = found["jobs"][0]
    assert (first["state"], first["job"]["id"], set(first["job"]) >= JOB_KEYS) == (
        "delayed",
        delayed,
        True,
    )
    batch = client.ask("GETJOBSBATCH", ids=[ids[1], 1, ids[0]])["jobs"]
    assert [(job["id"], job["job"]["data"]) for job in batch] == [(ids[1], 1), (ids[0], 0)]
    counts = client.ask("GETJOBCOUNTS", queue=queue)
    assert (counts["waiting"], counts["delayed"], counts["active"]) == (3, 1, 0)
    assert client.ask("COUNT", queue=queue)["count"] == 4
    missing = client.ask("GETJOB", id=1)
    assert (missing["job"], missing["state"]) == (None, "unknown")


def test_changing_jobs(client: Client, queue: str) -> None:
    """Each change, and what refuses it."""
    job_id = client.push(queue, 1, delay=60_000)
    client.ask("UPDATEJOB", id=job_id, data={"new": 1})
    client.ask("UPDATE", id=job_id, data={"new": 2})
    client.ask("CHANGEPRIORITY", id=job_id, priority=9)
    client.ask("PROMOTE", id=job_id)
    fails(client, f"Job {job_id} is not delayed", "PROMOTE", id=job_id)
    job = pulled(client, queue)
    assert (job["data"], job["priority"]) == ({"new": 2}, 9)
    client.ask("MOVETODELAYED", id=job_id, delay=60_000)
    fails(client, f"Job {job_id} not in processing", "MOVETODELAYED", id=job_id, delay=1)
    client.ask("CANCEL", id=job_id)
    fails(client, f"Job {job_id} not found", "CANCEL", id=job_id)


def test_removing_jobs(client: Client, queue: str) -> None:
    """Drain, clean and obliterate say how many."""
    client.push_batch(queue, [{"data": number} for number in range(7)])
    assert client.ask("CLEAN", queue=queue, grace=0, state="waiting", limit=2)["count"] == 2
    text = "Invalid state. Use: waiting, delayed, completed, failed"
    fails(client, text, "CLEAN", queue=queue, grace=0, state="x")
    assert client.ask("DRAIN", queue=queue)["count"] == 5
    client.push(queue, 1)
    assert client.ask("OBLITERATE", queue=queue)["count"] == 1


def test_the_server_as_a_whole(client: Client, queue: str) -> None:
    """Numbers where numbers are expected."""
    client.push(queue, 1)
    stats = client.ask("STATS")
    assert all(isinstance(stats[key], int) for key in ("queued", "processing", "delayed", "dlq"))
    metrics = client.ask("METRICS")["metrics"]
    assert isinstance(metrics["jobs_per_second"], float)
    assert isinstance(metrics["avg_latency_ms"], float)
    (own,) = [one for one in metrics["queues"] if one["name"] == queue]
    assert own == {"name": queue, "pending": 1, "processing": 0, "dlq": 0, "rate_limit": None}
    client.ask("AUTH", token="whatever")


def test_a_pull_waits_for_a_job(client: Client, queue: str) -> None:
    """A delayed job comes when it is due, to the pull that waits."""
    before = time.monotonic()
    client.push(queue, 1, delay=200)
    assert pulled(client, queue)["data"] == 1
    assert time.monotonic() - before >= 0.2


def test_a_pull_without_a_time_is_answered_before_its_client_gives_up(
    client: Client, queue: str
) -> None:
    """Python, Go and PHP say no time and wait 5 s; so does pullBatch of TypeScript."""
    assert client.ask("PULL", queue=queue)["job"] is None
    if isinstance(client, BinaryTypeScriptClient):
        assert client.ask("PULLB", queue=queue, count=2)["jobs"] == []


def test_a_payload_beyond_its_bound(client: Client, queue: str) -> None:
    """It is answered, not cut off; the text has both sizes."""
    with pytest.raises(ServerSaid, match=r"^Job data too large \(\d+ bytes, max 1048576 bytes\)$"):
        client.push(queue, "x" * (1024 * 1024 + 1))
    client.push(queue, "x" * (1024 * 1024 - 10))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "Queue name cannot be empty"),
        ("x" * 257, "Queue name too long (max 256 chars)"),
        (
            "a b",
            "Queue name must contain only alphanumeric characters, underscores, hyphens, or dots",
        ),
    ],
)
def test_names_that_no_queue_can_have(client: Client, name: str, text: str) -> None:
    """As the older server said it; a batch says it too instead of swallowing it."""
    fails(client, text, "PUSH", queue=name, data=1)
    fails(client, text, "PUSHB", queue=name, jobs=[{"data": 1}])
