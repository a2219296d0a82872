"""The storage of `postgresql://…`: the schema `flashq` of one database, written by one connection.

Owns the connections and the advisory lock. The lock is held by the very connection that writes, so
that who has lost it cannot write either. Small groups of log go in one INSERT, large ones as one
binary COPY; each is a transaction by itself, forced to the disk once.

Recoveries are read over a pool of connections to the server that the writer is connected to,
whichever of its URL's that is. Behind one address there may still be several: a copy that lags, or
one that has taken over. So each read transaction sees for itself that it is where the writer is:
the lock is held there, by the session that also holds the writer's *token*, an advisory lock whose
key nobody else knows. Then what was committed before a read began is in what is read, and nobody
else has written. (A backend's pid may come again, and when a session has begun is shown only to
those who have the rights of its role.)
"""

from __future__ import annotations

import logging
import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from typing import Any, Final

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from flashq.errors import ConfigError, StorageRefused, StorageUnavailable
from flashq.protocol.internal import Append, Recovered
from flashq.storage.pooling import (
    ADVICE,
    OTHERS_MAX,
    UNHURRIED,
    at_place,
    check_session,
    release,
)
from flashq.storage.port import READERS_MAX, Opened
from flashq.storage.postgres_schema import check_rights, grant, migrate, one, schema_version
from flashq.storage.postgres_sessions import (
    CONNECT_TIMEOUT_S,
    CONNECTED,
    connect,
    sentence_of,
    settle,
    translated,
)
from flashq.storage.queries import migrations, named_queries
from flashq.storage.rows import Row
from flashq.storage.tables import Tables, TableStorage

LOCK_KEY: Final = 0x666C61736871
""""flashq": the advisory lock of the one who writes to this database's schema."""

LOCK_WAIT_MS: Final = 10_000
"""How long a second coordinator waits for the first; the server also needs a while to notice that
a connection is gone."""
_LOCK_RETRY_MS: Final = 100
TOKEN_BITS: Final = 62
"""Of a writer's own advisory lock."""

CHECK: Final = "flashq-check"
"""The program that a connection is said to be of which is only there to compare."""
READ_IDLE_S: Final = 30
"""Connections that nobody has read over for so long are closed, one at a time."""

COPY_BYTES_MIN: Final = 32 * 1024
"""From here on COPY is faster than INSERT, though it takes one round trip more."""

_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"
_COPY_ROW: Final = struct.Struct("!hiiiqiqiqiqi")
"""Count of columns, then for each its size and value; of the last one the size only."""


@cache
def encoded_queries() -> Mapping[str, bytes]:
    """Return the named queries as psycopg takes them; for a `str` it wants a literal."""
    return {name: text.encode() for name, text in named_queries("postgres").items()}


class PostgresStorage(TableStorage):
    """See the module.

    Args:
        url: a connection URI of libpq.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._queries = encoded_queries()
        self._connection: psycopg.Connection[Row] | None = None
        #: key of the advisory lock that only the connection's session holds
        self._token = 0
        #: what the server has warned of in this transaction
        self._warnings: list[str] = []
        #: of the server that the connection is to; made and closed with it
        self._readers: Readers | None = None

    # --- the connection

    @property
    def connection(self) -> psycopg.Connection[Row]:
        """The open connection."""
        assert self._connection is not None, "it is opened first"
        return self._connection

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except (StorageUnavailable, StorageRefused):
            self._disconnect()
            raise

    def _look(self) -> Opened | None:
        self._reach()
        with self.connection.transaction():
            version = schema_version(self.connection)
            if version is None:
                return None
            if version != len(migrations("postgres")):
                raise ConfigError("the database has an older schema; run `flashq migrate` first")
            return self._read_tables()

    def _check_structure(self) -> None:
        """Nothing here could do it."""

    def _connect(self) -> list[str]:
        self._reach()
        if self._readers is not None:
            return []
        connection = self.connection
        migrated = migrate(connection, schema_version(connection))
        check_rights(connection)
        self._readers = Readers(self._url, connection.info, self._token)
        return migrated

    def _reach(self) -> None:
        """Have a connection that holds the storage alone."""
        if self._connection is not None:
            return
        self._connection = connect(self._url, program="flashq-coordinator", writes=True)
        connection = self._connection
        connection.add_notice_handler(self._notice)
        token = self._token = secrets.randbits(TOKEN_BITS)
        connection.execute(f"BEGIN; {UNHURRIED} SELECT pg_advisory_lock({token}); COMMIT".encode())
        # Before anything else: behind a balancer that pools, settings and locks would stay behind.
        self._check_session(connection, token)
        settle(connection)
        self._take_lock(connection)

    def _check_session(self, connection: psycopg.Connection[Row], token: int) -> None:
        """See that the session is the connection's own, and locks stay with it."""
        [pid] = one(connection, "SELECT pg_backend_pid()")
        # The server itself begins with its pid; a balancer cannot, or tells another one.
        is_direct = pid == connection.info.backend_pid
        url = at_place(self._url, connection.info)
        try:
            for _ in range(1 if is_direct else OTHERS_MAX):
                with closing(connect(url, program=CHECK)) as other:
                    if check_session(connection, other, token):
                        break
        except psycopg.Error as error:
            if is_direct:
                connection.rollback()
                return
            release(token, connection)
            raise StorageUnavailable(
                detail="PostgreSQL: without a second connection it cannot be seen whether the "
                f"balancer that the storage's URL leads to pools by session: {sentence_of(error)}; "
                f"{ADVICE}"
            ) from error

    def _take_lock(self, connection: psycopg.Connection[Row]) -> None:
        for _ in range(0, LOCK_WAIT_MS, _LOCK_RETRY_MS):
            [is_taken] = one(connection, "SELECT pg_try_advisory_lock(%(key)s)", key=LOCK_KEY)
            if is_taken:
                return
            time.sleep(_LOCK_RETRY_MS / 1000)
        raise StorageUnavailable(
            detail="another coordinator writes to this database; stop it, or use another database"
        )

    def grant(self, role: str) -> None:
        """Let another role be the server's.

        Raises:
            ConfigError, StorageUnavailable: that cannot be done.
        """
        with self._closed_on_error(), self._guarded():
            self._connect()
            grant(self.connection, role)

    def close(self) -> None:
        """Close the connection, and so let go of the lock."""
        self._is_open = False
        self._disconnect()

    def _disconnect(self) -> None:
        if self._readers is not None:
            self._readers.close()
            self._readers = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- recoveries

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery."""
        readers = self._readers
        if readers is None:
            raise StorageUnavailable(detail="it has not been opened since an error")
        return readers.recover(shard, cursor, bytes_max)

    # --- statements

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        """Take in what the server says besides."""
        if notice.severity_nonlocalized == "WARNING":
            words = [notice.message_primary or "", notice.message_detail or ""]
            self._warnings.append(" ".join(" ".join(words).split()))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Do not take a commit for safe that comes with a warning: it may be here alone, for the
        wait for a standby was cancelled. What it has become is found out by the next `open`."""
        self._warnings.clear()
        yield
        if self._warnings:
            raise StorageUnavailable(
                detail="PostgreSQL committed with a warning, so it may not be safe: "
                f"{self._warnings[0]}"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._watched(), self.connection.transaction():
            yield

    def _confirm(self) -> None:
        """Commit something: what was committed before that is as safe as it is."""
        with self._watched():
            self._execute("confirm")

    def _rows(self, query: str, **values: Any) -> Sequence[Row]:
        return self.connection.execute(self._queries[query], values, binary=True).fetchall()

    def _execute(self, query: str, **values: Any) -> int:
        return self.connection.execute(self._queries[query], values).rowcount

    def _execute_many(self, query: str, values: Sequence[dict[str, Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(self._queries[query], values)

    def _append_alone(self, blobs: Sequence[Append]) -> None:
        with self._watched():
            self._append(blobs)

    def _append(self, blobs: Sequence[Append]) -> None:
        if sum(len(blob.records) for blob in blobs) < COPY_BYTES_MIN:
            self._insert(blobs)
        else:
            self._copy(blobs)

    def _insert(self, blobs: Sequence[Append]) -> None:
        self._execute(
            "append",
            shards=[blob.shard for blob in blobs],
            first_seqs=[blob.first_seq for blob in blobs],
            last_seqs=[blob.last_seq for blob in blobs],
            epochs=[blob.epoch for blob in blobs],
            checksums=[blob.checksum for blob in blobs],
            records=[blob.records for blob in blobs],
        )

    def _copy(self, blobs: Sequence[Append]) -> None:
        pieces = [_COPY_HEADER]
        for blob in blobs:
            pieces.append(
                _COPY_ROW.pack(
                    *(6, 4, blob.shard, 8, blob.first_seq, 8, blob.last_seq, 8, blob.epoch),
                    *(8, blob.checksum, len(blob.records)),
                )
            )
            pieces.append(blob.records)
        pieces.append(_COPY_END)
        with (
            self.connection.cursor() as cursor,
            cursor.copy(self._queries["copy_log"]) as copy,
        ):
            copy.write(b"".join(pieces))

    def _probe(self) -> None:
        [[is_read_only, holds_lock]] = self._rows("probe", key=self._token)
        if is_read_only:
            raise StorageUnavailable(detail="PostgreSQL: the database is read-only")
        if not holds_lock:
            raise StorageUnavailable(
                detail="PostgreSQL: the connection that writes was given another session, which "
                "does not hold the lock"
            )

    def _shrink(self) -> bool:
        return False  # autovacuum's business


class _PostgresReading(Tables):
    """What is read within a transaction.

    Args:
        connection: in one, or about to begin it.
    """

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        super().__init__()
        self._queries = encoded_queries()
        self._connection = connection

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with translated():
            yield

    def _rows(self, query: str, **values: Any) -> Sequence[Row]:
        return self._connection.execute(self._queries[query], values, binary=True).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _ReadConnection(psycopg.Connection[Row]):
    """A connection that tells why it could not be made; the pool itself would only log it."""

    @classmethod
    def connect(  # type: ignore[override]  # it is called by the pool, with what that was given
        cls, conninfo: str, *, failures: list[psycopg.Error], **more: Any
    ) -> psycopg.Connection[Row]:
        try:
            connection = super().connect(conninfo, **more)
        except psycopg.Error as error:
            failures[:] = [error]
            raise
        failures.clear()
        return connection


class Readers:
    """The connections over which recoveries are read, from any thread; see the module.

    Args:
        url: the storage's.
        writer: what the writer's connection is connected to.
        token: key of the advisory lock that the writer's session holds beside that of all writers.
    """

    def __init__(self, url: str, writer: psycopg.ConnectionInfo, token: int) -> None:
        self._keys: Final = [LOCK_KEY, token]
        self._queries: Final = encoded_queries()
        #: why the last connection could not be made; empty when it could
        self._failures: Final[list[psycopg.Error]] = []
        # Its words are for nobody: what has failed is told by who has to wait for it.
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
        self._pool: Final[ConnectionPool[psycopg.Connection[Row]]] = ConnectionPool(
            at_place(url, writer),
            connection_class=_ReadConnection,
            kwargs={
                "autocommit": True,
                "application_name": "flashq-coordinator-reads",
                "failures": self._failures,
                **CONNECTED,
            },
            configure=self._configure,
            check=ConnectionPool.check_connection,
            min_size=0,
            max_size=READERS_MAX,
            timeout=CONNECT_TIMEOUT_S,
            max_idle=READ_IDLE_S,
            num_workers=1,
            name="flashq-reads",
            open=True,
        )

    @staticmethod
    def _configure(connection: psycopg.Connection[Row]) -> None:
        settle(connection)
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery.

        Raises:
            StorageDamaged, StorageUnavailable: as for a `Storage`.
        """
        try:
            with translated(), self._pool.connection() as connection, connection.transaction():
                self._check_place(connection)
                return _PostgresReading(connection).recover(shard, cursor, bytes_max)
        except PoolClosed as error:
            raise StorageUnavailable(
                detail="PostgreSQL: the connection that writes has been closed"
            ) from error
        except PoolTimeout as error:
            failures = self._failures[:]
            why = sentence_of(failures[0]) if failures else "none has become free"
            raise StorageUnavailable(
                detail=f"PostgreSQL: no connection to read with in {CONNECT_TIMEOUT_S} s: {why}"
            ) from error

    def _check_place(self, connection: psycopg.Connection[Row]) -> None:
        """See that this transaction reads what the writer writes."""
        row = connection.execute(self._queries["place"], {"keys": self._keys}).fetchone()
        assert row is not None
        is_copy, is_held = row
        if is_copy:
            raise StorageUnavailable(
                detail="PostgreSQL: the connection to read with leads to a copy, which may lag"
            )
        if not is_held:
            raise StorageUnavailable(
                detail="PostgreSQL: where the connection to read with leads to, this coordinator "
                "does not hold the lock: it has lost it, or that is another server"
            )

    def close(self) -> None:
        """Close what is not in use, and the rest after it; nobody is waited for."""
        self._pool.close(timeout=0)


class PostgresSnapshot(_PostgresReading):
    """A database as it is at one moment, read beside its writer.

    One transaction reads all of it and leaves nothing in its session, so that it can also be read
    through a balancer that pools by transaction.

    Args:
        url: a connection URI of libpq.

    Raises:
        ConfigError: it has no storage.
        StorageDamaged, StorageUnavailable: as for a `Storage`.
    """

    opened: Opened

    def __init__(self, url: str) -> None:
        with ExitStack() as on_error, translated():
            connection = connect(url, program="flashq")
            on_error.callback(connection.close)
            connection.prepare_threshold = None
            super().__init__(connection)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            settle(connection, local=True)
            version = schema_version(connection)
            if version is None:
                raise ConfigError("the database has no flashq storage")
            if version != len(migrations("postgres")):
                raise ConfigError("the database has an older schema; run `flashq migrate` first")
            opened = self._read_tables()
            if opened is None:
                raise ConfigError("the database is empty: no server has used it yet")
            self.opened = opened
            on_error.pop_all()
