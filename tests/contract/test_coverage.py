"""Whether every command of the registry has a contract test: a new one without fails here."""

from __future__ import annotations

import importlib
import pkgutil
from types import FunctionType

import tests.contract
from flashq.protocol.registry import BY_WORD
from tests.contract.test_fields import FIELDS

#: Words whose fields are about sessions and bytes, and tested by name.
ABOUT_SESSIONS = {"HELLO", "SESSIONHEARTBEAT", "GOODBYE", "WEBHOOKPULL", "WITHDRAW"}

OLDER_WORDS = (
    "PUSH", "PUSHB", "PULL", "PULLB", "ACK", "ACKB", "FAIL", "GETRESULT", "GETJOB", "GETSTATE",
    "WAITJOB", "GETJOBBYCUSTOMID", "CANCEL", "PROGRESS", "GETPROGRESS", "DLQ", "RETRYDLQ",
    "PURGEDLQ", "GETJOBSBATCH", "SUBSCRIBE", "UNSUBSCRIBE", "METRICS", "STATS", "CRON",
    "CRONDELETE", "CRONLIST", "RATELIMIT", "RATELIMITCLEAR", "PAUSE", "RESUME",
    "SETCONCURRENCY", "CLEARCONCURRENCY", "LISTQUEUES", "AUTH", "LOG", "GETLOGS", "HEARTBEAT",
    "FLOW", "GETCHILDREN", "GETJOBS", "CLEAN", "DRAIN", "OBLITERATE", "CHANGEPRIORITY",
    "MOVETODELAYED", "PROMOTE", "UPDATEJOB", "DISCARD", "ISPAUSED", "COUNT", "GETJOBCOUNTS",
)  # fmt: skip


def covered() -> set[str]:
    """Return the words that the marks of all contract tests name."""
    words: set[str] = set()
    for found in pkgutil.iter_modules(tests.contract.__path__, "tests.contract."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if isinstance(value, FunctionType) and value.__name__.startswith("test_"):
                marks = getattr(value, "pytestmark", [])
                words.update(word for mark in marks if mark.name == "covers" for word in mark.args)
    return words


def test_every_command_has_a_contract_test() -> None:
    """The registry and the contract know the same words."""
    assert covered() == set(BY_WORD)


def test_every_commands_fields_are_in_the_table() -> None:
    """So that a new field of a new command is tried with wrong types too."""
    assert set(FIELDS) == set(BY_WORD) - ABOUT_SESSIONS


def test_the_51_words_of_the_contract_are_known() -> None:
    """No word that an older client says may be lost."""
    assert len(OLDER_WORDS) == 51
    assert set(OLDER_WORDS) <= set(BY_WORD)
