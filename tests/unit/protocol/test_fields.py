"""One validation for all doors, derived from the registry: what no command has, no door takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from msgspec import inspect

from flashq.errors import BadMessage, InvalidRequest
from flashq.protocol.codec import decode_request, encode
from flashq.protocol.complaints import nearest
from flashq.protocol.jobs import JobOptions
from flashq.protocol.registry import BY_WORD, COMMANDS

SESSION: Final = b"0123456789abcdef"
_VALUES: Final[dict[type, Any]] = {
    inspect.IntType: 1,
    inspect.FloatType: 0.5,
    inspect.StrType: "x",
    inspect.BytesType: SESSION,
    inspect.RawType: 1,
    inspect.BoolType: True,
}


def _value(kind: Any) -> Any:
    """Return something that fits a type."""
    if isinstance(kind, inspect.UnionType):
        kind = next(each for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.ListType):
        return [_value(kind.item_type)]
    if isinstance(kind, inspect.StructType):
        return {f.encode_name: _value(f.type) for f in kind.fields if f.required}
    if isinstance(kind, inspect.LiteralType):
        return kind.values[0]
    return _VALUES[type(kind)]


def _struct(word: str) -> inspect.StructType:
    info = inspect.type_info(BY_WORD[word].request)
    assert isinstance(info, inspect.StructType)
    return info


def minimal(word: str) -> dict[str, Any]:
    """Return the smallest request of a command."""
    return {"cmd": word, **_value(_struct(word))}


def _refusal(fields: dict[str, Any], *, json: bool) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(encode(fields, json=json), json=json)
    assert not isinstance(caught.value, BadMessage)
    return caught.value.text


WORDS: Final = [command.word for command in COMMANDS]


@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("word", WORDS)
def test_a_field_that_the_command_does_not_have_is_refused(word: str, json: bool) -> None:
    """At every command, as a push refuses it."""
    decode_request(encode(minimal(word), json=json), json=json)
    text = _refusal({**minimal(word), "zzz": None}, json=json)
    assert text == "Invalid: unknown field `zzz`"


@pytest.mark.parametrize("word", WORDS)
def test_what_older_clients_add_to_every_request_is_taken(word: str) -> None:
    """And means nothing."""
    for said in ("r1", 7, None):
        decode_request(encode({**minimal(word), "reqId": said}))


@pytest.mark.parametrize("name", JobOptions.__struct_fields__)
def test_the_nearest_known_name_is_told(name: str) -> None:
    """One letter short, or in the spelling of another language."""
    camel = "".join(part.title() if n else part for n, part in enumerate(name.split("_")))
    for wrong in {name[:-1], camel, name.upper()} - {name}:
        told = f"did you mean `{name}`?"
        assert told in _refusal({**minimal("PUSH"), wrong: 1}, json=True), wrong
        entries: dict[str, tuple[str, dict[str, Any]]] = {
            "PUSHB": ("jobs", {"data": 1}),
            "FLOW": ("children", {"queue": "q", "data": 1}),
        }
        for word, (field, entry) in entries.items():
            fields = {"cmd": word, "queue": "q", field: [entry, {**entry, wrong: 1}]}
            text = _refusal(fields, json=False)
            assert f"unknown field `{wrong}` in `{field}[1]`" in text
            assert told in text


def test_what_looks_like_nothing_is_told_nothing() -> None:
    """No guess is better than a wild one; nor is it made of a name without end."""
    assert nearest("colour", ["queue", "data"]) is None
    assert nearest("max_attempts" * 1000, ["max_attempts"]) is None
    assert len(_refusal({**minimal("PUSH"), "x" * 10**6: 1}, json=True)) < 400


# --- names


def _texts(kind: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield where a type has texts that name something."""
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _texts(each, path)
    elif isinstance(kind, inspect.ListType):
        yield from _texts(kind.item_type, (*path, 0))
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield from _texts(field.type, (*path, field.encode_name))
    elif isinstance(kind, inspect.StrType):
        yield path


_FREE: Final = frozenset(
    {
        *("message", "error", "reason"),  # what people read of one job
        *("queue", "token", "state"),  # compared with what there is, and refused
    }
)


def _named() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for word in WORDS:
        for path in _texts(_struct(word), ()):
            if path[-1] not in _FREE and path[0] != "within":
                yield word, path


NAMED: Final = list(_named())


def _said(path: tuple[Any, ...], value: Any, kind: Any) -> dict[str, Any]:
    """Return a request that says `value` at a path."""
    fields: dict[str, Any] = _value(kind)
    at: Any = fields
    for step, following in zip(path, (*path[1:], None), strict=True):
        if following is None:
            if isinstance(at, list):
                at[:] = [value]
            else:
                at[step] = value
        elif isinstance(at, dict):
            at = at.setdefault(step, [] if isinstance(following, int) else {})
        else:
            at = at[0] if at else at.append(_ENTRY.copy()) or at[0]
    return fields


_ENTRY: Final[dict[str, Any]] = {"data": 1}


@pytest.mark.parametrize(("word", "path"), NAMED, ids=str)
def test_a_nul_in_a_name_is_refused(word: str, path: tuple[Any, ...]) -> None:
    """PostgreSQL has no such texts, and what it cannot write must not stop the rest."""
    fields = {"cmd": word, **_said(path, "a\0b", _struct(word))}
    if word == "FLOW" and "children" in path:
        fields["children"][0].setdefault("queue", "q")
    for json in (False, True):
        text = _refusal(fields, json=json)
        assert "must not contain a NUL character" in text
        assert str(path[-1] if path[-1] != 0 else path[-2]) in text


def test_every_name_is_looked_at() -> None:
    """The list is derived: this says that it is not empty."""
    found = {path[-2] if path[-1] == 0 else path[-1] for _, path in NAMED}
    assert found >= {"name", "unique_key", "job_id", "debounce_id", "tags", "url", "id", "queues"}
    assert found >= {"webhook", "secret", "events", "client", "level", "schedule", "tz"}


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80"])
def test_a_name_that_is_not_utf8_is_refused(text: bytes) -> None:
    """Lone surrogates and overlong forms too, in either encoding."""
    raw = msgspec.Raw(bytes([0xA0 | len(text)]) + text)
    for name in ("queue", "unique_key"):
        fields = {**minimal("PUSH"), name: raw}
        with pytest.raises(BadMessage):
            decode_request(encode(fields))
        in_json = b'{"cmd":"PUSH","queue":"q","data":1,"%s":"%s"}' % (name.encode(), text)
        with pytest.raises(BadMessage):
            decode_request(in_json, json=True)
        escaped = in_json.replace(text, b"\\ud800")
        with pytest.raises(BadMessage):
            decode_request(escaped, json=True)


def test_a_payload_may_hold_anything() -> None:
    """It is opaque."""
    body = encode({"cmd": "PUSH", "queue": "q", "data": "a\0b"}, json=True)
    assert bytes(decode_request(body, json=True).data) == b'"a\\u0000b"'
