"""What programs do with a queue, written once and carried out through every door.

Owns the scenarios. Each is a function of a door and of a queue's name that nobody else uses (it may
also use names that begin with that one). They speak the command protocol; a door puts it into its
own words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.gateway.clients import ServerSaid
from tests.gateway.doors import Door
from tests.gateway.steps import (
    DEFAULTS,
    OPTIONS,
    done,
    is_empty,
    pull,
    push,
    push_many,
    refused,
    state,
)
from tests.server import eventually

Scenario = Callable[[Door, str], None]

NAME_TEXTS: Final = {
    "x" * 257: "Queue name too long (max 256 chars)",
    "a b": "Queue name must contain only alphanumeric characters, underscores, hyphens, or dots",
}
PAYLOAD_BYTES_MAX: Final = 1024 * 1024


# --- push, options, pull, ack


def a_job_comes_out_as_it_went_in(door: Door, queue: str) -> None:
    """With every option that there is, and all of its keys."""
    data = {"text": "grüße 队列", "n": [1, 2.5, None, True], "deep": {"a": {"b": []}}}
    job_id = push(door, queue, data, **OPTIONS)
    job = pull(door, queue)
    assert (job["id"], job["data"], job["queue"]) == (job_id, data, queue)
    assert {name: job[name] for name in OPTIONS if name in job} == {
        name: value for name, value in OPTIONS.items() if name in door.job_keys or name in job
    }
    assert job["attempts"] == 0
    assert job["started_at"] >= job["run_at"] >= job["created_at"] > 1_600_000_000_000
    assert state(door, job_id) == "active"
    done(door, "ACK", id=job_id, result={"done": True})
    assert state(door, job_id) == "unknown", "it was to be removed"
    refused(door, f"Job {job_id} not found", "ACK", id=job_id)


def a_job_without_options(door: Door, queue: str) -> None:
    """Nothing is nothing: 0, false, null or empty, and never absent."""
    job_id = push(door, queue, None)
    found = door.ask("GETJOB", id=job_id)
    assert list(found) == ["job", "state"]
    assert found["state"] == "waiting"
    assert {name: found["job"][name] for name in DEFAULTS} == DEFAULTS
    job = pull(door, queue)
    kept = {name: job[name] for name in DEFAULTS.keys() & job.keys()}
    moved = {"started_at", "last_heartbeat"}
    assert all(kept[name] == DEFAULTS[name] for name in kept.keys() - moved)
    assert all(type(kept[name]) is type(DEFAULTS[name]) for name in kept)


def payloads_of_every_kind(door: Door, queue: str) -> None:
    """Each comes back as it is, of the type that it was."""
    deep = {"b": 1, "a": [{"c": None}]}
    kinds: tuple[Any, ...] = (None, True, 0, -1, 2**53, 1.5, "", "é", [], {}, deep)
    for data in kinds:
        push(door, queue, data)
        found = pull(door, queue)["data"]
        assert found == data
        assert type(found) is type(data)


def results_are_there_for_whoever_asks(door: Door, queue: str) -> None:
    """And for whoever waits; null is none."""
    job_id = push(door, queue, None)
    assert door.ask("GETRESULT", id=job_id) == {"id": job_id, "result": None}
    pull(door, queue)
    done(door, "ACK", id=job_id, result={"sum": 3})
    assert door.ask("GETRESULT", id=job_id) == {"id": job_id, "result": {"sum": 3}}
    assert door.ask("WAITJOB", id=job_id, timeout=1000) == {"result": {"sum": 3}}
    found = door.ask("GETJOB", id=job_id)
    assert (found["job"]["id"], found["state"]) == (job_id, "completed")
    other = push(door, queue, None)
    pull(door, queue)
    done(door, "ACK", id=other)
    assert door.ask("GETRESULT", id=other) == {"id": other, "result": None}
    assert door.ask("WAITJOB", id=other) == {"result": None}


def batches(door: Door, queue: str) -> None:
    """Ids in order; an acknowledged batch is counted; nothing is an empty list and null."""
    ids = push_many(door, queue, [{"data": number, "priority": 1} for number in range(20)])
    assert ids == sorted(set(ids))
    jobs = door.ask("PULLB", queue=queue, count=20)["jobs"]
    assert [job["id"] for job in jobs] == ids
    assert [job["data"] for job in jobs] == list(range(20))
    assert door.ask("ACKB", ids=[*ids, 1])["ids"] == [20]
    assert door.ask("ACKB", ids=[])["ids"] == [0]
    assert [state(door, job_id) for job_id in ids[:2]] == ["completed"] * 2
    assert door.ask("PULLB", queue=queue, count=5, timeout=0) == {"jobs": [], "job": None}
    assert push_many(door, queue, []) == []


def a_batch_treats_each_entry_like_a_push(door: Door, queue: str) -> None:
    """A duplicate is left out, and named beside the ids of the others."""
    keys = ("k", "k", "l")
    jobs = [{"data": 1, "unique_key": key} for key in keys]
    reply = door.ask("PUSHB", queue=queue, jobs=jobs)
    assert len(reply["ids"]) == 2
    (error,) = reply["errors"]
    assert error["index"] == 1
    assert error.get("error", "Duplicate job with key: k") == "Duplicate job with key: k"


def the_order_of_deliveries(door: Door, queue: str) -> None:
    """Higher priority first, then lifo, newest first, then first come, first served."""
    for data, options in (
        ("d", {}),
        ("a", {"priority": 9}),
        ("e", {}),
        ("c", {"lifo": True}),
        ("f", {"priority": -1}),
        ("b", {"lifo": True}),
        ("hidden by nobody", {"priority": 20, "delay": 3_600_000}),
    ):
        push(door, queue, data, **options)
    assert "".join(pull(door, queue)["data"] for _ in range(6)) == "abcdef"
    assert is_empty(door, queue)


def a_delayed_job_comes_when_it_is_due(door: Door, queue: str) -> None:
    """To the pull that waits for it."""
    job_id = push(door, queue, delay=200)
    job = pull(door, queue)
    assert job["id"] == job_id
    assert job["started_at"] >= job["run_at"] >= job["created_at"] + 200


def a_job_lives_as_long_as_it_may(door: Door, queue: str) -> None:
    """One that nobody takes in time is gone, and its unique key is free."""
    job_id = push(door, queue, ttl=1, unique_key="k")
    eventually(lambda: state(door, job_id) == "unknown", "the end of its time")
    assert is_empty(door, queue)
    push(door, queue, unique_key="k")


# --- fail, retry, dead letters


def retries_and_the_dead_letters(door: Door, queue: str) -> None:
    """The second failure of two is final; a dead letter comes back with no attempts counted."""
    job_id = push(door, queue, max_attempts=2)
    for attempts in range(2):
        job = pull(door, queue)
        assert (job["attempts"], job["progress_msg"]) == (attempts, "broken" if attempts else None)
        done(door, "FAIL", id=job_id, error="broken")
    assert state(door, job_id) == "failed"
    (dead,) = door.ask("DLQ", queue=queue)["jobs"]
    assert (dead["id"], dead["attempts"], dead["progress_msg"]) == (job_id, 2, "broken")
    assert door.ask("RETRYDLQ", queue=queue, id=1) == {"ids": [0]}
    assert door.ask("RETRYDLQ", queue=queue, id=job_id) == {"ids": [1]}
    assert pull(door, queue)["attempts"] == 0
    done(door, "DISCARD", id=job_id)
    assert door.ask("RETRYDLQ", queue=queue) == {"ids": [1]}
    done(door, "DISCARD", id=job_id)
    assert door.ask("PURGEDLQ", queue=queue) == {"count": 1}
    assert door.ask("DLQ", queue=queue, count=5) == {"jobs": []}


def dead_letters_in_their_order(door: Door, queue: str) -> None:
    """The oldest failure comes first, whichever job is older."""
    ids = push_many(door, queue, [{"data": number, "max_attempts": 1} for number in range(3)])
    for _ in ids:
        pull(door, queue)
    for job_id in reversed(ids):
        done(door, "FAIL", id=job_id)
    dead = door.ask("DLQ", queue=queue, count=2)["jobs"]
    assert [job["id"] for job in dead] == [ids[2], ids[1]]
    assert door.ask("RETRYDLQ", queue=queue) == {"ids": [3]}


def a_failure_that_leaves_nothing(door: Door, queue: str) -> None:
    """With `remove_on_fail` there is no dead letter; its unique key is free again."""
    job_id = push(door, queue, max_attempts=1, remove_on_fail=True, unique_key="k")
    pull(door, queue)
    done(door, "FAIL", id=job_id, error="for good")
    assert state(door, job_id) == "unknown"
    assert door.ask("DLQ", queue=queue) == {"jobs": []}
    push(door, queue, unique_key="k")


def backoff_grows(door: Door, queue: str) -> None:
    """The first retry waits for the base, the second for twice that."""
    job_id = push(door, queue, backoff=3_600_000)
    for wait in (3_600_000, 7_200_000):
        started_at = pull(door, queue)["started_at"]
        done(door, "FAIL", id=job_id, error="later")
        assert state(door, job_id) == "delayed"
        job = door.ask("GETJOB", id=job_id)["job"]
        assert wait <= job["run_at"] - started_at < wait + 60_000
        assert job["started_at"] == 0
        done(door, "PROMOTE", id=job_id)


# --- wait


def waiting_for_a_job_that_leaves_nothing(door: Door, queue: str) -> None:
    """One that is removed as it completes is not found any more."""
    job_id = push(door, queue, remove_on_complete=True)
    pull(door, queue)
    done(door, "ACK", id=job_id, result="gone")
    refused(door, "Job not found", "WAITJOB", id=job_id)


def waiting_for_a_job(door: Door, queue: str) -> None:
    """Its failure, its lateness and its absence are errors that say so."""
    job_id = push(door, queue, max_attempts=1)
    late = f"Timeout waiting for job {job_id} after 20ms"
    refused(door, late, "WAITJOB", id=job_id, timeout=20)
    pull(door, queue)
    done(door, "FAIL", id=job_id)
    refused(door, "Job failed", "WAITJOB", id=job_id)
    refused(door, "Job not found", "WAITJOB", id=1)


# --- not twice


def three_ways_of_not_doing_a_thing_twice(door: Door, queue: str) -> None:
    """Unique keys, debouncing and custom ids."""
    first = push(door, queue, unique_key="k")
    refused(door, "Duplicate job with key: k", "PUSH", queue=queue, data=1, unique_key="k")
    assert pull(door, queue)["id"] == first
    done(door, "ACK", id=first)
    push(door, queue, unique_key="k")
    options: dict[str, Any] = {"debounce_id": "d", "debounce_ttl": 600_000}
    push(door, queue, **options)
    debounced = "Debounced: job with id 'd' was pushed recently"
    refused(door, debounced, "PUSH", queue=queue, data=1, **options)
    custom = f"{queue}-mine"
    job_id = push(door, queue, job_id=custom)
    assert push(door, queue, 2, job_id=custom) == job_id
    found = door.ask("GETJOBBYCUSTOMID", job_id=custom)
    assert (found["job"]["id"], found["job"]["custom_id"]) == (job_id, custom)
    assert (found["job"]["data"], found["state"]) == (1, "waiting")
    missing = door.ask("GETJOBBYCUSTOMID", job_id=f"{queue}-nobody")
    assert missing == {"job": None, "state": "unknown"}


def a_unique_key_is_taken_until_its_job_ends(door: Door, queue: str) -> None:
    """Also by a job that is tried again, and by a dead letter; then it is free."""
    keyed: dict[str, Any] = {"unique_key": "k", "max_attempts": 2}

    def is_taken() -> bool:
        refused(door, "Duplicate job with key: k", "PUSH", queue=queue, data=1, unique_key="k")
        return True

    job_id = push(door, queue, **keyed)
    for _ in range(2):
        assert is_taken()
        pull(door, queue)
        assert is_taken()
        done(door, "FAIL", id=job_id)
    assert state(door, job_id) == "failed"
    assert is_taken()
    for cmd, fields in (
        ("PURGEDLQ", {"queue": queue}),
        ("DRAIN", {"queue": queue}),
        ("CLEAN", {"queue": queue, "grace": 0, "state": "waiting"}),
        ("OBLITERATE", {"queue": queue}),
    ):
        assert door.ask(cmd, **fields) == {"count": 1}
        job_id = push(door, queue, **keyed)
    done(door, "CANCEL", id=job_id)
    job_id = push(door, queue, **keyed)
    pull(door, queue)
    assert door.ask("ACKB", ids=[job_id])["ids"] == [1]
    push(door, queue, **keyed)


# --- flows and dependencies


def a_flow(door: Door, queue: str) -> None:
    """The parent runs after its children, however they are acknowledged."""
    parents = f"{queue}-p"
    children = [{"queue": queue, "data": number, "priority": -number} for number in range(2)]
    flow = door.ask("FLOW", queue=parents, data={"p": 1}, children=children, priority=2)
    assert list(flow) == ["parent_id", "children_ids"]
    parent, ids = flow["parent_id"], flow["children_ids"]
    assert state(door, parent) == "waitingparent"
    found = door.ask("GETCHILDREN", parent_id=parent)
    assert (found["parent_id"], found["completed"], found["total"]) == (parent, 0, 2)
    assert found["children_ids"] == ids
    bodies = {child["id"]: child["parent_id"] for child in found["children"]}
    assert bodies.keys() == set(ids) if door.shows_all_children else bodies.keys() <= set(ids)
    assert set(bodies.values()) <= {parent}
    assert is_empty(door, parents)
    assert [pull(door, queue)["id"] for _ in ids] == ids
    done(door, "ACK", id=ids[0])

    def completed() -> int:  # the child's shard has to tell the parent's
        return int(door.ask("GETCHILDREN", parent_id=parent)["completed"])

    eventually(completed, "a child that has completed")
    assert door.ask("ACKB", ids=[ids[1]])["ids"] == [1]
    job = pull(door, parents)
    assert (job["id"], job["data"], job["priority"]) == (parent, {"p": 1}, 2)
    refused(door, "Flow must have at least one child", "FLOW", queue=queue, data=1, children=[])
    refused(door, "Parent job 3 not found", "GETCHILDREN", parent_id=3)


def dependencies(door: Door, queue: str) -> None:
    """A job waits for the one it depends on."""
    first = push(door, queue)
    second = push(door, queue, 2, depends_on=[first])
    assert state(door, second) == "waitingchildren"
    assert pull(door, queue)["id"] == first
    done(door, "ACK", id=first)
    job = pull(door, queue)
    assert (job["id"], job["depends_on"]) == (second, [first])


# --- crons


def crons(door: Door, queue: str) -> None:
    """All fields come back; `*/N` and six fields are known; what is unknown or bad is refused."""
    leap_day = "0 */5 3 29 2 *"
    name = f"{queue}-cron"
    fields: dict[str, Any] = {"name": name, "queue": queue, "data": {"c": 1}, "priority": 3}
    done(door, "CRON", **fields, schedule=leap_day)
    (cron,) = [one for one in door.ask("CRONLIST")["crons"] if one["name"] == name]
    assert {key: cron[key] for key in fields} == fields
    assert sorted(cron) == sorted(
        [
            *("name", "queue", "data", "schedule", "repeat_every", "priority"),
            *("next_run", "executions", "limit"),
        ]
    )
    assert cron["schedule"] == leap_day
    assert cron["next_run"] > 1_600_000_000_000
    assert (cron["repeat_every"], cron["executions"], cron["limit"]) == (None, 0, None)
    done(door, "CRON", name=name, queue=f"{queue}-p", data=1, schedule="*/60")
    fired = f"{queue}-fired"
    done(door, "CRON", name=fired, queue=queue, data="fired", repeat_every=50, limit=1)
    assert pull(door, queue)["data"] == "fired"
    done(door, "CRONDELETE", name=name)
    refused(door, "Cron job not found", "CRONDELETE", name=name)
    either = "Must provide either 'schedule' or 'repeat_every'"
    refused(door, either, "CRON", name=name, queue=queue, data=1)
    long = "Cron schedule too long (257 chars, max 256 chars)"
    refused(door, long, "CRON", name=name, queue=queue, data=1, schedule="*" * 257)
    interval = "Invalid interval format: */x"
    refused(door, interval, "CRON", name=name, queue=queue, data=1, schedule="*/x")
    with pytest.raises(ServerSaid, match=r"^Invalid cron expression 'nonsense': "):
        door.ask("CRON", name=name, queue=queue, data=1, schedule="nonsense")


# --- limits and pause


def nothing_passes_a_paused_queue(door: Door, queue: str) -> None:
    """Until it is resumed."""
    push(door, queue)
    assert door.ask("ISPAUSED", queue=queue) == {"paused": False}
    done(door, "PAUSE", queue=queue)
    assert door.ask("ISPAUSED", queue=queue) == {"paused": True}
    assert is_empty(door, queue)
    done(door, "RESUME", queue=queue)
    done(door, "RESUME", queue=queue)
    pull(door, queue)


def limits(door: Door, queue: str) -> None:
    """So many at a time, so many a second, and the list of queues says so."""
    push_many(door, queue, [{"data": number} for number in range(4)])
    done(door, "SETCONCURRENCY", queue=queue, limit=1)
    job = pull(door, queue)
    assert is_empty(door, queue)
    done(door, "ACK", id=job["id"])
    pull(door, queue)
    done(door, "CLEARCONCURRENCY", queue=queue)
    done(door, "RATELIMIT", queue=queue, limit=0)
    assert is_empty(door, queue)
    (info,) = [one for one in door.ask("LISTQUEUES")["queues"] if one["name"] == queue]
    assert info == {
        "name": queue,
        "pending": 2,
        "processing": 1,
        "dlq": 0,
        "paused": False,
        "rate_limit": 0,
        "concurrency_limit": None,
    }
    done(door, "RATELIMITCLEAR", queue=queue)
    pull(door, queue)


# --- active jobs


def progress_logs_and_heartbeats(door: Door, queue: str) -> None:
    """Of active jobs; a fraction of progress is rounded."""
    job_id = push(door, queue)
    refused(door, f"Job {job_id} not found in processing", "PROGRESS", id=job_id, progress=1)
    refused(door, f"Job {job_id} not found", "GETPROGRESS", id=job_id)
    refused(door, f"Job {job_id} not in processing", "HEARTBEAT", id=job_id)
    pull(door, queue)
    done(door, "PROGRESS", id=job_id, progress=50.4, message="half")
    progress = {"id": job_id, "progress": 50, "message": "half"}
    assert door.ask("GETPROGRESS", id=job_id) == {"progress": progress}
    done(door, "PROGRESS", id=job_id, progress=100)
    progress = {"id": job_id, "progress": 100, "message": None}
    assert door.ask("GETPROGRESS", id=job_id) == {"progress": progress}
    done(door, "HEARTBEAT", id=job_id)
    done(door, "LOG", id=job_id, message="one", level="warn")
    done(door, "LOG", id=job_id, message="two")
    logs = door.ask("GETLOGS", id=job_id)
    assert logs["id"] == job_id
    assert [(log["message"], log["level"]) for log in logs["logs"]] == [
        ("one", "warn"),
        ("two", "info"),
    ]
    assert all(list(log) == ["timestamp", "message", "level"] for log in logs["logs"])
    assert door.ask("GETLOGS", id=1) == {"id": 1, "logs": []}
    refused(door, "Job 1 not found", "LOG", id=1, message="to nobody")


# --- looking and changing


def looking_at_jobs(door: Door, queue: str) -> None:
    """Flat for some clients, nested for one."""
    ids = push_many(door, queue, [{"data": number} for number in range(3)])
    delayed = push(door, queue, 3, delay=600_000)
    found = door.ask("GETJOBS", queue=queue)
    assert found["total"] == 4
    assert [job["id"] for job in found["jobs"]] == [delayed, *reversed(ids)]
    first = found["jobs"][0]
    nested = first.pop("job")
    assert first.pop("state") == "delayed"
    assert nested == first
    assert door.ask("GETJOBS", queue=queue, state="waiting", limit=1, offset=1)["total"] == 3
    batch = door.ask("GETJOBSBATCH", ids=[ids[1], 1, ids[0]])["jobs"]
    assert [(job["id"], job["job"]["data"]) for job in batch] == [(ids[1], 1), (ids[0], 0)]
    counts = door.ask("GETJOBCOUNTS", queue=queue)
    names = ("waiting", "active", "delayed", "completed", "failed")
    assert [counts[name] for name in names] == [3, 0, 1, 0, 0]
    assert door.ask("COUNT", queue=queue) == {"count": 4}
    assert door.ask("GETJOB", id=1) == {"job": None, "state": "unknown"}
    assert state(door, 1) == "unknown"


def changing_jobs(door: Door, queue: str) -> None:
    """Each change, and what refuses it."""
    job_id = push(door, queue, delay=600_000)
    done(door, "UPDATEJOB", id=job_id, data={"new": 2})
    done(door, "CHANGEPRIORITY", id=job_id, priority=9)
    done(door, "PROMOTE", id=job_id)
    refused(door, f"Job {job_id} is not delayed", "PROMOTE", id=job_id)
    job = pull(door, queue)
    assert (job["data"], job["priority"]) == ({"new": 2}, 9)
    done(door, "MOVETODELAYED", id=job_id, delay=600_000)
    inactive = f"Job {job_id} not in processing"
    refused(door, inactive, "MOVETODELAYED", id=job_id, delay=1)
    done(door, "CANCEL", id=job_id)
    gone = "not found" if door.is_older else "cannot be cancelled (already cancelled)"
    refused(door, f"Job {job_id} {gone}", "CANCEL", id=job_id)
    assert door.ask("GETSTATE", id=job_id)["state"] in ("unknown", "cancelled")
    changed = f"Job {job_id} not found or cannot change priority"
    refused(door, changed, "CHANGEPRIORITY", id=job_id, priority=1)
    discarded = f"Job {job_id} not found or already in DLQ/completed"
    refused(door, discarded, "DISCARD", id=job_id)


def removing_jobs(door: Door, queue: str) -> None:
    """Drain, clean and obliterate say how many."""
    push_many(door, queue, [{"data": number} for number in range(7)])
    assert door.ask("CLEAN", queue=queue, grace=0, state="waiting", limit=2) == {"count": 2}
    text = "Invalid state. Use: waiting, delayed, completed, failed"
    text += "" if door.is_older else ", cancelled"
    refused(door, text, "CLEAN", queue=queue, grace=0, state="x")
    assert door.ask("DRAIN", queue=queue) == {"count": 5}
    push(door, queue)
    assert door.ask("OBLITERATE", queue=queue) == {"count": 1}


def the_server_as_a_whole(door: Door, queue: str) -> None:
    """Numbers where numbers are expected."""
    push(door, queue)
    stats = door.ask("STATS")
    names = ("queued", "processing", "delayed", "dlq")
    assert all(type(stats[name]) is int for name in names)
    assert stats["queued"] >= 1
    metrics = door.ask("METRICS")["metrics"]
    totals = ("total_pushed", "total_completed", "total_failed")
    assert all(type(metrics[name]) is int for name in totals)
    assert type(metrics["jobs_per_second"]) is float
    assert type(metrics["avg_latency_ms"]) is float
    (own,) = [one for one in metrics["queues"] if one["name"] == queue]
    assert own == {"name": queue, "pending": 1, "processing": 0, "dlq": 0, "rate_limit": None}


# --- events


def a_listener_hears_of_a_jobs_life(door: Door, queue: str) -> None:
    """From the moment on in which it is told that it listens: each event has its kind, its queue,
    its job and its time, and what there is to say."""
    with door.listen(queue) as listener:
        job_id = push(door, queue, {"a": 1}, max_attempts=1)
        pull(door, queue)
        done(door, "PROGRESS", id=job_id, progress=30)
        done(door, "ACK", id=job_id, result=[1])
        other = push(door, queue, {"a": 2}, max_attempts=1)
        pull(door, queue)
        done(door, "FAIL", id=other, error="no")
        told = [listener.next() for _ in range(7)]
    times = [event.pop("timestamp") for event in told]
    assert times == sorted(times)
    first, second = ({"queue": queue, "job_id": number} for number in (job_id, other))
    assert told == [
        {"event_type": "pushed", **first, "data": {"a": 1}},
        {"event_type": "active", **first},
        {"event_type": "progress", **first, "progress": 30},
        {"event_type": "completed", **first, "data": [1]},
        {"event_type": "pushed", **second, "data": {"a": 2}},
        {"event_type": "active", **second},
        {"event_type": "failed", **second, "error": "no"},
    ]


# --- errors


def a_payload_beyond_its_bound(door: Door, queue: str) -> None:
    """It is answered, not cut off; the text has both sizes."""
    with pytest.raises(ServerSaid, match=r"^Job data too large \(\d+ bytes, max 1048576 bytes\)$"):
        door.ask("PUSH", queue=queue, data="x" * (PAYLOAD_BYTES_MAX + 1))
    push(door, queue, "x" * (PAYLOAD_BYTES_MAX - 10))


def names_that_no_queue_can_have(door: Door, _queue: str) -> None:
    """As older servers said it; a batch says it too instead of swallowing it."""
    for name, text in NAME_TEXTS.items():
        refused(door, text, "PUSH", queue=name, data=1)
        refused(door, text, "PUSHB", queue=name, jobs=[{"data": 1}])


SCENARIOS: Final[tuple[Scenario, ...]] = (
    a_job_comes_out_as_it_went_in,
    a_job_without_options,
    payloads_of_every_kind,
    results_are_there_for_whoever_asks,
    batches,
    a_batch_treats_each_entry_like_a_push,
    the_order_of_deliveries,
    a_delayed_job_comes_when_it_is_due,
    a_job_lives_as_long_as_it_may,
    retries_and_the_dead_letters,
    dead_letters_in_their_order,
    a_failure_that_leaves_nothing,
    backoff_grows,
    waiting_for_a_job,
    waiting_for_a_job_that_leaves_nothing,
    three_ways_of_not_doing_a_thing_twice,
    a_unique_key_is_taken_until_its_job_ends,
    a_flow,
    dependencies,
    crons,
    nothing_passes_a_paused_queue,
    limits,
    progress_logs_and_heartbeats,
    looking_at_jobs,
    changing_jobs,
    removing_jobs,
    the_server_as_a_whole,
    a_listener_hears_of_a_jobs_life,
    a_payload_beyond_its_bound,
    names_that_no_queue_can_have,
)
"""All of them."""
