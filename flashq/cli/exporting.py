"""The jobs of a storage, one after the other: what `flashq export` prints.

Owns the forms. Of each shard the log is read first, then the checkpoint page by page, so that
memory is needed for the log since the checkpoint and little more, however many jobs there are. What
was read lies in a temporary file while it is printed; the storage is read no longer than it takes
to read it, whatever becomes of the output.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final

import msgspec
from msgspec.structs import replace

from flashq.errors import ConfigError, StorageDamaged, StorageUnavailable
from flashq.ids import shard_of_queue
from flashq.protocol.framing import JSON
from flashq.protocol.internal import Recovered
from flashq.protocol.objects import StateView
from flashq.shard.lifecycle import PENDING, STATE_NAMES, Damage, Job
from flashq.shard.outbox import Origin
from flashq.shard.paging import PagedJobs
from flashq.shard.views import state_view
from flashq.storage.form import check_form
from flashq.storage.port import LOG_CURSOR, Snapshot

READ_BYTES_MAX: Final = 4 * 1024 * 1024
SPOOL_BYTES_MAX: Final = 16 * 1024 * 1024
"""What is set aside of a shard lies in memory up to here, and then where temporary files are."""
_SIZE_BYTES: Final = 8
_decode: Final = msgspec.msgpack.Decoder(Recovered).decode

COLUMNS: Final = (
    "id", "queue", "state", "priority", "created_at", "run_at", "started_at", "completed_at",
    "attempts", "max_attempts", "progress", "unique_key", "custom_id", "parent_id", "tags",
    "error", "data",
)  # fmt: skip
"""Of a CSV file. Times are Unix milliseconds; tags and data are JSON."""

_READER: Final = Origin(b"", 0, flags=JSON)


def jobs_of(
    open_snapshot: Callable[[], Snapshot], *, queue: str | None, state: str | None
) -> Iterator[StateView]:
    """Yield the jobs of a storage as readers see them, by shard and id.

    Args:
        open_snapshot: opens the storage as it is at this moment; each shard is read as of its own.
        queue: only of this queue; only its shard is read then.
        state: only in this state.

    Raises:
        ConfigError, StorageUnavailable: it cannot be read.
        StorageDamaged: what is stored does not fit together.
    """
    with closing(open_snapshot()) as first:
        opened = first.opened
        check_form("the storage", opened.shards, opened.parts)
    shard_count = len(opened.shards)
    shards: Iterable[int] = range(shard_count)
    if queue is not None:
        shards = [shard_of_queue(queue, shard_count)]
    try:
        for shard in shards:
            for job in _jobs_of_shard(open_snapshot, shard, shard_count):
                if job.state == PENDING:
                    continue  # its push is not answered yet: nobody sees it
                if queue in (None, job.queue) and state in (None, STATE_NAMES[job.state]):
                    yield state_view(job, _READER)
    except Damage as error:
        raise StorageDamaged(detail=str(error)) from None


def _jobs_of_shard(
    open_snapshot: Callable[[], Snapshot], shard: int, shard_count: int
) -> Iterator[Job]:
    """Yield a shard's jobs. Its content is set aside first, and the storage let go of: who prints
    may be as slow as its reader, and what a storage writes meanwhile would pile up beside it."""
    with SpooledTemporaryFile(SPOOL_BYTES_MAX) as spool:
        with closing(open_snapshot()) as snapshot:
            checkpoint_seq = snapshot.opened.shards[shard].checkpoint_seq
            for start in (LOG_CURSOR, 0):
                for piece in _pieces_of(snapshot, shard, start):
                    body = msgspec.msgpack.encode(piece)
                    spool.write(len(body).to_bytes(_SIZE_BYTES, "big"))
                    spool.write(body)
        spool.seek(0)
        paged = PagedJobs(shard, shard_count, checkpoint_seq)
        pages_from = None
        for piece in _set_aside(spool):
            if piece.parts or piece.pages:
                pages_from = piece
                break
            for blob in piece.log:
                paged.take_log(*blob)
        yield from paged.jobs(_pages(spool, pages_from, paged))


def _pieces_of(snapshot: Snapshot, shard: int, cursor: int) -> Iterator[Recovered]:
    """Yield the log of a shard, or its pages, whichever the cursor begins at."""
    is_log = cursor >= LOG_CURSOR
    while True:
        piece = snapshot.recover(shard, cursor, READ_BYTES_MAX)
        yield piece if is_log else replace(piece, log=[])
        cursor = piece.cursor
        if not cursor or (cursor >= LOG_CURSOR) != is_log:
            return


def _set_aside(spool: IO[bytes]) -> Iterator[Recovered]:
    """Yield what was set aside, in order."""
    while size := spool.read(_SIZE_BYTES):
        yield _decode(spool.read(int.from_bytes(size, "big")))


def _pages(
    spool: IO[bytes], first: Recovered | None, paged: PagedJobs
) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of a shard's checkpoint, and hand over its parts, which come before them."""
    for piece in chain([] if first is None else [first], _set_aside(spool)):
        for _, content in piece.parts:
            paged.take_part(content)
        yield from piece.pages


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
