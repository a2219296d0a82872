"""Rows as they lie in the tables, and how each says whether it is what was written.

Pure. A shard's row has a checksum of itself, and counts the pieces of its pages with a sum over
what names them. Names are bytes, for what a database takes for text differs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final
from zlib import crc32

from msgspec import Struct

from flashq.errors import StorageDamaged
from flashq.storage.port import Generation, StoredShard

Row = tuple[Any, ...]


class ShardRow(Struct, kw_only=True):
    """A shard's row; see `sql/` for what its columns say. `last_seq` and `log_bytes` are not
    among them; the latter is as of when it was read."""

    shard: int
    epoch: int
    incarnation: int
    reserved: int
    checkpoint_seq: int
    floor: int
    current: int
    current_epoch: int
    current_generation: int
    building: int
    building_epoch: int
    building_generation: int
    building_slices: int
    void: int
    pieces: int
    pieces_sum: int
    checksum: int
    last_seq: int = 0
    log_bytes: int = 0

    def stored(self) -> StoredShard:
        """Return it as the port has it."""
        return StoredShard(
            epoch=self.epoch,
            incarnation=self.incarnation,
            reserved=self.reserved,
            last_seq=self.last_seq,
            checkpoint_seq=self.checkpoint_seq,
            current=(self.current_epoch, self.current_generation) if self.current else None,
            unfinished=self.building_name,
            slices=self.building_slices,
            log_bytes=self.log_bytes,
        )

    def sealed(self) -> int:
        """Return the checksum that a row of this content has."""
        return crc32(_SEAL.pack(*(getattr(self, name) for name in _SEALED)))

    @property
    def building_name(self) -> Generation | None:
        """The unfinished generation's name."""
        return (self.building_epoch, self.building_generation) if self.building else None

    @classmethod
    def empty(cls, shard: int) -> ShardRow:
        """Return the row of a shard that nothing is known of."""
        return cls(**{**dict.fromkeys(_COLUMNS, 0), "shard": shard})

    def drop_building(self) -> None:
        """Give the unfinished generation up."""
        self.void, self.building = self.building, 0
        self.building_epoch = self.building_generation = self.building_slices = 0


DERIVED: Final = ("last_seq", "log_bytes")
_COLUMNS: Final = tuple(name for name in ShardRow.__struct_fields__ if name not in DERIVED)
_SEALED: Final = tuple(name for name in _COLUMNS if name != "checksum")
_SEAL: Final = struct.Struct(f"<{len(_SEALED)}q")
PIECE_KEYS: Final = ("shard", "page", "part", "ordinal", "piece", "checksum")
_PIECE: Final = struct.Struct("<qqqqI")


def shard_row(columns: Row) -> ShardRow:
    """Return a shard's row as it was read.

    Raises:
        StorageDamaged: it is not as it was written.
    """
    row = ShardRow(**dict(zip(_COLUMNS, columns, strict=True)))
    try:
        is_whole = row.sealed() == row.checksum
    except struct.error:  # a database that is not strict about its types
        is_whole = False
    if not is_whole:
        raise StorageDamaged(detail=f"the row of shard {row.shard} is not as it was written")
    return row


def bytes_of(name: str) -> bytes:
    """Return a name as it is stored: as bytes, for what a database takes for text differs."""
    return name.encode("utf-8", "surrogatepass")


def text_of(name: bytes) -> str:
    """Return a name that was stored.

    Raises:
        StorageDamaged: it is none.
    """
    try:
        return name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise StorageDamaged(detail=f"the name {name!r} is not as it was written") from None


def content_of(value: object) -> bytes:
    """Return what was read where bytes were written."""
    if not isinstance(value, bytes):
        raise StorageDamaged(detail="a row has something else where bytes were written")
    return value


def piece_sum(rows: Iterable[Sequence[Any]]) -> int:
    """Return what pieces of pages add to the sum of their shard.

    Args:
        rows: shard, page, part, ordinal, piece and checksum of each.
    """
    try:
        return sum(
            crc32(content_of(part), crc32(_PIECE.pack(shard, page, ordinal, piece, checksum)))
            for shard, page, part, ordinal, piece, checksum in rows
        )
    except struct.error:
        raise StorageDamaged(detail="what names a page is not as it was written") from None
