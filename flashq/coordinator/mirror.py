"""What storage must have by what has been written to it: how a loss is noticed after an error.

Owns the comparison, and the coordinator's parts as they were written last; a storage that has lost
them, or some of them, gets them again.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from flashq.errors import StorageDamaged
from flashq.protocol.internal import Append, CheckpointSlice, Reserve
from flashq.storage.census import CENSUS_PART, Census, read_census, taken
from flashq.storage.port import Grant, Opened, Put, StoredShard, Write


class Mirror:
    """What storage must have, by what has been written.

    Args:
        opened: what it had when it was opened.
    """

    def __init__(self, opened: Opened) -> None:
        self._uuid = opened.uuid
        self._shards = [_essence(shard) for shard in opened.shards]
        #: the coordinator's own, also to give them again
        self._parts = dict(opened.parts)
        #: what counts them
        self.census = taken(opened.parts, _number_of(opened))

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    def last_seq(self, shard: int) -> int:
        """Return how far a shard's log has come."""
        return self._shards[shard].last_seq

    def counted(self, writes: Sequence[Write]) -> Census:
        """Return the census that has to be put with these writes, if they put a part."""
        return self.census.after(self._parts, writes, self.census.number + 1)

    def note(self, writes: Sequence[Write]) -> None:
        """Take in that something is stored."""
        if any(isinstance(write, Put) for write in writes):
            self.census = self.counted(writes)
        for write in writes:
            match write:
                case Append(shard=shard):
                    self._set(shard, last_seq=write.last_seq)
                case CheckpointSlice(shard=shard, last=True):
                    self._set(shard, last_seq=max(self._shards[shard].last_seq, write.seq))
                case Reserve(shard=shard):
                    self._set(shard, reserved=max(self._shards[shard].reserved, write.upto))
                case Grant(shard=shard):
                    reserved = max(self._shards[shard].reserved, write.reserved)
                    self._set(
                        shard,
                        epoch=write.epoch,
                        incarnation=write.incarnation,
                        reserved=reserved,
                    )
                case Put(name=name, content=content):
                    if content:
                        self._parts[name] = content
                    else:
                        self._parts.pop(name, None)

    def _set(self, shard: int, **changes: int) -> None:
        self._shards[shard] = replace(self._shards[shard], **changes)

    def fits(self, opened: Opened, writes: Sequence[Write]) -> bool:
        """Tell whether storage has what was written, with or without the last writes."""
        return opened.uuid == self._uuid and (
            self._equals(opened) or self._after(writes)._equals(opened)
        )

    def has_written(self, opened: Opened, writes: Sequence[Write]) -> bool:
        """Tell whether storage has the last writes too.

        When they change nothing that tells, they can be written again: slices are numbered.
        """
        return not self._equals(opened) and self._after(writes)._equals(opened)

    def _after(self, writes: Sequence[Write]) -> Mirror:
        after = Mirror.__new__(Mirror)
        after._uuid, after._shards = self._uuid, list(self._shards)
        after._parts, after.census = dict(self._parts), self.census
        after.note(writes)
        return after

    def _equals(self, opened: Opened) -> bool:
        return (
            opened.parts == self._parts
            and [_essence(shard) for shard in opened.shards] == self._shards
        )

    def go_on_from(self, opened: Opened) -> None:
        """Take what storage has for what it must have; changes are counted on."""
        number = max(self.census.number, _number_of(opened))
        self._uuid = opened.uuid
        self._shards = [_essence(shard) for shard in opened.shards]
        self._parts = dict(opened.parts)
        self.census = taken(opened.parts, number)

    def reconciled(self, opened: Opened) -> tuple[Opened, list[Put]]:
        """Return what counts when storage does not fit, and what it has to be given for that.

        Shards give again what is missing of them. The coordinator's parts are as they were written
        last, for it was their only writer, unless somebody else has granted epochs since then, or
        it is another storage with something in it.
        """
        is_foreign = opened.uuid != self._uuid and bool(opened.parts)
        is_taken = any(
            now.epoch > known.epoch for now, known in zip(opened.shards, self._shards, strict=True)
        )
        if is_foreign or is_taken:
            return opened, []
        again = [
            Put(name, content)
            for name, content in self._parts.items()
            if name != CENSUS_PART and opened.parts.get(name) != content
        ]
        again += [Put(name, b"") for name in opened.parts if name not in self._parts]
        return Opened(opened.uuid, opened.shards, dict(self._parts)), again


def _number_of(opened: Opened) -> int:
    """Return how often parts have changed, as far as storage knows it."""
    try:
        return read_census(opened.parts).number
    except StorageDamaged:
        return 0


def _essence(shard: StoredShard) -> StoredShard:
    """Return what a shard is compared by; how far a checkpoint has come does not count."""
    return StoredShard(
        epoch=shard.epoch,
        incarnation=shard.incarnation,
        reserved=shard.reserved,
        last_seq=shard.last_seq,
    )
