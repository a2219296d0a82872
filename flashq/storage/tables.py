"""What storages in tables have in common: how log, checkpoints and parts lie in them.

Owns the layout that `sql/` describes: which generation's version of a page counts, and what of it
is superseded and can be swept away a little at a time. A subclass owns the connection, its errors
and how the log is written fastest. After an error nothing is believed until the next `open`.

A database that checks nothing that it reads is checked here: a blob and a piece of a page have
checksums of their content, rows check themselves (`rows.py`), and a log has no hole. So a bit that
has changed anywhere is damage, and never less than was written. (`census.py` does the same for the
coordinator's parts.)
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import Any, Final
from zlib import crc32

from msgspec import structs

from flashq.errors import ConfigError, FlashQError, StorageDamaged, StorageUnavailable
from flashq.protocol.internal import Append, CheckpointSlice, Recovered, Reserve
from flashq.storage.port import LOG_CURSOR, Grant, Opened, Put, Write
from flashq.storage.rows import (
    DERIVED,
    PIECE_KEYS,
    Row,
    ShardRow,
    bytes_of,
    content_of,
    piece_sum,
    shard_row,
    text_of,
)

PIECE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A page's content is cut into pieces of this size: a page holds up to 1,024 jobs of any size, and
databases bound a value at 1 GB."""

SWEPT_BLOBS_MAX: Final = 256
SWEPT_PAGES_MAX: Final = 64
"""So much is deleted in one transaction: a few milliseconds."""

LOOKED_UP_MAX: Final = 1000
"""Pieces that are looked up at once to see how many of them fit into an answer."""

PARTS_PAGE: Final = -1
"""Cursors below LOG_CURSOR are page numbers plus one; from there on, sequences of the log."""


class Tables(ABC):
    """Reading from the tables; `open_tables` before."""

    def __init__(self) -> None:
        self._shards: list[ShardRow] = []

    # --- what a subclass owns

    @abstractmethod
    def _guarded(self) -> AbstractContextManager[None]:
        """Turn the database's errors into the port's; one that is away is disconnected from."""

    @abstractmethod
    def _rows(self, query: str, **values: Any) -> Sequence[Row]:
        """Return the rows of a named query."""

    # --- reading

    def _read_tables(self) -> Opened | None:
        """Read what is small; None when the storage has just been made."""
        meta = self._rows("meta")
        if not meta:
            return None
        uuid, shard_count = meta[0]
        self._shards = [shard_row(columns) for columns in self._rows("shards")]
        if [row.shard for row in self._shards] != list(range(shard_count)):
            raise StorageDamaged(
                detail=f"it was made for {shard_count} shards, and has {len(self._shards)}"
            )
        for shard, last_seq in self._rows("last_sequences"):
            row = self._shards[shard]
            row.last_seq = max(row.checkpoint_seq, last_seq or 0)
        for shard, size in self._rows("log_bytes"):
            self._shards[shard].log_bytes = size
        self._check_gaps()
        self._check_pieces()
        parts = {
            text_of(content_of(name)): content_of(content) for name, content in self._rows("parts")
        }
        return Opened(content_of(uuid), [row.stored() for row in self._shards], parts)

    def _check_gaps(self) -> None:
        gaps = self._rows("gaps")
        if gaps:
            shard, previous, first_seq = gaps[0]
            raise StorageDamaged(detail=f"log of shard {shard}: after {previous} comes {first_seq}")

    def _check_pieces(self) -> None:
        """See that the pieces of all pages are there, and no other ones."""
        found = {row.shard: (0, 0) for row in self._shards}
        for shard, pieces in groupby(self._rows("piece_keys"), key=lambda row: row[0]):
            rows = list(pieces)
            found[shard] = len(rows), piece_sum(rows)
        for row in self._shards:
            if found.pop(row.shard) != (row.pieces, row.pieces_sum):
                raise StorageDamaged(
                    detail=f"the checkpoints of shard {row.shard} are not as they were written"
                )
        if found:
            raise StorageDamaged(detail=f"there are pages of shard {min(found)}, which is none")

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery."""
        with self._guarded():
            [columns] = self._rows("shard", shard=shard)
            row = shard_row(columns)
            reply = Recovered(epoch=row.epoch, cursor=0, parts=[], pages=[], log=[])
            room = bytes_max
            if cursor < LOG_CURSOR:
                room = self._recover_pages(row, max(cursor - 1, PARTS_PAGE), room, reply)
                if reply.cursor:
                    return reply
                cursor = LOG_CURSOR
            self._recover_log(row, cursor - LOG_CURSOR, room, reply)
        return reply

    def _recover_pages(self, row: ShardRow, page: int, room: int, reply: Recovered) -> int:
        """Add parts and pages from `page` on, and return how much room they leave."""
        which = {
            "shard": row.shard,
            "floor": row.floor,
            "current": row.current,
            "void": row.void,
        }
        sizes = self._rows("page_sizes", page=page, limit=LOOKED_UP_MAX, **which)
        first, last, newest = page, page - 1, {}
        for number, part, ordinal, size in sizes:
            if number != PARTS_PAGE and last >= first and size > room:
                reply.cursor = number + 1
                break
            newest[number, content_of(part)] = ordinal
            last = number
            room -= size
        else:
            if len(sizes) == LOOKED_UP_MAX:
                reply.cursor = last + 2
        if newest:
            pieces = self._rows("page_pieces", first=first, last=last, **which)
            for (number, part), content in self._contents(row.shard, pieces, newest):
                if not content:
                    continue
                if number == PARTS_PAGE:
                    reply.parts.append((text_of(part), content))
                else:
                    reply.pages.append((number, content))
        return room

    @staticmethod
    def _contents(
        shard: int, pieces: Iterable[Row], newest: dict[tuple[int, bytes], int]
    ) -> Iterator[tuple[tuple[int, bytes], bytes]]:
        """Yield the content of each page's newest version, put together and checked."""
        for (number, name, ordinal), group in groupby(pieces, lambda piece: piece[:3]):
            part = content_of(name)
            if newest.get((number, part)) != ordinal:
                continue
            contents = []
            for _, _, _, checksum, content in group:
                content = content_of(content)
                if crc32(content) != checksum:
                    place = f"part {text_of(part)}" if number == PARTS_PAGE else f"page {number}"
                    raise StorageDamaged(detail=f"checkpoint of shard {shard}, {place}")
                contents.append(content)
            yield (number, part), b"".join(contents) if len(contents) > 1 else contents[0]

    def _recover_log(self, row: ShardRow, first: int, room: int, reply: Recovered) -> None:
        """Add the log from `first` on."""
        which = {"shard": row.shard, "first": first, "checkpoint_seq": row.checkpoint_seq}
        sizes = self._rows("log_sizes", limit=LOOKED_UP_MAX, **which)
        last = -1
        is_first = not (reply.parts or reply.pages)
        for seq, size in sizes:
            if size > room and not is_first:
                reply.cursor = LOG_CURSOR + seq
                break
            is_first = False
            room -= size
            last = seq
        else:
            if len(sizes) == LOOKED_UP_MAX:
                reply.cursor = LOG_CURSOR + last + 1
        if last < 0:
            return
        for first_seq, last_seq, checksum, records in self._rows("log_blobs", last=last, **which):
            content = content_of(records)
            if crc32(content) != checksum:
                raise StorageDamaged(detail=f"log of shard {row.shard}, {first_seq} to {last_seq}")
            reply.log.append((first_seq, last_seq, content))


class TableStorage(Tables):
    """Writing to the tables. Recoveries are read by others, on connections of their own: they
    neither see the rows that are kept here nor hold up a write."""

    def __init__(self) -> None:
        super().__init__()
        #: shards whose rows have changed in this transaction
        self._changed: set[int] = set()
        #: shards with something superseded, and the page from which it is swept; None: log first
        self._superseded: dict[int, int | None] = {}
        #: nothing may be written: the outcome of a transaction is not known
        self._is_open = False

    # --- what a subclass owns

    @abstractmethod
    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery, from any thread."""

    @abstractmethod
    def _connect(self) -> list[str]:
        """Have a connection that holds the storage alone, with an up-to-date schema; return the
        names of the migrations that this took."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, if there is one."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[None]:
        """Carry out what is done within as one, forced to the disk at its end."""

    @abstractmethod
    def _execute(self, query: str, **values: Any) -> int:
        """Run a named query, and return how many rows it changed."""

    @abstractmethod
    def _execute_many(self, query: str, values: Sequence[dict[str, Any]]) -> None:
        """Run a named query once for each set of values."""

    @abstractmethod
    def _append_alone(self, blobs: Sequence[Append]) -> None:
        """Add to the log, as a transaction of its own."""

    @abstractmethod
    def _append(self, blobs: Sequence[Append]) -> None:
        """Add to the log, within a transaction."""

    @abstractmethod
    def _confirm(self) -> None:
        """See that what was committed is safe, where a commit may be there without that."""

    @abstractmethod
    def _probe(self) -> None:
        """Raise what a write would, as far as that can be told without one."""

    @abstractmethod
    def _shrink(self) -> bool:
        """Give some free space back, where that is the storage's own business; tell if there is
        more."""

    # --- opening

    def migrate(self) -> list[str]:
        """Bring the schema up to date, and return the names of the migrations that this took.

        Raises:
            ConfigError, StorageUnavailable: as `open` does.
        """
        with self._closed_on_error(), self._guarded():
            return self._connect()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Let nobody go on with a storage that could not be opened."""
        try:
            yield
        except FlashQError:
            self._disconnect()
            raise

    @abstractmethod
    def _look(self) -> Opened | None:
        """Take hold of the storage and read what is there, without changing anything."""

    @abstractmethod
    def _check_structure(self) -> None:
        """See that the database itself is whole, as far as that can be found out."""

    def look(self) -> Opened | None:
        """Take hold of the storage, and say what is there, without changing anything."""
        with self._closed_on_error(), self._guarded():
            return self._look()

    def open(self, shard_count: int) -> Opened:
        """Take hold of the storage, and say what is there."""
        self._is_open = False
        with self._closed_on_error(), self._guarded():
            self._connect()
            opened = self._read_tables()
            if opened is None:
                self._make(shard_count)
                opened = self._read_tables()
            else:
                self._confirm()
            assert opened is not None, "it has just been made"
            if len(opened.shards) != shard_count:
                raise ConfigError(
                    f"shards is {shard_count}, but the storage was made for "
                    f"{len(opened.shards)}, which cannot be changed"
                )
        self._superseded = dict.fromkeys(range(shard_count))
        self._is_open = True
        return opened

    def _make(self, shard_count: int) -> None:
        """Give a new storage its UUID and its shards."""
        self._shards = [ShardRow.empty(shard) for shard in range(shard_count)]
        self._changed = set(range(shard_count))
        with self._transaction():
            self._execute("make_meta", uuid=os.urandom(16), shard_count=shard_count)
            self._execute_many("make_shard", [{"shard": shard} for shard in range(shard_count)])
            self._write_rows()

    # --- mending

    def mend(self) -> list[str]:
        """Cut off what is behind the first break of each log, and return what that was.

        Raises:
            ConfigError, StorageUnavailable: as `open` does.
            StorageDamaged: what is broken is not a log.
        """
        with self._closed_on_error(), self._guarded():
            self._connect()
            self._check_structure()
            cut = []
            for columns in self._rows("shards"):
                row = shard_row(columns)
                last = self._whole_up_to(row)
                with self._transaction():
                    blobs = self._execute("cut_log", shard=row.shard, last=last)
                if blobs:
                    cut.append(
                        f"the log of shard {row.shard} is broken behind {last}: "
                        f"{blobs} pieces of it are cut off"
                    )
        return cut

    def _whole_up_to(self, row: ShardRow) -> int:
        """Return up to where a shard's log is whole."""
        last, first = row.checkpoint_seq, 0
        while True:
            which = {"shard": row.shard, "first": first, "checkpoint_seq": row.checkpoint_seq}
            sizes = self._rows("log_sizes", limit=LOOKED_UP_MAX, **which)
            for first_seq, _ in sizes:
                [blob] = self._rows("log_blobs", last=first_seq, **{**which, "first": first_seq})
                _, last_seq, checksum, records = blob
                if first_seq > last + 1 or crc32(content_of(records)) != checksum:
                    return last
                last = max(last, last_seq)
            if len(sizes) < LOOKED_UP_MAX:
                return last
            first = sizes[-1][0] + 1

    # --- writing

    def write(self, group: Sequence[Write]) -> None:
        """Carry out a group of writes as one."""
        if not self._is_open:
            raise StorageUnavailable(detail="it has not been opened since an error")
        blobs = [write for write in group if isinstance(write, Append)]
        self._is_open = False
        with self._guarded():
            if len(blobs) == len(group) and not self._superseded:
                for blob in blobs:
                    self._follow(blob)
                self._append_alone(blobs)
            else:
                with self._transaction():
                    self._write_rest(group)
                    if blobs:
                        self._append(blobs)
                    self._sweep()
                    self._write_rows()
        self._is_open = True

    def _follow(self, blob: Append) -> None:
        """See that a blob joins on to its shard's log."""
        row = self._shards[blob.shard]
        assert blob.first_seq == row.last_seq + 1, (blob.first_seq, row.last_seq)
        row.last_seq = blob.last_seq

    def _write_rest(self, group: Sequence[Write]) -> None:
        """Write everything but the log, in order, and see that the log fits."""
        parts: dict[bytes, bytes] = {}
        for write in group:
            match write:
                case Append():
                    self._follow(write)
                case CheckpointSlice():
                    self._add_slice(self._shards[write.shard], write)
                case Reserve():
                    row = self._shards[write.shard]
                    row.reserved = max(row.reserved, write.upto)
                    self._changed.add(write.shard)
                case Grant():
                    row = self._shards[write.shard]
                    row.epoch, row.incarnation = write.epoch, write.incarnation
                    row.reserved = max(row.reserved, write.reserved)
                    self._drop_building(row)
                    self._changed.add(write.shard)
                case Put():
                    parts[bytes_of(write.name)] = write.content
        kept = [{"name": name, "content": content} for name, content in parts.items() if content]
        gone = [{"name": name} for name, content in parts.items() if not content]
        if kept:
            self._execute_many("put_part", kept)
        if gone:
            self._execute_many("drop_part", gone)

    def _add_slice(self, row: ShardRow, write: CheckpointSlice) -> None:
        name = write.epoch, write.generation
        if row.current and name == (row.current_epoch, row.current_generation):
            return
        self._changed.add(row.shard)
        if row.building_name != name:
            self._drop_building(row)
            row.building = max(row.current, row.void) + 1
            row.building_epoch, row.building_generation = name
        if write.number != row.building_slices:
            return
        row.building_slices += 1
        contents = [
            *((PARTS_PAGE, bytes_of(part), content) for part, content in write.parts),
            *((page, b"", content) for page, content in write.pages),
        ]
        pieces = [
            {
                "shard": row.shard,
                "page": page,
                "part": part,
                "ordinal": row.building,
                "piece": start // PIECE_BYTES_MAX,
                "checksum": crc32(content[start : start + PIECE_BYTES_MAX]),
                "content": content[start : start + PIECE_BYTES_MAX],
            }
            for page, part, content in contents
            for start in range(0, max(1, len(content)), PIECE_BYTES_MAX)
        ]
        if pieces:
            self._execute_many("add_page", pieces)
            row.pieces += len(pieces)
            row.pieces_sum += piece_sum([[piece[name] for name in PIECE_KEYS] for piece in pieces])
        if write.last:
            self._finish(row, write)

    def _finish(self, row: ShardRow, last: CheckpointSlice) -> None:
        """Make the generation current; what it supersedes is swept away later."""
        if last.full:
            row.floor = row.building
        row.current, row.current_epoch = row.building, row.building_epoch
        row.current_generation = row.building_generation
        row.building = row.building_epoch = row.building_generation = row.building_slices = 0
        row.checkpoint_seq = last.seq
        row.last_seq = max(row.last_seq, last.seq)
        self._superseded[row.shard] = None

    def _drop_building(self, row: ShardRow) -> None:
        if not row.building:
            return
        if row.void:  # there is room to remember one
            self._delete_pieces(row, "drop_ordinal", ordinal=row.void)
        row.drop_building()
        self._superseded[row.shard] = None

    def _delete_pieces(self, row: ShardRow, query: str, **values: Any) -> None:
        """Delete pieces of pages, which the query returns."""
        gone = self._rows(query, shard=row.shard, **values)
        if gone:
            row.pieces -= len(gone)
            row.pieces_sum -= piece_sum(gone)
            self._changed.add(row.shard)

    def _write_rows(self) -> None:
        if self._changed:
            for shard in self._changed:
                self._shards[shard].checksum = self._shards[shard].sealed()
            rows = [structs.asdict(self._shards[shard]) for shard in sorted(self._changed)]
            for row in rows:
                for name in DERIVED:
                    del row[name]
            self._execute_many("set_shard", rows)
            self._changed.clear()

    def probe(self) -> None:
        """See that the tables are there and take writes."""
        if not self._is_open:
            raise StorageUnavailable(detail="it has not been opened since an error")
        self._is_open = False
        with self._guarded():
            self._probe()
        self._is_open = True

    def ahead_bytes(self) -> int:
        """Return how much is written ahead; 0 where that is the database's own business."""
        return 0

    # --- sweeping

    def tidy(self) -> bool:
        """Delete some of what is superseded."""
        if not self._is_open:
            raise StorageUnavailable(detail="it has not been opened since an error")
        self._is_open = False
        with self._guarded():
            if self._superseded:
                with self._transaction():
                    self._sweep()
                    self._write_rows()
                more = True
            else:
                more = self._shrink()
        self._is_open = True
        return more

    def _sweep(self) -> None:
        """Delete a little of what is superseded: of one shard, its log first, then its pages."""
        if not self._superseded:
            return
        shard, page = next(iter(self._superseded.items()))
        row = self._shards[shard]
        if page is None:
            blobs = self._execute(
                "trim_log",
                shard=shard,
                checkpoint_seq=row.checkpoint_seq,
                limit=SWEPT_BLOBS_MAX,
            )
            if blobs < SWEPT_BLOBS_MAX:
                self._superseded[shard] = PARTS_PAGE
            return
        ends = self._rows("sweep_end", shard=shard, page=page, rows=SWEPT_PAGES_MAX)
        last = ends[0][0] if ends else LOG_CURSOR
        which = {"first": page, "last": last, "current": row.current}
        self._delete_pieces(row, "sweep_superseded", floor=row.floor, void=row.void, **which)
        self._delete_pieces(row, "sweep_gone", **which)
        if ends:
            self._superseded[shard] = last + 1
            return
        del self._superseded[shard]
        if row.void:
            row.void = 0
            self._changed.add(shard)
