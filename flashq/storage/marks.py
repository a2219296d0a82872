"""The marks: what a storage must have, written down beside it after each commit.

A database ends its write-ahead log where a checksum is wrong, and says nothing: what was committed
behind that is gone, and the rest looks whole. A copy of last week looks whole too. So the
coordinator keeps, in its data directory and outside of the storage, how far each shard's log has
come, which epoch and sequences it was given, and the number of the last change to the
coordinator's own parts. It writes this before anybody is told of the commit; a storage that has
less at the next start is refused, with the place named.

Pure. `marksfile.py` has the file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from flashq.protocol.internal import Append, CheckpointSlice, Reserve
from flashq.storage.census import Census, read_census
from flashq.storage.port import Grant, Opened, Write

_MAGIC: Final = b"flashqm1"
_HEAD: Final = struct.Struct("<8sQ16sQI")
"""What it is, number of the write, the storage's UUID, number of the last change of parts, and how
many shards there are."""
_SHARD: Final = struct.Struct("<QQQ")
_SEAL: Final = struct.Struct("<I")
_SECTOR_BYTES: Final = 512


class Marks:
    """What a storage must have. Nothing of it ever becomes less, unless it is given up.

    Args:
        uuid: of the storage.
        changes: number of the last change of the coordinator's parts.
        shards: epoch, reserved sequences and last sequence of each shard.
    """

    def __init__(self, uuid: bytes, changes: int, shards: Sequence[tuple[int, int, int]]) -> None:
        self.uuid: Final = uuid
        self.changes = changes
        self._epochs = [epoch for epoch, _, _ in shards]
        self._reserved = [reserved for _, reserved, _ in shards]
        self._last_seqs = [last_seq for _, _, last_seq in shards]

    @classmethod
    def of(cls, opened: Opened) -> Marks:
        """Return the marks of a storage that has what it must have.

        Raises:
            StorageDamaged: its parts are not as they were written.
        """
        return cls(
            opened.uuid,
            read_census(opened.parts).number,
            [(of.epoch, of.reserved, of.last_seq) for of in opened.shards],
        )

    @property
    def shards(self) -> list[tuple[int, int, int]]:
        """Epoch, reserved sequences and last sequence of each shard."""
        return list(zip(self._epochs, self._reserved, self._last_seqs, strict=True))

    def note(self, writes: Sequence[Write], census: Census) -> None:
        """Take in that something is stored.

        Args:
            writes: what was.
            census: as it is after that.
        """
        last_seqs, reserved = self._last_seqs, self._reserved
        for write in writes:
            match write:
                case Append(shard=shard):
                    last_seqs[shard] = max(last_seqs[shard], write.last_seq)
                case CheckpointSlice(shard=shard, last=True):
                    last_seqs[shard] = max(last_seqs[shard], write.seq)
                case Reserve(shard=shard):
                    reserved[shard] = max(reserved[shard], write.upto)
                case Grant(shard=shard):
                    self._epochs[shard] = max(self._epochs[shard], write.epoch)
                    reserved[shard] = max(reserved[shard], write.reserved)
        self.changes = max(self.changes, census.number)

    def give_up(self, shard: int, last_seq: int) -> None:
        """A process of the shard begins with what storage has: what it lacks is lost for good.

        Args:
            shard: whose log it is.
            last_seq: what storage has of it.
        """
        self._last_seqs[shard] = last_seq

    def missing(self, opened: Opened) -> list[str]:
        """Return what a storage lacks, in sentences; nothing when it has what it must have.

        Raises:
            StorageDamaged: the coordinator's parts are not as they were written.
        """
        if opened.uuid != self.uuid:
            return [f"it is storage {opened.uuid.hex()}, not {self.uuid.hex()}"]
        shards = self.shards
        if len(opened.shards) != len(shards):
            return [f"it has {len(opened.shards)} shards, not {len(shards)}"]
        lacks = []
        for number, (found, (epoch, reserved, last_seq)) in enumerate(
            zip(opened.shards, shards, strict=True)
        ):
            if found.last_seq < last_seq:
                lacks.append(
                    f"of shard {number} it lacks the log from {found.last_seq + 1} to {last_seq}"
                )
            elif found.epoch < epoch:
                lacks.append(f"shard {number} is at epoch {found.epoch}, but had {epoch}")
            elif found.reserved < reserved:
                lacks.append(
                    f"shard {number} has sequences up to {found.reserved}, but had {reserved}"
                )
        number = read_census(opened.parts).number
        if number < self.changes:
            lacks.append(
                "of the coordinator's own (crons, webhooks, messages) it lacks the changes "
                f"{number + 1} to {self.changes}"
            )
        return lacks

    def encode(self, number: int) -> bytes:
        """Return a slot.

        Args:
            number: of the write.
        """
        numbers = [*self._epochs, *self._reserved, *self._last_seqs]
        head = _HEAD.pack(_MAGIC, number, self.uuid, self.changes, len(self._epochs))
        body = head + struct.pack(f"<{len(numbers)}Q", *numbers)
        slot = body + _SEAL.pack(crc32(body))
        return slot.ljust(-(-len(slot) // _SECTOR_BYTES) * _SECTOR_BYTES, b"\0")

    @classmethod
    def decode(cls, slot: bytes) -> tuple[int, Marks] | None:
        """Return a slot's number and marks; None for one that is not whole."""
        if len(slot) < _HEAD.size or not slot.startswith(_MAGIC):
            return None
        _, number, uuid, changes, count = _HEAD.unpack_from(slot)
        end = _HEAD.size + count * _SHARD.size
        if slot[end : end + _SEAL.size] != _SEAL.pack(crc32(slot[:end])):
            return None
        numbers = struct.unpack_from(f"<{3 * count}Q", slot, _HEAD.size)
        columns = (numbers[start : start + count] for start in range(0, 3 * count, count))
        return number, cls(uuid, changes, list(zip(*columns, strict=True)))
