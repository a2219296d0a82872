"""The job object: thirty keys in every reply to a request with FULL, whatever its encoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.contract.dealer import FULL, Dealer
from tests.contract.states import job_in, pull, push

NULL: Final = type(None)
KEYS: Final[dict[str, tuple[type, ...]]] = {
    "id": (int,),
    "queue": (str,),
    "data": (dict,),
    "priority": (int,),
    "created_at": (int,),
    "run_at": (int,),
    "started_at": (int,),
    "attempts": (int,),
    "max_attempts": (int,),
    "backoff": (int,),
    "ttl": (int,),
    "timeout": (int,),
    "unique_key": (str, NULL),
    "depends_on": (list,),
    "progress": (int,),
    "progress_msg": (str, NULL),
    "tags": (list,),
    "lifo": (bool,),
    "remove_on_complete": (bool,),
    "remove_on_fail": (bool,),
    "last_heartbeat": (int,),
    "stall_timeout": (int,),
    "stall_count": (int,),
    "parent_id": (int, NULL),
    "children_ids": (list,),
    "children_completed": (int,),
    "custom_id": (str, NULL),
    "keep_completed_age": (int,),
    "keep_completed_count": (int,),
    "completed_at": (int,),
}
ASKED: Final[dict[str, Any]] = {
    "priority": 7,
    "max_attempts": 3,
    "backoff": 250,
    "ttl": 3_600_000,
    "timeout": 60_000,
    "unique_key": "one",
    "tags": ["a", "b"],
    "lifo": True,
    "remove_on_complete": True,
    "remove_on_fail": True,
    "stall_timeout": 45_000,
    "keep_completed_age": 1000,
    "keep_completed_count": 5,
}


def _pull(dealer: Dealer, queue: str) -> list[Any]:
    push(dealer, queue)
    return [dealer.ask("PULL", queue=queue, timeout=0)["job"]]


def _pull_batch(dealer: Dealer, queue: str) -> list[Any]:
    dealer.ask("PUSHB", queue=queue, jobs=[{"data": {}}, {"data": {}, "priority": 1}])
    reply = dealer.ask("PULLB", queue=queue, count=5, timeout=0)
    assert len(reply["jobs"]) == 2
    return list(reply["jobs"])


def _get_job(dealer: Dealer, queue: str) -> list[Any]:
    states = ("waiting", "delayed", "active", "completed", "failed", "waitingchildren")
    return [
        dealer.ask("GETJOB", id=job_in(dealer, f"{queue}-{state}", state))["job"]
        for state in states
    ]


def _by_custom_id(dealer: Dealer, queue: str) -> list[Any]:
    push(dealer, queue, job_id=f"custom-{queue}")
    near = dealer.ask("GETJOBBYCUSTOMID", job_id=f"custom-{queue}", queue=queue)
    anywhere = dealer.ask("GETJOBBYCUSTOMID", job_id=f"custom-{queue}")
    assert near == anywhere
    return [near["job"], anywhere["job"]]


def _batch_by_id(dealer: Dealer, queue: str) -> list[Any]:
    ids = [push(dealer, f"{queue}-{number}") for number in range(6)]
    reply = dealer.ask("GETJOBSBATCH", ids=ids)
    assert [job["id"] for job in reply["jobs"]] == ids
    return list(reply["jobs"])


def _listed(dealer: Dealer, queue: str) -> list[Any]:
    job_in(dealer, queue, "waiting")
    job_in(dealer, queue, "delayed")
    here = dealer.ask("GETJOBS", queue=queue)
    assert here["total"] == len(here["jobs"]) == 2
    everywhere = dealer.ask("GETJOBS", limit=50)
    return [*here["jobs"], *everywhere["jobs"]]


def _dead(dealer: Dealer, queue: str) -> list[Any]:
    job_in(dealer, queue, "failed")
    return list(dealer.ask("DLQ", queue=queue)["jobs"])


def _children(dealer: Dealer, queue: str) -> list[Any]:
    children = [{"queue": queue, "data": {}}, {"queue": queue, "data": {}, "delay": 60_000}]
    parent = dealer.ask("FLOW", queue=queue, data=1, children=children)["parent_id"]
    return list(dealer.ask("GETCHILDREN", parent_id=parent)["children"])


GIVERS: Final[dict[str, Callable[[Dealer, str], list[Any]]]] = {
    "PULL": _pull,
    "PULLB": _pull_batch,
    "GETJOB": _get_job,
    "GETJOBBYCUSTOMID": _by_custom_id,
    "GETJOBSBATCH": _batch_by_id,
    "GETJOBS": _listed,
    "DLQ": _dead,
    "GETCHILDREN": _children,
}


@pytest.mark.parametrize("word", GIVERS)
def test_all_thirty_keys_are_there_whichever_command_gives_the_job(
    dealer: Dealer, queue: str, word: str
) -> None:
    """Typed readers of the older protocols fail on a key that is left out or of another type."""
    dealer.flags |= FULL
    jobs = GIVERS[word](dealer, queue)
    assert jobs
    for job in jobs:
        missing = KEYS.keys() - job.keys()
        assert not missing
        wrong = {
            k: job[k] for k, kinds in KEYS.items() if k != "data" and type(job[k]) not in kinds
        }
        assert not wrong
        assert next(iter(job)) == "id"
        if word in ("GETJOBS", "GETJOBSBATCH"):
            assert isinstance(job["state"], str)
            assert job["job"]["id"] == job["id"]
            assert not KEYS.keys() - job["job"].keys()


def test_without_full_a_key_at_its_default_may_be_missing_and_no_other(
    dealer: Dealer, queue: str
) -> None:
    """The short form says the same as the long one."""
    job_id = push(dealer, queue, **ASKED)
    short = dealer.ask("GETJOB", id=job_id)["job"]
    dealer.flags |= FULL
    full = dealer.ask("GETJOB", id=job_id)["job"]
    defaults = (0, None)
    for key in KEYS.keys() - short.keys():
        assert full[key] == [] or full[key] in defaults, key
    assert {key: full[key] for key in short} == short


def test_a_job_says_what_its_push_said(dealer: Dealer, queue: str) -> None:
    """Every option comes back under its name; times are Unix milliseconds, 0 for not set."""
    dealer.flags |= FULL
    job_id = push(dealer, queue, data={"x": [1, None, "é"]}, job_id="mine", delay=60_000, **ASKED)
    job = dealer.ask("GETJOB", id=job_id)["job"]
    assert {key: job[key] for key in ASKED} == ASKED
    assert job["data"] == {"x": [1, None, "é"]}
    assert (job["queue"], job["custom_id"], job["depends_on"]) == (queue, "mine", [])
    assert job["run_at"] == job["created_at"] + 60_000
    assert (job["started_at"], job["attempts"], job["completed_at"]) == (0, 0, 0)


def test_a_new_job_has_the_defaults_of_the_contract(dealer: Dealer, queue: str) -> None:
    """What nobody asked for is 0, null, false or empty."""
    dealer.flags |= FULL
    job = dealer.ask("GETJOB", id=push(dealer, queue))["job"]
    said = {"id", "queue", "data", "created_at", "run_at"}
    for key in KEYS.keys() - said:
        expected: Any = [] if list in KEYS[key] else None if NULL in KEYS[key] else 0
        assert job[key] == expected, key
    assert job["run_at"] == job["created_at"]


def test_a_delivered_job_is_started_and_beating(dealer: Dealer, queue: str) -> None:
    """`started_at` and `last_heartbeat` are set by the pull; `attempts` counts failures only."""
    dealer.flags |= FULL
    push(dealer, queue)
    job = pull(dealer, queue)
    assert job["started_at"] >= job["created_at"]
    assert job["last_heartbeat"] >= job["started_at"]
    assert job["attempts"] == 0
    assert job["token"] > 0
