"""The jobs of a storage, one after the other: what `flashq export` prints.

Owns the forms. Of each shard the log is read first, then the checkpoint page by page, so that
memory is needed for the log since the checkpoint and little more, however many jobs there are.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flashq.errors import ConfigError, StorageDamaged, StorageUnavailable
from flashq.ids import shard_of_queue
from flashq.protocol.framing import JSON
from flashq.protocol.objects import StateView
from flashq.shard.lifecycle import PENDING, STATE_NAMES, Damage, Job
from flashq.shard.outbox import Origin
from flashq.shard.paging import PagedJobs
from flashq.shard.views import state_view
from flashq.storage.port import LOG_CURSOR, Snapshot

READ_BYTES_MAX: Final = 4 * 1024 * 1024

COLUMNS: Final = (
    "id", "queue", "state", "priority", "created_at", "run_at", "started_at", "completed_at",
    "attempts", "max_attempts", "progress", "unique_key", "custom_id", "parent_id", "tags",
    "error", "data",
)  # fmt: skip
"""Of a CSV file. Times are Unix milliseconds; tags and data are JSON."""

_READER: Final = Origin(b"", 0, flags=JSON)


def jobs_of(snapshot: Snapshot, *, queue: str | None, state: str | None) -> Iterator[StateView]:
    """Yield the jobs of a storage as readers see them, by shard and id.

    Args:
        queue: only of this queue; only its shard is read then.
        state: only in this state.

    Raises:
        StorageDamaged: what is stored does not fit together.
    """
    shard_count = len(snapshot.opened.shards)
    shards: Iterable[int] = range(shard_count)
    if queue is not None:
        shards = [shard_of_queue(queue, shard_count)]
    try:
        for shard in shards:
            for job in _jobs_of_shard(snapshot, shard, shard_count):
                if job.state == PENDING:
                    continue  # its push is not answered yet: nobody sees it
                if queue in (None, job.queue) and state in (None, STATE_NAMES[job.state]):
                    yield state_view(job, _READER)
    except Damage as error:
        raise StorageDamaged(detail=str(error)) from None


def _jobs_of_shard(snapshot: Snapshot, shard: int, shard_count: int) -> Iterator[Job]:
    paged = PagedJobs(shard, shard_count, snapshot.opened.shards[shard].checkpoint_seq)
    cursor = LOG_CURSOR
    while cursor:
        piece = snapshot.recover(shard, cursor, READ_BYTES_MAX)
        for blob in piece.log:
            paged.take_log(*blob)
        cursor = piece.cursor
    yield from paged.jobs(_pages(snapshot, shard, paged))


def _pages(snapshot: Snapshot, shard: int, paged: PagedJobs) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of a shard's checkpoint, and hand over its parts, which come before them."""
    cursor = 0
    while cursor < LOG_CURSOR:
        piece = snapshot.recover(shard, cursor, READ_BYTES_MAX)
        for _, content in piece.parts:
            paged.take_part(content)
        yield from piece.pages
        cursor = piece.cursor or LOG_CURSOR


def print_lines(jobs: Iterable[StateView]) -> None:
    """Print jobs as JSON lines."""
    for job in jobs:
        sys.stdout.write(msgspec.json.encode(job).decode() + "\n")


def print_csv(jobs: Iterable[StateView]) -> None:
    """Print jobs as CSV with a head."""
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    for job in jobs:
        writer.writerow([_cell(getattr(job, name)) for name in COLUMNS])


def _cell(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    return json.dumps(value) if isinstance(value, tuple) else value


def copy_to_postgres(jobs: Iterable[StateView], url: str, table: str) -> int:
    """Make a table of jobs, and return how many they are.

    Args:
        url: of the database.
        table: its name; it must not be there yet.

    Raises:
        ConfigError: psycopg is not installed, the URL is none, or the table cannot be made.
        StorageUnavailable: the database cannot be reached.
    """
    try:
        import psycopg
        from psycopg import sql

        from flashq.storage.postgres_sessions import check_url
    except ImportError as error:
        raise ConfigError(
            "psycopg is not installed; install it with: pip install 'flashq[postgres]'"
        ) from error
    check_url(url)
    name = sql.Identifier(*table.split("."))
    count = 0
    try:
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(_MAKE_TABLE.encode() % name.as_bytes(connection))
            with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(name)) as copy:
                for job in jobs:
                    copy.write_row(_row(job))
                    count += 1
    except psycopg.OperationalError as error:
        raise StorageUnavailable(detail=" ".join(str(error).split())) from error
    except psycopg.Error as error:
        raise ConfigError(f"table {table}: {' '.join(str(error).split())}") from error
    return count


_MAKE_TABLE: Final = """CREATE TABLE %b (
    id bigint PRIMARY KEY, queue text NOT NULL, state text NOT NULL, priority integer NOT NULL,
    created_at timestamptz, run_at timestamptz, attempts integer NOT NULL, data json, job json
)"""
"""`json`, for `jsonb` refuses some texts that jobs may hold."""


def _row(job: StateView) -> tuple[Any, ...]:
    return (
        job.id,
        job.queue,
        job.state,
        job.priority,
        _time(job.created_at),
        _time(job.run_at),
        job.attempts,
        bytes(job.data).decode(),
        msgspec.json.encode(job).decode(),
    )


def _time(at_ms: int) -> datetime | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else None
