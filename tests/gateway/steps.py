"""What scenarios are made of: options, the frequent requests, and what every reply has to be like.

Owns the shapes of replies that say little: an id, a state, nothing at all.
"""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from tests.gateway.clients import ServerSaid
from tests.gateway.doors import Door

OPTIONS: Final[dict[str, Any]] = {
    "priority": 5,
    "ttl": 600_000,
    "timeout": 30_000,
    "max_attempts": 3,
    "backoff": 100,
    "unique_key": "key-1",
    "tags": ["a", "b"],
    "lifo": True,
    "remove_on_complete": True,
    "remove_on_fail": True,
    "stall_timeout": 60_000,
    "keep_completed_age": 1000,
    "keep_completed_count": 7,
}
DEFAULTS: Final[dict[str, Any]] = {
    "priority": 0,
    "started_at": 0,
    "attempts": 0,
    "max_attempts": 0,
    "backoff": 0,
    "ttl": 0,
    "timeout": 0,
    "unique_key": None,
    "depends_on": [],
    "progress": 0,
    "progress_msg": None,
    "tags": [],
    "lifo": False,
    "remove_on_complete": False,
    "remove_on_fail": False,
    "last_heartbeat": 0,
    "stall_timeout": 0,
    "stall_count": 0,
    "parent_id": None,
    "children_ids": [],
    "children_completed": 0,
    "custom_id": None,
    "keep_completed_age": 0,
    "keep_completed_count": 0,
    "completed_at": 0,
}
"""What a job says of which nothing was said, and to which nothing has happened."""


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
    assert next(iter(job)) == "id"
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
