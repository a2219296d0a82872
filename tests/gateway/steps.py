"""What scenarios are made of: the frequent requests, and what every reply to them has to be like.

Owns the shapes of replies that say little: an id, a state, nothing at all.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.gateway.clients import ServerSaid
from tests.gateway.doors import Door


def push(door: Door, queue: str, data: Any = 1, **options: Any) -> int:
    """Push a job, and return its id."""
    reply = door.ask("PUSH", queue=queue, data=data, **options)
    assert list(reply) == ["id"]
    assert type(reply["id"]) is int
    assert 1 <= reply["id"] < 2**53
    return int(reply["id"])


def push_many(door: Door, queue: str, jobs: list[dict[str, Any]]) -> list[int]:
    """Push jobs that are all accepted, and return their ids."""
    reply = door.ask("PUSHB", queue=queue, jobs=jobs)
    assert list(reply) == ["ids"]
    assert len(reply["ids"]) == len(jobs)
    return list(reply["ids"])


def pull(door: Door, queue: str) -> dict[str, Any]:
    """Take the next job, which is there or on its way; how long to wait is the client's choice."""
    reply = door.ask("PULL", queue=queue)
    assert list(reply) == ["job"]
    job = reply["job"]
    assert isinstance(job, dict)
    assert job.keys() >= door.job_keys
    return job


def is_empty(door: Door, queue: str) -> bool:
    """Tell whether a queue hands out nothing now."""
    reply = door.ask("PULL", queue=queue, timeout=0)
    assert list(reply) == ["job"]
    return reply["job"] is None


def state(door: Door, job_id: int) -> str:
    """Return a job's state."""
    reply = door.ask("GETSTATE", id=job_id)
    assert reply == {"id": job_id, "state": reply["state"]}
    return str(reply["state"])


def done(door: Door, cmd: str, **fields: Any) -> None:
    """Have something done whose reply says no more than that it is."""
    assert door.ask(cmd, **fields) == {}


def refused(door: Door, text: str, cmd: str, **fields: Any) -> None:
    """Ask for something that is refused in these words."""
    with pytest.raises(ServerSaid, match=f"^{re.escape(text)}$"):
        door.ask(cmd, **fields)
