"""What older clients write a little differently."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from flashq.gateway.leniency import is_request_id, repaired, request_id_of
from flashq.ids import JOB_ID_MAX
from flashq.protocol.codec import decode_request


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("field", "given", "read"),
    [
        ("delay", 10.0, 10),
        ("ttl", 2**64 - 1, JOB_ID_MAX),
        ("priority", -3.0, -3),
        ("depends_on", [4.0, 5], [4, 5]),
        ("max_attempts", 1e3, 1000),
    ],
)
def test_numbers_are_read_as_they_were_meant(
    field: str, given: Any, read: Any, binary: bool
) -> None:
    """A float that is whole, and a time beyond all times."""
    fields = {"cmd": "PUSH", "queue": "q", "data": {"n": 1.0}, field: given}
    body = msgpack.packb(fields) if binary else json.dumps(fields).encode()
    better = repaired(body, json=not binary)
    assert better is not None
    request = decode_request(better, json=not binary)
    assert getattr(request, field) == read
    kept = json.loads(bytes(request.data)) if not binary else msgpack.unpackb(bytes(request.data))
    assert type(kept["n"]) is float


@pytest.mark.parametrize("binary", [False, True])
def test_fields_that_a_command_does_not_have_are_left_out(binary: bool) -> None:
    """Of the request itself: the older TCP protocol ignores them. Entries have to be right."""
    jobs = [{"data": 1, "max_attempt": 3}]
    fields = {"cmd": "PUSHB", "queue": "q", "jobs": jobs, "reqId": "r1", "traceId": [1]}
    body = msgpack.packb(fields) if binary else json.dumps(fields).encode()
    assert repaired(body, json=not binary) is None
    better = repaired(body, json=not binary, ignores_unknown=True)
    assert better is not None
    del fields["traceId"]
    assert (msgpack.unpackb(better) if binary else json.loads(better)) == fields
    assert repaired(better, json=not binary, ignores_unknown=True) is None


def test_entries_of_a_batch_and_children_of_a_flow() -> None:
    """They have the same fields as a push."""
    jobs = [{"data": 1}, {"data": 2, "delay": 5.0}]
    body = json.dumps({"cmd": "PUSHB", "queue": "q", "jobs": jobs}).encode()
    better = repaired(body, json=True)
    assert better is not None
    assert json.loads(better)["jobs"][1]["delay"] == 5
    body = json.dumps({"cmd": "FLOW", "queue": "q", "data": 1, "children": [jobs[1]]}).encode()
    better = repaired(body, json=True)
    assert better is not None
    assert b'"delay":5}' in better


@pytest.mark.parametrize(
    "fields",
    [
        {"cmd": "PUSH", "queue": "q", "data": 1.0},
        {"cmd": "PUSH", "queue": "q", "data": 1, "delay": 1.5},
        {"cmd": "PUSH", "queue": "q", "data": 1, "delay": "5"},
        {"cmd": "PUSH", "queue": "q", "data": 1, "delay": -1},
        {"cmd": "GETJOB", "id": 2**60},
        {"cmd": "NOPE", "id": 5.0},
        {"id": 5.0},
        {"cmd": 5.0},
        {"cmd": "PUSHB", "jobs": 5.0},
    ],
    ids=str,
)
def test_a_mistake_stays_one(fields: dict[str, Any]) -> None:
    """What was meant is not guessed at."""
    assert repaired(json.dumps(fields).encode(), json=True) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
@pytest.mark.parametrize("is_json", [False, True])
def test_what_cannot_be_read_is_left(body: bytes, is_json: bool) -> None:
    """There is nothing to repair, and no id to find."""
    assert repaired(body, json=is_json) is None
    assert request_id_of(body, json=is_json) is None


def test_an_id_is_found_in_what_cannot_be_read() -> None:
    """So that the client that asked is told, and not left to its time-out."""
    assert request_id_of(b'{"cmd":"X","reqId":"r\\"1","data":', json=True) == b'"r\\"1"'
    assert request_id_of(b'{"reqId": 17, nonsense', json=True) == b"17"
    assert request_id_of(b'{"reqId":"\xff"', json=True) is None
    assert request_id_of(b'{"reqId":1.5', json=True) is None
    assert request_id_of(b"\x83\xa5reqId\xa2r1\xa3cm", json=False) == b"\xa2r1"
    assert request_id_of(b"\x83\xa5reqId\xa9r1", json=False) is None
    assert request_id_of(b"\x83\xa5reqId", json=False) is None


def test_the_outer_id_counts() -> None:
    """A payload may have a key of that name."""
    body = b'{"data":{"reqId":"inner"},"cmd":"NOPE","reqId":"outer"}'
    assert request_id_of(body, json=True) == b'"outer"'


@pytest.mark.parametrize("value", ["", "x" * 300, 0, -1, 1.5, 2**63])
def test_strings_and_numbers_are_ids(value: Any) -> None:
    """In both encodings."""
    assert is_request_id(json.dumps(value).encode(), json=True)
    assert is_request_id(msgpack.packb(value), json=False)


@pytest.mark.parametrize("value", [None, True, [], {}])
def test_nothing_else_is_an_id(value: Any) -> None:
    """Neither can a client look it up."""
    assert not is_request_id(json.dumps(value).encode(), json=True)
    assert not is_request_id(msgpack.packb(value), json=False)
