"""Jobs as readers see them: payloads in the reader's encoding, whatever the writer could say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flashq.protocol.codec import encode_json
from tests.unit.shard.harness import Shard


def written_in_json(shard: Shard, data: str) -> int:
    """Push a job as a client does that speaks JSON."""
    body = b'{"cmd":"PUSH","queue":"q","data":%s}' % data.encode()
    return shard.push_body(body, json=True)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", float(2**64)),
        ('{"a":[-9223372036854775809,1]}', {"a": [float(-(2**63) - 1), 1]}),
        ("1" + "0" * 400, "1" + "0" * 400),
        ('{"b":1,"a":"\\u00fc"}', {"b": 1, "a": "ü"}),
    ],
)
def test_what_json_can_say_and_messagepack_cannot(shard: Shard, text: str, read: Any) -> None:
    """A job with an integer beyond 64 bits used to stop the shard whenever it was handed out."""
    job_id = written_in_json(shard, text)
    job = shard.pull()
    assert (job["id"], job["data"]) == (job_id, read)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"when": msgspec.msgpack.Ext(5, b"\x01")}, '{"when":{"ext":5,"data":"AQ=="}}'),
        (b"\x00\xff", '"AP8="'),
        ({1: 2}, '{"1":2}'),
        ({(1, 2): 3}, '{"msgpack":"gZIBAgM="}'),
    ],
)
def test_what_messagepack_can_say_and_json_cannot(shard: Shard, data: Any, text: str) -> None:
    """The reader gets what can be said, or the bytes, rather than nothing."""
    job_id = shard.push(data=data)
    corr = shard.send("GETJOB", id=job_id, json=True)
    assert encode_json(shard.replies[corr].body.job.data).decode() == text


def test_a_dead_letter_has_no_completed_at(shard: Shard) -> None:
    """When it ended is in its history."""
    job = shard.job(shard.make_failed())
    assert job["completed_at"] == 0
    assert job["history"][0]["at"] == shard.now_ms
    assert shard.job(shard.make_completed())["completed_at"] == shard.now_ms
