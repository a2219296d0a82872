"""A balancer that gives the writer's session to others is found out; nobody else is refused.

Against a balancer of our own in each of its modes, and against PgBouncer where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from socket import create_connection, create_server
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from flashq.errors import ConfigError, StorageUnavailable
from flashq.storage import migrate_storage, open_snapshot, pooling, postgres_sessions
from flashq.storage import postgres as postgres_storage
from flashq.storage.pooling import check_session
from flashq.storage.port import Grant
from flashq.storage.postgres import COPY_BYTES_MIN, PostgresSnapshot, PostgresStorage
from tests.postgres import Postgres
from tests.server import eventually
from tests.storage import pooler as balancer
from tests.storage.conformance import EPOCH, SHARDS, blob
from tests.storage.pooler import Mode

REFUSAL = "pools by (transaction|statement).*pool_mode=session.*connect to PostgreSQL directly"


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for what will not come, as for a second connection from a pool of one."""
    monkeypatch.setattr(pooling, "WAIT_MS", 50)


@pytest.fixture
def dsn(postgres: Postgres, postgres_dsn: str) -> str:
    """The URL of an empty database that balancers are let into without a password."""
    if not postgres.is_own:
        pytest.skip("the server may want a password")
    return postgres_dsn


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """Look at the database without the balancer."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def locks(url: str) -> int:
    """How many advisory locks anybody has there."""
    query = "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database WHERE locktype = "
    return int(rows(url, f"{query} 'advisory' AND datname = current_database()")[0][0])


def works(url: str) -> None:
    """A server can be started on it, and its shards can recover."""
    storage = PostgresStorage(url)
    at = storage.open(SHARDS).shards[1].last_seq
    storage.write([Grant(1, EPOCH, 1, 0), blob(1, at + 1, at + 3)])
    storage.write([blob(1, at + 4, at + 9, size=COPY_BYTES_MIN)])
    log = storage.recover(1, 0, 1_000_000).log
    assert [first for first, _, _ in log][-2:] == [at + 1, at + 4]
    storage.probe()
    storage.close()


@pytest.mark.parametrize(
    ("size", "newest_first"), [(1, True), (2, True), (2, False), (20, True), (20, False)]
)
def test_a_pool_of_transactions_is_refused(dsn: str, size: int, newest_first: bool) -> None:
    """However many connections it has and whichever it gives out next; no lock stays behind in
    them."""
    with balancer.pooling(dsn, "transaction", size=size, newest_first=newest_first) as pooler:
        with pytest.raises(ConfigError, match=REFUSAL):
            PostgresStorage(pooler.url).open(SHARDS)
        assert locks(dsn) == 0


def test_no_schema_is_made_over_a_pool(dsn: str) -> None:
    """`flashq migrate` writes like a server, and is refused like one."""
    with (
        balancer.pooling(dsn, "transaction") as pooler,
        pytest.raises(ConfigError, match=REFUSAL),
    ):
        migrate_storage(pooler.url)
    assert rows(dsn, "SELECT to_regnamespace('flashq')") == [(None,)]


def test_a_snapshot_can_be_read_over_a_pool(dsn: str) -> None:
    """Backup and export need no lock. Of what others have left in its session nothing is in their
    way, such as prepared statements, for which psycopg has the same names each time; and they leave
    no setting there."""
    shards = 8
    storage = PostgresStorage(dsn)
    storage.open(shards)
    storage.write([blob(shard, 1, 3) for shard in range(shards)])
    storage.close()
    with (
        balancer.pooling(dsn, "transaction", size=1) as pooler,
        closing(psycopg.connect(pooler.url, autocommit=True)) as somebody,
    ):
        somebody.execute("SELECT 1", prepare=True)
        snapshot = PostgresSnapshot(pooler.url)
        for shard in range(shards):
            assert len(snapshot.recover(shard, 0, 1000).log) == 1
        snapshot._connection.rollback()
        snapshot.close()
        assert somebody.execute("SHOW search_path").fetchone() == ('"$user", public',)
        pooler.mode = "statement"
        with pytest.raises(ConfigError, match=f"{REFUSAL}.*transaction blocks not allowed"):
            open_snapshot(pooler.url)


def test_a_pool_of_statements_is_refused(dsn: str) -> None:
    """It takes no transaction, and says so in its own words."""
    with balancer.pooling(dsn, "statement") as pooler:
        with pytest.raises(ConfigError, match=f"{REFUSAL}.*transaction blocks not allowed"):
            PostgresStorage(pooler.url).open(SHARDS)
        assert locks(dsn) == 0


def test_a_pool_of_sessions_is_as_good_as_none(dsn: str) -> None:
    """Also one that has had other sessions before."""
    with balancer.pooling(dsn, "session") as pooler:
        works(pooler.url)
        works(pooler.url)


def test_a_pool_of_one_session_is_not_refused(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection waits for as long as the writer's lives, which is served nevertheless."""
    hurry(monkeypatch)
    with balancer.pooling(dsn, "session", size=1) as pooler:
        storage = PostgresStorage(pooler.url)
        storage.open(SHARDS)
        storage.write([blob(1, 1, 3)])
        storage.close()


def test_it_is_looked_again_at_a_reconnect(dsn: str) -> None:
    """
    1. The balancer pools by session, and the server starts.
    2. Somebody makes it pool by transaction, and the connection is lost.
    3. Nothing is written until it pools by session again.
    """
    with balancer.pooling(dsn, "session") as pooler:
        storage = PostgresStorage(pooler.url)
        storage.open(SHARDS)
        pooler.mode = "transaction"
        storage.connection.close()
        with pytest.raises(StorageUnavailable):
            storage.write([blob(1, 1, 1)])
        for _ in range(2):
            with pytest.raises(ConfigError, match=REFUSAL):
                storage.open(SHARDS)
            with pytest.raises(StorageUnavailable, match="not been opened"):
                storage.write([blob(1, 1, 1)])
        pooler.mode = "session"
        storage.open(SHARDS)
        storage.write([blob(1, 1, 1)])
        storage.close()


def test_a_balancer_that_pools_otherwise_from_now_on_is_noticed(dsn: str) -> None:
    """
    1. The server has started, and somebody makes the balancer pool by transaction.
    2. Somebody else is given the connection to the server, with the lock.
    3. The writer sees that what it has is another one, and that it must not go on.
    """
    with balancer.pooling(dsn, "session") as pooler:
        storage = PostgresStorage(pooler.url)
        storage.open(SHARDS)
        pooler.mode = "transaction"
        storage.probe()
        with closing(psycopg.connect(pooler.url)) as somebody:
            somebody.execute("SELECT 1")
            with pytest.raises(StorageUnavailable, match="given another session"):
                storage.probe()
        with pytest.raises(ConfigError, match=REFUSAL):
            storage.open(SHARDS)


def test_a_pool_that_others_have_used_up_does_not_hold_up_the_start(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's connection has to wait for one of the server's, which can last for ever."""
    monkeypatch.setattr(pooling, "ANSWER_MS", 100)
    with (
        balancer.pooling(dsn, "transaction", size=1) as pooler,
        closing(psycopg.connect(pooler.url, autocommit=True)) as writer,
        closing(psycopg.connect(pooler.url, autocommit=True)) as other,
        closing(psycopg.connect(pooler.url)) as somebody,
    ):
        writer.execute("SELECT pg_advisory_lock(1)")
        somebody.execute("SELECT 1")
        with pytest.raises(StorageUnavailable, match=r"has not begun within.*pool_mode=session"):
            check_session(writer, other, 1)


@pytest.fixture
def no_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has room for one connection of ours."""
    connect = postgres_sessions.connect

    def refuse(url: str, *, program: str, writes: bool = False) -> psycopg.Connection[Any]:
        if program == postgres_storage.CHECK:
            raise psycopg.OperationalError("too many clients")
        return connect(url, program=program, writes=writes)

    monkeypatch.setattr(postgres_storage, "connect", refuse)


@pytest.mark.usefixtures("no_second")
def test_a_server_without_room_is_not_refused(postgres_dsn: str) -> None:
    """It tells its own pid at the start of a connection, so there is nobody between."""
    works(postgres_dsn)


def test_a_second_connection_that_is_lost_leaves_no_transaction_behind(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written next would never be committed."""

    def lose(writer: psycopg.Connection[Any], *_: object) -> None:
        writer.execute("BEGIN")
        raise psycopg.OperationalError("lost")

    monkeypatch.setattr(postgres_storage, "check_session", lose)
    works(postgres_dsn)
    assert rows(postgres_dsn, "SELECT count(*) > 0 FROM flashq.log") == [(True,)]


@pytest.mark.usefixtures("no_second")
def test_a_balancer_without_room_is_tried_again(dsn: str) -> None:
    """What it pools by cannot be seen, and shards could not recover either."""
    with balancer.pooling(dsn, "transaction") as pooler:
        modes: tuple[Mode, ...] = ("transaction", "session")
        for pooler.mode in modes:
            with pytest.raises(
                StorageUnavailable, match="too many clients; let it pool by session"
            ):
                PostgresStorage(pooler.url).open(SHARDS)
            assert locks(dsn) == 0


@pytest.fixture
def pgbouncer(dsn: str) -> Iterator[str]:
    """The URL of a PgBouncer, but for the database's name: a mode, with 1 for a pool of one."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    to = conninfo_to_dict(dsn)
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = f"host={to['host']} dbname={to['dbname']} user={to['user']}"
    databases = [
        f"{mode}{size} = {where} pool_mode={mode} pool_size={size or 20}"
        for mode in ("session", "transaction", "statement")
        for size in ("", 1)
    ]
    with TemporaryDirectory(prefix="fq", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        file = Path(directory) / "pgbouncer.ini"
        file.write_text(
            "\n".join(["[databases]", *databases, "[pgbouncer]", "auth_type = any"])
            + f"\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        )
        # Not root, which it refuses to be, and one who may look into the server's directory.
        owner = Path(str(to["host"])).stat().st_uid
        process = subprocess.Popen(
            [program, "-q", str(file)], user=owner, stderr=subprocess.DEVNULL
        )
        try:
            eventually(lambda: is_open(port), "PgBouncer")
            yield f"postgresql://{to['user']}@127.0.0.1:{port}/"
        finally:
            process.kill()
            process.wait()


def is_open(port: int) -> bool:
    """Whether somebody listens."""
    with suppress(OSError), create_connection(("127.0.0.1", port)):
        return True
    return False


def test_pgbouncer_is_told_by_what_it_does(
    dsn: str, pgbouncer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its modes, with room and without."""
    for name in ("transaction", "transaction1", "statement", "statement1"):
        with pytest.raises(ConfigError, match=REFUSAL):
            PostgresStorage(pgbouncer + name).open(SHARDS)
        assert locks(dsn) == 0
    works(pgbouncer + "session")
    hurry(monkeypatch)
    storage = PostgresStorage(pgbouncer + "session1")
    storage.open(SHARDS)
    storage.close()
