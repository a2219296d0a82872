"""The port of all storages: what the coordinator needs kept, and nothing more.

A storage holds, for each shard, its epoch, incarnation and reserved sequences, its log and its
current checkpoint; and the coordinator's own parts by name. Only one coordinator writes, and it
numbers everything; a storage keeps order and wholeness:

* All writes of one group take effect, or none.
* A shard's log has no hole. Its checkpoint is the state at one sequence; pages and parts of a
  generation count from its last slice on, all at once, and replace those of before.
* What `open` and `recover` say is what groups that were written have left.
* A recovery is read beside everything else, each answer as of one moment: what is asked for once a
  group is written has that group.

`tests/storage/conformance.py` is the suite that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from msgspec import Struct

from flashq.protocol.internal import Append, CheckpointSlice, Recovered, Reserve

READERS_MAX: Final = 4
"""So many answers of recoveries are read at once: more than one round trip to a database is under
way, and they have no more than 16 MiB of memory."""

LOG_CURSOR: Final = 1 << 60
"""The cursor at which the log begins in the recovery of a shard from a `Snapshot`; pages come
before."""

Generation: TypeAlias = tuple[int, int]
"""What names a checkpoint: its shard's epoch and its number."""


class StoredShard(Struct, frozen=True, kw_only=True):
    """What a storage knows of one shard.

    Args:
        epoch: the last one granted; an epoch granted next has to be greater.
        incarnation: of the shard's state; 0 when there is none.
        reserved: sequences up to this one may have been used.
        last_seq: the last log sequence that is stored, in the log or a checkpoint; 0 for none.
        checkpoint_seq: the sequence of the current checkpoint; 0 for none.
        current: the current checkpoint; None before the first.
        unfinished: the one that is being written; None for none.
        slices: how many slices of it are stored, which is the number of the next.
        log_bytes: size of the log that the checkpoint does not replace.
    """

    epoch: int
    incarnation: int
    reserved: int
    last_seq: int
    checkpoint_seq: int = 0
    current: Generation | None = None
    unfinished: Generation | None = None
    slices: int = 0
    log_bytes: int = 0


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
unfinished one. A slice of the current generation, or one that is not the next of the unfinished
one, changes nothing: it is a repeat. `Reserve` makes sequences the shard's.
"""


class Source(Protocol):
    """What can be read of a storage: as it was at one moment, or by who writes it."""

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery.

        Args:
            cursor: 0, then that of the last answer. It holds until the shard's next write.
            bytes_max: about how much is given; at least one piece is.

        Returns:
            The part; its `epoch` is the one that the shard was granted last, as it was read.

        Raises:
            StorageDamaged: a piece is missing or broken.
            StorageUnavailable: it cannot be read now; that says nothing about writing.
        """
        ...

    def close(self) -> None:
        """Let go of the storage."""
        ...


class Storage(Source, Protocol):
    """What an implementation has to do.

    All calls come from one thread at a time, but `recover`: up to `READERS_MAX` threads call it
    beside each other and beside any other call.
    """

    def look(self) -> Opened | None:
        """Take hold of the storage, and say what is there, without changing anything in it: who
        calls decides whether it is what there has to be.

        Returns:
            What there is; None for a storage that has to be made yet, or whose tables are older
            than this program.

        Raises:
            ConfigError: it is not a storage.
            StorageDamaged: it is broken; the text names the place.
            StorageUnavailable: it cannot be reached, or another coordinator holds it.
        """
        ...

    def open(self, shard_count: int) -> Opened:
        """Take hold of the storage, and say what is there.

        Called again, also after an error, it says what is there by then.

        Raises:
            ConfigError: it was made for another number of shards, or is not a storage.
            StorageDamaged: a log has a hole; the text names shard and sequence.
            StorageUnavailable: it cannot be reached, or another coordinator holds it.
        """
        ...

    def write(self, group: Sequence[Write]) -> None:
        """Carry out a group of writes as one.

        Raises:
            StorageRefused: none of them was carried out, nor will be: something is in them that
                this storage does not take. Nothing can be written before the next `open`.
            StorageUnavailable: none of them was carried out, or it is not known. Nothing can be
                written before the next `open`, which tells.
        """
        ...

    def tidy(self) -> bool:
        """Delete some of what is superseded, when there is nothing better to do.

        Returns:
            Whether there is more.

        Raises:
            StorageUnavailable: as `write` does.
        """
        ...

    def probe(self) -> None:
        """See that it is there and takes writes, without writing anything.

        Raises:
            StorageUnavailable: as `write` does.
        """
        ...

    def ahead_bytes(self) -> int:
        """Return how much is written ahead and cannot be tidied away while somebody reads what was
        there before; 0 where nothing is."""
        ...


class Snapshot(Source, Protocol):
    """A storage as it was at one moment, while somebody else may be writing to it.

    Args:
        opened: what there was.
    """

    opened: Opened
