"""Shards' replies, put into the envelope of HTTP.

Owns the envelope: what of a command's reply is its `data`, and what stands beside it. A reply is
taken apart into its members only: what jobs, payloads and results say stays the bytes that it is.
Pure.

    {"ok": true, "data": ..., and for some commands members of the reply that older clients read}
    {"ok": false, "error": text, "code": stable word, "retryable": whether a repeat can help}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from flashq.errors import CATALOGUE, BadMessage, FlashQError
from flashq.protocol.codec import decode, encode_json, error_reply
from flashq.protocol.command import Command

Members = dict[str, Raw]
NULL: Final = Raw(b"null")
NULL_ENVELOPE: Final = b'{"ok":true,"data":null}'
_PARTIAL: Final = "missing_shards"
"""Stands beside the data whenever some shards are missing in it."""


class Shape(NamedTuple):
    """How a command's reply looks in the envelope.

    Args:
        data: makes the `data` of a reply's members.
        beside: members that are given beside it too, where the reply has them.
        schema: describes the data; None when it is as the reply's own type says.
        field: the one member that the data is, if it is just that.
    """

    data: Callable[[Members], bytes | Raw]
    beside: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    field: str | None = None


def _one(field: str, *beside: str) -> Shape:
    return Shape(lambda members: members.get(field, NULL), beside, None, field)


def _all(*beside: str) -> Shape:
    return Shape(_whole, beside)


def _whole(members: Members) -> bytes:
    return encode_json({name: raw for name, raw in members.items() if name not in ("ok", _PARTIAL)})


def _nothing(_members: Members) -> Raw:
    return NULL


def _number_in_ids(members: Members) -> bytes:
    return _inside(members["ids"])


def _pulled(members: Members) -> bytes:
    """Give the jobs, and note the first as what a pull of one job is answered with."""
    jobs = decode(bytes(members["jobs"]), list[Raw], json=True)
    members["job"] = jobs[0] if jobs else NULL
    return bytes(members["jobs"])


def _progress(members: Members) -> bytes:
    progress = decode(bytes(members["progress"]), Members, json=True)
    return b"[%b,%b]" % (bytes(progress["progress"]), bytes(progress["message"]))


def _inside(array: Raw) -> bytes:
    return bytes(array)[1:-1].strip()


_COUNT: Final = {"type": "integer", "minimum": 0}
_PROGRESS: Final = {
    "type": "array",
    "prefixItems": [{"type": "integer"}, {"type": ["string", "null"]}],
    "description": "Progress, and its message or null.",
}
_JOB_WITH_RESULT: Final = {
    "type": "object",
    "description": "The job's own keys (absent when there is none), its state, and its result.",
    "properties": {"state": {"type": "string"}, "result": {}},
    "required": ["state", "result"],
}

SHAPES: Final[dict[str, Shape]] = {
    "PUSH": Shape(_nothing, ("id",), {"$ref": "#/components/schemas/FullJobView"}),
    "PUSHB": _one("ids", "errors"),
    "PULLB": Shape(_pulled, ("job", "jobs"), None, "jobs"),
    "ACKB": Shape(_number_in_ids, ("lost",), _COUNT),
    "RETRYDLQ": Shape(_number_in_ids, (), _COUNT),
    "GETPROGRESS": Shape(_progress, (), _PROGRESS),
    "GETLOGS": _one("logs"),
    "GETJOB": Shape(_nothing, (), _JOB_WITH_RESULT),
    "GETJOBBYCUSTOMID": Shape(_nothing, (), _JOB_WITH_RESULT),
    "GETSTATE": _one("state"),
    "GETRESULT": _one("result"),
    "GETJOBS": _one("jobs", "total"),
    "GETJOBSBATCH": _one("jobs"),
    "STATS": _all("queued", "processing", "delayed", "dlq"),
    "METRICS": _one("metrics", "metrics"),
    "LISTQUEUES": _one("queues", "queues", "total", "next"),
    "LISTWORKERS": _one("workers", "next"),
    "CRONLIST": _one("crons", "next"),
    "WEBHOOKLIST": _one("webhooks", "next"),
    "CRONDELETE": Shape(_nothing, (), {"type": "boolean"}),
    "WEBHOOKDELETE": Shape(_nothing, (), {"type": "boolean"}),
    "WEBHOOKDEAD": _one("deliveries", "total"),
}
"""Where the data is not simply the reply's only member, or all of them, or null for none."""


def shape_of(command: Command) -> Shape:
    """Return how a command's reply looks in the envelope."""
    shape = SHAPES.get(command.word)
    if shape is None:
        fields = reply_fields(command.reply)
        shape = Shape(_nothing) if not fields else _one(fields[0]) if len(fields) == 1 else _all()
    return shape


def reply_fields(reply: type[Struct]) -> list[str]:
    """Return the members of a reply that say something of their own."""
    return [name for name in reply.__struct_fields__ if name not in ("ok", _PARTIAL)]


def envelope(data: bytes | Raw, beside: Mapping[str, Raw | bytes] | None = None) -> bytes:
    """Return the body of a success.

    Args:
        data: encoded.
        beside: members beside it, encoded.
    """
    parts: list[bytes | Raw] = [b'{"ok":true,"data":', data]
    for name, value in (beside or {}).items():
        parts += (b',"%b":' % name.encode(), value)
    parts.append(b"}")
    return b"".join(parts)


def enveloped(shape: Shape, reply: bytes) -> bytes:
    """Return the body that answers with a shard's successful reply."""
    members = members_of(reply)
    data = shape.data(members)
    beside = {name: members[name] for name in (*shape.beside, _PARTIAL) if name in members}
    return envelope(data, beside)


def members_of(reply: bytes) -> Members:
    """Take a reply apart into its members."""
    return decode(reply, Members, json=True)


def job_with_result(members: Members, result: bytes | Raw = NULL) -> bytes:
    """Return the data that shows a job: its own keys, flat, its state and its result.

    Args:
        members: of a reply to GETJOB.
        result: encoded.
    """
    job = bytes(members["job"])
    ends = b'"state":%b,"result":%b}' % (bytes(members["state"]), bytes(result))
    return b"{" + ends if job == b"null" else job[:-1] + b"," + ends


class _Refusal(Struct):
    code: str = ""
    error: str = ""
    retryable: bool = False


def error_body(error: FlashQError) -> bytes:
    """Return the body that says what is wrong."""
    return encode_json(error_reply(error))


def refusal_of(reply: bytes) -> FlashQError:
    """Return the error that a reply is."""
    try:
        refusal = msgspec.json.decode(reply, type=_Refusal)
    except msgspec.DecodeError as error:
        return BadMessage(detail=str(error))
    return CATALOGUE.get(refusal.code, FlashQError)(refusal.error)
