"""A whole server whose programs hang: they are started again, and nothing is lost."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.contract.dealer import Dealer
from tests.integration.site import SHARDS, Site, pull, push, trouble
from tests.server import eventually

WATCHDOG_MS = 4000
"""Nobody who only has to wait for the machine is silent for so long."""


@pytest.fixture
def site() -> Iterator[Site]:
    """Return a storage for a server, and clean up."""
    site = Site()
    yield site
    site.close()


def test_a_shard_that_hangs_comes_back_with_its_jobs(site: Site) -> None:
    """
    1. Jobs are pushed, and some of them completed; all of that is acknowledged.
    2. Their shard is stopped with SIGSTOP: it neither dies nor answers, and nobody lets it go on.
    3. The supervisor puts another in its place, which takes jobs and gives out what was there.
    """
    server = site.start("--watchdog-ms", str(WATCHDOG_MS))
    dealer = server.dealer()
    ids = [push(dealer, "alpha", number) for number in range(20)]
    for _ in range(5):
        job = pull(dealer, "alpha")
        assert dealer.ask("ACK", id=job["id"], token=job["token"])["ok"]
        ids.remove(job["id"])
    shard = ids[0] % SHARDS
    before = server.epochs()[shard]
    old = server.signal(f"flashq-shard {shard}", signal.SIGSTOP)
    server.wait_epoch(shard, before)
    assert server.pids()[f"flashq-shard {shard}"] != old
    programs = {one["program"]: one for one in dealer.ask("STATS")["supervisor"]["programs"]}
    assert programs[f"flashq-shard {shard}"]["restarts"] == {"hang": 1}
    ids.append(push(dealer, "alpha", "after"))
    assert sorted(pull(dealer, "alpha")["id"] for _ in ids) == sorted(ids)
    dealer.close()
    assert f"flashq-shard {shard} hangs: its loop has not turned for" in server.log()


def test_every_other_program_that_hangs_is_started_again(site: Site) -> None:
    """Coordinator, router and gateway at once: what was acknowledged is there behind the new."""
    server = site.start("--watchdog-ms", str(WATCHDOG_MS))
    dealer = server.dealer()
    job_id = push(dealer, "alpha", "kept")
    dealer.close()
    titles = ("flashq-coordinator", "flashq-router", "flashq-gateway")
    old = {title: server.signal(title, signal.SIGSTOP) for title in titles}
    eventually(lambda: not server.pids().items() & old.items(), "the end of those that hang")
    dealer = Dealer(server.ipc_url)
    assert pull(dealer, "alpha")["id"] == job_id
    dealer.close()


def test_a_storage_that_hangs_does_not_end_the_coordinator(site: Site) -> None:
    """Its writer waits for storage, and its loop turns: a restart would help nobody."""
    server = site.start("--watchdog-ms", str(WATCHDOG_MS))
    coordinator = server.pids()["flashq-coordinator"]
    dealer = server.dealer()
    blocker = sqlite3.connect(site.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        dealer.send("PUSH", queue="alpha", data=1)
        ends = time.monotonic() + 2 * WATCHDOG_MS / 1000
        eventually(lambda: time.monotonic() > ends and trouble(dealer), "trouble for so long")
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert pull(dealer, "alpha")
    dealer.close()
    assert server.pids()["flashq-coordinator"] == coordinator
