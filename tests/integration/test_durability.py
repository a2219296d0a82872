"""Whole servers on real storage: what was acknowledged is there, whatever is killed.

Everything that a state consists of is looked at before and after.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.contract.dealer import TIMEOUT_MS, Dealer
from tests.integration.site import SHARDS, TWO_SHARDS, Site, ok, pull, push
from tests.server import eventually

SESSION = bytes(range(16))


class Everything:
    """Jobs in every state, and all that is kept beside them."""

    def __init__(self, dealer: Dealer) -> None:
        self.ids: list[int] = []
        self._waiting_and_delayed(dealer)
        self._active(dealer)
        self._ended(dealer)
        self._tied(dealer)
        self._beside(dealer)

    def _note(self, job_id: int) -> int:
        self.ids.append(job_id)
        return job_id

    def _waiting_and_delayed(self, dealer: Dealer) -> None:
        for number in range(50):
            self._note(push(dealer, "waiting", {"n": number}, priority=number % 3))
        options = {
            "tags": ["a", "b"],
            "lifo": True,
            "backoff": 10,
            "max_attempts": 7,
            "jitter": 0.5,
        }
        self._note(push(dealer, "options", "x" * 1000, **options, stall_timeout=60_000))
        self._note(push(dealer, "delayed", None, delay=3_600_000))
        self.unique = self._note(push(dealer, "keys", 1, unique_key="only", delay=3_600_000))
        self.custom = self._note(push(dealer, "keys", 2, job_id="mine", delay=3_600_000))
        self._note(
            push(dealer, "keys", 3, debounce_id="once", debounce_ttl=3_600_000, delay=3_600_000)
        )

    def _active(self, dealer: Dealer) -> None:
        self.active = self._note(push(dealer, "active", {"on": "it"}, stall_timeout=600_000))
        self.token = pull(dealer, "active")["token"]
        ok(dealer.ask("PROGRESS", id=self.active, progress=42, message="nearly half"))
        ok(dealer.ask("LOG", id=self.active, message="hello", level="warn"))

    def _ended(self, dealer: Dealer) -> None:
        self.completed = self._note(push(dealer, "completed", 1))
        pull(dealer, "completed")
        ok(dealer.ask("LOG", id=self.completed, message="done soon"))
        ok(dealer.ask("ACK", id=self.completed, result={"answer": [42, "text"]}))
        failed = self._note(push(dealer, "failed", 1, max_attempts=1))
        pull(dealer, "failed")
        ok(dealer.ask("FAIL", id=failed, error="it broke"))
        retried = self._note(push(dealer, "retried", 1, max_attempts=3, backoff=3_600_000))
        pull(dealer, "retried")
        ok(dealer.ask("FAIL", id=retried, error="once"))

    def _tied(self, dealer: Dealer) -> None:
        """Dependencies and a flow over several shards, half done."""
        self.first = self._note(push(dealer, TWO_SHARDS[0], 1))
        self.dependent = self._note(push(dealer, TWO_SHARDS[1], 2, depends_on=[self.first]))
        children = [{"queue": f"child{number}", "data": number} for number in range(4)]
        flow = ok(dealer.ask("FLOW", queue="parent", data="p", children=children))
        self.parent, self.children = flow["parent_id"], flow["children_ids"]
        self.ids += [self.parent, *self.children]
        pull(dealer, "child0")
        ok(dealer.ask("ACK", id=self.children[0], result="done"))

        def is_counted() -> bool:
            reply = dealer.ask("GETCHILDREN", parent_id=self.parent)
            return bool(reply["ok"] and reply["completed"] == 1)

        eventually(is_counted, "the child's end at its parent")

    def _beside(self, dealer: Dealer) -> None:
        ok(dealer.ask("PAUSE", queue="paused"))
        ok(dealer.ask("RATELIMIT", queue="limited", limit=7))
        ok(dealer.ask("SETCONCURRENCY", queue="limited", limit=3))
        ok(dealer.ask("CRON", name="nightly", queue="cron", data={"c": 1}, schedule="0 3 * * *"))
        self.protected = {"queue": "protected", "data": 1, "session": SESSION, "n": 1}
        self.answer = ok(dealer.ask("PUSH", **self.protected))
        self._note(self.answer["id"])

    def seen(self, dealer: Dealer) -> dict[str, Any]:
        """Return all that can be read of it."""
        jobs = {job_id: ok(dealer.ask("GETJOB", id=job_id)) for job_id in self.ids}
        metrics = ok(dealer.ask("METRICS"))["metrics"]
        return {
            "jobs": jobs,
            "results": {i: dealer.ask("GETRESULT", id=i).get("result") for i in self.ids},
            "logs": {i: dealer.ask("GETLOGS", id=i)["logs"] for i in self.ids},
            "progress": ok(dealer.ask("GETPROGRESS", id=self.active)),
            "dlq": ok(dealer.ask("DLQ", queue="failed")),
            "custom": ok(dealer.ask("GETJOBBYCUSTOMID", job_id="mine")),
            "paused": ok(dealer.ask("ISPAUSED", queue="paused")),
            "queues": ok(dealer.ask("LISTQUEUES")),
            "crons": ok(dealer.ask("CRONLIST")),
            "totals": {name: metrics[name] for name in metrics if name.startswith("total_")},
            "listed": ok(dealer.ask("GETJOBS", limit=1000)),
        }

    def go_on(self, dealer: Dealer) -> None:
        """See that all that can be done with it still can."""
        assert dealer.ask("PUSH", queue="keys", data=1, unique_key="only")["code"] == "duplicate"
        assert dealer.ask("PUSH", queue="keys", data=1, debounce_id="once")["code"] == "debounced"
        assert push(dealer, "keys", 1, job_id="mine") == self.custom
        assert dealer.ask("PUSH", **self.protected) == self.answer
        assert dealer.ask("PULL", queue="protected", timeout=0)["job"]["id"] == self.answer["id"]
        assert dealer.ask("PULL", queue="protected", timeout=0)["job"] is None
        order = [pull(dealer, "waiting")["data"]["n"] for _ in range(50)]
        assert order == sorted(range(50), key=lambda number: (-(number % 3), number))
        ok(dealer.ask("ACK", id=self.active, token=self.token))
        assert pull(dealer, TWO_SHARDS[0])["id"] == self.first
        ok(dealer.ask("ACK", id=self.first))
        assert pull(dealer, TWO_SHARDS[1])["id"] == self.dependent
        for number in range(1, 4):
            assert pull(dealer, f"child{number}")["id"] == self.children[number]
            ok(dealer.ask("ACK", id=self.children[number]))
        assert pull(dealer, "parent")["id"] == self.parent
        assert push(dealer, "new", 1) not in self.ids


@pytest.mark.timeout(120)
def test_everything_is_as_acknowledged(site: Site) -> None:
    """
    1. Jobs are in every state there is, with everything that is kept beside them.
    2. All processes are killed at once, and the server is started again: from the log alone.
    3. A checkpoint is forced, and the same happens again: from the checkpoint.
    4. Nothing is different, and everything goes on.
    """
    server = site.start()
    dealer = server.dealer()
    everything = Everything(dealer)
    before = everything.seen(dealer)
    dealer.close()
    site.crash()

    server = site.start("--checkpoint-log-bytes", "65536")
    dealer = server.dealer()
    assert everything.seen(dealer) == before
    # The log that a shard has written since its start begins its checkpoint.
    for number in range(64):
        jobs = [{"data": "x" * 4096, "remove_on_complete": True}] * 16
        ok(dealer.ask("PUSHB", queue=f"filler{number}", jobs=jobs))
    eventually(lambda: len(checkpoints(site)) == SHARDS, "a checkpoint of each shard")
    for number in range(64):
        ok(dealer.ask("OBLITERATE", queue=f"filler{number}"))
    before = everything.seen(dealer)
    dealer.close()
    site.crash()

    server = site.start()
    dealer = server.dealer()
    assert everything.seen(dealer) == before
    everything.go_on(dealer)
    dealer.close()
    assert server.terminate() == 0


def checkpoints(site: Site) -> list[int]:
    """Return the shards that have a checkpoint in storage."""
    query = "SELECT shard FROM {}shards WHERE current_ordinal > 0 AND building_ordinal = 0"
    if site.storage.startswith("sqlite"):
        connection = sqlite3.connect(site.path)
        try:
            return [shard for (shard,) in connection.execute(query.format(""))]
        finally:
            connection.close()
    with psycopg.connect(site.storage) as database:
        return [shard for (shard,) in database.execute(query.format("flashq.").encode())]


@pytest.mark.timeout(120)
def test_pushes_under_way_are_there_or_were_not_acknowledged(site: Site) -> None:
    """Everything is killed in the midst of a stream of pushes, three times. No acknowledged push is
    missing, nothing appears that was never pushed, and no id is given twice."""
    acknowledged: dict[int, int] = {}
    attempted = 0
    for _ in range(3):
        server = site.start()
        dealer = server.dealer()
        sent: dict[int, int] = {}
        for _ in range(600):
            sent[dealer.send("PUSH", queue=f"q{attempted % 7}", data=attempted)] = attempted
            attempted += 1
        while len(dealer.answers) < 200:
            dealer._receive(TIMEOUT_MS)
        site.crash()
        with suppress(AssertionError):
            while True:
                dealer._receive(100)
        for corr, reply in dealer.answers.items():
            assert ok(reply)["id"] not in acknowledged
            acknowledged[reply["id"]] = sent[corr]
        dealer.close()
    server = site.start()
    dealer = server.dealer()
    found = {
        job["id"]: job["data"]
        for number in range(7)
        for job in ok(dealer.ask("GETJOBS", queue=f"q{number}", limit=10_000))["jobs"]
    }
    assert acknowledged.items() <= found.items()
    assert set(found.values()) <= set(range(attempted))
    assert len(set(found.values())) == len(found)
    dealer.close()


@pytest.mark.timeout(120)
def test_a_cron_fires_once_for_each_time_whatever_dies(site: Site) -> None:
    """A cron that ends after eight firings has made eight jobs, although its coordinator, its shard
    and at last everything was killed in between."""
    server = site.start()
    dealer = server.dealer()
    ok(dealer.ask("CRON", name="often", queue="fired", data=1, repeat_every=300, limit=8))
    count = [0]

    def fired(at_least: int) -> bool:
        count[0] = dealer.ask("COUNT", queue="fired").get("count", 0)
        return count[0] >= at_least

    for step, title in enumerate(("flashq-coordinator", "flashq-shard 0", "flashq-shard 1"), 1):
        eventually(partial(fired, step), f"firing {step}")
        server.kill(title)
    dealer.close()
    site.crash()
    server = site.start()
    dealer = server.dealer()
    eventually(lambda: not dealer.ask("CRONLIST").get("crons", [1]), "the end of the cron")
    eventually(lambda: fired(8), "the last firing")
    assert count == [8]
    dealer.close()
