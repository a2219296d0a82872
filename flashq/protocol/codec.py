"""Bodies to objects and back, in MessagePack and JSON.

Owns the encoders and decoders; every body on the wire passes here. A request that does not fit is
an `InvalidRequest` whose text says what is wrong and where.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, Union

import msgspec
from msgspec import Raw, Struct

from flashq.errors import BadMessage, FlashQError, InvalidRequest, error_from
from flashq.protocol.base import ErrorReply
from flashq.protocol.complaints import explain
from flashq.protocol.jobs import PayloadBatch, PlainPush, PlainPushBatch
from flashq.protocol.registry import BY_WORD, COMMANDS, WORD_ALIASES
from flashq.protocol.sessions import Notice

T = TypeVar("T")

encode_msgpack: Final = msgspec.msgpack.Encoder().encode
encode_json: Final = msgspec.json.Encoder().encode

_ANY_REQUEST: Any = Union[tuple(command.request for command in COMMANDS)]  # noqa: UP007
_request_msgpack: Final = msgspec.msgpack.Decoder(_ANY_REQUEST).decode
_request_json: Final = msgspec.json.Decoder(_ANY_REQUEST).decode


_PAYLOADS: Final = b"\xa5PUSHB\xa8payloads"
_plain_batch: Final = msgspec.msgpack.Decoder(PlainPushBatch).decode
_payload_batch: Final = msgspec.msgpack.Decoder(PayloadBatch).decode


def _any_plain_batch(body: bytes) -> PlainPushBatch | PayloadBatch:
    return _payload_batch(body) if body.startswith(_PAYLOADS, 5) else _plain_batch(body)


_PLAIN: Final[dict[bytes, Any]] = {
    b"\xa3cmd\xa4PUSH": msgspec.msgpack.Decoder(PlainPush).decode,
    b"\xa3cmd\xa5PUSH": _any_plain_batch,
}
"""The narrow decoders of pushes, by how a body begins behind its map byte if `cmd` is first."""
_PLAIN_JSON: Final[dict[bytes, Any]] = {
    b'{"cmd":"PUSH",': msgspec.json.Decoder(PlainPush).decode,
    b'{"cmd":"PUSHB"': msgspec.json.Decoder(PlainPushBatch).decode,
}
"""The same for JSON, by how a body begins without its spaces."""
_PLAIN_JSON_BYTES: Final = 14


class Outline(Struct):
    """What routing has to know of a request's body, read without the rest of it."""

    cmd: str
    queue: str | None = None
    id: int | None = None
    job_id: int | str | None = None
    parent_id: int | None = None
    ids: list[int] | None = None
    session: bytes | None = None


_outline_msgpack: Final = msgspec.msgpack.Decoder(Outline).decode
_outline_json: Final = msgspec.json.Decoder(Outline).decode


def encode(body: Any, *, json: bool = False) -> bytes:
    """Return the body frame of an object."""
    return encode_json(body) if json else encode_msgpack(body)


def decode_request(body: bytes, *, json: bool = False) -> Any:
    """Read a request's body.

    Returns:
        An instance of the command's request Struct.

    Raises:
        InvalidRequest: it fits no command; the text names the field.
        BadMessage: it is no MessagePack (or JSON) at all.
    """
    if json:
        check_utf8(body)
        plain = _PLAIN_JSON.get(body[:20].replace(b" ", b"")[:_PLAIN_JSON_BYTES])
    else:
        plain = _PLAIN.get(body[1:10])
    if plain is not None:
        try:
            return plain(body)
        except msgspec.ValidationError:
            pass  # it has options, or is wrong: the full decoder tells
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessage(detail=str(error)) from None
    try:
        return (_request_json if json else _request_msgpack)(body)
    except msgspec.ValidationError as error:
        aliased = _decode_alias(body, json=json)
        if aliased is not None:
            return aliased
        known = BY_WORD.get(request_word(body, json=json))
        request = None if known is None else known.request
        raise InvalidRequest(detail=explain(str(error), request)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(detail=str(error)) from None


def check_utf8(body: bytes) -> None:
    """Refuse JSON that is not UTF-8. The decoder reads past payloads, which nobody who reads JSON
    could read then; MessagePack has a form for bytes, which a reader of JSON gets.

    Raises:
        BadMessage: with the first byte that is wrong.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise BadMessage(
                detail=f"JSON has to be UTF-8, and byte {error.start} is not"
            ) from None


def _decode_alias(body: bytes, *, json: bool) -> Any:
    """Decode a request under an older word; None when it has no such word."""
    word = request_word(body, json=json)
    if word not in WORD_ALIASES:
        return None
    fields = decode(body, dict[str, Raw], json=json)
    fields["cmd"] = Raw(encode(WORD_ALIASES[word], json=json))
    return decode_request(encode(fields, json=json), json=json)


def with_field(body: bytes, name: str, value: Any, *, json: bool = False) -> bytes:
    """Return a body with a field set, whatever it said there itself.

    Raises:
        BadMessage: it is no map of that encoding with texts as keys.
    """
    fields = decode(body, dict[str, Raw], json=json)
    fields[name] = Raw(encode(value, json=json))
    return encode(fields, json=json)


def decode_outline(body: bytes, *, json: bool = False) -> Outline:
    """Read of a request only what routing needs.

    Raises:
        InvalidRequest: there is no command word, or a field that routing needs is ill-typed.
        BadMessage: it is no MessagePack (or JSON) at all.
    """
    try:
        return (_outline_json if json else _outline_msgpack)(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(detail=explain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(detail=str(error)) from None


class _Word(Struct):
    cmd: str = ""


def request_word(body: bytes, *, json: bool = False) -> str:
    """Return the request's command word, or "" when it cannot be read."""
    try:
        return decode(body, _Word, json=json).cmd
    except FlashQError:
        return ""


_decoders: Final[dict[tuple[Any, bool], Any]] = {}


def decode(body: bytes, kind: type[T], *, json: bool = False) -> T:
    """Read a body of a known type.

    Raises:
        BadMessage: it does not fit.
    """
    decoder = _decoders.get((kind, json))
    if decoder is None:
        make: Any = msgspec.json.Decoder if json else msgspec.msgpack.Decoder
        decoder = _decoders[kind, json] = make(kind).decode
    try:
        return decoder(body)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(detail=str(error)) from None


def error_reply(error: FlashQError) -> ErrorReply:
    """Return the reply body for an error."""
    return ErrorReply(error=error.text, code=error.code, retryable=error.retryable)


class _Verdict(Struct):
    ok: bool
    error: str = ""
    code: str = ""


_verdict: Final = msgspec.msgpack.Decoder(_Verdict).decode


def decode_reply(body: bytes, kind: type[T]) -> T:
    """Read a MessagePack reply.

    Raises:
        FlashQError: the reply is an error; the class is that of its code.
        BadMessage: it is not the expected reply.
    """
    try:
        verdict = _verdict(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(detail=str(error)) from None
    if not verdict.ok:
        raise error_from(verdict.code, verdict.error)
    return decode(body, kind)


def decode_notice(body: bytes) -> Notice:
    """Read a notice's body."""
    return decode(body, Notice)  # type: ignore[arg-type]


def is_known_word(word: str) -> bool:
    """Tell whether the word names a command, or did in older documents."""
    return word in BY_WORD or word in WORD_ALIASES


# --- payloads


def _json_ready(value: Any) -> Any:
    """What JSON has no form for, in the form that readers of JSON get."""
    if isinstance(value, msgspec.msgpack.Ext):
        return {"ext": value.code, "data": base64.b64encode(value.data).decode()}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no JSON form")


_payload_to_json: Final = msgspec.json.Encoder(enc_hook=_json_ready).encode
_payload_from_msgpack: Final = msgspec.msgpack.Decoder().decode
_payload_from_json: Final = msgspec.json.Decoder().decode


def _with_floats(value: Any) -> Any:
    """Return a value from JSON with the integers that MessagePack cannot hold as floats."""
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < 10**300 else str(value)
    return value


def transcode(payload: bytes, *, to_json: bool) -> bytes:
    """Return a payload in the other encoding: bin becomes base64, time stamps RFC 3339, and
    integers beyond 64 bits floats.

    Raises:
        BadMessage: the payload is damaged, or has a map key that JSON cannot hold.
    """
    try:
        if to_json:
            return _payload_to_json(_payload_from_msgpack(payload))
        value = _payload_from_json(payload)
        try:
            return encode_msgpack(value)
        except OverflowError:
            return encode_msgpack(_with_floats(value))
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:
        raise BadMessage(detail=f"payload cannot be transcoded: {error}") from None
