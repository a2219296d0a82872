"""The storage of `sqlite:///path`: one file, written by one connection.

Owns the file's lock, its pragmas and what its errors mean. Each group is forced to the disk once:
in WAL mode with `synchronous=FULL`, a commit is one fsync of the write-ahead log. Readers see one
moment and hold nobody up: `SqliteSnapshot`, and recoveries, each on a connection that is opened for
its part and closed after it, which takes a fraction of a millisecond and leaves nothing to look
after.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from flashq.errors import ConfigError, StorageDamaged, StorageRefused, StorageUnavailable
from flashq.lockfile import LOCK_WAIT_MS, Lockfile
from flashq.protocol.internal import Append, Recovered
from flashq.storage.files import Identity, identity_of
from flashq.storage.port import Opened
from flashq.storage.queries import migrations, named_queries
from flashq.storage.rows import Row
from flashq.storage.tables import Tables, TableStorage

APPLICATION_ID: Final = 0x666C7371
""""flsq", in the file's header: whose file it is."""

PAGE_BYTES: Final = 8192
"""Between what is best for single jobs (4 KiB) and for batches of a thousand (16 KiB)."""
CACHE_BYTES: Final = 64 * 1024 * 1024
WAL_BYTES: Final = 32 * 1024 * 1024
"""So much is written ahead before it is copied into the file; it is also what a burst leaves."""
FREE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Free pages of the file that are kept for what comes next; what is more is given back."""
SHRUNK_PAGES_MAX: Final = 256
BUSY_TIMEOUT_MS: Final = 5000
"""How long to wait for somebody else who has locked the file, such as a checker or a copy."""

EMPTY_BYTES: Final = 1
"""A file of this size is empty to SQLite."""

SYNCHRONOUS_FULL: Final = 2

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRIMARY_CODE: Final = 0xFF


def connect(path: Path, *, mode: str = "rw") -> sqlite3.Connection:
    """Open the file, which has to be there.

    Args:
        path: of the file.
        mode: as SQLite's URIs have it.

    Raises:
        sqlite3.Error: it cannot be opened, or is no database.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1000,
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")  # opens it in fact
    except (sqlite3.Error, UnicodeError):
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the port's."""
    try:
        yield
    except UnicodeError as error:  # in a text, or in the words of an error that quotes one
        raise StorageDamaged(detail=f"{path}: it has text that is none") from error
    except sqlite3.Error as error:
        # Errors of the module itself, such as a closed connection, have no code.
        code = getattr(error, "sqlite_errorcode", None)
        text = f"{path}: {error}"
        if code is not None and code & _PRIMARY_CODE in _DAMAGED:
            raise StorageDamaged(detail=text) from error
        if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError):
            raise StorageRefused(detail=text) from error
        raise StorageUnavailable(detail=text) from error


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a storage's schema; 0 for an empty file.

    Raises:
        ConfigError: it is another program's file, or of a newer version of this one.
    """
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [objects] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or objects):
        raise ConfigError(f"{path} is a database of another program, not a flashq storage")
    if objects and not version:
        raise StorageDamaged(detail=f"{path}: its header is not as it was written")
    known = len(migrations("sqlite"))
    if version > known:
        raise ConfigError(
            f"{path} was written by a newer flashq: its schema is version {version}, "
            f"and this one knows {known}"
        )
    return int(version)


def wal_of(path: Path) -> Path:
    """Return where a file's write-ahead log is."""
    return path.with_name(path.name + "-wal")


def check_structure(connection: sqlite3.Connection, path: Path) -> None:
    """See that the file's pages and indexes fit together; it takes a second for some GB.

    Raises:
        StorageDamaged: they do not.
        sqlite3.Error: nor can that be found out.
    """
    [found] = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise StorageDamaged(detail=f"{path}: {' '.join(found.split())}")


class SqliteStorage(TableStorage):
    """See the module.

    Args:
        path: of the file; it is made if its directory is there.
        lock_wait_ms: how long to wait for another owner.
    """

    def __init__(self, path: Path, *, lock_wait_ms: int = LOCK_WAIT_MS) -> None:
        super().__init__()
        self._path = path
        self._lock_wait_ms = lock_wait_ms
        self._queries = named_queries("sqlite")
        self._connection: sqlite3.Connection | None = None
        self._lock: Lockfile | None = None
        #: which files are open, by the path that they had then
        self._files: dict[str, Identity] = {}
        #: there was a file under this lock; later none is made
        self._is_made = False

    # --- the connection

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection."""
        assert self._connection is not None, "it is opened first"
        return self._connection

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with translated(self._path):
                yield
        except (StorageUnavailable, StorageRefused):
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            # What is only in a write-ahead log that somebody has removed goes into the file.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._connection.close()
            self._connection = None

    def _take_lock(self) -> None:
        """Hold the file alone."""
        if self._lock is not None and not self._lock.is_in_place():
            self._lock.release()
            self._lock = None
        if self._lock is not None:
            return
        directory = self._path.absolute().parent
        if not directory.is_dir():
            raise ConfigError(f"there is no directory {directory} for the storage")
        lock = self._path.with_name(self._path.name + ".lock")
        self._lock = Lockfile.acquire(lock, wait_ms=self._lock_wait_ms)

    def _look(self) -> Opened | None:
        self._take_lock()
        wal = wal_of(self._path)
        has_wal = wal.exists()
        if not self._path.exists() or self._path.stat().st_size <= EMPTY_BYTES:
            # SQLite would delete that log.
            if has_wal and wal.stat().st_size:
                raise StorageDamaged(
                    detail=f"{self._path} is empty or not there, but {wal} is: it belongs to it"
                )
            return None
        # Without a write-ahead log none is made. With one, a connection that cannot write leaves
        # it as it is, also where it is broken; one that can write would delete it.
        with closing(_SqliteReading(self._path, immutable=not has_wal)) as reading:
            return reading.look()

    def _check_structure(self) -> None:
        check_structure(self.connection, self._path)

    def _connect(self) -> list[str]:
        self._take_lock()
        if not self._is_made:
            self._make_file()
            self._is_made = True
        if self._connection is not None:
            return []
        self._connection = connect(self._path)
        version = schema_version(self._connection, self._path)
        self._configure(self._connection)
        migrated = migrate(self._connection, version)
        self._rows("meta")  # from now on its write-ahead log is open
        paths = [f"{self._path}{end}" for end in ("", "-wal", "-shm")]
        self._files = {path: identity_of(path) for path in paths}
        return migrated

    def _make_file(self) -> None:
        """Make a file that is not there yet, for the server's user only: payloads are in it, and
        secrets of webhooks. What SQLite makes beside it has the same mode."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be opened ({error.strerror})") from error

    def _configure(self, connection: sqlite3.Connection) -> None:
        """Set what a connection or a new file needs, and read back what safety depends on."""
        for pragma in (
            f"page_size={PAGE_BYTES}",
            "auto_vacuum=INCREMENTAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={WAL_BYTES // PAGE_BYTES}",
            f"journal_size_limit={WAL_BYTES}",
            f"cache_size=-{CACHE_BYTES // 1024}",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        [journal] = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        [synchronous] = connection.execute("PRAGMA synchronous").fetchone()
        if journal != "wal" or synchronous != SYNCHRONOUS_FULL:
            raise ConfigError(
                f"{self._path} cannot be written safely: its journal mode is {journal} and "
                f"synchronous is {synchronous}, but must be wal and {SYNCHRONOUS_FULL}"
            )

    def close(self) -> None:
        """Close the file and let go of it."""
        self._is_open = False
        self._disconnect()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._is_made = False

    # --- recoveries

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery."""
        if self._lock is None:
            raise StorageUnavailable(detail="it is not open")
        with closing(_SqliteReading(self._path)) as reading:
            self._check_files()
            return reading.recover(shard, cursor, bytes_max)

    def _check_files(self) -> None:
        """Refuse to go on when somebody has taken a file away, or put another one in its place:
        what is written into one that has no name any more is lost with the process."""
        for path, identity in self._files.items():
            if identity_of(path) != identity:
                raise StorageUnavailable(
                    detail=f"{path} has been moved, removed or replaced while it was in use"
                )
        if self._lock is None or not self._lock.is_in_place():
            raise StorageUnavailable(
                detail=f"the lock beside {self._path} has been moved, removed or replaced"
            )

    # --- statements

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        yield
        self.connection.execute("COMMIT")
        self._check_files()  # before anybody is told of it

    def _rows(self, query: str, **values: Any) -> Sequence[Row]:
        return self.connection.execute(self._queries[query], values).fetchall()

    def _execute(self, query: str, **values: Any) -> int:
        return self.connection.execute(self._queries[query], values).rowcount

    def _execute_many(self, query: str, values: Sequence[dict[str, Any]]) -> None:
        self.connection.executemany(self._queries[query], values)

    def _append_alone(self, blobs: Sequence[Append]) -> None:
        with self._transaction():
            self._append(blobs)

    def _append(self, blobs: Sequence[Append]) -> None:
        self._execute_many(
            "append",
            [
                {
                    "shard": blob.shard,
                    "first_seq": blob.first_seq,
                    "last_seq": blob.last_seq,
                    "epoch": blob.epoch,
                    "checksum": blob.checksum,
                    "records": blob.records,
                }
                for blob in blobs
            ],
        )

    def _confirm(self) -> None:
        """It is in the file that was forced to the disk."""

    def _probe(self) -> None:
        """Somebody may have locked the file."""
        with self._transaction():
            self._rows("meta")

    def ahead_bytes(self) -> int:
        """Return the size of the write-ahead log. Who reads keeps what has been written since then
        from going into the file."""
        try:
            return wal_of(self._path).stat().st_size
        except OSError:
            return 0  # the next commit says so

    def _shrink(self) -> bool:
        [free] = self.connection.execute("PRAGMA freelist_count").fetchone()
        if free * PAGE_BYTES <= FREE_BYTES_MAX:
            return False
        # The pragma gives back one page for each step of its cursor.
        self.connection.execute(f"PRAGMA incremental_vacuum({SHRUNK_PAGES_MAX})").fetchall()
        return True


def migrate(connection: sqlite3.Connection, version: int) -> list[str]:
    """Bring a file's schema up to date, and return the names of the steps that were needed."""
    steps = migrations("sqlite")[version:]
    for step in steps:
        connection.executescript(
            f"BEGIN IMMEDIATE; {step.sql};"
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={step.version}; COMMIT;"
        )
    return [step.name for step in steps]


class _SqliteReading(Tables):
    """One read transaction, on a connection of its own.

    Args:
        path: of the file, which is a storage.
        immutable: nobody writes to it meanwhile, and nothing is made beside it.
    """

    def __init__(self, path: Path, *, immutable: bool = False) -> None:
        super().__init__()
        self._path = path
        self._queries = named_queries("sqlite")
        with ExitStack() as on_error, self._guarded():
            self._connection = connect(path, mode="ro&immutable=1" if immutable else "ro")
            on_error.callback(self._connection.close)
            self._connection.execute("BEGIN")
            on_error.pop_all()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with translated(self._path):
            yield

    def _rows(self, query: str, **values: Any) -> Sequence[Row]:
        return self._connection.execute(self._queries[query], values).fetchall()

    def look(self) -> Opened | None:
        """Return what there is; None when the file is empty.

        Raises:
            ConfigError, StorageDamaged, StorageUnavailable: as `Storage.look` does.
        """
        self.check_structure()
        return self.current()

    def check_structure(self) -> None:
        """See that the file's pages and indexes fit together.

        Raises:
            StorageDamaged, StorageUnavailable: they do not, or it cannot be read.
        """
        with self._guarded():
            check_structure(self._connection, self._path)

    def current(self) -> Opened | None:
        """Return the same, without a look at the file as a whole."""
        with self._guarded():
            version = schema_version(self._connection, self._path)
            if not version:
                return None
            if version != len(migrations("sqlite")):
                raise ConfigError(f"{self._path} has an older schema; run `flashq migrate` first")
            return self._read_tables()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def examine(path: Path) -> None:
    """See that a file's pages and indexes fit together, and change nothing.

    Raises:
        StorageDamaged, StorageUnavailable: they do not, or it cannot be read.
    """
    if path.stat().st_size <= EMPTY_BYTES and wal_of(path).exists():
        raise StorageDamaged(detail=f"{path} is empty, but {wal_of(path)} belongs to it")
    with closing(_SqliteReading(path, immutable=not wal_of(path).exists())) as reading:
        reading.check_structure()


class SqliteSnapshot(_SqliteReading):
    """A file as it is at one moment, read beside its writer.

    Args:
        path: of the file.

    Raises:
        ConfigError: it is no storage.
        StorageDamaged, StorageUnavailable: as for a `Storage`.
    """

    opened: Opened

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ConfigError(f"there is no storage at {path}")
        super().__init__(path)
        with ExitStack() as on_error, self._guarded():
            on_error.callback(self.close)
            opened = self.current()
            if opened is None:
                raise ConfigError(f"{path} is empty: no server has used it yet")
            self.opened = opened
            on_error.pop_all()
