"""The fields of every request: which are required, which type each takes, and that null is absent.

The table is written from the contract: derived from the registry it would prove nothing.
"""

from __future__ import annotations

import base64
import os
from typing import Any, Final, NamedTuple

import pytest

from tests.contract.dealer import FULL, JSON, Dealer

UNSIGNED: Final = "unsigned"
SIGNED: Final = "signed"
U32: Final = "u32"
TEXT: Final = "text"
TEXTS: Final = "texts"
IDS: Final = "ids"
ANY: Final = "any"
FLAG: Final = "flag"
JOBS: Final = "jobs"
CHILDREN: Final = "children"
NUMBER: Final = "number"
PAGE: Final = "page"

GOOD: Final[dict[str, Any]] = {
    UNSIGNED: 1,
    SIGNED: -3,
    U32: 1,
    TEXT: "x",
    TEXTS: ["completed"],
    IDS: [4, 8],
    ANY: {"a": 1},
    FLAG: True,
    JOBS: [{"data": 1}],
    CHILDREN: [{"queue": "x", "data": 1}],
    NUMBER: 50,
    PAGE: 10,
}
BAD: Final[dict[str, tuple[Any, ...]]] = {
    PAGE: (-1, "5", 1.5, 10_001),
    UNSIGNED: (-1, "5", 1.5, [1], 2**53),
    SIGNED: ("5", 1.5, 2**31),
    U32: (-1, "5", 2**32),
    TEXT: (5, ["x"], {}),
    TEXTS: ("x", [1], 5),
    IDS: (5, ["x"], [-1]),
    ANY: (),
    FLAG: ("yes", 2),
    JOBS: ({}, [1], [{}], [{"priority": 1}], [{"data": 1, "priority": "high"}]),
    CHILDREN: ({}, [1], [{"queue": "x"}], [{"data": 1}], [{"queue": 1, "data": 1}]),
    NUMBER: ("50", [50]),
}


class Fields(NamedTuple):
    """What a request takes beside `cmd`."""

    required: dict[str, str]
    optional: dict[str, str]


OPTIONS: Final = {
    "delay": UNSIGNED,
    "ttl": UNSIGNED,
    "timeout": UNSIGNED,
    "max_attempts": U32,
    "backoff": UNSIGNED,
    "unique_key": TEXT,
    "tags": TEXTS,
    "stall_timeout": UNSIGNED,
    "debounce_id": TEXT,
    "debounce_ttl": UNSIGNED,
    "job_id": TEXT,
    "keep_completed_age": UNSIGNED,
    "keep_completed_count": UNSIGNED,
    "priority": SIGNED,
    "lifo": FLAG,
    "remove_on_complete": FLAG,
    "remove_on_fail": FLAG,
}
ONE_QUEUE: Final = Fields({"queue": TEXT}, {})
ONE_JOB: Final = Fields({"id": UNSIGNED}, {})

FIELDS: Final[dict[str, Fields]] = {
    "PUSH": Fields({"queue": TEXT, "data": ANY}, OPTIONS),
    "PUSHB": Fields({"queue": TEXT, "jobs": JOBS}, {}),
    "FLOW": Fields({"queue": TEXT, "data": ANY, "children": CHILDREN}, {"priority": SIGNED}),
    "GETCHILDREN": Fields({"parent_id": UNSIGNED}, {}),
    "PULL": Fields({"queue": TEXT}, {"timeout": UNSIGNED}),
    "PULLB": Fields({"queue": TEXT, "count": UNSIGNED}, {"timeout": UNSIGNED, "columns": FLAG}),
    "ACK": Fields({"id": UNSIGNED}, {"result": ANY}),
    "ACKB": Fields({"ids": IDS}, {}),
    "FAIL": Fields({"id": UNSIGNED}, {"error": TEXT}),
    "HEARTBEAT": Fields({"id": UNSIGNED}, {}),
    "PROGRESS": Fields({"id": UNSIGNED, "progress": NUMBER}, {"message": TEXT}),
    "GETPROGRESS": ONE_JOB,
    "LOG": Fields({"id": UNSIGNED, "message": TEXT}, {"level": TEXT}),
    "GETLOGS": ONE_JOB,
    "GETJOB": ONE_JOB,
    "GETSTATE": ONE_JOB,
    "GETRESULT": ONE_JOB,
    "WAITJOB": Fields({"id": UNSIGNED}, {"timeout": UNSIGNED}),
    "GETJOBBYCUSTOMID": Fields({"job_id": TEXT}, {}),
    "GETJOBSBATCH": Fields({"ids": IDS}, {}),
    "GETJOBS": Fields({}, {"queue": TEXT, "state": TEXT, "limit": UNSIGNED, "offset": UNSIGNED}),
    "GETJOBCOUNTS": ONE_QUEUE,
    "COUNT": ONE_QUEUE,
    "ISPAUSED": ONE_QUEUE,
    "LISTQUEUES": Fields({}, {"limit": PAGE, "after": TEXT, "search": TEXT, "fullest": FLAG}),
    "STATS": Fields({}, {}),
    "METRICS": Fields({}, {"queues": PAGE}),
    "LISTWORKERS": Fields({}, {"limit": PAGE, "after": TEXT}),
    "METRICSHISTORY": Fields({}, {}),
    "CANCEL": ONE_JOB,
    "CHANGEPRIORITY": Fields({"id": UNSIGNED, "priority": SIGNED}, {}),
    "MOVETODELAYED": Fields({"id": UNSIGNED, "delay": UNSIGNED}, {}),
    "PROMOTE": ONE_JOB,
    "UPDATEJOB": Fields({"id": UNSIGNED, "data": ANY}, {}),
    "DISCARD": ONE_JOB,
    "RELEASE": Fields({"ids": IDS}, {}),
    "DLQ": Fields({"queue": TEXT}, {"count": UNSIGNED}),
    "RETRYDLQ": Fields({"queue": TEXT}, {"id": UNSIGNED}),
    "PURGEDLQ": ONE_QUEUE,
    "PAUSE": ONE_QUEUE,
    "RESUME": ONE_QUEUE,
    "RATELIMIT": Fields({"queue": TEXT, "limit": U32}, {}),
    "RATELIMITCLEAR": ONE_QUEUE,
    "SETCONCURRENCY": Fields({"queue": TEXT, "limit": U32}, {}),
    "CLEARCONCURRENCY": ONE_QUEUE,
    "QUEUECONFIG": Fields(
        {"queue": TEXT}, {"keep_completed_age": UNSIGNED, "keep_completed_count": UNSIGNED}
    ),
    "DRAIN": ONE_QUEUE,
    "OBLITERATE": ONE_QUEUE,
    "CLEAN": Fields({"queue": TEXT, "grace": UNSIGNED, "state": TEXT}, {"limit": UNSIGNED}),
    "CRON": Fields(
        {"name": TEXT, "queue": TEXT, "data": ANY},
        {"schedule": TEXT, "repeat_every": UNSIGNED, "priority": SIGNED, "limit": UNSIGNED},
    ),
    "CRONDELETE": Fields({"name": TEXT}, {}),
    "CRONLIST": Fields({}, {"limit": PAGE, "after": TEXT}),
    "WEBHOOK": Fields(
        {"url": TEXT, "events": TEXTS}, {"queue": TEXT, "secret": TEXT, "webhook": TEXT}
    ),
    "WEBHOOKDELETE": Fields({"webhook": TEXT}, {}),
    "WEBHOOKLIST": Fields({}, {"limit": PAGE, "after": TEXT}),
    "WEBHOOKDEAD": Fields({}, {"webhook": TEXT, "limit": UNSIGNED}),
    "WEBHOOKRETRY": Fields({}, {"webhook": TEXT, "delivery": UNSIGNED}),
    "WEBHOOKDONE": Fields(
        {"token": UNSIGNED},
        {"delivered": UNSIGNED, "failed": UNSIGNED, "reason": TEXT, "more": FLAG},
    ),
    "SUBSCRIBE": Fields({"queue": TEXT, "events": TEXTS}, {}),
    "UNSUBSCRIBE": ONE_QUEUE,
    "AUTH": Fields({"token": TEXT}, {}),
}
#: Requests that would otherwise wait for a minute.
PATIENCE: Final = {"PULL": {"timeout": 0}, "PULLB": {"timeout": 0}, "WAITJOB": {"timeout": 1}}


def good_request(word: str, queue: str) -> dict[str, Any]:
    """Return a request that fits, with its required fields only."""
    request = {name: GOOD[kind] for name, kind in FIELDS[word].required.items()}
    request |= PATIENCE.get(word, {})
    if "queue" in request:
        request["queue"] = queue
    if word == "CRON":
        request |= {"name": queue, "schedule": "0 0 1 1 *"}
    return request


def refusal(dealer: Dealer, word: str, request: dict[str, Any]) -> str:
    """Return what is said to a request that does not fit."""
    reply = dealer.ask(word, **request)
    assert not reply["ok"], (word, request)
    assert (reply["code"], reply["retryable"]) == ("invalid", False), reply
    error = reply["error"]
    assert isinstance(error, str)
    assert error.startswith("Invalid: ")
    return error


def fits(dealer: Dealer, word: str, request: dict[str, Any]) -> None:
    """Assert that a request is understood, whatever then comes of it."""
    reply = dealer.ask(word, **request)
    assert reply["ok"] or reply["code"] not in ("invalid", "bad_message"), (request, reply)


@pytest.mark.parametrize("word", FIELDS)
def test_a_field_that_is_required_is_missed_by_name(dealer: Dealer, queue: str, word: str) -> None:
    """The text says which field is missing, and with it the request is understood."""
    dealer.ask("HELLO", session=_session(dealer))
    request = good_request(word, queue)
    fits(dealer, word, request)
    for name in FIELDS[word].required:
        less = {key: value for key, value in request.items() if key != name}
        error = refusal(dealer, word, less)
        assert "missing field" in error
        assert f"`{name}`" in error


@pytest.mark.parametrize("word", FIELDS)
def test_a_field_of_another_type_is_refused_by_name(dealer: Dealer, queue: str, word: str) -> None:
    """No number is read from a text, nothing is cut to fit; nothing happens."""
    required, optional = FIELDS[word]
    for name, kind in (required | optional).items():
        for value in BAD[kind]:
            error = refusal(dealer, word, good_request(word, queue) | {name: value})
            assert name in error, (name, value, error)
    assert dealer.ask("GETJOBS", queue=queue)["total"] == 0


@pytest.mark.parametrize("word", FIELDS)
def test_null_is_the_same_as_absent_where_a_field_is_optional(
    dealer: Dealer, queue: str, word: str
) -> None:
    """The TypeScript client says null for every option that its caller left out."""
    dealer.ask("HELLO", session=_session(dealer))
    optional: dict[str, Any] = dict.fromkeys(FIELDS[word].optional)
    optional |= PATIENCE.get(word, {})
    if word == "CRON":
        optional["schedule"] = "0 0 1 1 *"
    fits(dealer, word, good_request(word, queue) | optional)


@pytest.mark.parametrize("word", FIELDS)
def test_a_field_that_nobody_knows_is_refused(dealer: Dealer, queue: str, word: str) -> None:
    """A slip of the pen would be an option that is silently not there."""
    dealer.ask("HELLO", session=_session(dealer))
    text = refusal(dealer, word, good_request(word, queue) | {"later": {"x": 1}})
    assert "unknown field `later`" in text
    fits(dealer, word, good_request(word, queue) | {"reqId": "r-1"})


@pytest.mark.parametrize("word", FIELDS)
def test_full_is_understood_by_every_command(dealer: Dealer, queue: str, word: str) -> None:
    """The flag changes how jobs look, and nothing else."""
    dealer.flags |= FULL
    dealer.ask("HELLO", session=_session(dealer))
    fits(dealer, word, good_request(word, queue))


@pytest.mark.covers("LOG", "GETLOGS", "HEARTBEAT")
@pytest.mark.parametrize("word", ["LOG", "GETLOGS", "HEARTBEAT"])
def test_the_typescript_client_says_job_id_for_id(dealer: Dealer, queue: str, word: str) -> None:
    """`job_id` is another name of `id` in the three commands where that client says so."""
    job_id = dealer.ask("PUSH", queue=queue, data=1)["id"]
    dealer.ask("PULL", queue=queue, timeout=0)
    message = {"message": "said"} if word == "LOG" else {}
    assert dealer.ask(word, job_id=job_id, **message)["ok"]


def _session(dealer: Dealer) -> Any:
    """Return 16 bytes as the dealer's encoding has them."""
    raw = os.urandom(16)
    if dealer.flags & JSON:
        return base64.b64encode(raw).decode()
    return raw
