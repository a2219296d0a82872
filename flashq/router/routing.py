"""What of a request's body decides where it goes, and whether its asker may send it. Pure."""

from __future__ import annotations

from typing import Final

from flashq.errors import AuthenticationRequired, InvalidRequest, MessageTooLarge
from flashq.protocol.codec import Outline, decode_outline, request_word, with_field
from flashq.protocol.command import Command
from flashq.protocol.framing import JSON, ROUTE_ANY, ROUTE_ROUTER, unpack_header
from flashq.protocol.registry import BY_WORD, WORD_ALIASES
from flashq.tokens import Grant

COORDINATOR_ROUTING_ID: Final = b"C"
_ROUTER_ROUTES: Final = tuple(route.to_bytes(2, "big") for route in (ROUTE_ANY, ROUTE_ROUTER))


def shard_routing_id(shard: int) -> bytes:
    """Return the routing id under which the router's socket knows a shard."""
    return b"S" + shard.to_bytes(2, "big")


def shard_of_routing_id(routing_id: bytes) -> int:
    """Return the shard's number of such a routing id."""
    return int.from_bytes(routing_id[1:], "big")


def command_of(outline: Outline) -> Command:
    """Return the record of the command that a request names.

    Raises:
        InvalidRequest: there is none.
    """
    command = BY_WORD.get(WORD_ALIASES.get(outline.cmd, outline.cmd))
    if command is None:
        raise InvalidRequest(detail=f"unknown command '{outline.cmd[:64]}'")
    return command


def job_of(outline: Outline, field: str) -> int:
    """Return the id of the job that a request is about.

    Raises:
        InvalidRequest: it names none.
    """
    job_id = outline.parent_id if field == "parent_id" else outline.id
    if job_id is None and isinstance(outline.job_id, int):
        job_id = outline.job_id
    if job_id is None:
        raise InvalidRequest(detail=f"missing field `{field}`")
    return job_id


def checked_body(grant: Grant | None, header: bytes, body: bytes, bytes_max: int) -> bytes:
    """Return the body as it may go on, of a client whose token does not allow everything.

    Args:
        grant: what it allows; None for a client that has shown none, and may do nothing else.
        bytes_max: the largest body.

    Raises:
        AuthenticationRequired: no token was shown.
        NotAllowed: it does not allow this.
        InvalidRequest, BadMessage, MessageTooLarge: what is asked cannot be read.
    """
    if grant is None:
        is_json = len(header) > 1 and bool(header[1] & JSON)
        if header[2:4] not in _ROUTER_ROUTES or request_word(body, json=is_json) != "AUTH":
            raise AuthenticationRequired
        return body
    json = bool(unpack_header(header).flags & JSON)
    if len(body) > bytes_max:
        raise MessageTooLarge
    outline = decode_outline(body, json=json)
    within = grant.check(command_of(outline), outline.queue, body, json=json)
    return with_field(body, "within", within, json=json) if within else body
