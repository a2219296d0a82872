"""What a call was given, checked before anything is sent, by the rules of the registry.

A request is read as the server would read it, so that an argument of a wrong type or out of bounds
is an error at its caller's line. A payload that would come back as something else (a set, as a list
in any order) is refused. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from flashq.errors import InvalidRequest
from flashq.protocol.complaints import explain, nearest
from flashq.protocol.registry import COMMANDS

R = TypeVar("R", bound=Struct)

NODES_MAX: Final = 1000
"""Values that are looked at in one payload."""
_LEAVES: Final = frozenset({str, int, float, bool, type(None), bytes})


class WrongArgumentType(InvalidRequest, TypeError):
    """An argument is of a type that it cannot have."""


def made(kind: type[R], /, **fields: Any) -> R:
    """Make a request of arguments.

    Raises:
        TypeError: there is no such argument; the text says which was probably meant.
    """
    try:
        return kind(**fields)
    except TypeError:
        known = kind.__struct_fields__
        for name in fields:
            if name not in known:
                meant = nearest(name, known)
                hint = "" if meant is None else f"; did you mean {meant!r}?"
                raise TypeError(f"there is no argument {name!r}{hint}") from None
        raise


_READERS: Final[dict[type[Any], Callable[[bytes], Any]]] = {
    command.request: msgspec.msgpack.Decoder(command.request).decode for command in COMMANDS
}


def check_arguments_of(kind: type[Struct], body: bytes) -> None:
    """Check an encoded request.

    Raises:
        WrongArgumentType: an argument is of a wrong type; the text names it.
        InvalidRequest: the server would refuse it for something else, as for what is out of bounds.
    """
    try:
        _READERS[kind](body)
    except msgspec.ValidationError as error:
        text = str(error)
        is_type = text.startswith("Expected") and ", got " in text
        found = WrongArgumentType if is_type else InvalidRequest
        raise found(detail=explain(text, kind).replace("`$.", "`")) from None


def check_payload(name: str, payload: Any) -> None:
    """Refuse a payload with a set in it.

    Args:
        name: of the argument, for the error.
        payload: what it is.

    Raises:
        TypeError: there is one.
    """
    if type(payload) is dict and _LEAVES.issuperset(map(type, payload.values())):
        return  # which most are
    left, seen = [payload], 0
    while left and seen < NODES_MAX:
        value = left.pop()
        seen += 1
        kind = type(value)
        if kind in _LEAVES:
            continue
        if isinstance(value, dict):
            left += list(value.values())[:NODES_MAX]
        elif isinstance(value, list | tuple):
            left += value[:NODES_MAX]
        elif isinstance(value, set | frozenset):
            raise TypeError(
                f"{name} has a {kind.__name__}, which would come back as a list: give a list"
            )
