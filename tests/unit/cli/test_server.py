"""`flashq stats`, `metrics`, `workers` and `events`."""

from __future__ import annotations

import threading
from typing import Any

from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import NOW_MS, REPLIES, teach
from tests.unit.client.fake_server import FakeServer


def test_stats(ask: Run, fake: FakeServer) -> None:
    """Totals, and a line for each shard."""
    teach(fake)
    out = ask("stats").out
    assert "queued" in out
    assert out.count("2.0 KiB") == 4
    document = ask("stats", "--json").document
    assert document["queued"] == 3
    assert len(document["shards"]) == 4
    assert "ok" not in document


def test_stats_of_programs(ask: Run, fake: FakeServer) -> None:
    """That nothing happened is one line; what was started again is a table; a supervisor that hangs
    is complained about."""
    programs: list[dict[str, Any]] = [
        {"program": "flashq-router", "started_at": NOW_MS},
        {"program": "flashq-shard 1", "started_at": NOW_MS},
    ]
    supervisor: dict[str, Any] = {
        "pid": 42, "started_at": NOW_MS, "silent_ms": 200, "watchdog_ms": 4000,
        "programs": programs,
    }  # fmt: skip
    fake.answer("STATS", lambda _: {"ok": True, **REPLIES["STATS"], "supervisor": supervisor})
    quiet = ask("stats")
    assert "2 programs, none was started again since the server started" in quiet.out
    assert (quiet.err, "why" in quiet.out) == ("", False)
    last = {"at": NOW_MS, "reason": "signal", "detail": "SIGKILL"}
    programs[1] |= {"restarts": {"signal": 2, "hang": 1}, "last_restart": last}
    supervisor["silent_ms"] = 65_000
    found = ask("stats")
    assert "2 programs, 3 restarts since the server started" in found.out
    row = found.out.splitlines()[-1].split()
    assert (row[:3], row[-3:]) == (["flashq-shard", "1", "3"], ["SIGKILL", "ended", "it"])
    assert "the supervisor hangs: its loop has not turned for 1 min 5 s" in found.err


def test_metrics(ask: Run, fake: FakeServer) -> None:
    """Every total by its name."""
    teach(fake)
    out = ask("metrics").out
    assert "timed out" in out
    assert "1.50" in out
    assert ask("metrics", "--json").document["total_completed"] == 1


def test_history_of_metrics(ask: Run, fake: FakeServer) -> None:
    """One line for each point."""
    teach(fake)
    out = ask("metrics", "--history").out
    for text in ("90", "12.5", "34 ms"):
        assert text in out
    (point,) = ask("metrics", "--history", "--json").documents
    assert point["completed"] == 90


def test_workers(ask: Run, fake: FakeServer) -> None:
    """Who they are and what they are at."""
    teach(fake)
    out = ask("workers").out
    for text in ("a1b2", "mailer", "mail", "2", "9"):
        assert text in out
    assert ask("workers", "--json").documents == [
        {"id": "a1b2", "queues": ["mail"], "concurrency": 4, "last_heartbeat": NOW_MS,
         "jobs_processed": 9, "name": "mailer", "jobs_held": 2}
    ]  # fmt: skip


def test_events_until_enough_were_seen(ask: Run, fake: FakeServer) -> None:
    """As they happen, one line each, with payloads decoded; a gap is told on stderr."""
    event = {
        "seq": 1,
        "shard": 0,
        "epoch": 1,
        "event": "completed",
        "queue": "mail",
        "at": NOW_MS,
        "ids": [7],
        "data": [{"sent": True}],
    }

    def happen() -> None:
        fake.wait_for("SUBSCRIBE")
        fake.notify({"notice": "event", "event": event})

    happening = threading.Thread(target=happen)
    happening.start()
    outcome = ask("events", "mail", "--event", "completed", "--count", "1")
    happening.join()
    assert outcome.status == 0
    assert outcome.out.endswith(' completed mail 7 {"sent":true}\n')
    assert fake.seen("SUBSCRIBE")[0]["events"] == ["completed"]
    assert fake.seen("UNSUBSCRIBE")
