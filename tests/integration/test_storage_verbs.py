"""Backup, restore and export of a storage that a server writes to."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.contract.dealer import Dealer
from tests.integration.site import SHARDS, Site, ok, pull, push

_FLASHQ = "import sys; from flashq.cli.main import main; sys.exit(main())"


def flashq(*words: str) -> str:
    """Run a verb, and return what it prints."""
    environ = {name: value for name, value in os.environ.items() if "FLASHQ" not in name}
    done = subprocess.run(
        [sys.executable, "-c", _FLASHQ, *words],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fill(dealer: Dealer) -> dict[str, int]:
    """Make jobs in several states."""
    ids = {
        "waiting": push(dealer, "a", {"text": 'quoted "text", ü', "n": 1}, tags=["x", "y"]),
        "delayed": push(dealer, "a", None, delay=3_600_000, unique_key="only"),
        "failed": push(dealer, "b", [1, 2], max_attempts=1),
        "completed": push(dealer, "c", "done"),
    }
    pull(dealer, "b")
    ok(dealer.ask("FAIL", id=ids["failed"], error="it broke"))
    pull(dealer, "c")
    ok(dealer.ask("ACK", id=ids["completed"], result=1))
    return ids


@pytest.mark.timeout(120)
def test_a_backup_made_while_running_is_a_server_again(site: Site, tmp_path: Path) -> None:
    """
    1. A backup is made while the server goes on; then more is pushed, which is lost with it.
    2. It is restored into an SQLite file, whatever it was before, and a server started on it.
    3. All is as it was at the backup, ids that were given since are not given again, and what was
       pushed after it can be pushed once more.
    """
    dealer = site.start().dealer()
    ids = fill(dealer)
    ok(dealer.ask("CRON", name="nightly", queue="cron", data=1, schedule="0 3 * * *"))
    jobs = {job_id: ok(dealer.ask("GETJOB", id=job_id)) for job_id in ids.values()}
    file = tmp_path / "backup"
    where = ("--data-dir", str(site.data_dir), "--storage", site.storage)
    flashq("backup", str(file), *where)
    later = [push(dealer, "a", number) for number in range(10)]
    dealer.close()
    site.crash()

    fresh = Site()
    try:
        flashq("restore", str(file), "--data-dir", str(fresh.data_dir))
        dealer = fresh.start().dealer()
        assert {i: ok(dealer.ask("GETJOB", id=i)) for i in ids.values()} == jobs
        assert [cron["name"] for cron in ok(dealer.ask("CRONLIST"))["crons"]] == ["nightly"]
        assert dealer.ask("PUSH", queue="a", data=1, unique_key="only")["code"] == "duplicate"
        again = [push(dealer, "a", number) for number in range(10)]
        assert min(again) > max(later) + 2**32
        assert ok(dealer.ask("COUNT", queue="a"))["count"] == 12
        dealer.close()
    finally:
        fresh.close()


def test_jobs_are_exported_as_they_are(site: Site, postgres_dsn: str) -> None:
    """As JSON lines, as CSV and into a table of a database, chosen by queue and state."""
    server = site.start()
    dealer = server.dealer()
    ids = fill(dealer)
    where = ("--data-dir", str(site.data_dir), "--storage", site.storage)
    lines = flashq("export", "--jobs", *where).splitlines()
    states = {job["id"]: job["state"] for job in map(json.loads, lines)}
    assert states == {job_id: state for state, job_id in ids.items()}
    [line] = flashq("export", "--jobs", "--queue", "a", "--state", "waiting", *where).splitlines()
    job = json.loads(line)
    assert (job["id"], job["data"]) == (ids["waiting"], {"text": 'quoted "text", ü', "n": 1})

    rows = list(csv.DictReader(io.StringIO(flashq("export", "--jobs", "--format", "csv", *where))))
    by_id = {int(row["id"]): row for row in rows}
    assert by_id[ids["failed"]]["error"] == "it broke"
    assert json.loads(by_id[ids["waiting"]]["data"])["n"] == 1
    assert json.loads(by_id[ids["waiting"]]["tags"]) == ["x", "y"]

    table = ("--to", postgres_dsn, "--table", "public.jobs_today")
    assert "4 jobs" in flashq("export", "--jobs", *table, *where)
    with psycopg.connect(postgres_dsn) as database:
        found = database.execute(
            "SELECT id, state, data ->> 'n' FROM public.jobs_today WHERE queue = 'a' ORDER BY id"
        ).fetchall()
    assert sorted(found) == sorted(
        [(ids["waiting"], "waiting", "1"), (ids["delayed"], "delayed", None)]
    )
    dealer.close()
    assert len(server.epochs()) == SHARDS
