"""What older clients write a little differently, put into the form that the shards read.

Owns the repairs of a request that was refused as it stands: numbers that are whole but written as
floats (or beyond what any of our numbers can be), fields that the command does not have, which the
older TCP protocol ignores, and the request id of one that cannot be read at all. Requests that are
right never come here. Pure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from flashq.errors import BadMessage
from flashq.ids import JOB_ID_MAX
from flashq.protocol.codec import decode, encode
from flashq.protocol.registry import BY_WORD, WORD_ALIASES

_NUMBER: Final = "number"
_NUMBERS: Final = "numbers"
_ID_FIELDS: Final = frozenset({"id", "job_id", "parent_id", "ids", "depends_on", "token", "tokens"})
"""Numbers that name something: one that is too large names nothing, and stays an error."""

REQUEST_ID_CHARS_MAX: Final = 1024
_JSON_REQUEST_ID: Final = re.compile(
    rb'"reqId"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){0,1024}"|-?[0-9]{1,19}(?![0-9.eE]))'
)
_MSGPACK_REQUEST_ID: Final = b"\xa5reqId"


def repaired(body: bytes, *, json: bool, ignores_unknown: bool = False) -> bytes | None:
    """Return a request with its numbers as the shards read them; None when nothing is to be done.

    `5.0` becomes 5, and a duration or a count beyond 2**53 - 1 becomes that. Payloads stay as they
    are.

    Args:
        body: the request.
        json: its encoding.
        ignores_unknown: leave out fields of the request itself that its command does not have.
    """
    try:
        fields = decode(body, dict[str, Raw], json=json)
        word = decode(bytes(fields.get("cmd", b"")), str, json=json)
    except BadMessage:
        return None
    command = BY_WORD.get(WORD_ALIASES.get(word, word))
    if command is None:
        return None
    changed = _repair(fields, command.request, json=json)
    if ignores_unknown:
        unknown = fields.keys() - _names_of(command.request)
        for name in unknown:
            del fields[name]
        changed = changed or bool(unknown)
    return encode(fields, json=json) if changed else None


def _repair(fields: dict[str, Raw], kind: type[Struct], *, json: bool) -> bool:
    """Repair the fields of one object in place; tell whether any changed."""
    changed = False
    for name, shape in _numeric_fields(kind).items():
        raw = fields.get(name)
        if raw is None:
            continue
        if isinstance(shape, type):
            fixed = _repair_objects(raw, shape, json=json)
        else:
            fixed = _repair_value(raw, clamp=name not in _ID_FIELDS, json=json)
        if fixed is not None:
            fields[name] = fixed
            changed = True
    return changed


def _repair_objects(raw: Raw, kind: type[Struct], *, json: bool) -> Raw | None:
    try:
        objects = decode(bytes(raw), list[dict[str, Raw]], json=json)
    except BadMessage:
        return None
    changes = [_repair(fields, kind, json=json) for fields in objects]
    return Raw(encode(objects, json=json)) if any(changes) else None


def _repair_value(raw: Raw, *, clamp: bool, json: bool) -> Raw | None:
    try:
        value = decode(bytes(raw), Any, json=json)
    except BadMessage:
        return None
    if isinstance(value, list):
        fixed: Any = [_whole(item, clamp=clamp) for item in value]
        same = all(new is old for new, old in zip(fixed, value, strict=True))
    else:
        fixed = _whole(value, clamp=clamp)
        same = fixed is value
    return None if same else Raw(encode(fixed, json=json))


def _whole(value: Any, *, clamp: bool) -> Any:
    """Return a number as the shards read it, anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if clamp and type(value) is int and value > JOB_ID_MAX:
        return JOB_ID_MAX
    return value


@cache
def _names_of(kind: type[Struct]) -> frozenset[str]:
    """Return the names that a request's fields have on the wire."""
    return frozenset({"cmd", *kind.__struct_encode_fields__})


@cache
def _numeric_fields(kind: type[Struct]) -> dict[str, str | type[Struct]]:
    """Return a request's fields that are numbers, lists of them, or lists of objects with such."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    found: dict[str, str | type[Struct]] = {}
    for field in info.fields:
        if field.name in ("n", "done_below"):
            continue  # the gateway's own
        shape = _shape(field.type)
        if shape is not None:
            found[field.encode_name] = shape
    return found


def _shape(kind: msgspec.inspect.Type) -> str | type[Struct] | None:
    match kind:
        case msgspec.inspect.IntType():
            return _NUMBER
        case msgspec.inspect.ListType(item_type=msgspec.inspect.StructType(cls=cls)):
            return cls
        case msgspec.inspect.ListType(item_type=item):
            return _NUMBERS if _shape(item) == _NUMBER else None
        case msgspec.inspect.UnionType(types=types):
            shapes = [shape for one in types if (shape := _shape(one)) is not None]
            return shapes[0] if shapes else None
    return None


def request_id_of(body: bytes, *, json: bool) -> bytes | None:
    """Return the request id of a request that could not be read, encoded, if it can be found.

    Args:
        body: as it came, or how it begins.
    """
    try:
        raw = decode(body, dict[str, Raw], json=json).get("reqId")
    except BadMessage:
        return _search(body, json=json)
    return bytes(raw) if raw is not None and is_request_id(bytes(raw), json=json) else None


def _search(body: bytes, *, json: bool) -> bytes | None:
    if json:
        found = _JSON_REQUEST_ID.search(body)
        return None if found is None or not _is_text(found[1]) else found[1]
    start = body.find(_MSGPACK_REQUEST_ID) + len(_MSGPACK_REQUEST_ID)
    if start < len(_MSGPACK_REQUEST_ID) or start >= len(body) or body[start] & 0xE0 != 0xA0:
        return None
    value = body[start : start + 1 + (body[start] & 0x1F)]
    return value if _is_text(value[1:]) and len(value) == 1 + (value[0] & 0x1F) else None


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_request_id(value: bytes, *, json: bool) -> bool:
    """Tell whether an encoded value is a string or a number, which a request id may be."""
    first = value[0]
    if json:
        return first == 0x22 or first == 0x2D or 0x30 <= first <= 0x39
    is_string = 0xA0 <= first <= 0xBF or first in (0xD9, 0xDA, 0xDB)
    return is_string or first <= 0x7F or first >= 0xE0 or 0xCA <= first <= 0xD3
