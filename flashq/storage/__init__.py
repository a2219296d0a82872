"""Where the coordinator keeps what has to survive: one port, and its implementations.

Storage knows records only as bytes with numbers; it may import `flashq.protocol`, `flashq.errors`,
the settings' names and the lock file, and no program. Here a URL becomes a storage; nobody else
looks at its scheme.
"""

from __future__ import annotations

import os
from pathlib import Path

from flashq.config import MEMORY, POSTGRES, SQLITE
from flashq.errors import ConfigError
from flashq.storage.port import Snapshot, Storage
from flashq.storage.tables import TableStorage


def open_storage(url: str, wall_ms: int) -> Storage:
    """Return the storage of a URL, not opened yet.

    Args:
        url: `memory:`, `sqlite:///path` (a path that begins with another slash is absolute) or
            `postgresql://…`.
        wall_ms: the wall clock.

    Raises:
        ConfigError: there is no such storage, or what it needs is not installed.
    """
    if url == MEMORY:
        from flashq.storage.memory import MemoryStorage

        return MemoryStorage(wall_ms, os.urandom(16))
    if (path := sqlite_path(url)) is not None:
        from flashq.storage.sqlite import SqliteStorage

        return SqliteStorage(path)
    _check_postgres(url)
    from flashq.storage.postgres import PostgresStorage

    return PostgresStorage(url)


def migrate_storage(url: str, *, grant_to: str | None = None) -> list[str]:
    """Bring a storage's schema up to date, and return the names of the migrations that this took.

    Args:
        url: of the storage.
        grant_to: a role of PostgreSQL that may then read and write what a server has to.

    Raises:
        ConfigError, StorageUnavailable: it cannot be used, or a server does.
    """
    storage = open_storage(url, 0)
    try:
        done = storage.migrate() if isinstance(storage, TableStorage) else []
        if grant_to is not None:
            _grant(storage, grant_to)
        return done
    finally:
        storage.close()


def _grant(storage: Storage, role: str) -> None:
    """Let a role be the server's.

    Raises:
        ConfigError: the storage has no roles, or this one cannot be given that.
        StorageUnavailable: it cannot be reached.
    """
    from flashq.storage.postgres import PostgresStorage

    if not isinstance(storage, PostgresStorage):
        raise ConfigError("only a storage in PostgreSQL has roles that something can be granted to")
    storage.grant(role)


def open_snapshot(url: str) -> Snapshot:
    """Return what a storage has at this moment; a server may be running on it.

    Raises:
        ConfigError: there is no such storage, or it is only in a coordinator's memory.
        StorageDamaged, StorageUnavailable: it cannot be read.
    """
    if url == MEMORY:
        raise ConfigError(f"the storage is {MEMORY}, which only the server itself can read")
    if (path := sqlite_path(url)) is not None:
        from flashq.storage.sqlite import SqliteSnapshot

        return SqliteSnapshot(path)
    _check_postgres(url)
    from flashq.storage.postgres import PostgresSnapshot

    return PostgresSnapshot(url)


def examine_structure(url: str) -> None:
    """See that the database of a storage is whole, as far as that can be found out from here.

    Raises:
        StorageDamaged, StorageUnavailable: it is not, or cannot be read.
    """
    if (path := sqlite_path(url)) is not None and path.exists():
        from flashq.storage.sqlite import examine

        examine(path)


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite storage, None for another one."""
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def _check_postgres(url: str) -> None:
    assert url.startswith(POSTGRES), "settings take no other"
    try:
        import psycopg
        import psycopg_pool
    except ImportError as error:
        raise ConfigError(
            f"the storage is PostgreSQL, and {error.name or 'psycopg'} is not installed; "
            "install it with: pip install 'flashq[postgres]'"
        ) from error
    assert psycopg.__version__
    assert psycopg_pool.__version__
