"""The storage in an SQLite file passes the suite, and keeps what it promises about its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq.storage.sqlite import SqliteStorage
from tests.storage.conformance import SHARDS, StorageConformance


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "flashq.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteStorage]:
    """A storage as a coordinator opens it."""
    storage = SqliteStorage(path)
    storage.open(SHARDS)
    yield storage
    storage.close()


class TestSqliteStorage(StorageConformance):
    """The suite, against a file."""
