"""The storage in a PostgreSQL passes the suite, and holds it alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flashq.storage.postgres import PostgresStorage
from tests.storage.conformance import SHARDS, StorageConformance


@pytest.fixture
def storage(postgres_dsn: str) -> Iterator[PostgresStorage]:
    """A storage as a coordinator opens it."""
    storage = PostgresStorage(postgres_dsn)
    storage.open(SHARDS)
    yield storage
    storage.close()


class TestPostgresStorage(StorageConformance):
    """The suite, against a real server."""
