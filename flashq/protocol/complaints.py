"""What is said of a body that does not fit its command.

Owns the words. A decoder's complaint becomes one that names the field as its sender wrote it, and
for a field that there is not, the one that was probably meant. Derived from the requests' types.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

import msgspec
from msgspec import Struct

EXPLANATION_CHARS_MAX: Final = 300
NAME_CHARS_MAX: Final = 64
"""A longer field name is no slip of the pen."""
_UNKNOWN: Final = re.compile(
    r"Object contains unknown field `(.*?)`(?: - at `(\$[^`]*)`)?$", re.DOTALL
)
_NUL: Final = re.compile(r"Expected `str` matching regex .*- at `\$([^`]*)`$", re.DOTALL)
_PLACE: Final = re.compile(r"\[[^\]]*\]")
_HIDDEN: Final = frozenset({"cmd", "reqId", "within", "session", "n", "done_below", "ticket"})
"""What nobody means who wrote something else."""


def explain(text: str, request: type[Struct] | None = None) -> str:
    """Put a decoder's complaint into the words that clients know.

    Args:
        text: of a `msgspec.ValidationError`.
        request: the type that the body was to fit, where that is known.
    """
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        return _unknown_field(unknown[1], unknown[2] or "$", request)
    nul = _NUL.match(text)
    if nul is not None:
        return f"`{nul[1].removeprefix('.')}` must not contain a NUL character"
    if len(text) > EXPLANATION_CHARS_MAX:  # it quotes what was sent
        text = _shortened(text)
    if "Invalid value" in text and "$.cmd" in text:
        return text.replace("Invalid value", "unknown command", 1)
    if text.startswith("Object missing required field `cmd`"):
        return "missing field `cmd`"
    if text.startswith("Object missing required field"):
        return text.replace("Object missing required field", "missing field", 1)
    return f"invalid type: {text}" if text.startswith("Expected") else text


def _shortened(text: str) -> str:
    half = EXPLANATION_CHARS_MAX // 2
    return text if len(text) <= 2 * half else f"{text[:half]}…{text[-half:]}"


def _unknown_field(name: str, path: str, request: type[Struct] | None) -> str:
    where = "" if path == "$" else f" in `{path.removeprefix('$.')}`"
    told = f"unknown field `{_shortened(name)}`{where}"
    known = () if request is None else fields_at(request, path)
    meant = nearest(name, known)
    return told if meant is None else f"{told}; did you mean `{meant}`?"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that was probably meant, None when none looks like it."""
    if len(name) > NAME_CHARS_MAX:
        return None
    by_letters = {_letters(each): each for each in known}
    found = get_close_matches(_letters(name), by_letters, n=1, cutoff=0.7)
    return by_letters[found[0]] if found else None


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def fields_at(request: type[Struct], path: str) -> tuple[str, ...]:
    """Return the fields of the object that stands at a path as msgspec writes it, such as
    `$.jobs[...]`; none when no object does."""
    kind: Any = msgspec.inspect.type_info(request)
    for step in _PLACE.sub(".[]", path).split(".")[1:]:
        kind = _step(kind, step)
    found = _struct(kind)
    return (
        ()
        if found is None
        else tuple(field.encode_name for field in found.fields if field.encode_name not in _HIDDEN)
    )


def _step(kind: Any, step: str) -> Any:
    if step == "[]":
        arrays = [each for each in _choices(kind) if isinstance(each, msgspec.inspect.ListType)]
        return arrays[0].item_type if arrays else None
    found = _struct(kind)
    fields = () if found is None else found.fields
    return next((field.type for field in fields if field.encode_name == step), None)


def _choices(kind: Any) -> Sequence[Any]:
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _struct(kind: Any) -> msgspec.inspect.StructType | None:
    for each in _choices(kind):
        if isinstance(each, msgspec.inspect.StructType):
            return each
    return None
