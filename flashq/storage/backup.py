"""Backups: everything a storage has at one moment, in one file of our own form.

The form is the same for all storages, so that a backup of one can be restored into another. The
file is a line that says what it is, then chunks: length and CRC-32 in four bytes each, big-endian,
and a MessagePack body. The first chunk is the head, the last one counts the others, so that a file
that was cut off is noticed. A restore goes through the port, like everything that is written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final
from zlib import crc32

from msgspec import Struct, msgpack

from flashq.errors import ConfigError, StorageDamaged
from flashq.privacy import for_its_owner
from flashq.protocol.internal import Append, CheckpointSlice, Recovered
from flashq.storage.form import check_form
from flashq.storage.port import Grant, Put, Snapshot, Storage, StoredShard, Write

MAGIC: Final = b"flashq backup, form 1\n"
CHUNK_BYTES_MAX: Final = 4 * 1024 * 1024
"""About so much is read and written at a time."""

SEQUENCES_SKIPPED: Final = 2**32
"""A restored storage does not know which ids were given after its backup; so many are left out."""
EPOCHS_SKIPPED: Final = 1000
"""Nor which epochs were granted."""

RESTORING: Final = "restoring"
"""The coordinator's part that a storage has while a restore is under way, or was cut off."""

_FRAME: Final = struct.Struct(">II")

Progress = Callable[[int], None]
"""Called with each number of bytes that is done."""


class Head(Struct, frozen=True, tag="head"):
    """What the backup is of, and what there was of each shard and of the coordinator."""

    version: str
    uuid: bytes
    wall_ms: int
    shards: list[StoredShard]
    parts: dict[str, bytes]


class Content(Struct, frozen=True, tag="content"):
    """A part of a shard's recovery."""

    shard: int
    part: Recovered


class End(Struct, frozen=True, tag="end"):
    """That was all."""

    chunks: int


_encode: Final = msgpack.Encoder().encode
_decode: Final = msgpack.Decoder(Head | Content | End).decode


def make_backup(
    snapshot: Snapshot, path: Path, wall_ms: int, version: str, progress: Progress
) -> None:
    """Write a backup, whole or not at all.

    Args:
        snapshot: of the storage; the caller closes it.
        path: of the file, which must not be there yet.
        wall_ms: the wall clock.
        version: of flashq.

    Raises:
        ConfigError: the file is there, or cannot be written.
        StorageDamaged: the storage is broken, and is not worth a backup.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already; a backup overwrites nothing")
    opened = snapshot.opened
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "wb", opener=for_its_owner) as file:
            file.write(MAGIC)
            head = Head(version, opened.uuid, wall_ms, opened.shards, opened.parts)
            progress(_write_chunk(file, head))
            chunks = 1
            for shard in range(len(opened.shards)):
                for part in _parts_of(snapshot, shard):
                    progress(_write_chunk(file, Content(shard, part)))
                    chunks += 1
            _write_chunk(file, End(chunks))
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _parts_of(snapshot: Snapshot, shard: int) -> Iterator[Recovered]:
    cursor = 0
    while True:
        part = snapshot.recover(shard, cursor, CHUNK_BYTES_MAX)
        yield part
        if not part.cursor:
            return
        cursor = part.cursor


def _write_chunk(file: IO[bytes], chunk: Head | Content | End) -> int:
    body = _encode(chunk)
    file.write(_FRAME.pack(len(body), crc32(body)))
    file.write(body)
    return len(body)


def read_chunks(path: Path) -> Iterator[Head | Content | End]:
    """Yield the chunks of a backup.

    Raises:
        ConfigError: it cannot be read, or is no backup.
        StorageDamaged: it is broken or was cut off.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ConfigError(f"{path} is no backup of flashq, or of another form")
        chunks = 0
        while True:
            at = file.tell()
            frame = file.read(_FRAME.size)
            size, checksum = _FRAME.unpack(frame) if len(frame) == _FRAME.size else (0, 0)
            body = file.read(size)
            if not size or len(body) != size or crc32(body) != checksum:
                raise StorageDamaged(detail=f"{path} is broken or cut off at byte {at}")
            chunk = _decode(body)
            if isinstance(chunk, End):
                if chunk.chunks != chunks:
                    raise StorageDamaged(detail=f"{path} lacks some of its {chunk.chunks} chunks")
                return
            chunks += 1
            yield chunk


def restore(storage: Storage, path: Path, progress: Progress) -> Head:
    """Fill an empty storage from a backup, and return the backup's head.

    Args:
        storage: not opened yet; the caller closes it.
        path: of the backup.

    Raises:
        ConfigError: the storage is not empty, or the file is no backup that this flashq can read.
        StorageDamaged: the file is broken; the storage then says that its restore was cut off.
        StorageUnavailable: storage was, in the midst of it.
    """
    for _ in read_chunks(path):  # what is broken is found before anything is written
        pass
    chunks = read_chunks(path)
    head = next(chunks)
    assert isinstance(head, Head), "the head comes first"
    check_form(f"{path}, written by flashq {head.version},", head.shards, head.parts)
    opened = storage.open(len(head.shards))
    if opened.parts or any(shard.incarnation or shard.last_seq for shard in opened.shards):
        raise ConfigError("the storage is not empty; a restore overwrites nothing")
    storage.write([Put(RESTORING, b"1")])
    slices = [0] * len(head.shards)
    for chunk in chunks:
        assert isinstance(chunk, Content), "after the head comes content"
        writes = _writes_of(chunk, head.shards[chunk.shard], slices)
        if writes:
            storage.write(writes)
        progress(sum(map(len, _contents_of(chunk.part))))
    final: list[Write] = [
        Grant(
            number,
            shard.epoch + EPOCHS_SKIPPED,
            shard.incarnation,
            shard.reserved + SEQUENCES_SKIPPED,
        )
        for number, shard in enumerate(head.shards)
    ]
    final += [Put(name, content) for name, content in head.parts.items()]
    storage.write([*final, Put(RESTORING, b"")])
    while storage.tidy():
        pass
    return head


def _writes_of(chunk: Content, shard: StoredShard, slices: list[int]) -> list[Write]:
    """Return what writes a part of a recovery: first slices of a checkpoint, then the log."""
    part, number = chunk.part, chunk.shard
    writes: list[Write] = []
    if part.parts or part.pages:
        writes.append(_slice(number, shard, slices[number], part, last=False))
        slices[number] += 1
    ends_pages = bool(part.log) or not part.cursor
    if ends_pages and shard.current is not None and slices[number] >= 0:
        empty = Recovered(cursor=0)
        writes.append(_slice(number, shard, slices[number], empty, last=True))
        slices[number] = -1  # the checkpoint is whole
    writes += [
        Append(
            shard=number,
            epoch=shard.epoch,
            first_seq=first,
            last_seq=last,
            records=records,
            checksum=crc32(records),
        )
        for first, last, records in part.log
    ]
    return writes


def _slice(
    number: int, shard: StoredShard, slice_number: int, part: Recovered, *, last: bool
) -> CheckpointSlice:
    return CheckpointSlice(
        shard=number,
        epoch=shard.epoch,
        generation=1,
        number=slice_number,
        seq=shard.checkpoint_seq,
        parts=part.parts,
        pages=part.pages,
        last=last,
    )


def _contents_of(part: Recovered) -> Iterator[bytes]:
    for _, content in part.parts:
        yield content
    for _, content in part.pages:
        yield content
    for _, _, records in part.log:
        yield records
