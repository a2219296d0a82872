"""How a job gets into each state, by requests alone."""

from __future__ import annotations

from typing import Any, Final

from tests.contract.dealer import Dealer

STATES: Final = (
    "waiting",
    "delayed",
    "active",
    "completed",
    "failed",
    "waitingchildren",
    "waitingparent",
    "unknown",
)
NEVER_PUSHED: Final = 4


def push(dealer: Dealer, queue: str, **options: Any) -> int:
    """Push a job and return its id."""
    reply = dealer.ask("PUSH", queue=queue, **{"data": {"n": 1}, **options})
    assert list(reply) == ["ok", "id"]
    assert type(reply["id"]) is int
    return int(reply["id"])


def pull(dealer: Dealer, queue: str) -> dict[str, Any]:
    """Take the next job, which has to be there."""
    reply = dealer.ask("PULL", queue=queue, timeout=0)
    assert list(reply) == ["ok", "job"]
    job = reply["job"]
    assert isinstance(job, dict), f"no job in {queue}"
    return job


def job_in(dealer: Dealer, queue: str, state: str) -> int:
    """Return the id of a job that is in `state`."""
    match state:
        case "waiting":
            job_id = push(dealer, queue)
        case "delayed":
            job_id = push(dealer, queue, delay=3_600_000)
        case "active" | "completed" | "failed":
            job_id = push(dealer, queue, max_attempts=1)
            assert pull(dealer, queue)["id"] == job_id
            if state == "completed":
                assert dealer.ask("ACK", id=job_id, result={"r": 1}) == {"ok": True}
            elif state == "failed":
                assert dealer.ask("FAIL", id=job_id, error="no luck") == {"ok": True}
        case "waitingchildren":
            first = push(dealer, f"{queue}-first", delay=3_600_000)
            job_id = push(dealer, queue, depends_on=[first])
        case "waitingparent":
            children = [{"queue": f"{queue}-child", "data": 1, "delay": 3_600_000}]
            job_id = dealer.ask("FLOW", queue=queue, data=1, children=children)["parent_id"]
        case _:
            job_id = NEVER_PUSHED
    assert dealer.ask("GETSTATE", id=job_id) == {"ok": True, "id": job_id, "state": state}
    return job_id
