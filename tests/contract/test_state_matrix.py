"""What each command about one job does in each state the job can be in, text by text."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.contract.dealer import Dealer
from tests.contract.states import STATES, job_in

OK: Final = None
NOT_FOUND: Final = "Job {id} not found"
NOT_PROCESSING: Final = "Job {id} not in processing"
NOT_FOUND_PROCESSING: Final = "Job {id} not found in processing"
NO_CANCEL: Final = "Job {id} cannot be cancelled (already completed/failed)"
NO_PRIORITY: Final = "Job {id} not found or cannot change priority"
NOT_DELAYED: Final = "Job {id} is not delayed"
NO_PROMOTE: Final = "Job {id} not found or not in delayed state"
NO_DISCARD: Final = "Job {id} not found or already in DLQ/completed"

#: By command: its fields beside `id`, and what is said in each state, in the order of STATES.
MATRIX: Final[dict[str, tuple[dict[str, Any], tuple[str | None, ...]]]] = {
    "ACK": ({}, (NOT_FOUND, NOT_FOUND, OK, *[NOT_FOUND] * 5)),
    "FAIL": ({}, (NOT_FOUND, NOT_FOUND, OK, *[NOT_FOUND] * 5)),
    "CANCEL": ({}, (OK, OK, OK, NO_CANCEL, NO_CANCEL, OK, OK, NOT_FOUND)),
    "PROGRESS": (
        {"progress": 5},
        (*[NOT_FOUND_PROCESSING] * 2, OK, *[NOT_FOUND_PROCESSING] * 5),
    ),
    "HEARTBEAT": ({}, (*[NOT_PROCESSING] * 2, OK, *[NOT_PROCESSING] * 5)),
    "LOG": ({"message": "m"}, (*[OK] * 7, NOT_FOUND)),
    "CHANGEPRIORITY": (
        {"priority": 3},
        (OK, OK, OK, NO_PRIORITY, OK, OK, OK, NO_PRIORITY),
    ),
    "MOVETODELAYED": ({"delay": 60_000}, (*[NOT_PROCESSING] * 2, OK, *[NOT_PROCESSING] * 5)),
    "PROMOTE": ({}, (NOT_DELAYED, OK, *[NO_PROMOTE] * 6)),
    "UPDATEJOB": ({"data": {"n": 2}}, (OK, OK, OK, NOT_FOUND, OK, *[NOT_FOUND] * 3)),
    "DISCARD": ({}, (OK, OK, OK, *[NO_DISCARD] * 5)),
}


@pytest.mark.covers(*MATRIX)
@pytest.mark.parametrize("word", MATRIX)
def test_a_command_says_what_the_jobs_state_allows(dealer: Dealer, queue: str, word: str) -> None:
    """Clients match on these texts, so each of them stands here word for word."""
    fields, said = MATRIX[word]
    for state, text in zip(STATES, said, strict=True):
        job_id = job_in(dealer, f"{queue}-{state}", state)
        reply = dealer.ask(word, id=job_id, **fields)
        if text is OK:
            assert reply == {"ok": True}, state
        else:
            assert reply.pop("code"), state
            expected = {"ok": False, "error": text.format(id=job_id), "retryable": False}
            assert reply == expected, state


@pytest.mark.covers("GETPROGRESS")
def test_progress_is_told_of_active_jobs_only(dealer: Dealer, queue: str) -> None:
    """In every other state there is none: not found."""
    for state in STATES:
        job_id = job_in(dealer, f"{queue}-{state}", state)
        reply = dealer.ask("GETPROGRESS", id=job_id)
        if state == "active":
            progress = {"id": job_id, "progress": 0, "message": None}
            assert reply == {"ok": True, "progress": progress}
        else:
            assert (reply["ok"], reply["error"]) == (False, f"Job {job_id} not found"), state


@pytest.mark.covers("GETRESULT")
def test_a_result_is_null_unless_the_job_has_completed(dealer: Dealer, queue: str) -> None:
    """Never an error, not even for an id that never was."""
    for state in STATES:
        job_id = job_in(dealer, f"{queue}-{state}", state)
        result = {"r": 1} if state == "completed" else None
        assert dealer.ask("GETRESULT", id=job_id) == {"ok": True, "id": job_id, "result": result}


@pytest.mark.covers("GETJOB", "GETSTATE")
def test_a_job_and_its_state_are_told_in_every_state(dealer: Dealer, queue: str) -> None:
    """GETJOB is never an error; a completed job keeps its body while it is retained."""
    for state in STATES:
        job_id = job_in(dealer, f"{queue}-{state}", state)
        reply = dealer.ask("GETJOB", id=job_id)
        assert list(reply) == ["ok", "job", "state"]
        assert (reply["ok"], reply["state"]) == (True, state)
        if state == "unknown":
            assert reply["job"] is None
        else:
            assert reply["job"]["id"] == job_id


@pytest.mark.covers("RETRYDLQ")
def test_only_a_dead_letter_is_retried(dealer: Dealer, queue: str) -> None:
    """`ids` holds how many were put back: one or none."""
    for state in STATES:
        job_id = job_in(dealer, f"{queue}-{state}", state)
        reply = dealer.ask("RETRYDLQ", queue=f"{queue}-{state}", id=job_id)
        assert reply == {"ok": True, "ids": [1 if state == "failed" else 0]}


@pytest.mark.covers("ACKB", "RELEASE")
@pytest.mark.parametrize("word", ["ACKB", "RELEASE"])
def test_a_batch_counts_active_jobs_and_skips_the_others(
    dealer: Dealer, queue: str, word: str
) -> None:
    """Never an error: the others are named as lost (ACKB), or simply not counted."""
    ids = [job_in(dealer, f"{queue}-{state}", state) for state in STATES]
    active = ids[STATES.index("active")]
    reply = dealer.ask(word, ids=ids)
    if word == "ACKB":
        assert (reply["ok"], reply["ids"]) == (True, [1])
        assert sorted(reply["lost"]) == sorted(set(ids) - {active})
    else:
        assert reply == {"ok": True, "count": 1}
    after = "completed" if word == "ACKB" else "waiting"
    assert dealer.ask("GETSTATE", id=active)["state"] == after
