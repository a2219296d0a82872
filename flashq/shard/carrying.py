"""How many bytes of payloads a reply carries, before it is encoded. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct


def carried_bytes(body: Any) -> int:
    """Return how many bytes of payloads are in a reply's body, which is a Struct or encoded."""
    if isinstance(body, bytes):
        return len(body)
    return sum(_bytes_of(getattr(body, name)) for name in body.__struct_fields__)


def _bytes_of(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_bytes_of, value))
    if isinstance(value, bytes | Raw):
        return memoryview(value).nbytes
    if isinstance(value, Struct):
        return carried_bytes(value)
    return 0
