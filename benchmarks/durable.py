"""The figures of the level durable, and the same work done bare.

A bare commit is what storage takes for the bytes of one batch: a COPY of one row on PostgreSQL, a
write and an fdatasync on a file for SQLite.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter

import psycopg

from benchmarks import figures
from benchmarks.server import running
from flashq import Client
from tests.postgres import Postgres

BARE_SECONDS = 2.0


@contextmanager
def databases() -> Iterator[Callable[[], str]]:
    """Give what makes a new database of a PostgreSQL server of its own, and end it afterwards."""
    server = Postgres(None)
    try:
        yield server.database
    finally:
        server.close()


def bare_fsyncs(size: int) -> float:
    """Return how often a second so many bytes are appended to a file and forced to disk."""
    with tempfile.TemporaryFile() as file:

        def write() -> None:
            os.write(file.fileno(), bytes(size))
            os.fdatasync(file)

        return _per_second(write)


def bare_copies(url: str, size: int) -> float:
    """Return how often a second a row of so many bytes is copied into a table and committed."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE bare (records bytea)")
        connection.execute("ALTER TABLE bare ALTER records SET STORAGE EXTERNAL")
        connection.commit()
        row = bytes(size)

        def copy() -> None:
            with connection.cursor().copy("COPY bare FROM STDIN (FORMAT BINARY)") as stream:
                stream.set_types(["bytea"])
                stream.write_row([row])
            connection.commit()

        return _per_second(copy)


def _per_second(work: Callable[[], object]) -> float:
    done, started = 0, perf_counter()
    while perf_counter() - started < BARE_SECONDS:
        work()
        done += 1
    return done / (perf_counter() - started)


def recovery_seconds(storage: str, jobs: int = 1_000_000) -> float:
    """Return how long a server takes from its start to ready with so many jobs of one queue."""
    with tempfile.TemporaryDirectory(prefix="fqr") as directory:
        flags = ("--data-dir", directory)
        with running(*flags, storage=storage) as server, Client(server.url) as client:
            batch = figures.entries()
            for _ in range(jobs // figures.BATCH):
                client.push_batch("recovered", batch)
        started = monotonic()
        with running(*flags, storage=storage) as server:
            ready = monotonic() - started
            with Client(server.url) as client:
                assert client.count("recovered") == jobs
        return ready
