"""The commands as a document for people, derived from the registry.

Owns the shape of `docs/COMMANDS.md`; what it says comes from `flashq.protocol`, except for the
units of fields, which are said here once.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable
from typing import Any, Final, Literal

from msgspec import NODEFAULT, Meta, Raw, Struct, structs

from flashq.protocol import base, crons, jobs, leases, queues, server, sessions, webhooks
from flashq.protocol.command import Command
from flashq.protocol.registry import COMMANDS

NOUNS: Final = (
    (jobs, "Jobs"),
    (leases, "Work: jobs that are handed out"),
    (queues, "Queues and dead letters"),
    (crons, "Crons"),
    (webhooks, "Webhooks"),
    (server, "Server"),
    (sessions, "Connection"),
)

_MS: Final = frozenset(
    (
        "delay",
        "ttl",
        "timeout",
        "backoff",
        "stall_timeout",
        "debounce_ttl",
        "keep_completed_age",
        "grace",
        "repeat_every",
        "heartbeat_interval",
        "session_timeout",
        "avg_latency_ms",
        "lease_ms",
        "silent_ms",
        "watchdog_ms",
    )
)
_UNIX_MS: Final = frozenset(
    (
        "created_at",
        "run_at",
        "started_at",
        "last_heartbeat",
        "completed_at",
        "died_at",
        "next_run",
        "at",
        "timestamp",
    )
)
_BYTES: Final = frozenset(("bytes", "unsafe_bytes", "payload_bytes_max", "message_bytes_max"))

_NAMES: Final[dict[Any, str]] = {
    base.Unsigned: "unsigned",
    base.U32: "u32",
    base.I32: "i32",
    base.Fraction: "0 to 1",
    base.SessionId: "16 bytes",
    Raw: "any",
    int: "integer",
    float: "float",
    str: "string",
    bool: "bool",
    bytes: "bytes",
    type(None): "null",
}

_PROTECTION: Final = ("session", "n", "done_below")
_SAID_ABOVE: Final = (*_PROTECTION, "within")
"""Fields of many commands that the head of the document tells of."""

_HEAD: Final = """\
# Commands

<!-- Generated from flashq/protocol by `python -m tools.generate`; do not edit. -->

A body is a MessagePack (or JSON) map: `cmd` is the command's word, the rest are its fields. `?`
marks what may be left out or null; *ms* is a duration in milliseconds, *Unix ms* a time. `unsigned`
is 0 to 2^53 − 1. Every reply has `ok`; one that is false has `error`, `code` and `retryable`
instead of the rest. Role is the least that a token must allow. The client's methods are those of
`flashq.Client` and `flashq.AsyncClient`.

A command marked with * changes state and takes `session` (16 bytes), `n` and `done_below` too: with
them a repeat is not carried out again, but gets the first one's answer.

Every command that names jobs by id takes `within`, an array of patterns as of file names: a job
whose queue fits none of them is answered as one that does not exist.
"""


def render() -> str:
    """Return `docs/COMMANDS.md`."""
    parts = [_HEAD]
    objects: dict[str, type[Struct]] = {}
    for module, title in NOUNS:
        commands = [c for c in COMMANDS if c.request.__module__ == module.__name__]
        parts.append(f"## {title}\n")
        parts.append("| command | fields | reply | carried out by | role | method | |")
        parts.append("|---|---|---|---|---|---|---|")
        parts += [_row(command, objects) for command in commands]
        parts.append("")
        parts += _notes(commands)
    parts.append("## Objects\n")
    described: set[str] = set()
    while todo := sorted(set(objects) - described):
        for name in todo:
            described.add(name)
            parts += _object(objects[name], objects)
    return "\n".join(parts).rstrip() + "\n"


def _row(command: Command, objects: dict[str, type[Struct]]) -> str:
    star = "*" if "n" in command.request.__struct_fields__ else ""
    shared = _shared_options(command.request)
    names = [n for n in command.request.__struct_fields__ if n not in (*_SAID_ABOVE, *shared)]
    fields = _fields(command.request, names, objects)
    if shared:
        fields += ", and the [options](#joboptions)"
        objects["JobOptions"] = jobs.JobOptions
    reply = _fields(
        command.reply, [n for n in command.reply.__struct_fields__ if n != "ok"], objects
    )
    cells = (
        f"`{command.word}`{star}",
        fields,
        reply or "–",
        command.scope.value,
        command.role.value,
        f"`{command.method}`",
        command.summary,
    )
    return f"| {' | '.join(cells)} |"


def _shared_options(kind: type[Struct]) -> tuple[str, ...]:
    return jobs.JobOptions.__struct_fields__ if issubclass(kind, jobs.JobOptions) else ()


def _notes(commands: Iterable[Command]) -> list[str]:
    """What the requests' own docstrings add to the table."""
    notes = []
    for command in commands:
        text = _text(command.request)
        if text:
            notes.append(f"- `{command.word}`: {text}")
    return [*notes, ""] if notes else []


def _object(kind: type[Struct], objects: dict[str, type[Struct]]) -> list[str]:
    rows = [f"### {kind.__name__}\n"]
    if text := _text(kind):
        rows += [text, ""]
    shared = _shared_options(kind) if kind is not jobs.JobOptions else ()
    if shared:
        rows += ["Has the [options](#joboptions), and:", ""]
    rows += ["| field | type | default |", "|---|---|---|"]
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in structs.fields(kind):
        if field.name in shared:
            continue
        default = field.default
        if field.default_factory is not NODEFAULT:
            default = field.default_factory()
        shown = "" if default is NODEFAULT or default is None else f"`{_literal(default)}`"
        rows.append(
            f"| `{field.name}` | {_type(hints[field.name], field.name, objects)} | {shown} |"
        )
    return [*rows, ""]


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value == () else str(value)


def _text(kind: type[Struct]) -> str:
    """Return the class's own docstring in one line."""
    own = kind.__dict__.get("__doc__")
    return " ".join(inspect.cleandoc(own).split()) if own else ""


def _fields(kind: type[Struct], names: Iterable[str], objects: dict[str, type[Struct]]) -> str:
    hints = typing.get_type_hints(kind, include_extras=True)
    return ", ".join(f"`{name}` {_type(hints[name], name, objects)}" for name in names)


def _type(hint: Any, name: str, objects: dict[str, type[Struct]]) -> str:
    text = _plain(hint, objects)
    optional = text.endswith("?")
    text = text.removesuffix("?")
    unit = (
        "ms"
        if name in _MS
        else "Unix ms"
        if name in _UNIX_MS
        else "bytes"
        if name in _BYTES
        else ""
    )
    text = f"{text} {unit}" if unit and "[" not in text else text
    return f"{text}?" if optional else text


def _plain(hint: Any, objects: dict[str, type[Struct]]) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        # A union takes its members apart: what was `Unsigned | None` is found again by its Meta.
        text = " or ".join(_plain(kind, objects) for kind in kinds)
        return f"{text}?" if len(kinds) < len(arguments) else text
    if origin in (list, tuple):
        item = _plain(arguments[0], objects)
        return f"array of ({item})" if item.endswith("?") else f"array of {item}"
    if origin is dict:
        key, value = (_plain(argument, objects) for argument in arguments)
        return f"map from {key} to {value}"
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in arguments)
    if isinstance(hint, type) and issubclass(hint, Struct):
        objects[hint.__name__] = hint
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if arguments and any(isinstance(mark, Meta) for mark in arguments):
        return _plain(arguments[0], objects)
    raise TypeError(f"no name for {hint}")
