"""Recoveries over PostgreSQL's pool: read where the writer writes, or not at all.

What they read, and that they do it beside each other and beside writes, is in the suite.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from flashq.errors import StorageUnavailable
from flashq.storage import postgres as postgres_storage
from flashq.storage.port import READERS_MAX, Grant
from flashq.storage.postgres import PostgresStorage, Readers, _PostgresReading
from tests.storage.conformance import EPOCH, SHARDS, blob

WRITER = "flashq-coordinator"
READS = "flashq-coordinator-reads"
NOBODY = SimpleNamespace(host="127.0.0.1", hostaddr="127.0.0.1", port=1)
"""Where nobody listens."""


@pytest.fixture
def storage(postgres_dsn: str) -> Iterator[PostgresStorage]:
    """A storage with some log of shard 1."""
    storage = PostgresStorage(postgres_dsn)
    storage.open(SHARDS)
    storage.write([Grant(1, EPOCH, 1, 0), blob(1, 1, 3)])
    yield storage
    storage.close()


def pids(url: str, program: str) -> list[int]:
    """Which processes serve a program's connections to a database."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE application_name = %s AND datname = current_database()",
            [program],
        ).fetchall()
    return [pid for (pid,) in rows]


def terminate(url: str, program: str) -> None:
    """End a program's connections to a database, and wait until they are gone."""
    with psycopg.connect(url, autocommit=True) as connection:
        for pid in pids(url, program):
            connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def log_of(storage: PostgresStorage | Readers) -> list[tuple[int, int]]:
    """What is recovered of the log."""
    return [(first, last) for first, last, _ in storage.recover(1, 0, 1_000_000).log]


def test_connections_are_made_when_they_are_needed(
    storage: PostgresStorage, postgres_dsn: str
) -> None:
    """A server whose shards live has one connection; with the storage all of them go."""
    assert pids(postgres_dsn, READS) == []
    assert log_of(storage) == [(1, 3)]
    assert len(pids(postgres_dsn, READS)) in range(1, READERS_MAX + 1)
    storage.close()
    terminate(postgres_dsn, READS)  # waits for what is just ending
    assert pids(postgres_dsn, READS) == []
    with pytest.raises(StorageUnavailable, match="not been opened"):
        storage.recover(1, 0, 1000)


def test_nothing_is_read_once_the_writer_has_lost_its_lock(
    storage: PostgresStorage, postgres_dsn: str
) -> None:
    """
    1. The server ends the writer's connection, which nobody has noticed yet.
    2. Another coordinator takes over and writes: what is read now is not the first one's any more.
    3. It is read again once the first one has opened the storage.
    """
    log_of(storage)
    terminate(postgres_dsn, WRITER)
    with pytest.raises(StorageUnavailable, match="does not hold the lock"):
        storage.recover(1, 0, 1000)
    other = PostgresStorage(postgres_dsn)
    other.open(SHARDS)
    other.write([blob(1, 4, 4)])
    with pytest.raises(StorageUnavailable, match="does not hold the lock"):
        storage.recover(1, 0, 1000)
    assert log_of(other) == [(1, 3), (4, 4)]
    other.close()
    with pytest.raises(StorageUnavailable):
        storage.probe()
    storage.open(SHARDS)
    assert log_of(storage) == [(1, 3), (4, 4)]


def test_a_connection_that_was_lost_while_nobody_read_is_replaced(
    storage: PostgresStorage, postgres_dsn: str
) -> None:
    """Firewalls do that: it is looked at before it is used."""
    log_of(storage)
    terminate(postgres_dsn, READS)
    assert log_of(storage) == [(1, 3)]


def test_a_connection_that_is_lost_in_a_read_fails_it_and_nothing_else(
    storage: PostgresStorage, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer goes on, and the next read has another one."""
    rows = _PostgresReading._rows

    def lose(self: _PostgresReading, query: str, **values: Any) -> Any:
        if query == "log_blobs":
            monkeypatch.undo()
            terminate(postgres_dsn, READS)
        return rows(self, query, **values)

    monkeypatch.setattr(_PostgresReading, "_rows", lose)
    with pytest.raises(StorageUnavailable, match="PostgreSQL: "):
        storage.recover(1, 0, 1000)
    storage.write([blob(1, 4, 4)])
    assert log_of(storage) == [(1, 3), (4, 4)]


def test_where_another_coordinator_writes_nothing_is_read(
    storage: PostgresStorage, postgres_dsn: str
) -> None:
    """A balancer leads to another server, with a lock that somebody else holds."""
    readers = Readers(postgres_dsn, storage.connection.info, token=1)
    with pytest.raises(StorageUnavailable, match="or that is another server"):
        log_of(readers)
    readers.close()


def test_a_copy_is_not_read(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may lag."""
    queries = {**postgres_storage.encoded_queries(), "place": b"SELECT true, true"}
    assert storage._readers is not None
    monkeypatch.setattr(storage._readers, "_queries", queries)
    with pytest.raises(StorageUnavailable, match="leads to a copy"):
        log_of(storage)


def test_a_read_that_comes_too_late_is_refused_in_a_sentence(
    storage: PostgresStorage, postgres_dsn: str
) -> None:
    """The writer has connected anew meanwhile, and its readers too."""
    readers = Readers(postgres_dsn, storage.connection.info, token=1)
    readers.close()
    with pytest.raises(StorageUnavailable, match="the connection that writes has been closed"):
        log_of(readers)


def test_why_there_is_no_connection_is_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The pool itself would only say how long it has waited, and log the rest, again and again."""
    monkeypatch.setattr(postgres_storage, "CONNECT_TIMEOUT_S", 3)
    readers = Readers("postgresql://user:secret@127.0.0.1:1/none", NOBODY, token=1)  # type: ignore[arg-type]
    with pytest.raises(StorageUnavailable, match=r"in 3 s: .*refused") as away:
        log_of(readers)
    readers.close()
    for text in (str(away.value), *capfd.readouterr()):
        assert "secret" not in text
        assert "pool" not in text
        assert "\n" not in text
