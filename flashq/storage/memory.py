"""The storage of `memory:`: everything in the coordinator's own memory.

A shard that is killed comes back with every job; when the coordinator ends, all is gone. Because
nothing is left to count on from, numbers that must not come again are seeded from the wall clock:

* **Sequences**, from which job ids are made. Ids go up to 2**53 - 1, so a shard has
  `2**53 / shard_count` sequences. A run's reservation begins on a line that rises with the clock
  and crosses 7/8 of that space in 2**26 s (2.1 years): the last eighth is what a run that begins
  at the end of the line can still use. For 32 shards the line rises by 3,670 sequences a
  millisecond, faster than one shard's process can make jobs (3 million a second, in batches,
  without pause), so it is always ahead of what the runs before have used. The same holds for
  fewer shards. With more, the shards together have 117 million a second, and one of them must
  not use more than its share of that on average over a run: 114,000 a second of 1,024 shards.
  Every 2.1 years the line begins anew; what had the ids then is long gone.
* **Epochs** begin at the clock's tenths of seconds, modulo 2**20, and fit 21 bits with a million
  grants to come. They differ from those of the run before unless it ended less than 100 ms ago,
  or a whole number of 29.1 hours.

Both need a wall clock that is not set back between two runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import ClassVar, Final
from zlib import crc32

from flashq.errors import StorageDamaged
from flashq.ids import JOB_ID_MAX
from flashq.protocol.internal import Append, CheckpointSlice, Recovered, Reserve
from flashq.storage.port import Grant, Opened, Put, StoredShard, Write

SEED_FROM_MS: Final = 1_735_689_600_000
"""2025-01-01, where the line of sequences began."""
SEED_PERIOD_MS: Final = 2**26 * 1000

EPOCH_UNIT_MS: Final = 100
EPOCH_SEED_COUNT: Final = 2**20


def first_sequence(wall_ms: int, shard_count: int) -> int:
    """Return the sequence up to which a run that begins now counts as reserved.

    Args:
        wall_ms: the wall clock.
    """
    space = JOB_ID_MAX // shard_count
    per_ms = space * 7 // 8 // SEED_PERIOD_MS
    return max(0, wall_ms - SEED_FROM_MS) % SEED_PERIOD_MS * per_ms


def first_epoch(wall_ms: int) -> int:
    """Return the epoch after which a run that begins now grants its first one."""
    return wall_ms // EPOCH_UNIT_MS % EPOCH_SEED_COUNT


class _Generation:
    """A checkpoint that is being written."""

    __slots__ = ("name", "pages", "parts", "slices")

    def __init__(self, name: tuple[int, int]) -> None:
        #: epoch and number: the successor of a shard's process may choose the same number
        self.name: Final = name
        #: how many have come
        self.slices = 0
        self.pages: dict[int, bytes] = {}
        self.parts: dict[str, bytes] = {}


class _Shard:
    """What is stored of one shard."""

    __slots__ = (
        "checkpoint_seq",
        "current",
        "epoch",
        "incarnation",
        "last_seq",
        "log",
        "pages",
        "parts",
        "reserved",
        "unfinished",
    )

    def __init__(self, epoch: int, reserved: int) -> None:
        self.epoch = epoch
        self.incarnation = 0
        self.reserved = reserved
        #: of the log, or of the checkpoint when it is newer
        self.last_seq = 0
        #: in order and without a hole; never older than the checkpoint
        self.log: list[Append] = []
        #: name of the current checkpoint; None before the first
        self.current: tuple[int, int] | None = None
        self.checkpoint_seq = 0
        #: of the current checkpoint; never empty bytes
        self.pages: dict[int, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.unfinished: _Generation | None = None

    def grant(self, write: Grant) -> None:
        self.epoch = write.epoch
        self.incarnation = write.incarnation
        self.reserved = max(self.reserved, write.reserved)
        self.unfinished = None

    def append(self, write: Append) -> None:
        assert write.first_seq == self.last_seq + 1, (write.first_seq, self.last_seq)
        self.log.append(write)
        self.last_seq = write.last_seq

    def add_slice(self, write: CheckpointSlice) -> None:
        name = write.epoch, write.generation
        if name == self.current:
            return  # its last slice again: the answer was late
        generation = self.unfinished
        if generation is None or generation.name != name:
            generation = self.unfinished = _Generation(name)
        if write.number != generation.slices:
            return  # again: the answer was late
        generation.slices += 1
        generation.pages.update(write.pages)
        generation.parts.update(write.parts)
        if not write.last:
            return
        self.unfinished = None
        self.current = name
        self.checkpoint_seq = write.seq
        if write.full:
            self.pages.clear()
            self.parts.clear()
        self.pages |= generation.pages
        self.parts |= generation.parts
        self.pages = {number: content for number, content in self.pages.items() if content}
        self.parts = {name: content for name, content in self.parts.items() if content}
        self.log = [blob for blob in self.log if blob.last_seq > write.seq]
        self.last_seq = max(self.last_seq, write.seq)

    def stored(self) -> StoredShard:
        unfinished = self.unfinished
        return StoredShard(
            epoch=self.epoch,
            incarnation=self.incarnation,
            reserved=self.reserved,
            last_seq=self.last_seq,
            checkpoint_seq=self.checkpoint_seq,
            current=self.current,
            unfinished=None if unfinished is None else unfinished.name,
            slices=0 if unfinished is None else unfinished.slices,
            log_bytes=sum(len(blob.records) for blob in self.log),
        )

    def pieces(self) -> Iterator[tuple[str, bytes] | tuple[int, bytes] | Append]:
        yield from self.parts.items()
        yield from self.pages.items()
        yield from self.log


class MemoryStorage:
    """See the module.

    Args:
        wall_ms: the wall clock at the start.
        uuid: 16 random bytes.
    """

    #: held by who writes, and by who reads a recovery meanwhile; a process has one such storage
    _lock: ClassVar[Lock] = Lock()

    def __init__(self, wall_ms: int, uuid: bytes) -> None:
        self._wall_ms = wall_ms
        self._uuid = uuid
        self._shards: list[_Shard] = []
        self._parts: dict[str, bytes] = {}

    def look(self) -> Opened | None:
        """Say what is there; nothing at first."""
        return self.open(len(self._shards)) if self._shards else None

    def open(self, shard_count: int) -> Opened:
        """Begin with nothing but numbers; a second time, with what is there."""
        if not self._shards:
            epoch = first_epoch(self._wall_ms)
            reserved = first_sequence(self._wall_ms, shard_count)
            self._shards = [_Shard(epoch, reserved) for _ in range(shard_count)]
        return Opened(self._uuid, [shard.stored() for shard in self._shards], dict(self._parts))

    def write(self, group: Sequence[Write]) -> None:
        """Carry out a group of writes."""
        with self._lock:
            for write in group:
                self._write(write)

    def _write(self, write: Write) -> None:
        match write:
            case Append():
                self._shards[write.shard].append(write)
            case CheckpointSlice():
                self._shards[write.shard].add_slice(write)
            case Reserve():
                shard = self._shards[write.shard]
                shard.reserved = max(shard.reserved, write.upto)
            case Grant():
                self._shards[write.shard].grant(write)
            case Put():
                if write.content:
                    self._parts[write.name] = write.content
                else:
                    self._parts.pop(write.name, None)

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a shard's recovery; `cursor` counts pieces."""
        with self._lock:
            epoch, pieces = self._shards[shard].epoch, list(self._shards[shard].pieces())
        reply = Recovered(epoch=epoch, cursor=0, parts=[], pages=[], log=[])
        size = 0
        for index, piece in enumerate(pieces):
            if index < cursor:
                continue
            content = piece.records if isinstance(piece, Append) else piece[1]
            if size and size + len(content) > bytes_max:
                reply.cursor = index
                break
            size += len(content)
            if isinstance(piece, Append):
                if crc32(content) != piece.checksum:
                    raise StorageDamaged(
                        detail=f"log of shard {shard}, {piece.first_seq} to {piece.last_seq}"
                    )
                reply.log.append((piece.first_seq, piece.last_seq, content))
            elif isinstance(piece[0], int):
                reply.pages.append((piece[0], content))
            else:
                reply.parts.append((piece[0], content))
        return reply

    def tidy(self) -> bool:
        """Nothing superseded is kept."""
        return False

    def ahead_bytes(self) -> int:
        """Nothing is written ahead."""
        return 0

    def probe(self) -> None:
        """It is never away."""

    def close(self) -> None:
        """Forget everything."""
        self._shards.clear()
        self._parts.clear()
