"""Replies in the shape that clients of the older protocol can read.

Owns the differences between a shard's reply and what those clients make of it. Pure.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from flashq.gateway.asking import Ask
from flashq.protocol.codec import decode, encode, encode_json, encode_msgpack
from flashq.protocol.objects import NULL_JSON, NULL_MSGPACK


class _Pulled(Struct):
    job: Raw = Raw(NULL_JSON)


def without_gaps(body: bytes, *, json: bool) -> bytes:
    """Return the reply to a batch with the ids of the accepted jobs only, as older clients read it;
    `errors` beside them says which were not accepted."""
    reply: dict[str, Any] = decode(body, dict, json=json)
    reply["ids"] = [job_id for job_id in reply["ids"] if job_id is not None]
    return encode_json(reply) if json else encode_msgpack(reply)


def brings_no_job(body: bytes, *, json: bool) -> bool:
    """Tell whether the successful reply to a PULL has no job in it."""
    return bytes(decode(body, _Pulled, json=json).job) in (NULL_JSON, NULL_MSGPACK)


def nothing_pulled(ask: Ask) -> bytes:
    """Return the reply to a pull that named its time-out and for which nothing came."""
    nothing: dict[str, Any] = {"ok": True}
    if ask.command.word == "PULLB":
        nothing["jobs"] = []
    nothing["job"] = None
    return encode(nothing, json=ask.json)
