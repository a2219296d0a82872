"""PostgreSQL and places for servers, for the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.site import Site
from tests.postgres import own_postgres, postgres, postgres_dsn

__all__ = ["own_postgres", "postgres", "postgres_dsn"]


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A place for servers, on either storage."""
    url = None
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_dsn")
    site = Site(url)
    yield site
    site.close()


@pytest.fixture
def file_site() -> Iterator[Site]:
    """A place for servers on SQLite."""
    site = Site()
    yield site
    site.close()
