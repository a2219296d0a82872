"""Sessions of PostgreSQL: whatever a role or a database gives them, they work or it is said why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from flashq.errors import ConfigError, FlashQError, StorageUnavailable
from flashq.storage import migrate_storage, open_snapshot
from flashq.storage.port import Put, Write
from flashq.storage.postgres import PostgresStorage
from flashq.storage.postgres_sessions import SETTINGS, connect
from tests.postgres import Postgres
from tests.server import eventually
from tests.storage.conformance import SHARDS, blob, checkpoint, log_of, recovery

HOSTILE = {
    "statement_timeout": "500ms",
    "lock_timeout": "500ms",
    "idle_in_transaction_session_timeout": "500ms",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "search_path": "pg_catalog",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "client_min_messages": "error",
    "escape_string_warning": "on",
    "row_security": "on",
}
"""What a session may be given that breaks who does not set it."""


def run(url: str, statement: str | sql.Composed) -> None:
    """Do something as the administrator."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode() if isinstance(statement, str) else statement)


def named(url: str, *, user: str | None = None, name: str | None = None) -> str:
    """A URL with another user or database."""
    parts = urlsplit(url)
    host = parts.netloc.partition("@")[2]
    netloc = parts.netloc if user is None else f"{user}@{host}"
    return urlunsplit(
        parts._replace(netloc=netloc, path=parts.path if name is None else f"/{name}")
    )


def works(url: str) -> None:
    """Write and read everything, over two connections one after the other, and by a snapshot."""
    names = {"cron.\u20ac\0": b"\0\xff\\x41'", "b": bytes(range(256))}
    with closing(PostgresStorage(url)) as storage:
        storage.look()
        storage.open(SHARDS)
        writes: list[Write] = [blob(1, 1, 3, size=200_000), blob(2, 1, 1)]
        storage.write(writes)
        storage.write([*(Put(name, content) for name, content in names.items()), blob(2, 2, 2)])
        storage.write(
            [checkpoint(1, 3, pages=[(7, bytes(range(256)) * 100)], parts=[("s", b"\\")])]
        )
        storage.write([blob(1, 4, 4)])
        while storage.tidy():
            pass
        storage.probe()
        before = recovery(storage, 1)
    with closing(PostgresStorage(url)) as storage:
        assert storage.open(SHARDS).parts == names
        assert recovery(storage, 1) == before
        assert log_of(storage, 2) == [(1, 1), (2, 2)]
    with closing(open_snapshot(url)) as snapshot:
        assert snapshot.opened.parts == names


def test_a_session_is_what_it_has_to_be_whatever_it_is_given(
    postgres: Postgres, postgres_dsn: str
) -> None:
    """All of it at once, set on the database."""
    name = urlsplit(postgres_dsn).path.removeprefix("/")
    for setting, value in HOSTILE.items():
        postgres.run(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    works(postgres_dsn)
    with closing(PostgresStorage(postgres_dsn)) as storage:
        storage.open(SHARDS)
        for setting, value in SETTINGS.items():
            row = storage.connection.execute(
                "SELECT setting FROM pg_settings WHERE name = %s", [setting]
            ).fetchone()
            assert row in ((value,), None), setting
        assert storage.connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_a_stronger_durability_is_kept(postgres: Postgres, postgres_dsn: str) -> None:
    """Somebody wants to read at the standby what was committed."""
    name = urlsplit(postgres_dsn).path.removeprefix("/")
    postgres.run(f"ALTER DATABASE \"{name}\" SET synchronous_commit = 'remote_apply'")
    with closing(PostgresStorage(postgres_dsn)) as storage:
        storage.open(SHARDS)
        assert storage.connection.execute("SHOW synchronous_commit").fetchone() == ("remote_apply",)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8", "EUC_JP"])
def test_a_database_of_any_encoding_works(postgres: Postgres, encoding: str) -> None:
    """Nothing is stored as text."""
    name = f"flashq_test_{encoding.lower()}"
    postgres.run(f'DROP DATABASE IF EXISTS "{name}"')
    postgres.run(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    url = named(postgres.url, name=name)
    try:
        works(url)
    finally:
        postgres.drop(url)


@pytest.fixture
def role(postgres: Postgres) -> Iterator[str]:
    """A role without rights, which may log in."""
    name = "flashq_test_role"
    postgres.run(f"DROP ROLE IF EXISTS {name}")
    postgres.run(f"CREATE ROLE {name} LOGIN")
    yield name
    for database in postgres.databases():
        run(named(postgres.url, name=database), f"DROP OWNED BY {name} CASCADE")
    postgres.run(f"DROP ROLE {name}")


@pytest.mark.parametrize("is_owned", [True, False])
def test_an_empty_schema_that_an_administrator_made_is_used(
    postgres_dsn: str, role: str, *, is_owned: bool
) -> None:
    """It belongs to the role, or the role may make tables in it."""
    if is_owned:
        run(postgres_dsn, f"CREATE SCHEMA flashq AUTHORIZATION {role}")
    else:
        run(postgres_dsn, f"CREATE SCHEMA flashq; GRANT USAGE, CREATE ON SCHEMA flashq TO {role}")
    works(named(postgres_dsn, user=role))


def test_a_role_that_may_not_make_tables_is_given_them(postgres_dsn: str, role: str) -> None:
    """
    1. The server's role may not make the tables: that is said, with what to do.
    2. The owner makes them and grants what is needed: the role's server works.
    3. Of what it lacks later each thing is named.
    """
    url = named(postgres_dsn, user=role)
    for prepare in ("SELECT 1", "CREATE SCHEMA flashq"):
        run(postgres_dsn, prepare)
        with pytest.raises(ConfigError, match=r"flashq migrate --grant ROLE"):
            PostgresStorage(url).open(SHARDS)
    assert migrate_storage(postgres_dsn, grant_to=role) == ["tables", "views"]
    works(url)
    run(postgres_dsn, f"REVOKE DELETE ON flashq.log FROM {role}")
    with pytest.raises(ConfigError, match=r"lacks DELETE on flashq\.log; let the owner"):
        PostgresStorage(url).open(SHARDS)
    run(postgres_dsn, f"REVOKE ALL ON flashq.meta FROM {role}")
    with pytest.raises(ConfigError, match="permission denied for table meta"):
        PostgresStorage(url).look()
    with pytest.raises(ConfigError, match="permission denied for table meta"):
        open_snapshot(url)
    with pytest.raises(ConfigError, match="does not exist"):
        migrate_storage(postgres_dsn, grant_to="nobody_there")


def test_rows_that_a_policy_hides_are_not_just_missing(postgres_dsn: str, role: str) -> None:
    """Somebody has turned on row level security: the server says so, and does not begin anew."""
    migrate_storage(postgres_dsn, grant_to=role)
    url = named(postgres_dsn, user=role)
    works(url)
    run(postgres_dsn, "ALTER TABLE flashq.shards ENABLE ROW LEVEL SECURITY")
    with pytest.raises(StorageUnavailable, match=r"row-level security.*does not pass by itself"):
        PostgresStorage(url).look()


def test_of_several_hosts_one_that_takes_writes_is_used(
    postgres: Postgres, postgres_dsn: str
) -> None:
    """The first is a copy, as this session is: it is passed over, and alone it is refused."""
    read_only = f"{postgres_dsn}&options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(StorageUnavailable, match="session is read-only"):
        PostgresStorage(read_only).open(SHARDS)
    asked = connect(f"{read_only}&target_session_attrs=any", program="test", writes=True)
    asked.close()


@pytest.fixture
def lonely(own_postgres: Postgres) -> Iterator[Callable[[bool], None]]:
    """Return what makes a server wait at each commit for a standby that is not there."""

    def wait_for_standby(waits: bool) -> None:
        own_postgres.run(
            f"ALTER SYSTEM SET synchronous_standby_names = '{'nobody' if waits else ''}'"
        )
        own_postgres.run("SELECT pg_reload_conf()")
        value = ("nobody",) if waits else ("",)

        def is_set() -> bool:
            with psycopg.connect(own_postgres.url, autocommit=True) as connection:
                return connection.execute("SHOW synchronous_standby_names").fetchone() == value

        eventually(is_set, "that the setting counts")

    yield wait_for_standby
    wait_for_standby(False)


def cancel_wait(url: str) -> None:
    """Cancel the coordinator's wait for a standby, once it waits."""
    with psycopg.connect(url, autocommit=True) as connection:
        eventually(
            lambda: (
                connection.execute(
                    "SELECT bool_or(pg_cancel_backend(pid)) FROM pg_stat_activity "
                    "WHERE application_name = 'flashq-coordinator' AND wait_event = 'SyncRep'"
                ).fetchone()
                == (True,)
            ),
            "that the wait is cancelled",
        )


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_commit_whose_wait_for_the_standby_was_cancelled_is_not_safe(
    own_postgres: Postgres, lonely: Callable[[bool], None], size: int
) -> None:
    """
    1. Commits wait for a standby. The wait of one is cancelled: it is committed here, with a
       warning. That is not stored, be it one row, a copy or a transaction of several.
    2. Opened again, that too waits: what is here may be nowhere else. Cancelled, it fails.
    3. The standby is not needed any more: all of it is there.
    """
    url = own_postgres.database()
    storage = PostgresStorage(url)
    storage.open(SHARDS)
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute("SELECT 1")
        lonely(True)
        groups: list[list[Write]] = [
            [blob(1, 1, 1, size=size)],
            [blob(1, 2, 2, size=size), Put("a", b"1")],
        ]
        for group in groups:
            storage._is_open = True  # as if it had been opened without a wait
            assert "standby" in failure_of(partial(storage.write, group), url)
            assert "standby" in failure_of(partial(storage.open, SHARDS), url)
            lonely(False)
            storage.open(SHARDS)
            lonely(True)
        lonely(False)
        assert storage.open(SHARDS).shards[1].last_seq == 2
    storage.close()


def failure_of(call: Callable[[], object], url: str) -> str:
    """Return what is said when the wait for a standby is cancelled in the midst of a call."""
    failures: list[str] = []

    def carry_out() -> None:
        try:
            call()
        except FlashQError as error:
            failures.append(error.text)

    thread = threading.Thread(target=carry_out)
    thread.start()
    cancel_wait(url)
    thread.join(20)
    assert failures, "it was taken for safe"
    return failures[0]
