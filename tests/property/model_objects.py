"""What the naive model is made of: jobs, sessions, waiters, token buckets, and its constants."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

Fields = dict[str, Any]

CALL: Final = 200
SESSION_TIMEOUT: Final = 10_000
ANSWERS: Final = 300_000
STALL: Final = 30_004
LOST_MAX: Final = 3
HISTORY_MAX: Final = 20

#: what a push may say, and what it means when it does not
OPTIONS: Final[Fields] = {
    "ttl": 0,
    "timeout": 0,
    "max_attempts": 0,
    "backoff": 0,
    "unique_key": None,
    "custom_id": None,
    "tags": [],
    "depends_on": [],
    "on_dependency_failure": "fail",
    "lifo": False,
    "remove_on_complete": False,
    "remove_on_fail": False,
    "stall_timeout": 0,
    "keep_completed_age": 0,
    "keep_completed_count": 0,
    "parent": 0,
}
SETTINGS: Final[Fields] = {
    "paused": False,
    "rate_limit": None,
    "concurrency": None,
    "keep_completed_age": 0,
    "keep_completed_count": 0,
}
READS: Final = frozenset(
    {
        *("GETCHILDREN", "GETPROGRESS", "GETJOB", "GETSTATE", "GETRESULT", "GETJOBBYCUSTOMID"),
        *("GETJOBSBATCH", "GETJOBS", "WAITJOB", "GETLOGS", "ISPAUSED", "COUNT", "GETJOBCOUNTS"),
        *("LISTQUEUES", "STATS", "DLQ", "METRICS", "WITHDRAW"),
    }
)


class Error(Exception):
    """A request's refusal: code and text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Job:
    """A job; `state` is the name that clients read."""

    def __init__(self, job_id: int, queue: str, data: Any, now: int) -> None:
        self.id = job_id
        self.queue = queue
        self.data = data
        self.priority = 0
        self.created_at = now
        self.run_at = now
        self.state = "waiting"
        self.attempts = 0
        self.options = dict(OPTIONS)
        self.started_at = 0
        self.ended_at = 0
        self.token: int | None = None
        self.session = b""
        self.since: int | None = 0
        self.place = 0
        self.beat: int | None = None
        self.missed = 0
        self.progress = 0
        self.progress_msg: str | None = None
        self.last_heartbeat = 0
        self.stall_count = 0
        self.lost = 0
        self.error: str | None = None
        self.cancel_reason: str | None = None
        self.result: Any = None
        self.result_dropped = False
        self.ttl_since = now
        self.logs: list[Fields] = []
        self.history: list[Fields] = []
        self.watchers: list[int] = []
        self.open: list[int] = []
        self.children: list[int] | None = None
        self.children_completed = 0

    def is_retained(self) -> bool:
        """Whether somebody asked to keep it once it has completed."""
        return bool(self.options["keep_completed_age"] or self.options["keep_completed_count"])

    def is_aged(self) -> bool:
        """Whether it is to be kept for a time, in whatever number."""
        return self.is_retained() and not self.options["keep_completed_count"]

    def order(self) -> tuple[int, int, int, int]:
        """Where it stands among the ready jobs of its queue."""
        if self.options["lifo"]:
            return (-self.priority, 0, -self.id, 0)
        return (-self.priority, 1, self.run_at, self.id)

    def view(self, *, is_single: bool = False) -> Fields:
        """The job as a reader of the older protocols sees it, alone or among others."""
        shown = (
            *("ttl", "timeout", "max_attempts", "backoff", "unique_key", "custom_id", "tags"),
            *("depends_on", "lifo", "remove_on_complete", "remove_on_fail", "stall_timeout"),
            *("keep_completed_age", "keep_completed_count"),
        )
        active = self.state == "active"
        newer: Fields = {
            "token": self.token if active else None,
            "lost": self.lost,
            "error": self.error,
            "history": self.history if is_single else None,
            "cancelled_at": self.ended_at if self.state == "cancelled" else 0,
            "cancel_reason": self.cancel_reason,
        }
        return {
            **{key: value for key, value in newer.items() if value},
            **{key: self.options[key] for key in shown},
            "id": self.id,
            "queue": self.queue,
            "data": self.data,
            "priority": self.priority,
            "created_at": self.created_at,
            "run_at": self.run_at,
            "started_at": self.started_at,
            "attempts": self.attempts,
            "completed_at": self.ended_at if self.state == "completed" else 0,
            "parent_id": self.options["parent"] or None,
            "progress": self.progress,
            "progress_msg": self.progress_msg,
            "last_heartbeat": max(self.last_heartbeat, self.started_at) if active else 0,
            "stall_count": self.stall_count,
            "children_ids": self.children or [],
            "children_completed": self.children_completed,
        }


class Bucket:
    """A rate limit's tokens, exact."""

    def __init__(self, limit: int, mono: int, tokens: int) -> None:
        self.limit = limit
        self.at = mono
        self.tokens = Fraction(tokens)

    def available(self, mono: int) -> int:
        earned = Fraction((mono - self.at) * self.limit, 1000)
        self.tokens = min(Fraction(self.limit), self.tokens + earned)
        self.at = mono
        return int(self.tokens)

    def next_at(self) -> int | None:
        """When there is a whole token."""
        if not self.limit:
            return None
        missing = (1 - self.tokens) * 1000 / self.limit
        return self.at + max(1, -(-missing.numerator // missing.denominator))


class Session:
    """What a session has been told, and when it was last heard of (None after a silence)."""

    def __init__(self, mono: int) -> None:
        self.heard = mono
        self.silent = False
        self.answers: dict[int, Fields] = {}
        self.pulls: dict[int, int] = {}
        self.done_below = 0
        self.is_known = False


class Waiter:
    """A parked PULL, PULLB or WAITJOB."""

    def __init__(self, corr: int, deadline: int, **more: Any) -> None:
        self.corr = corr
        self.deadline = deadline
        self.queue: str | None = more.get("queue")
        self.job_id: int | None = more.get("job_id")
        self.count: int = more.get("count", 1)
        self.single: bool = more.get("single", False)
        self.ready: bool = more.get("ready", False)
        self.starts: bool = more.get("starts", False)
        self.session: bytes | None = more.get("session")
        self.n: int | None = more.get("n")
        self.done_below: int = more.get("done_below", 0)
        self.timeout: int = more.get("timeout", 0)
        self.ticket: bytes | None = more.get("ticket")
