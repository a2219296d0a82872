"""Fields added to encoded maps: the result is what encoding the whole would have given."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from flashq.gateway.splicing import append_fields, append_members, append_pairs, with_first

MAPS: list[dict[str, Any]] = [
    {"a": 1},
    {f"k{number}": number for number in range(14)},
    {f"k{number}": number for number in range(15)},
    {f"k{number}": number for number in range(65_535)},
]


@pytest.mark.parametrize("fields", MAPS, ids=len)
def test_pairs_at_the_end_of_a_frame(fields: dict[str, Any]) -> None:
    """The head of a MessagePack map grows with its size: one byte, three, five."""
    body = append_pairs(msgpack.packb(fields), b"\xa1x\x01", b"\xa1y\x02", count=2)
    assert msgpack.unpackb(body) == {**fields, "x": 1, "y": 2}
    assert list(msgpack.unpackb(body))[-2:] == ["x", "y"]


def test_pairs_at_the_end_of_the_widest_head() -> None:
    """A client may write any head, also a needlessly wide one."""
    body = append_pairs(b"\xdf\x00\x00\x00\x01\xa1a\x01", b"\xa1x\x01", count=1)
    assert msgpack.unpackb(body) == {"a": 1, "x": 1}


@pytest.mark.parametrize("fields", MAPS, ids=len)
def test_a_pair_in_front(fields: dict[str, Any]) -> None:
    """A request id stands before everything else."""
    binary = with_first(msgpack.packb(fields), b"\xa1x", b"\x07", json=False)
    assert list(msgpack.unpackb(binary).items()) == [("x", 7), *fields.items()]
    text = with_first(json.dumps(fields).encode(), b'"x":', b"7", json=True)
    assert list(json.loads(text).items()) == [("x", 7), *fields.items()]


def test_members_at_the_end_of_an_object() -> None:
    """A nested object's brace is not taken for the outer one's."""
    assert append_members(b'{"a":{"b":1}}', b'"x":1,"y":2') == b'{"a":{"b":1},"x":1,"y":2}'


@pytest.mark.parametrize("is_json", [False, True])
def test_fields_of_any_type(is_json: bool) -> None:
    """Lists, null and numbers are encoded as the body is."""
    body = b'{"a":1}' if is_json else msgpack.packb({"a": 1})
    found = append_fields(body, {"tokens": [1, None], "timeout": 4000}, json=is_json)
    decoded = json.loads(found) if is_json else msgpack.unpackb(found)
    assert decoded == {"a": 1, "tokens": [1, None], "timeout": 4000}
