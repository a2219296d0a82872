"""What each of the clients that exist sends for a call, field by field.

Owns their tables: which fields a call has beside those that its caller gives, under which names,
and with which values. A field that a client's method has no parameter for is
sent as it is given, as a program does that writes its requests by hand. Nothing here touches a
socket.
"""

from __future__ import annotations

from typing import Any, Final

Fields = dict[str, Any]
Calls = dict[str, Fields]

UNSET: Final = object()
"""Stands for an option that the caller left out: the client's encoding decides what is sent."""

_TYPESCRIPT_PUSH: Final[Fields] = {
    "priority": 0,
    "delay": UNSET,
    "ttl": UNSET,
    "timeout": UNSET,
    "max_attempts": UNSET,
    "backoff": UNSET,
    "unique_key": UNSET,
    "depends_on": UNSET,
    "tags": UNSET,
    "lifo": False,
    "remove_on_complete": False,
    "remove_on_fail": False,
    "stall_timeout": UNSET,
    "debounce_id": UNSET,
    "debounce_ttl": UNSET,
    "job_id": UNSET,
    "keep_completed_age": UNSET,
    "keep_completed_count": UNSET,
}
TYPESCRIPT: Final[Calls] = {
    "PUSH": _TYPESCRIPT_PUSH,
    "PULL": {"timeout": 60_000},
    "ACK": {"result": UNSET},
    "FAIL": {"error": UNSET},
    "WAITJOB": {"timeout": 30_000},
    "PROGRESS": {"message": UNSET},
    "DLQ": {"count": 100},
    "RETRYDLQ": {"id": UNSET},
    "CRON": {"schedule": UNSET, "repeat_every": UNSET, "priority": 0, "limit": UNSET},
    "LOG": {"level": "info"},
    "FLOW": {
        "priority": 0,
        "delay": UNSET,
        "ttl": UNSET,
        "timeout": UNSET,
        "max_attempts": UNSET,
        "backoff": UNSET,
        "unique_key": UNSET,
        "tags": UNSET,
    },
    "GETJOBS": {"queue": UNSET, "state": UNSET, "limit": 100, "offset": 0},
    "CLEAN": {"limit": UNSET},
}
_TYPESCRIPT_NAMES: Final[dict[str, tuple[str, str]]] = {
    "LOG": ("id", "job_id"),
    "GETLOGS": ("id", "job_id"),
    "HEARTBEAT": ("id", "job_id"),
    "FLOW": ("data", "parent_data"),
}
"""Where it says another name than the server: word, the server's name, its own."""

_NINE: Final = (
    "priority", "delay", "ttl", "timeout", "max_attempts", "backoff", "unique_key", "depends_on",
    "tags",
)  # fmt: skip
PYTHON: Final[Calls] = {
    "PUSH": dict.fromkeys(_NINE),
    "FAIL": {"error": None},
    "CRON": {"priority": 0},
}
GO: Final[Calls] = {"FAIL": {"error": ""}, "CRON": {"priority": 0}}
PHP: Final[Calls] = {"FAIL": {"error": None}, "CRON": {"priority": 0}}


def call(calls: Calls, cmd: str, given: Fields, *, says_nil: bool = False) -> Fields:
    """Return the fields that a client sends.

    Args:
        calls: its table.
        cmd: the command's word.
        given: what its caller gives, by the server's names.
        says_nil: whether an option that was left out is sent as nil; else it is not sent.
    """
    if cmd == "PUSHB":
        entries = [_filled(calls, "PUSH", job, says_nil) for job in given["jobs"]]
        return {**given, "jobs": entries}
    fields = _filled(calls, cmd, given, says_nil)
    if calls is TYPESCRIPT and cmd in _TYPESCRIPT_NAMES:
        name, own = _TYPESCRIPT_NAMES[cmd]
        fields = {own if key == name else key: value for key, value in fields.items()}
    return fields


def _filled(calls: Calls, cmd: str, given: Fields, says_nil: bool) -> Fields:
    fields = calls.get(cmd, {}) | given
    if says_nil:
        return {key: None if value is UNSET else value for key, value in fields.items()}
    return {key: value for key, value in fields.items() if value is not UNSET}
