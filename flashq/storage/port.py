"""The port of all storages: what the coordinator needs kept, and nothing more.

A storage holds, for each shard, its epoch, incarnation and reserved sequences, its log and its
current checkpoint; and the coordinator's own parts by name. Only one coordinator writes, and it
numbers everything; a storage keeps order and wholeness:

* All writes of one group take effect, or none.
* A shard's log has no hole. Its checkpoint is the state at one sequence; pages and parts of a
  generation count from its last slice on, all at once, and replace those of before.
* What `open` and `recover` say is what groups that were written have left.

`tests/storage/conformance.py` is the suite that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from flashq.protocol.internal import Append, CheckpointSlice, Recovered, Reserve


class StoredShard(Struct, frozen=True):
    """What a storage knows of one shard.

    Args:
        epoch: the last one granted; an epoch granted next has to be greater.
        incarnation: of the shard's state; 0 when there is none.
        reserved: sequences up to this one may have been used.
        last_seq: the last log sequence that is stored, in the log or a checkpoint; 0 for none.
    """

    epoch: int
    incarnation: int
    reserved: int
    last_seq: int


class Opened(Struct, frozen=True):
    """What there is when a storage is opened.

    Args:
        uuid: 16 bytes that name this storage.
        shards: by number.
        parts: the coordinator's own, by name.
    """

    uuid: bytes
    shards: list[StoredShard]
    parts: dict[str, bytes]


class Grant(Struct, frozen=True):
    """A shard's process is granted an epoch; what older ones had not finished is void: an
    unfinished generation is dropped."""

    shard: int
    epoch: int
    incarnation: int
    reserved: int


class Put(Struct, frozen=True):
    """A part of the coordinator's own gets this content; empty content removes it."""

    name: str
    content: bytes


Write: TypeAlias = Grant | Append | CheckpointSlice | Reserve | Put
"""One write of a group.

`Append` adds a blob to the log. `CheckpointSlice` adds pages and parts to an unfinished generation
of its shard; the last one makes it current: log up to its `seq` goes, empty pages and parts go, and
with `full` everything older too. Epoch and number name a generation: another name drops the
unfinished one, and a slice of the current one changes nothing, since it is a repeat. `Reserve`
makes sequences the shard's.
"""


class Storage(Protocol):
    """What an implementation has to do. All calls come from one thread at a time."""

    def open(self, shard_count: int) -> Opened:
        """Take hold of the storage, and say what is there.

        Raises:
            ConfigError: it was made for another number of shards.
            StorageUnavailable: it cannot be reached, or another coordinator holds it.
        """
        ...

    def write(self, group: Sequence[Write]) -> None:
        """Carry out a group of writes as one.

        Raises:
            StorageUnavailable: none of them was carried out, or it is not known.
        """
        ...

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery.

        Args:
            cursor: 0, then that of the last answer. It holds until the shard's next write.
            bytes_max: about how much is given; at least one piece is.

        Raises:
            StorageDamaged: a piece is missing or broken.
        """
        ...

    def close(self) -> None:
        """Let go of the storage."""
        ...
