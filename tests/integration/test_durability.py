"""Whole servers on real storage: what was acknowledged is there, whatever is killed or breaks.

Everything that a state consists of is looked at before and after; storages fail as they do in life:
killed, full, read-only, damaged.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from flashq.cli import checks
from tests.contract.dealer import Dealer
from tests.gateway.http_client import HttpClient
from tests.postgres import Postgres
from tests.server import Server, eventually

SHARDS = 4
SESSION = bytes(range(16))
TWO_SHARDS = ("alpha", "beta")


class Site:
    """One storage, and one server after the other on it.

    Args:
        storage: its URL; an SQLite file in the data directory without one.
    """

    def __init__(self, storage: str | None = None) -> None:
        self.data_dir = Path(tempfile.mkdtemp(prefix="fqd", dir="/tmp"))
        self.storage = storage or f"sqlite:///{self.data_dir}/flashq.db"
        self.server: Server | None = None

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.storage.removeprefix("sqlite:///"))

    def begin(self, *flags: str) -> Server:
        """Start a server, and do not wait for it."""
        self.server = Server(
            *("--data-dir", str(self.data_dir), "--storage", self.storage),
            *("--shards", str(SHARDS), *flags),
        )
        return self.server

    def start(self, *flags: str) -> Server:
        """Start a server, and wait until it takes requests."""
        server = self.begin(*flags)
        server.wait_ready()
        return server

    def crash(self) -> None:
        """Kill every process of the server at once."""
        assert self.server is not None
        self.server.process.send_signal(signal.SIGSTOP)  # so that it starts nothing again
        for pid in self.server.pids().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.close()
        self.server = None

    def refusal(self, *flags: str) -> str:
        """Start a server that must not start, and return what it says."""
        server = self.begin(*flags)
        assert server.process.wait(30) == 1
        told = server.log()
        server.close()
        self.server = None
        return told

    def close(self) -> None:
        """End everything."""
        if self.server is not None:
            self.server.close()
        shutil.rmtree(self.data_dir, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A place for servers, on either storage."""
    url = None
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_dsn")
    site = Site(url)
    yield site
    site.close()


@pytest.fixture
def file_site() -> Iterator[Site]:
    """A place for servers on SQLite."""
    site = Site()
    yield site
    site.close()


# --- everything that a state consists of


def push(dealer: Dealer, queue: str, data: Any, **fields: Any) -> int:
    """Push a job, and return its id."""
    reply = dealer.ask("PUSH", queue=queue, data=data, **fields)
    assert reply["ok"], reply
    return int(reply["id"])


def pull(dealer: Dealer, queue: str) -> dict[str, Any]:
    """Take a job."""
    job = dealer.ask("PULL", queue=queue, timeout=5000)["job"]
    assert isinstance(job, dict)
    return job


def ok(reply: dict[str, Any]) -> dict[str, Any]:
    """See that a request was carried out."""
    assert reply["ok"], reply
    return reply


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
        filler = {"queue": f"filler{number}", "data": "x" * 4096}
        jobs = [filler | {"remove_on_complete": True}] * 16
        ok(dealer.ask("PUSHB", queue=filler["queue"], jobs=jobs))
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
            dealer._receive(5000)
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


# --- storages that break


def trouble(dealer: Dealer) -> str:
    """Return what STATS says is wrong with storage."""
    return str(ok(dealer.ask("STATS")).get("storage", ""))


@pytest.mark.timeout(120)
def test_a_database_that_dies_and_comes_back(own_postgres: Postgres) -> None:
    """
    1. PostgreSQL is killed. A push is not answered; STATS says why; what is known is still read.
    2. PostgreSQL is started again on its data: the push is answered, by itself.
    3. It was no lie: everything is killed, and both jobs are there.
    """
    site = Site(own_postgres.database())
    try:
        dealer = site.start().dealer()
        first = push(dealer, "a", 1)
        own_postgres.kill()
        waiting = dealer.send("PUSH", queue="a", data=2)
        assert "PostgreSQL" in eventually(lambda: trouble(dealer), "that storage is away")
        assert waiting not in dealer.answers
        own_postgres.start()
        second = ok(dealer.answer(waiting))["id"]
        eventually(lambda: not trouble(dealer), "that storage is back")
        dealer.close()
        site.crash()
        dealer = site.start().dealer()
        assert [pull(dealer, "a")["id"] for _ in range(2)] == [first, second]
        dealer.close()
    finally:
        site.close()


def test_a_connection_that_the_database_ends(postgres_dsn: str) -> None:
    """An administrator ends it, or a switch to another server: the next write makes a new one."""
    site = Site(postgres_dsn)
    try:
        dealer = site.start().dealer()
        push(dealer, "a", 1)
        with psycopg.connect(postgres_dsn, autocommit=True) as database:
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'flashq-coordinator' AND datname = current_database()"
            )
        for number in range(5):
            push(dealer, "a", number)
        assert ok(dealer.ask("COUNT", queue="a"))["count"] == 6
        dealer.close()
    finally:
        site.close()


def test_a_database_that_has_lost_a_cron_gets_it_again(postgres_dsn: str) -> None:
    """
    1. The database fails over to a copy that has every job, but not the last cron.
    2. The next write notices. The cron is still there, is stored again, and the loss is counted.
    """
    site = Site(postgres_dsn)
    try:
        dealer = site.start().dealer()
        for name in ("kept", "lost"):
            ok(dealer.ask("CRON", name=name, queue="a", data=1, schedule="0 0 1 1 *"))
        with psycopg.connect(postgres_dsn, autocommit=True) as database:
            database.execute("DELETE FROM flashq.coordinator WHERE name = 'cron.lost'")
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'flashq-coordinator' AND datname = current_database()"
            )
            push(dealer, "a", 1)
            names = [cron["name"] for cron in ok(dealer.ask("CRONLIST"))["crons"]]
            assert sorted(names) == ["kept", "lost"]
            query = "SELECT count(*) FROM flashq.coordinator WHERE name LIKE 'cron.%'"
            assert database.execute(query).fetchone() == (2,)
        eventually(
            lambda: ok(dealer.ask("STATS"))["coordinator"]["losses"] == 1, "that it was counted"
        )
        dealer.close()
    finally:
        site.close()


def test_a_database_that_becomes_read_only(postgres_dsn: str) -> None:
    """Changes wait, and the reason is told, until it can be written again."""
    site = Site(postgres_dsn)
    name = urlsplit(postgres_dsn).path.removeprefix("/")

    def set_read_only(value: str) -> None:
        with psycopg.connect(postgres_dsn, autocommit=True) as database:
            database.execute("SET default_transaction_read_only = off")
            database.execute(
                f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'.encode()
            )
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'flashq-coordinator' AND datname = current_database()"
            )

    try:
        dealer = site.start().dealer()
        push(dealer, "a", 1)
        set_read_only("on")
        waiting = dealer.send("PUSH", queue="a", data=2)
        eventually(lambda: "read-only" in trouble(dealer), "that it is read-only")
        assert waiting not in dealer.answers
        set_read_only("off")
        ok(dealer.answer(waiting))
        eventually(lambda: not trouble(dealer), "that it can be written")
        dealer.close()
    finally:
        site.close()


def test_a_disk_that_is_full(file_site: Site) -> None:
    """
    1. The coordinator cannot make its files any larger. Pushes wait; STATS says why.
    2. There is room again: they are answered, and are there after a crash.
    """
    site = file_site
    server = site.start()
    dealer = server.dealer()
    push(dealer, "a", 0)
    coordinator = server.pids()["flashq-coordinator"]
    room = Path(f"{site.path}-wal").stat().st_size
    resource.prlimit(coordinator, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    waiting = [dealer.send("PUSH", queue="a", data="x" * 500_000) for _ in range(5)]
    eventually(lambda: trouble(dealer), "that the disk is full")
    assert not set(waiting) & set(dealer.answers)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(coordinator, resource.RLIMIT_FSIZE, unlimited)
    for corr in waiting:
        ok(dealer.answer(corr))
    eventually(lambda: not trouble(dealer), "that there is room")
    dealer.close()
    site.crash()
    dealer = site.start().dealer()
    assert ok(dealer.ask("COUNT", queue="a"))["count"] == 6
    dealer.close()


def test_storage_that_is_taken_away_while_nothing_is_written(file_site: Site) -> None:
    """
    1. The file is moved away at night. Nobody pushes, and yet STATS, /health and the doctor say so;
       the doctor does not blame the coordinator, which answers.
    2. The file is put back: everything is well again, by itself.
    3. It is away again, a cron is made, and the server is stopped: it does not wait for storage
       until its time is up, and says what it could not write.
    """
    site = file_site
    server = site.start("--drain-timeout-ms", "60000")
    dealer = server.dealer()
    push(dealer, "a", 1)
    aside = site.data_dir / "aside"
    aside.mkdir()

    def move(origin: Path, target: Path) -> None:
        for path in origin.glob("flashq.db*"):
            if path.suffix != ".lock":
                path.rename(target / path.name)

    move(site.data_dir, aside)
    assert "moved or replaced" in eventually(lambda: trouble(dealer), "that the file is away")
    with HttpClient(server) as http:
        response = http.http.get("/health")
        assert response.status_code == 503
        assert str(site.path) in response.json()["error"]
    assert checks.check_coordinator(server.url, None).verdict == "ok"
    hello, _ = checks.check_router(server.url, None)
    assert hello is not None
    storage, *_ = checks.check_shards(server.url, None, hello)
    assert (storage.check, storage.verdict) == ("storage", "wrong")
    assert str(site.path) in storage.text

    move(aside, site.data_dir)
    eventually(lambda: not trouble(dealer), "that the file is back")
    push(dealer, "a", 2)
    assert ok(dealer.ask("COUNT", queue="a"))["count"] == 2

    move(site.data_dir, aside)
    eventually(lambda: trouble(dealer), "that the file is away again")
    waiting = dealer.send("CRON", name="n", queue="q", data=1, schedule="*/5")
    eventually(lambda: ok(dealer.ask("STATS"))["coordinator"]["lag_ms"], "that it waits")
    assert waiting not in dealer.answers
    dealer.close()
    assert server.terminate() == 0
    assert "stopped before storage took everything" in server.log()


def test_storage_that_is_away_at_the_start_is_refused(file_site: Site) -> None:
    """In one sentence, which tells no password."""
    file_site.storage = "postgresql://user:secret@127.0.0.1:1/none"
    told = file_site.refusal()
    assert "storage unavailable: PostgreSQL" in told
    assert "secret" not in told
    assert "Traceback" not in told


def test_damage_is_refused_at_the_start(file_site: Site) -> None:
    """A hole and a flipped bit in the log: shard and sequence are named, and nothing is served."""
    site = file_site
    server = site.start()
    dealer = server.dealer()
    for number in range(3):
        push(dealer, "a", number)
    dealer.close()
    assert server.terminate() == 0
    server.close()
    for damage, place in (
        ("UPDATE log SET records = x'00' WHERE first_seq = 2", ", 2 to 2"),
        ("DELETE FROM log WHERE first_seq = 2", ": after 1 comes 3"),
    ):
        connection = sqlite3.connect(site.path)
        [shard] = connection.execute("SELECT shard FROM log LIMIT 1").fetchone()
        connection.execute(damage)
        connection.commit()
        connection.close()
        told = site.refusal()
        assert f"storage damaged: log of shard {shard}{place}" in told
        assert "Traceback" not in told


def test_another_storage_in_the_same_data_directory_is_refused(file_site: Site) -> None:
    """Somebody has changed the URL: the server would answer as if everything were lost."""
    assert file_site.start().terminate() == 0
    assert file_site.server is not None
    file_site.server.close()
    file_site.storage = f"sqlite:///{file_site.data_dir}/other.db"
    assert "belongs to storage" in file_site.refusal()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_each_commit_is_forced_to_the_disk_once(file_site: Site) -> None:
    """SIGKILL cannot prove it: count what the coordinator asks of the kernel. Pushes that wait for
    each other are groups of one."""
    site, pushes = file_site, 50
    server = site.start()
    dealer = server.dealer()
    push(dealer, "a", 0)
    trace = site.data_dir / "trace"
    coordinator = server.pids()["flashq-coordinator"]
    strace = subprocess.Popen(
        ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", trace, "-p", str(coordinator)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert strace.stderr is not None
        attached = strace.stderr.readline()
        if "attached" not in attached:
            pytest.skip(f"strace may not look at other processes here: {attached}")
        for number in range(pushes):
            push(dealer, "a", number)
    finally:
        strace.terminate()
        strace.communicate()
    forced = trace.read_text().count("sync(")
    assert pushes <= forced <= pushes + 5
    dealer.close()
