"""Every command has its method, on both clients, and each method says on the wire what it means."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from flashq.client.async_client import AsyncClient
from flashq.client.queue_methods import QueueMethods
from flashq.client.sync_client import Client
from flashq.protocol.registry import COMMANDS
from tests.unit.client.fake_server import FakeServer

REPLIES: dict[str, dict[str, Any]] = {
    "FLOW": {"parent_id": 4, "children_ids": [8, 9]},
    "GETCHILDREN": {
        "parent_id": 4, "children": [{"id": 8, "queue": "q", "data": 1}], "children_ids": [8, 9],
        "completed": 1, "total": 2,
    },
    "GETPROGRESS": {"progress": {"id": 4, "progress": 50, "message": None}},
    "GETLOGS": {"id": 4, "logs": [{"timestamp": 1, "message": "m", "level": "info"}]},
    "GETJOB": {"job": {"id": 4, "queue": "q", "data": 1}, "state": "waiting"},
    "GETJOBBYCUSTOMID": {"job": None, "state": "unknown"},
    "GETSTATE": {"id": 4, "state": "active"},
    "WAITJOB": {"result": {"r": 1}},
    "GETJOBS": {
        "jobs": [{"id": 4, "queue": "q", "data": 1, "state": "failed"}], "total": 7,
        "missing_shards": [2],
    },
    "GETJOBSBATCH": {"jobs": []},
    "GETJOBCOUNTS": {
        "waiting": 1, "active": 2, "delayed": 3, "completed": 4, "failed": 5,
        "waitingchildren": 6, "waitingparent": 7,
    },
    "COUNT": {"count": 3},
    "ISPAUSED": {"paused": True},
    "DRAIN": {"count": 3}, "OBLITERATE": {"count": 3}, "CLEAN": {"count": 3},
    "PURGEDLQ": {"count": 3},
    "LISTQUEUES": {
        "queues": [
            {"name": "q", "pending": 1, "processing": 0, "dlq": 0, "paused": False,
             "rate_limit": None, "concurrency_limit": None}
        ],
        "missing_shards": [1],
    },
    "QUEUECONFIG": {"durability": "async", "keep_completed_age": 0, "keep_completed_count": 0},
    "DLQ": {"jobs": [{"id": 4, "queue": "q", "data": 1, "error": "why"}]},
    "RETRYDLQ": {"ids": [2]},
    "CRONLIST": {
        "crons": [
            {"name": "c", "queue": "q", "data": {"x": 1}, "schedule": "* * * * *",
             "repeat_every": None, "priority": 0, "next_run": 5, "executions": 0, "limit": None}
        ]
    },
    "WEBHOOK": {"id": "wh_1"},
    "WEBHOOKLIST": {"webhooks": []},
    "WEBHOOKDEAD": {
        "deliveries": [
            {"webhook": "wh_1", "delivery": 5, "event": "failed", "queue": "q", "job_id": 4,
             "timestamp": 1, "error": None, "attempts": 9, "reason": "why", "died_at": 2}
        ],
        "total": 1,
    },
    "WEBHOOKRETRY": {"count": 2},
    "WEBHOOKPULL": {"lease": None},
    "STATS": {"queued": 1, "processing": 0, "delayed": 0, "dlq": 0},
    "METRICSHISTORY": {
        "points": [
            {"timestamp": 1, "queued": 2, "processing": 3, "completed": 4, "failed": 5,
             "throughput": 6.0, "latency_ms": 7.0}
        ]
    },
    "LISTWORKERS": {"workers": [], "missing_shards": [3]},
    "METRICS": {
        "metrics": {
            "total_pushed": 1, "total_completed": 0, "total_failed": 0, "total_expired": 0,
            "total_cancelled": 0, "total_retried": 0, "total_timed_out": 0, "total_stalled": 0,
            "total_lost": 0, "total_evicted": 0, "jobs_per_second": 0.5, "avg_latency_ms": 1.0,
            "queues": [],
        }
    },
}  # fmt: skip

CALLS: list[tuple[str, str, tuple[Any, ...], dict[str, Any], dict[str, Any], Any]] = [
    # method, word, arguments, keywords, what stands on the wire, what comes back
    ("push_flow", "FLOW", ("q", 1, [{"queue": "r", "data": 2}]), {"ttl": 5},
     {"queue": "q", "data": 1, "children": [{"queue": "r", "data": 2}], "ttl": 5}, None),
    ("fail", "FAIL", (4, "why"), {"token": 9}, {"id": 4, "error": "why", "token": 9}, None),
    ("heartbeat", "HEARTBEAT", (4,), {}, {"id": 4}, None),
    ("progress", "PROGRESS", (4, 50, "half"), {},
     {"id": 4, "progress": 50, "message": "half"}, None),
    ("move_to_delayed", "MOVETODELAYED", (4, 100), {}, {"id": 4, "delay": 100}, None),
    ("log", "LOG", (4, "m"), {"level": "warn"}, {"id": 4, "message": "m", "level": "warn"}, None),
    ("get_state", "GETSTATE", (4,), {}, {"id": 4}, "active"),
    ("finished", "WAITJOB", (4, 50), {}, {"id": 4, "timeout": 50}, {"r": 1}),
    ("get_job_by_custom_id", "GETJOBBYCUSTOMID", ("mine",), {}, {"job_id": "mine"}, None),
    ("get_jobs_batch", "GETJOBSBATCH", ([4, 5],), {}, {"ids": [4, 5]}, []),
    ("count", "COUNT", ("q",), {}, {"queue": "q"}, 3),
    ("cancel", "CANCEL", (4,), {}, {"id": 4}, None),
    ("change_priority", "CHANGEPRIORITY", (4, -5), {}, {"id": 4, "priority": -5}, None),
    ("promote", "PROMOTE", (4,), {}, {"id": 4}, None),
    ("update", "UPDATEJOB", (4, {"x": 1}), {}, {"id": 4, "data": {"x": 1}}, None),
    ("discard", "DISCARD", (4,), {}, {"id": 4}, None),
    ("pause", "PAUSE", ("q",), {}, {"queue": "q"}, None),
    ("resume", "RESUME", ("q",), {}, {"queue": "q"}, None),
    ("is_paused", "ISPAUSED", ("q",), {}, {"queue": "q"}, True),
    ("drain", "DRAIN", ("q",), {}, {"queue": "q"}, 3),
    ("obliterate", "OBLITERATE", ("q",), {}, {"queue": "q"}, 3),
    ("clean", "CLEAN", ("q", 5, "failed"), {"limit": 9},
     {"queue": "q", "grace": 5, "state": "failed", "limit": 9}, 3),
    ("set_rate_limit", "RATELIMIT", ("q", 5), {}, {"queue": "q", "limit": 5}, None),
    ("clear_rate_limit", "RATELIMITCLEAR", ("q",), {}, {"queue": "q"}, None),
    ("set_concurrency", "SETCONCURRENCY", ("q", 5), {}, {"queue": "q", "limit": 5}, None),
    ("clear_concurrency", "CLEARCONCURRENCY", ("q",), {}, {"queue": "q"}, None),
    ("purge_dlq", "PURGEDLQ", ("q",), {}, {"queue": "q"}, 3),
    ("retry_dlq", "RETRYDLQ", ("q",), {}, {"queue": "q"}, 2),
    ("retry_dlq", "RETRYDLQ", ("q", 4), {}, {"queue": "q", "id": 4}, 2),
    ("add_cron", "CRON", ("c", "q", {"x": 1}), {"schedule": "* * * * *", "tz": "Europe/Rome"},
     {"name": "c", "queue": "q", "data": {"x": 1}, "schedule": "* * * * *", "tz": "Europe/Rome"},
     None),
    ("delete_cron", "CRONDELETE", ("c",), {}, {"name": "c"}, None),
    ("add_webhook", "WEBHOOK", ("http://x/", ("failed",)), {"secret": "s", "webhook": "wh_1"},
     {"url": "http://x/", "events": ["failed"], "secret": "s", "webhook": "wh_1"}, "wh_1"),
    ("delete_webhook", "WEBHOOKDELETE", ("wh_1",), {}, {"webhook": "wh_1"}, None),
    ("list_webhooks", "WEBHOOKLIST", (), {}, {}, []),
    ("webhook_dead", "WEBHOOKDEAD", ("wh_1",), {"limit": 5}, {"webhook": "wh_1", "limit": 5}, None),
    ("retry_webhook", "WEBHOOKRETRY", ("wh_1", 5), {}, {"webhook": "wh_1", "delivery": 5}, 2),
    ("pull_deliveries", "WEBHOOKPULL", (b"0123456789abcdef", 1), {"held": [3], "timeout": 5},
     {"holder": b"0123456789abcdef", "call": 1, "held": [3], "timeout": 5}, None),
    ("deliveries_done", "WEBHOOKDONE", (3,), {"failed": 4, "reason": "why"},
     {"token": 3, "failed": 4, "reason": "why"}, None),
]  # fmt: skip


def answering(server: FakeServer, word: str) -> None:
    """Have the server give the canned reply to this word."""
    server.answer(word, lambda _: {"ok": True, **REPLIES.get(word, {})})


@pytest.mark.parametrize(
    ("method", "word", "arguments", "keywords", "wire", "result"),
    CALLS,
    ids=[f"{call[0]}-{number}" for number, call in enumerate(CALLS)],
)
async def test_a_method_says_what_it_means(
    server: FakeServer,
    method: str,
    word: str,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    wire: dict[str, Any],
    result: Any,
) -> None:
    """The same on both clients: fields on the wire, and the reply's meaning."""
    answering(server, word)
    with Client(server.url) as client:
        found = getattr(client, method)(*arguments, **keywords)
    async with AsyncClient(server.url) as async_client:
        found_too = await getattr(async_client, method)(*arguments, **keywords)
    if result is not None:
        assert found == result
        assert found_too == result
    for body in server.seen(word):
        assert wire.items() <= body.items()
        assert body.keys() - wire.keys() <= {"cmd", "_route", "session", "n", "done_below"}


def test_results_are_typed(server: FakeServer) -> None:
    """Attributes, not keys."""
    for word in REPLIES:
        answering(server, word)
    with Client(server.url) as client:
        assert client.push_flow("q", 1, []).children_ids == [8, 9]
        children = client.get_children(4)
        assert ([job.id for job in children.children], children.completed) == ([8], 1)
        assert client.get_progress(4).progress == 50
        assert client.get_logs(4)[0].message == "m"
        job = client.get_job(4)
        assert job is not None
        assert (job.id, job.state) == (4, "waiting")
        assert client.get_job(job) == job
        page = client.get_jobs("q", "failed", limit=1)
        assert (page[0].state, page.total, page.missing_shards) == ("failed", 7, [2])
        assert client.get_job_counts("q").waitingparent == 7
        names = client.list_queues()
        assert (names[0].name, names.missing_shards) == ("q", [1])
        assert client.queue_config("q", durability="async").durability == "async"
        assert client.get_dlq("q")[0].error == "why"
        assert client.list_crons()[0].data == {"x": 1}
        assert client.stats().queued == 1
        assert client.metrics().metrics.jobs_per_second == 0.5


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("method", sorted({command.method for command in COMMANDS}))
def test_every_command_has_its_method(kind: type[Any], method: str) -> None:
    """Adding a command to the registry without one fails here."""
    assert inspect.getdoc(getattr(kind, method))


def test_options_of_a_push_are_the_protocols(server: FakeServer) -> None:
    """A misspelt option is an error here, not a job without it."""
    options: dict[str, Any] = {
        "delay": 1, "ttl": 2, "timeout": 3, "max_attempts": 4, "backoff": 5, "jitter": 0.5,
        "unique_key": "u", "depends_on": [4], "on_dependency_failure": "wait", "tags": ["t"],
        "lifo": True, "remove_on_complete": True, "remove_on_fail": True, "stall_timeout": 6,
        "debounce_id": "d", "debounce_ttl": 7, "job_id": "j", "keep_completed_age": 8,
        "keep_completed_count": 9, "durability": "memory",
    }  # fmt: skip
    with Client(server.url) as client:
        client.push("q", 1, priority=-1, **options)
        with pytest.raises(TypeError, match="dealy"):
            client.push("q", 1, dealy=5)  # type: ignore[call-arg]
    body = server.seen("PUSH")[0]
    assert body.items() >= {**options, "priority": -1}.items()


def test_both_clients_have_the_same_methods() -> None:
    """The one is generated from the other."""
    ours = {name for name in dir(Client) if not name.startswith("_")}
    theirs = {name for name in dir(AsyncClient) if not name.startswith("_")}
    assert theirs - ours == {"begin", "ended", "is_closed", "listen", "unlisten"}
    assert not ours - theirs
    for name in vars(QueueMethods):
        if not name.startswith("_"):
            assert inspect.signature(getattr(Client, name)) == inspect.signature(
                getattr(AsyncClient, name)
            )
