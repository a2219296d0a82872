"""What the fake server says to words that it keeps no jobs for: one plain reply for each."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tests.unit.client.fake_server import FakeServer

NOW_MS: Final = 1_700_000_000_000
JOB: Final[dict[str, Any]] = {
    "id": 7,
    "queue": "mail",
    "data": {"to": "ada"},
    "created_at": NOW_MS,
    "run_at": NOW_MS,
    "attempts": 2,
    "timeout": 90_000,
    "error": "no route",
    "history": [{"at": NOW_MS, "reason": "failed", "error": "no route"}],
}
QUEUE: Final[dict[str, Any]] = {
    "name": "mail",
    "pending": 3,
    "processing": 1,
    "dlq": 2,
    "paused": True,
    "rate_limit": 5,
    "concurrency_limit": None,
}
SHARD: Final[dict[str, int]] = {
    "shard": 0,
    "epoch": 1,
    "jobs": 4,
    "bytes": 2048,
    "sessions": 1,
    "waiters": 0,
    "unsafe_bytes": 0,
    "log_seq": 9,
    "safe_seq": 9,
    "mailbox_out": 0,
}
TOTALS: Final = (
    "pushed",
    "completed",
    "failed",
    "expired",
    "cancelled",
    "retried",
    "timed_out",
    "stalled",
    "lost",
    "evicted",
)
CRON: Final[dict[str, Any]] = {
    "name": "nightly",
    "queue": "mail",
    "data": {"to": "all"},
    "schedule": "0 3 * * *",
    "repeat_every": None,
    "priority": 0,
    "next_run": NOW_MS,
    "executions": 2,
    "limit": 10,
    "tz": "Europe/Vienna",
}
COUNTS: Final = {
    "waiting": 3,
    "active": 1,
    "delayed": 0,
    "completed": 5,
    "failed": 2,
    "waitingchildren": 0,
    "waitingparent": 0,
    "cancelled": 4,
}

WEBHOOK: Final[dict[str, Any]] = {
    "id": "wh_1",
    "url": "https://example.com/",
    "events": ["completed", "failed"],
    "queue": None,
    "secret": None,
    "created_at": NOW_MS,
    "signed": True,
    "pending": 3,
    "dead": 1,
    "evicted": 0,
    "delivered": 7,
    "failed": 3,
    "retried": 2,
    "dropped": 0,
    "last_error": "answered with status 500",
}
DEAD_DELIVERY: Final[dict[str, Any]] = {
    "webhook": "wh_1",
    "delivery": 12,
    "event": "failed",
    "queue": "mail",
    "job_id": 7,
    "timestamp": NOW_MS,
    "error": "no route",
    "attempts": 10,
    "reason": "answered with status 500",
    "died_at": NOW_MS,
}

REPLIES: Final[dict[str, dict[str, Any]]] = {
    "WEBHOOK": {"id": "wh_1"},
    "WEBHOOKLIST": {"webhooks": [WEBHOOK]},
    "WEBHOOKDEAD": {"deliveries": [DEAD_DELIVERY], "total": 1},
    "WEBHOOKRETRY": {"count": 1},
    "GETJOB": {"job": JOB, "state": "failed"},
    "GETJOBBYCUSTOMID": {"job": JOB, "state": "failed"},
    "GETJOBS": {"jobs": [{**JOB, "state": "failed"}], "total": 30},
    "GETJOBSBATCH": {"jobs": [{**JOB, "state": "failed"}]},
    "GETCHILDREN": {
        "parent_id": 3,
        "children": [JOB],
        "children_ids": [7, 8],
        "completed": 1,
        "total": 2,
    },
    "GETSTATE": {"id": 7, "state": "delayed"},
    "GETLOGS": {"id": 7, "logs": [{"timestamp": NOW_MS, "message": "began", "level": "info"}]},
    "WAITJOB": {"result": {"sent": True}},
    "DLQ": {"jobs": [JOB]},
    "RETRYDLQ": {"ids": [1]},
    "PURGEDLQ": {"count": 2},
    "RELEASE": {"count": 1},
    "LISTQUEUES": {"queues": [QUEUE]},
    "GETJOBCOUNTS": COUNTS,
    "COUNT": {"count": 3},
    "ISPAUSED": {"paused": True},
    "QUEUECONFIG": {"durability": None, "keep_completed_age": 60_000, "keep_completed_count": 0},
    "DRAIN": {"count": 3},
    "OBLITERATE": {"count": 11},
    "CLEAN": {"count": 4},
    "CRONLIST": {"crons": [CRON]},
    "STATS": {
        "queued": 3,
        "processing": 1,
        "delayed": 0,
        "dlq": 2,
        "shards": [{**SHARD, "shard": index} for index in range(4)],
    },
    "METRICSHISTORY": {
        "points": [
            {
                "timestamp": NOW_MS,
                "queued": 3,
                "processing": 1,
                "completed": 90,
                "failed": 2,
                "throughput": 12.5,
                "latency_ms": 34.0,
            }
        ]
    },
    "LISTWORKERS": {
        "workers": [
            {
                "id": "a1b2",
                "queues": ["mail"],
                "concurrency": 4,
                "last_heartbeat": NOW_MS,
                "jobs_processed": 9,
                "name": "mailer",
                "jobs_held": 2,
            }
        ]
    },
    "METRICS": {
        "metrics": {
            **{f"total_{name}": number for number, name in enumerate(TOTALS)},
            "jobs_per_second": 1.5,
            "avg_latency_ms": 2.25,
            "queues": [],
        }
    },
}


def teach(fake: FakeServer, *, without: tuple[str, ...] = ()) -> None:
    """Have the fake server give all these replies."""
    for word, reply in REPLIES.items():
        if word not in without:
            fake.answer(word, partial(_answer, reply))


def _answer(reply: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    return {"ok": True, **reply}
