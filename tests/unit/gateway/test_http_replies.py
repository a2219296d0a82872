"""How shards' replies look in the envelope."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flashq.errors import Busy, DuplicateJob, JobNotFound
from flashq.gateway.http_replies import (
    SHAPES,
    enveloped,
    error_body,
    job_with_result,
    members_of,
    refusal_of,
    shape_of,
)
from flashq.protocol.registry import BY_WORD

JOB = {"id": 4, "queue": "q"}


@pytest.mark.parametrize(
    ("word", "reply", "told"),
    [
        ("PAUSE", {}, {"data": None}),
        ("COUNT", {"count": 3}, {"data": 3}),
        ("ISPAUSED", {"paused": True}, {"data": True}),
        (
            "PULLB",
            {"jobs": [JOB, {"id": 8}]},
            {"data": [JOB, {"id": 8}], "job": JOB, "jobs": [JOB, {"id": 8}]},
        ),
        ("PULLB", {"jobs": []}, {"data": [], "job": None, "jobs": []}),
        ("ACKB", {"ids": [2], "lost": [7]}, {"data": 2, "lost": [7]}),
        ("RETRYDLQ", {"ids": [5]}, {"data": 5}),
        (
            "GETPROGRESS",
            {"progress": {"id": 4, "progress": 30, "message": None}},
            {"data": [30, None]},
        ),
        ("GETRESULT", {"id": 4, "result": {"a": 1}}, {"data": {"a": 1}}),
        ("GETRESULT", {"id": 4}, {"data": None}),
        ("WAITJOB", {}, {"data": None}),
        ("GETJOBS", {"jobs": [JOB], "total": 9}, {"data": [JOB], "total": 9}),
        (
            "FLOW",
            {"parent_id": 1, "children_ids": [2]},
            {"data": {"parent_id": 1, "children_ids": [2]}},
        ),
        (
            "LISTQUEUES",
            {"queues": [], "missing_shards": [3]},
            {"data": [], "queues": [], "missing_shards": [3]},
        ),
        (
            "STATS",
            {"queued": 1, "processing": 2, "delayed": 3, "dlq": 4},
            {
                "data": {"queued": 1, "processing": 2, "delayed": 3, "dlq": 4},
                "queued": 1,
                "processing": 2,
                "delayed": 3,
                "dlq": 4,
            },
        ),
        ("METRICS", {"metrics": {"total_pushed": 1}}, {
            "data": {"total_pushed": 1}, "metrics": {"total_pushed": 1},
        }),
    ],
)  # fmt: skip
def test_what_of_a_reply_is_its_data(
    word: str, reply: dict[str, Any], told: dict[str, Any]
) -> None:
    """And what stands beside it, for clients that read it there."""
    body = json.dumps({"ok": True, **reply}).encode()
    found = json.loads(enveloped(shape_of(BY_WORD[word]), body))
    assert found == {"ok": True, **told}


def test_data_stays_the_bytes_that_it_is() -> None:
    """Numbers beyond 64 bits, spaces and order of keys."""
    result = b'{"z": 1.50,  "a": 12345678901234567890123}'
    body = enveloped(shape_of(BY_WORD["GETRESULT"]), b'{"ok":true,"id":4,"result":%b}' % result)
    assert body == b'{"ok":true,"data":%b}' % result


def test_a_job_is_shown_flat_with_state_and_result() -> None:
    """Without a job, state and result alone."""
    reply = b'{"ok":true,"job":{"id":4,"data":{}},"state":"completed"}'
    shown = job_with_result(members_of(reply), b'{"rows":7}')
    assert json.loads(shown) == {"id": 4, "data": {}, "state": "completed", "result": {"rows": 7}}
    nobody = members_of(b'{"ok":true,"job":null,"state":"unknown"}')
    assert json.loads(job_with_result(nobody)) == {"state": "unknown", "result": None}


def test_errors_are_said_and_read_in_the_same_words() -> None:
    """Their class, and with it their status, comes back from the code."""
    for error in (DuplicateJob(key="k"), JobNotFound(id=4), Busy(detail="full")):
        found = refusal_of(error_body(error))
        assert type(found) is type(error)
        assert found.text == error.text
    assert json.loads(error_body(Busy(detail="full")))["retryable"] is True


def test_an_error_that_is_not_in_the_catalogue_is_still_one() -> None:
    """Of a newer server, say."""
    found = refusal_of(b'{"ok":false,"error":"strange","code":"from_the_future"}')
    assert (found.text, found.http_status) == ("strange", 400)


def test_every_shape_is_of_a_command() -> None:
    """A command that is gone leaves nothing behind."""
    assert set(SHAPES) <= set(BY_WORD)
