"""One call: a request encoded once, where it goes, and what its answer settles.

Owns the encoding of requests and the reading of their answers, for both clients. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from flashq.client.checks import check_arguments_of, check_payload
from flashq.errors import BadMessage, FlashQError, error_from
from flashq.ids import shard_of_job, shard_of_queue
from flashq.protocol.codec import decode, encode_msgpack
from flashq.protocol.command import Command, Scope
from flashq.protocol.framing import ROUTE_ANY, ROUTE_COORDINATOR, ROUTE_ROUTER
from flashq.protocol.jobs import PushBatch
from flashq.protocol.leases import Ack, AckBatch, Fail, MoveToDelayed, Pull, PullBatch, Release
from flashq.protocol.registry import BY_REQUEST, COMMANDS

WAIT_MARGIN_MS: Final = 5000
"""How much longer than the server's wait the client waits for its answer."""

DELIVERING: Final = (Pull, PullBatch)
"""Requests whose answer hands jobs out."""

_FIXED_ROUTES: Final = {Scope.COORDINATOR: ROUTE_COORDINATOR, Scope.ROUTER: ROUTE_ROUTER}
_SETTLES_ONE: Final = (Ack, Fail, MoveToDelayed)
_SETTLES_MANY: Final = (AckBatch, Release)

_KEY_FIELDS: Final[dict[type[Any], str | None]] = {
    command.request: {
        Scope.QUEUE: "queue",
        Scope.QUEUE_OR_ALL: "queue",
        Scope.JOB: command.id_field,
        Scope.JOBS: "ids",
    }.get(command.scope)
    for command in COMMANDS
}

Key = str | int | Sequence[int] | None
"""What names the shard: a queue, a job id, several job ids, or nothing."""


class Call(Struct, frozen=True, gc=False):
    """A request, ready to be sent.

    Args:
        command: its record in the registry.
        body: its MessagePack, without session and number.
        key: what names its shard.
        settles: job ids whose lease ends when this succeeds.
        tokens: the lease tokens it names, in line with `settles`.
    """

    command: Command
    body: bytes
    key: Key = None
    settles: Sequence[int] = ()
    tokens: Sequence[int | None] | None = None


def route_of(call: Call, shard_count: int) -> int:
    """Return where a call goes: a shard, or one of the ROUTE_ constants."""
    key = call.key
    if isinstance(key, str):
        return shard_of_queue(key, shard_count)
    if isinstance(key, int):
        return shard_of_job(key, shard_count)
    if key:
        shards = {job_id % shard_count for job_id in key}
        if len(shards) == 1:
            return shards.pop()
    return _FIXED_ROUTES.get(call.command.scope, ROUTE_ANY)


def prepare(request: Any) -> Call:
    """Encode a request, its payload in the same pass.

    Raises:
        TypeError: the payload has something that MessagePack cannot hold, or a set; or an argument
            is of a wrong type. The text names it.
        InvalidRequest: an argument is out of bounds.
    """
    kind = type(request)
    for name in _PAYLOADS_OF.get(kind, ()):
        check_payload(name, getattr(request, name))
    try:
        body = encode_msgpack(request)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _unencodable(request, error) from None
    if kind not in _SETTLES_MANY:  # their ids were looked at one by one
        check_arguments_of(kind, body)
    command = BY_REQUEST[kind]
    field = _KEY_FIELDS[kind]
    key = None if field is None else getattr(request, field)
    if kind in _SETTLES_ONE:
        return Call(command, body, key, (request.id,), (request.token,))
    if kind in _SETTLES_MANY:
        return Call(command, body, key, request.ids, request.tokens)
    if key is None and command.scope is Scope.JOB:  # LOG, GETLOGS, HEARTBEAT by their other name
        key = request.job_id
    return Call(command, body, key)


_PAYLOADS_OF: Final[dict[type[Any], tuple[str, ...]]] = {
    command.request: names
    for command in COMMANDS
    if (
        names := tuple(
            name for name in ("data", "result") if name in command.request.__struct_fields__
        )
    )
}
_PUSH_BATCH: Final = BY_REQUEST[PushBatch]


def prepare_push_batch(queue: str, jobs: Sequence[Mapping[str, Any]]) -> Call:
    """Encode a PUSHB straight from dictionaries, `cmd` first: the server has a fast way for that,
    and a faster one for nothing but payloads.

    Raises:
        TypeError: an entry cannot be encoded; the text names its index.
    """
    if jobs:  # most often all are of one make, and a look at each would cost too much
        check_payload("jobs[0]", jobs[0])
    payloads = [job["data"] for job in jobs if len(job) == 1 and "data" in job]
    try:
        if len(payloads) == len(jobs):
            body = encode_msgpack({"cmd": "PUSHB", "payloads": payloads, "queue": queue})
        else:
            body = encode_msgpack({"cmd": "PUSHB", "queue": queue, "jobs": jobs})
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        for index, job in enumerate(jobs):
            try:
                encode_msgpack(job)
            except (TypeError, ValueError, OverflowError, RecursionError) as reason:
                raise TypeError(f"jobs[{index}] cannot be encoded: {reason}") from None
        raise TypeError(f"PUSHB cannot be encoded: {error}") from None
    return Call(_PUSH_BATCH, body, queue)


def _unencodable(request: Any, error: Exception) -> TypeError:
    for name in ("data", "parent_data", "result", "results", "children"):
        try:
            encode_msgpack(getattr(request, name, None))
        except (TypeError, ValueError, OverflowError, RecursionError) as reason:
            return TypeError(f"{name} cannot be encoded: {reason}")
    return TypeError(f"{request.__struct_config__.tag} cannot be encoded: {error}")


def by_shard(
    ids: Sequence[int], shard_count: int, *columns: Sequence[Any] | None
) -> Iterable[tuple[Sequence[Any] | None, ...]]:
    """Split ids, and columns in line with them, into one group for each shard.

    A batch that was pulled from one queue is one group and is not copied.
    """
    if len({job_id % shard_count for job_id in ids}) <= 1:
        return [(ids, *columns)]
    places: dict[int, list[int]] = {}
    for place, job_id in enumerate(ids):
        places.setdefault(job_id % shard_count, []).append(place)
    return [
        tuple(
            None if column is None else [column[place] for place in group]
            for column in (ids, *columns)
        )
        for group in places.values()
    ]


# --- answers

OK_FIRST: Final = b"\xa2ok\xc3"
"""How a successful reply goes on behind its map byte, when `ok` stands first."""


class _Verdict(Struct):
    ok: bool = False
    error: str = ""
    code: str = "error"
    retryable: bool = False


class Verdict(Struct, frozen=True):
    """What a reply says about its request: `error` is None for a success."""

    error: FlashQError | None = None
    retryable: bool = False


_SUCCESS: Final = Verdict()


def verdict_of(body: bytes) -> Verdict:
    """Tell whether a reply is a success, without reading the rest of it where possible."""
    if body[1:5] == OK_FIRST:
        return _SUCCESS
    try:
        found = decode(body, _Verdict)
    except BadMessage as damage:
        return Verdict(damage)
    if found.ok:
        return _SUCCESS
    error = error_from(found.code, found.error)
    return Verdict(error, found.retryable or error.retryable)


# --- protection against being carried out twice

_SESSION_KEY: Final = b"\xa7session\xc4\x10"
_N_KEY: Final = b"\xa1n\xcf"
_DONE_BELOW_KEY: Final = b"\xaadone_below\xcf"
_FIXMAP: Final = 0x80
_FIXMAP_MAX: Final = 15
_MAP16: Final = 0xDE
_STAMP_FIELDS: Final = 3


def stamped(body: bytes, session: bytes, n: int, done_below: int) -> bytes:
    """Return an encoded request with `session`, `n` and `done_below` appended to its map.

    Bodies are encoded outside of any lock, before their number is known; this is one copy.
    """
    if body[0] == _MAP16:
        fields, start = int.from_bytes(body[1:3], "big"), 3
    else:
        fields, start = body[0] - _FIXMAP, 1
    fields += _STAMP_FIELDS
    head = (
        bytes((_FIXMAP + fields,))
        if fields <= _FIXMAP_MAX
        else bytes((_MAP16,)) + fields.to_bytes(2, "big")
    )
    return b"".join(
        (
            head,
            memoryview(body)[start:],
            _SESSION_KEY,
            session,
            _N_KEY,
            n.to_bytes(8, "big"),
            _DONE_BELOW_KEY,
            done_below.to_bytes(8, "big"),
        )
    )
