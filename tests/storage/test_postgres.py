"""The storage in a PostgreSQL passes the suite, holds it alone, and says what is wrong with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flashq.errors import ConfigError, StorageDamaged, StorageUnavailable
from flashq.storage import migrate_storage, open_snapshot, open_storage
from flashq.storage import postgres as postgres_storage
from flashq.storage.port import Put, Storage
from flashq.storage.postgres import COPY_BYTES_MIN, PostgresStorage
from tests.postgres import END_MS, Postgres
from tests.storage.churn import ChurnConformance
from tests.storage.conformance import SHARDS, StorageConformance, blob, checkpoint, log_of, recovery


@pytest.fixture
def storage(postgres_dsn: str) -> Iterator[PostgresStorage]:
    """A storage as a coordinator opens it."""
    storage = PostgresStorage(postgres_dsn)
    storage.open(SHARDS)
    yield storage
    storage.close()


class TestPostgresStorage(StorageConformance, ChurnConformance[PostgresStorage]):
    """The suite, against a real server."""

    def forbid(self, storage: Storage, name: str) -> bool:
        """By a constraint, such as somebody adds."""
        assert isinstance(storage, PostgresStorage)
        storage.connection.execute(
            f"ALTER TABLE flashq.coordinator ADD CHECK (name <> '{name}'::bytea)".encode()
        )
        return True

    def maintain(self, storage: PostgresStorage) -> None:
        """What autovacuum does: it makes what was deleted free to be used again."""
        storage.connection.execute("VACUUM flashq.log, flashq.pages")
        storage.connection.execute("VACUUM flashq.shards, flashq.coordinator")

    def size_of(self, storage: PostgresStorage) -> int:
        """With indexes, and with what is stored aside."""
        row = storage.connection.execute(
            "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class "
            "WHERE relnamespace = 'flashq'::regnamespace AND relkind = 'r'"
        ).fetchone()
        assert row is not None
        return int(row[0])


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    """Do something behind the storage's back."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_each_commit_is_forced_to_the_disk(storage: PostgresStorage) -> None:
    """SIGKILL cannot prove it, so the setting of the connection that writes is read back."""
    assert storage.connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    assert storage.connection.execute("SHOW fsync").fetchone() == ("on",)


def test_small_and_large_groups_are_the_same(storage: Storage) -> None:
    """One is inserted, the other copied."""
    storage.write([blob(1, 1, 2), blob(2, 1, 1)])
    storage.write([blob(1, 3, 3, size=COPY_BYTES_MIN), blob(2, 2, 9)])
    storage.write([blob(1, 4, 4, size=COPY_BYTES_MIN), Put("a", b"1")])
    assert log_of(storage, 1) == [(1, 2), (3, 3), (4, 4)]
    assert recovery(storage, 1).log[1] == (3, 3, blob(1, 3, 3, size=COPY_BYTES_MIN).records)
    assert log_of(storage, 2) == [(1, 1), (2, 9)]


def test_one_coordinator_writes(
    storage: Storage, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one waits for the first to be gone, on the connection that it would write on."""
    other = PostgresStorage(postgres_dsn)
    with monkeypatch.context() as impatient:
        impatient.setattr(postgres_storage, "LOCK_WAIT_MS", 1)
        with pytest.raises(StorageUnavailable, match="another coordinator writes"):
            other.open(SHARDS)
    storage.close()
    other.open(SHARDS)
    other.close()


def test_who_loses_the_connection_loses_the_lock_and_the_right_to_write(
    storage: PostgresStorage, postgres_dsn: str
) -> None:
    """
    1. The server ends the connection; another coordinator takes over and writes.
    2. The first one's next write does not reach the storage.
    3. It opens the storage again only once the other is gone, and sees what was written.
    """
    storage.write([blob(1, 1, 1)])
    [pid] = storage.connection.execute("SELECT pg_backend_pid()").fetchone() or [0]
    run(postgres_dsn, f"SELECT pg_terminate_backend({pid}, {END_MS})")
    other = PostgresStorage(postgres_dsn)
    other.open(SHARDS)
    other.write([blob(1, 2, 3)])
    with pytest.raises(StorageUnavailable):
        storage.write([blob(1, 2, 2)])
    with pytest.raises(StorageUnavailable, match="not been opened"):
        storage.write([blob(1, 2, 2)])
    other.close()
    assert storage.open(SHARDS).shards[1].last_seq == 3
    assert log_of(storage, 1) == [(1, 1), (2, 3)]


def test_another_number_of_shards_is_refused(storage: Storage) -> None:
    """Ids and queues would belong to other shards."""
    with pytest.raises(ConfigError, match="shards is 5, but the storage was made for 4"):
        storage.open(SHARDS + 1)


def test_a_schema_of_another_program_is_left_alone(postgres_dsn: str) -> None:
    """It has our name, but none of our tables."""
    run(postgres_dsn, "CREATE SCHEMA flashq")
    run(postgres_dsn, "CREATE TABLE flashq.theirs (x integer)")
    with pytest.raises(ConfigError, match="another program made"):
        PostgresStorage(postgres_dsn).open(SHARDS)
    with pytest.raises(ConfigError, match="another program made"):
        open_snapshot(postgres_dsn)


def test_a_schema_of_a_newer_version_is_refused(storage: Storage, postgres_dsn: str) -> None:
    """An older program would not understand what it finds."""
    run(postgres_dsn, "UPDATE flashq.meta SET schema_version = 99")
    storage.close()
    with pytest.raises(ConfigError, match="newer flashq: its schema is version 99"):
        storage.open(SHARDS)


def test_migrations_can_be_made_by_themselves(postgres_dsn: str) -> None:
    """`flashq migrate`, and a second time when there is nothing to do."""
    with pytest.raises(ConfigError, match="no flashq storage"):
        open_snapshot(postgres_dsn)
    assert migrate_storage(postgres_dsn) == ["tables", "views"]
    assert migrate_storage(postgres_dsn) == []
    with pytest.raises(ConfigError, match="no server has used it"):
        open_snapshot(postgres_dsn)


def test_a_server_that_is_away_is_unavailable() -> None:
    """And the sentence does not tell the password."""
    storage = PostgresStorage("postgresql://user:secret@127.0.0.1:1/none")
    with pytest.raises(StorageUnavailable) as away:
        storage.open(SHARDS)
    assert "secret" not in str(away.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:sec%ret@127.0.0.1:1/none",
        "postgresql://user:secret@[127.0.0.1:1/none",
        "postgresql://user:sec@ret@127.0.0.1:1/none",
        "postgresql://127.0.0.1:1/none?passwort=secret",
    ],
)
def test_a_url_that_cannot_be_taken_apart_is_not_shown(url: str) -> None:
    """The library's own words have parts of it, or all of it, with the password."""
    storage = PostgresStorage(url)
    with pytest.raises(ConfigError, match="percent-encoded") as refused:
        storage.open(SHARDS)
    assert "sec" not in str(refused.value)
    assert "ret" not in str(refused.value)


@pytest.mark.parametrize("module", ["psycopg", "psycopg_pool"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """The extra has both."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{module} is not installed.*flashq\[postgres\]"):
        open_storage("postgresql://127.0.0.1:1/none", 0)


def test_a_hole_in_the_log_is_damage(storage: Storage, postgres_dsn: str) -> None:
    """Shard and sequence are named, at the start and not in the midst of work."""
    storage.write([blob(1, 1, 2), blob(1, 3, 4), blob(1, 5, 6)])
    run(postgres_dsn, "DELETE FROM flashq.log WHERE first_seq = 3")
    with pytest.raises(StorageDamaged, match="log of shard 1: after 2 comes 5"):
        storage.open(SHARDS)


def test_a_broken_piece_is_damage(storage: Storage, postgres_dsn: str) -> None:
    """A bit flips on the disk: the place is named, and nothing is served."""
    storage.write([checkpoint(1, 0, pages=[(7, b"page")])])
    run(postgres_dsn, "UPDATE flashq.pages SET checksum = 1")
    with pytest.raises(StorageDamaged, match="checkpoint of shard 1, page 7"):
        recovery(storage, 1)


def test_a_read_only_database_is_unavailable(storage: PostgresStorage) -> None:
    """As a standby is after a switch to another server."""
    storage.connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(StorageUnavailable, match="read-only"):
        storage.write([blob(1, 1, 1)])
    storage.open(SHARDS)
    storage.write([blob(1, 1, 1)])


def test_a_probe_finds_a_database_that_cannot_be_written(
    storage: PostgresStorage, postgres_dsn: str
) -> None:
    """Read-only, or not there: with nothing to write nobody else would notice."""
    storage.connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(StorageUnavailable, match="read-only"):
        storage.probe()
    storage.open(SHARDS)
    storage.probe()
    run(
        postgres_dsn,
        f"SELECT pg_terminate_backend(pid, {END_MS}) FROM pg_stat_activity "
        "WHERE application_name = 'flashq-coordinator' AND datname = current_database()",
    )
    with pytest.raises(StorageUnavailable):
        storage.probe()


def test_a_killed_server_keeps_what_was_written(own_postgres: Postgres) -> None:
    """The server dies as in a crash, and comes back on the same data."""
    storage = PostgresStorage(own_postgres.database())
    storage.open(SHARDS)
    storage.write([blob(1, 1, 3, size=1_000_000), Put("a", b"1")])
    own_postgres.kill()
    with pytest.raises(StorageUnavailable):
        storage.write([blob(1, 4, 4)])
    with pytest.raises(StorageUnavailable):
        storage.open(SHARDS)
    own_postgres.start()
    opened = storage.open(SHARDS)
    assert (opened.shards[1].last_seq, opened.parts) == (3, {"a": b"1"})
    storage.write([blob(1, 4, 4)])
    storage.close()


def test_views_tell_sizes_lags_and_ages(storage: Storage, postgres_dsn: str) -> None:
    """What the queries in docs/STORAGE.md look at."""
    storage.write([blob(1, 1, 10, size=1000), checkpoint(1, 10, pages=[(3, b"12345")])])
    storage.write([blob(1, 11, 20, size=500)])
    sizes = "SELECT shard, last_seq, blobs, bytes, superseded_blobs FROM flashq.log_sizes"
    assert run(postgres_dsn, f"{sizes} WHERE shard = 1") == [(1, 20, 1, 500, 1)]
    lags = "SELECT entries_to_replay, bytes_to_replay, oldest_age >= '0' FROM flashq.lags"
    assert run(postgres_dsn, f"{lags} WHERE shard IN (0, 1) ORDER BY shard") == [
        (0, 0, None),
        (10, 500, True),
    ]
    pages = "SELECT shard, page, bytes FROM flashq.current_pages"
    assert run(postgres_dsn, pages) == [(1, 3, 5)]


def test_the_queries_in_the_documents_run(storage: Storage, postgres_dsn: str) -> None:
    """All of docs/STORAGE.md, as it stands there."""
    storage.write([blob(1, 1, 10), checkpoint(1, 10, pages=[(3, b"12345")])])
    text = (Path(__file__).parents[2] / "docs" / "STORAGE.md").read_text()
    queries = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(queries) == 3
    for query in queries:
        assert len(run(postgres_dsn, query)) == SHARDS
