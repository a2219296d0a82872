"""Fields added to an encoded map, without reading or encoding the rest of it.

Owns the few bytes at either end of a JSON object or a MessagePack map. A body that passes through
the gateway is never decoded into objects: its payload stays the bytes that it came as. Pure.

A key that is appended wins over the same key before it: that is how flashq's decoders read a map
with a key twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flashq.protocol.codec import encode_json, encode_msgpack

_FIXMAP: Final = 0x80
_FIXMAP_MAX: Final = 15
_MAP16: Final = 0xDE
_MAP16_MAX: Final = 0xFFFF
_MAP32: Final = 0xDF


def _map_head(count: int) -> bytes:
    if count <= _FIXMAP_MAX:
        return bytes((_FIXMAP | count,))
    if count <= _MAP16_MAX:
        return bytes((_MAP16,)) + count.to_bytes(2, "big")
    return bytes((_MAP32,)) + count.to_bytes(4, "big")


def _map_size(body: bytes) -> tuple[int, int]:
    """Return how many pairs a map has, and where the first one begins."""
    head = body[0]
    if head == _MAP16:
        return int.from_bytes(body[1:3], "big"), 3
    if head == _MAP32:
        return int.from_bytes(body[1:5], "big"), 5
    return head - _FIXMAP, 1


def append_pairs(body: bytes, *pairs: bytes, count: int) -> bytes:
    """Return a MessagePack map with encoded pairs at its end.

    Args:
        body: a map and nothing else.
        pairs: keys and values, encoded.
        count: how many pairs they are.
    """
    size, start = _map_size(body)
    return b"".join((_map_head(size + count), memoryview(body)[start:], *pairs))


def append_members(body: bytes, members: bytes) -> bytes:
    """Return a JSON object with encoded members at its end.

    Args:
        body: an object with at least one member, and nothing behind its closing brace.
        members: as in `"a":1,"b":2`.
    """
    return b"".join((memoryview(body)[:-1], b",", members, b"}"))


def append_fields(body: bytes, fields: Mapping[str, Any], *, json: bool) -> bytes:
    """Return a request's body with these fields as its last ones."""
    if json:
        return append_members(body, encode_json(fields)[1:-1])
    return append_pairs(body, encode_msgpack(fields)[1:], count=len(fields))


def with_first(body: bytes, key: bytes, value: bytes, *, json: bool) -> bytes:
    """Return a reply's body with an encoded pair in front of all others.

    Args:
        body: a map of at least one pair.
        key: encoded, in JSON with the colon behind it.
        value: encoded.
    """
    if json:
        return b"".join((b"{", key, value, b",", memoryview(body)[1:]))
    size, start = _map_size(body)
    return b"".join((_map_head(size + 1), key, value, memoryview(body)[start:]))
