"""HTTP requests, put into the form in which the bridge takes them.

Owns the bound on bodies, content types, and the making of a command's body out of path, query and
body. A body passes through as the bytes it came as: the command word is put in front of its
members and what the path says behind them, where it wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request

from flashq.errors import (
    BadMessage,
    BatchTooLarge,
    ContentTypeInvalid,
    InvalidRequest,
    MessageTooLarge,
    ParameterInvalid,
)
from flashq.gateway.asking import Ask, JsonOutline, read_ask
from flashq.gateway.leniency import repaired
from flashq.ids import JOB_ID_MAX
from flashq.protocol.codec import encode_json
from flashq.protocol.command import Command
from flashq.protocol.complaints import explain, nearest
from flashq.protocol.registry import BY_WORD

BODY_BYTES_MAX: Final = 2 * 1024 * 1024
"""The largest body; a payload of 1 MiB fits also when every other byte of it is escaped."""
DISCARDED_BYTES_MAX: Final = 8 * BODY_BYTES_MAX
"""How much of a body that is too large is still read, so that its sender gets to read why."""
BATCH_JOBS_MAX: Final = 1000

OWN_FIELDS: Final = frozenset({"session", "n", "done_below", "within", "view", "ticket", "reqId"})
"""Fields that are the gateway's own: it numbers what it asks, says what a token is for, and shows
every job that was pushed."""
IGNORED_PARAMETERS: Final = frozenset({"token", "_"})
"""Parameters of any query: a token, which is looked at before, and what keeps caches out."""
BODY_OPTIONAL: Final = frozenset({"RETRYDLQ", "HEARTBEAT", "QUEUECONFIG", "WEBHOOKRETRY", "CANCEL"})
"""Commands whose body may be left out; what does not say that it is JSON is ignored."""

_WHITESPACE: Final = b" \t\r\n"


def path_fields(command: Command) -> dict[str, str]:
    """Return the request's field for each name in the command's path."""
    return _path_fields(command.word)


@cache
def _path_fields(word: str) -> dict[str, str]:
    command = BY_WORD[word]  # a record takes long to hash
    assert command.http is not None
    names = [part[1:-1] for part in command.http[1].split("/") if part.startswith("{")]
    return {name: command.id_field if name == "id" else name for name in names}


def open_fields(command: Command) -> tuple[str, ...]:
    """Return the request's fields that are neither in the path nor the gateway's own."""
    return _open_fields(command.word)


@cache
def _open_fields(word: str) -> tuple[str, ...]:
    command = BY_WORD[word]
    closed = {*path_fields(command).values(), *OWN_FIELDS}
    if "id" in closed and "job_id" in command.request.__struct_fields__:
        closed.add("job_id")  # another name of the same
    return tuple(name for name in command.request.__struct_fields__ if name not in closed)


def takes_body(command: Command) -> bool:
    """Tell whether a command's fields come in a body."""
    assert command.http is not None
    return command.http[0] in ("POST", "PUT", "PATCH") and bool(open_fields(command))


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        MessageTooLarge: it is; what is not far above the bound has been read off.
        ClientDisconnect: its sender is gone.
    """
    parts: list[bytes] = []
    size = 0
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > DISCARDED_BYTES_MAX:
        raise MessageTooLarge
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size <= BODY_BYTES_MAX:
            parts.append(part)
        elif size > DISCARDED_BYTES_MAX:
            raise MessageTooLarge
        if not message.get("more_body", False):
            break
    if size > BODY_BYTES_MAX:
        raise MessageTooLarge
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_content_type(request: Request) -> None:
    """Refuse a body that does not say it is JSON.

    Raises:
        ContentTypeInvalid: it does not.
    """
    if not is_json(request):
        raise ContentTypeInvalid


def is_json(request: Request) -> bool:
    """Tell whether a request says that its body is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def check_json(body: bytes) -> None:
    """Refuse what is no JSON, so that nobody is handed such a payload.

    Raises:
        BadMessage: it is not.
    """
    try:
        if not body.isascii():
            body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(detail=str(error)) from None


def ask_with_body(command: Command, path: Mapping[str, str], body: bytes) -> Ask:
    """Return the request that a body and a path make.

    Raises:
        BadMessage: the body is no JSON.
        InvalidRequest: it is no object, or a field that is read here has a wrong type.
        ParameterInvalid: an id in the path is none.
        BatchTooLarge: it has too many jobs or ids.
    """
    members = _members(body)
    last = encode_json(_from_path(command, path))[1:-1]
    first = b'"cmd":"%b"' % command.word.encode()
    joined = b"{%b}" % b",".join(part for part in (first, members, last) if part)
    try:
        ask = read_ask(joined, json=True)
    except BadMessage:
        check_json(body)  # says at which byte of what was sent
        raise
    except InvalidRequest:
        better = repaired(joined, json=True)
        if better is None:
            raise
        ask = read_ask(better, json=True)
    if ask.command is not command:
        raise InvalidRequest(detail=f"`cmd` is {command.word} at this path")
    count = max(ask.jobs_count, len(ask.outline.ids or ()))
    if count > BATCH_JOBS_MAX:
        raise BatchTooLarge(count=count, limit=BATCH_JOBS_MAX)
    return ask


def repaired_ask(ask: Ask) -> Ask | None:
    """Return a request that a shard did not understand as older clients meant it, if it is such."""
    better = repaired(ask.body, json=True)
    if better is None:
        return None
    again = read_ask(better, json=True)
    again.full = ask.full
    return again


def ask_with_parameters(
    command: Command, path: Mapping[str, str], query: Mapping[str, str], **fixed: Any
) -> Ask:
    """Return the request that a path and a query make.

    Args:
        command: what is asked.
        path, query: as they came, decoded.
        fixed: fields that neither of them says.

    Raises:
        ParameterInvalid: one of them has no such value, or the query a name that there is not.
    """
    check_query(query, open_fields(command))
    fields: dict[str, Any] = {name: query[name] for name in open_fields(command) if name in query}
    fields |= _from_path(command, path)
    fields |= fixed
    try:
        request: Struct = msgspec.convert(fields, command.request, strict=False)
    except msgspec.ValidationError as error:
        raise ParameterInvalid(detail=explain(str(error), command.request)) from None
    try:
        return read_ask(encode_json(request), json=True)
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise ParameterInvalid(detail=str(error)) from None


def check_query(query: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse a query with a name that it does not have.

    Raises:
        ParameterInvalid: it has one; the text says which was probably meant.
    """
    for name in query:
        if name not in known and name not in IGNORED_PARAMETERS:
            meant = nearest(name, known)
            hint = "" if meant is None else f"; did you mean `{meant}`?"
            raise ParameterInvalid(detail=f"unknown parameter `{name[:64]}`{hint}")


def ask_about_job(command: Command, job_id: int) -> Ask:
    """Return a request that names a job and nothing else."""
    body = b'{"cmd":"%b","id":%d}' % (command.word.encode(), job_id)
    return Ask(command, body, JsonOutline(cmd=command.word, id=job_id), json=True)


def whole_number(query: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    """Return a number from the query, at most `maximum`.

    Raises:
        ParameterInvalid: it is no number from 0 on.
    """
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise ParameterInvalid(detail=f"`{name}` is {text[:64]!r}, expected a whole number")
    return min(int(text[:20]), maximum)


def _from_path(command: Command, path: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, field in path_fields(command).items():
        fields[field] = job_id_of(path[name]) if name == "id" else path[name]
    return fields


def job_id_of(text: str) -> int:
    """Return the job id that stands in a path.

    Raises:
        ParameterInvalid: it is none.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or int(text) > JOB_ID_MAX:
        raise ParameterInvalid(detail=f"{text[:64]!r} is no job id")
    return int(text)


def _members(body: bytes) -> bytes:
    """Return what stands between the braces of an object.

    Raises:
        BadMessage: the body is no JSON.
        InvalidRequest: it is something else than an object.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise BadMessage(detail=str(error)) from None
    inner = body.strip(_WHITESPACE)
    if inner[:1] == b"{" and inner[-1:] == b"}" and len(inner) > 1:
        return inner[1:-1].strip(_WHITESPACE)
    check_json(body)
    raise InvalidRequest(detail="invalid type: Expected `object`")
