"""Results decode from replies as they are, and payloads when somebody looks."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from flashq.client.results import Cron, Delivered, Event, Job, Page, PartialBatchError, payload
from flashq.protocol.codec import encode
from flashq.protocol.jobs import BatchError
from flashq.protocol.objects import JobView


def delivered(**fields: Any) -> Job:
    """Return a job as a reply brings it."""
    body = encode({"ok": True, "job": {"id": 4, "queue": "q", "data": {"a": [1]}, **fields}})
    job = msgspec.msgpack.decode(body, type=Delivered).job
    assert job is not None
    return job


def test_a_payload_is_decoded_once_when_first_read() -> None:
    """A change that a handler makes to `job.data` is still there the next time."""
    job = delivered()
    assert type(JobView.data.__get__(job)) is Raw  # type: ignore[attr-defined]
    job.data["a"].append(2)
    assert job.data == {"a": [1, 2]}


def test_columns_are_the_jobs_that_they_stand_for() -> None:
    """A column of one stands for all; each job has every field, as if it had come alone."""
    columns = {
        "queue": "q",
        "ids": [4, 8],
        "token": 7,
        "data": [encode({"a": 1}), encode(None)],
        "priority": [0],
        "created_at": [10, 11],
        "run_at": [12],
        "started_at": [13],
        "attempts": [2, 0],
    }
    reply = msgspec.msgpack.decode(encode({"ok": True, "columns": columns}), type=Delivered)
    one = {"queue": "q", "token": 7, "run_at": 12, "started_at": 13}
    assert reply.all() == [
        delivered(id=4, data={"a": 1}, created_at=10, attempts=2, **one),
        delivered(id=8, data=None, created_at=11, **one),
    ]


@pytest.mark.parametrize("data", [None, 5, "text", [], {}])
def test_any_payload_is_one(data: Any) -> None:
    """Null too: a job may have nothing to say."""
    assert delivered(data=data).data == data


def test_a_job_has_every_field_of_the_protocol() -> None:
    """Those left out on the wire are at their defaults."""
    job = delivered(tags=["x"], token=9, history=[{"at": 1, "reason": "failed"}])
    assert (job.token, job.attempts, list(job.tags), job.state) == (9, 0, ["x"], None)
    assert job.history[0].reason == "failed"
    assert set(JobView.__struct_fields__) <= set(Job.__struct_fields__)


def test_crons_and_events_decode_their_payloads_too() -> None:
    """They carry them like jobs do."""
    cron = msgspec.convert(
        {"name": "c", "queue": "q", "data": Raw(b"\x05"), "schedule": None, "repeat_every": 5,
         "priority": 0, "next_run": 0, "executions": 0, "limit": None},
        Cron,
    )  # fmt: skip
    assert cron.data == 5
    assert cron.data == 5
    event = Event(seq=1, shard=0, epoch=1, event="completed", queue="q", at=1, ids=[4, 8])
    assert event.data is None
    body = encode({**msgspec.to_builtins(event), "data": [None, {"r": 1}]})
    assert msgspec.msgpack.decode(body, type=Event).data == [None, {"r": 1}]


def test_a_page_is_a_list_that_knows_what_is_missing() -> None:
    """Code that only wants the list need not know."""
    page = Page([1, 2], total=9, missing_shards=[3])
    assert page == [1, 2]
    assert (page.total, page.missing_shards) == (9, [3])


def test_a_partial_batch_says_which_entries_failed() -> None:
    """And survives the way between processes."""
    error = PartialBatchError(
        [4, None], [BatchError(index=1, error="Duplicate job with key: k", code="duplicate")]
    )
    assert "1 of 2" in str(error)
    assert "index 1: Duplicate" in str(error)
    assert pickle.loads(pickle.dumps(error)).ids == [4, None]


def test_no_payload_is_none() -> None:
    """A result that is not there."""
    assert payload(None) is None
    assert payload(Raw(b"\xc0")) is None
