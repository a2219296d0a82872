"""Whole servers on storages that fail as in life: killed, full, read-only, damaged, taken away."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from flashq.cli import checks, storage_checks
from flashq.cli.findings import Finding
from flashq.config import load_settings
from tests.gateway.http_client import HttpClient
from tests.integration.programs import WAIT_MS
from tests.integration.site import TWO_SHARDS, Site, ok, pull, push, trouble
from tests.postgres import END_MS, Postgres
from tests.server import eventually


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


def end_connections(database: psycopg.Connection) -> None:
    """End those of the coordinator, and wait until they have: what they wrote meanwhile would go
    through."""
    database.execute(
        "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity "
        "WHERE application_name = 'flashq-coordinator' AND datname = current_database()",
        [END_MS],
    )


def test_a_connection_that_the_database_ends(postgres_dsn: str) -> None:
    """An administrator ends it, or a switch to another server: the next write makes a new one."""
    site = Site(postgres_dsn)
    try:
        dealer = site.start().dealer()
        push(dealer, "a", 1)
        with psycopg.connect(postgres_dsn, autocommit=True) as database:
            end_connections(database)
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
            end_connections(database)
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
            end_connections(database)

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
    told = eventually(lambda: trouble(dealer), "that the file is away")
    assert str(site.path) in told  # moved, or, once it is opened anew, not to be opened
    with HttpClient(server) as http:
        response = http.http.get("/health")
        assert response.status_code == 503
        assert str(site.path) in response.json()["error"]
    assert checks.check_coordinator(server.url, None, WAIT_MS).verdict == "ok"
    hello, _ = checks.check_router(server.url, None, WAIT_MS)
    assert hello is not None
    found = {one.check: one for one in checks.check_shards(server.url, None, hello, WAIT_MS)}
    assert found["storage"].verdict == "wrong"
    assert str(site.path) in found["storage"].text

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


def test_work_goes_on_though_there_is_more_of_it_than_log(file_site: Site) -> None:
    """
    1. Eight times as much is pushed as the log may have, to two shards of four, none of which would
       take a checkpoint by itself. Whoever is refused for it tries again.
    2. Everything is there, the log has room, and a crash loses nothing.
    """
    site = file_site
    mib = 1024 * 1024
    flags = ("--log-bytes-max", str(mib), "--checkpoint-log-bytes", str(mib))
    dealer = site.start(*flags).dealer()
    payload = "x" * (mib // 8)

    def pushed(queue: str) -> bool:
        reply = dealer.ask("PUSH", queue=queue, data=payload)
        assert reply["ok"] or "log of all shards" in reply["error"], reply
        return bool(reply["ok"])

    for _ in range(32):
        for queue in TWO_SHARDS:
            eventually(partial(pushed, queue), "room in the log")

    def log_bytes() -> int:
        return int(ok(dealer.ask("STATS"))["coordinator"]["log_bytes"])

    eventually(lambda: log_bytes() < mib, "room in the log")
    dealer.close()
    site.crash()
    dealer = site.start(*flags).dealer()
    assert [ok(dealer.ask("COUNT", queue=queue))["count"] for queue in TWO_SHARDS] == [32, 32]
    dealer.close()


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
        ("UPDATE log SET records = x'00' WHERE first_seq = 3", ", 3 to 3"),
        ("DELETE FROM log WHERE first_seq = 3", ": after 2 comes 4"),
    ):
        connection = sqlite3.connect(site.path)
        [shard] = connection.execute("SELECT shard FROM log WHERE first_seq = 3").fetchone()
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


def examined(site: Site) -> list[Finding]:
    """What `flashq doctor --storage` says."""
    flags = {"data_dir": str(site.data_dir), "storage": site.storage}
    return list(storage_checks.examine(load_settings(flags, environ={})))


def test_a_changed_bit_is_refused_until_the_loss_is_accepted(file_site: Site) -> None:
    """
    1. Pushes are acknowledged, and everything is killed. A bit of the write-ahead log changes.
    2. Starts are refused, say what is missing, and leave file and log as they are. So does the
       doctor.
    3. With the loss accepted the server has what was before it, and takes more. It is noted.
    """
    site = file_site
    dealer = site.start().dealer()
    ids = [push(dealer, "a", number) for number in range(40)]
    dealer.close()
    site.crash()
    wal = Path(f"{site.path}-wal")
    content = bytearray(wal.read_bytes())
    content[len(content) // 2] ^= 4
    wal.write_bytes(content)
    files = (site.path.read_bytes(), bytes(content))
    for _ in range(2):
        told = site.refusal()
        assert "it lacks the log from" in told
        assert "flashq doctor --storage" in told
        assert "Traceback" not in told
        assert (site.path.read_bytes(), wal.read_bytes()) == files
    assert any("it lacks the log from" in one.text for one in examined(site))
    assert (site.path.read_bytes(), wal.read_bytes()) == files
    dealer = site.start("--accept-loss").dealer()
    left = ok(dealer.ask("COUNT", queue="a"))["count"]
    assert 0 < left < len(ids)
    new = push(dealer, "a", "new")
    assert new > max(ids)
    assert [one.verdict for one in examined(site)] == ["warning", "ok", "ok"]
    dealer.close()
    site.crash()
    dealer = site.start().dealer()
    assert ok(dealer.ask("COUNT", queue="a"))["count"] == left + 1
    dealer.close()


def test_a_log_that_is_removed_under_a_running_server_loses_nothing(file_site: Site) -> None:
    """
    1. Somebody removes the write-ahead log, twice. Pushes are acknowledged as before.
    2. Everything is killed: all of them are there.
    """
    site = file_site
    dealer = site.start().dealer()
    ids = []
    for number in range(30):
        if number % 10 == 5:
            Path(f"{site.path}-wal").unlink()
        ids.append(push(dealer, "a", number))
    dealer.close()
    site.crash()
    dealer = site.start().dealer()
    assert [pull(dealer, "a")["id"] for _ in ids] == ids
    dealer.close()


def test_a_storage_that_is_gone_is_not_made_anew(file_site: Site) -> None:
    """The data directory knows that there was one; with the loss accepted it begins with none."""
    site = file_site
    dealer = site.start().dealer()
    push(dealer, "a", 1)
    dealer.close()
    site.crash()
    for end in ("", "-wal", "-shm"):
        Path(f"{site.path}{end}").unlink()
    assert "it is empty or not there" in site.refusal()
    assert not site.path.exists()
    assert any("it is empty or not there" in one.text for one in examined(site))
    dealer = site.start("--accept-loss").dealer()
    assert ok(dealer.ask("COUNT", queue="a"))["count"] == 0
    dealer.close()


def test_a_change_that_the_database_refuses_holds_up_nobody(postgres_dsn: str) -> None:
    """
    1. The database takes no cron of one name. Who sets it is told so, each time.
    2. Crons and pushes before, beside and after it are stored, and nothing is wrong with storage.
    """
    site = Site(postgres_dsn)
    try:
        dealer = site.start().dealer()
        with psycopg.connect(postgres_dsn, autocommit=True) as database:
            database.execute("ALTER TABLE flashq.coordinator ADD CHECK (name <> 'cron.bad'::bytea)")

        def send(name: str) -> int:
            return dealer.send("CRON", name=name, queue="a", data=1, schedule="0 0 1 1 *")

        ok(dealer.answer(send("before")))
        for _ in range(2):
            pushes = [dealer.send("PUSH", queue="a", data=number) for number in range(20)]
            refused = dealer.answer(send("bad"))
            assert (refused["ok"], refused["code"]) == (False, "storage_refused")
            for corr in pushes:
                ok(dealer.answer(corr))
        ok(dealer.answer(send("after")))
        names = [cron["name"] for cron in ok(dealer.ask("CRONLIST"))["crons"]]
        assert sorted(names) == ["after", "before"]
        assert not trouble(dealer)
        assert ok(dealer.ask("COUNT", queue="a"))["count"] == 40
        dealer.close()
        site.crash()
        dealer = site.start().dealer()
        names = [cron["name"] for cron in ok(dealer.ask("CRONLIST"))["crons"]]
        assert sorted(names) == ["after", "before"]
        dealer.close()
    finally:
        site.close()


def test_reads_of_what_is_not_stored_are_refused_while_storage_hangs(file_site: Site) -> None:
    """
    1. The coordinator is stopped. A push waits; the queue it has changed is read in vain: the read
       is refused, and not left without an answer. Another shard is read as ever.
    2. The coordinator goes on: the push is answered, and the queue is read again.
    """
    server = file_site.start()
    dealer = server.dealer()
    changed, other = TWO_SHARDS
    push(dealer, changed, 1)
    stopped = server.signal("flashq-coordinator", signal.SIGSTOP)
    try:
        waiting = dealer.send("PUSH", queue=changed, data=2)
        read = dealer.send("COUNT", queue=changed)
        assert ok(dealer.ask("COUNT", queue=other))["count"] == 0
        assert dealer.answer(read)["code"] == "storage_unavailable"
        assert waiting not in dealer.answers
    finally:
        os.kill(stopped, signal.SIGCONT)
    ok(dealer.answer(waiting))
    assert ok(dealer.ask("COUNT", queue=changed))["count"] == 2
    dealer.close()


def test_async_answers_wait_while_there_is_no_coordinator(file_site: Site) -> None:
    """
    1. The coordinator is killed, and not started again. Shards notice; from then on no push of
       level async is answered, for its shard alone has it.
    2. There is a coordinator again: it is answered.
    """
    server = file_site.start("--durability", "async")
    dealer = server.dealer()
    queue = TWO_SHARDS[0]
    push(dealer, queue, 0)
    server.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)
    os.kill(server.pids()["flashq-coordinator"], signal.SIGKILL)
    # Once reads are refused the shard has noticed: this may take a moment.
    push(dealer, queue, 1)
    eventually(
        lambda: dealer.ask("COUNT", queue=queue).get("code") == "storage_unavailable",
        "that the shard knows of nobody to write",
    )
    waiting = dealer.send("PUSH", queue=queue, data=2)
    assert dealer.ask("COUNT", queue=queue)["code"] == "storage_unavailable"
    assert ok(dealer.ask("COUNT", queue=TWO_SHARDS[1]))["count"] == 0
    assert waiting not in dealer.answers
    os.kill(server.process.pid, signal.SIGCONT)
    ok(dealer.answer(waiting))
    dealer.close()
