"""How much log storage has to keep for each shard, and whether it is too much altogether.

Owns the sizes and the bound; says nothing to anybody. What a checkpoint replaces does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from flashq.storage.port import StoredShard

CHUNK_BYTES_MAX: Final = 64 * 1024
"""Sizes are kept for so much log together: what a checkpoint replaces of a chunk counts until the
next one. Where the bound is low it is less, so that this is an eighth of it at most."""


class LogSizes:
    """The sizes of all shards' logs.

    Args:
        stored: what storage has of each shard.
        bytes_max: above it the log is full, until it is less than three quarters of it.
    """

    def __init__(self, stored: Sequence[StoredShard], bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._chunk_bytes = min(CHUNK_BYTES_MAX, bytes_max // (8 * len(stored)))
        #: by shard: last sequence and size of some log after the other
        self._chunks: list[deque[tuple[int, int]]] = [
            deque([(shard.last_seq, shard.log_bytes)]) for shard in stored
        ]
        #: of all shards
        self.total = sum(shard.log_bytes for shard in stored)
        self.is_full = self.total >= bytes_max

    @property
    def is_pressing(self) -> bool:
        """Whether checkpoints have to hurry, so that the log does not become full."""
        return self.total > self._bytes_max // 2

    def add(self, shard: int, last_seq: int, size: int) -> None:
        """A shard's log has grown, up to a sequence and by so many bytes."""
        chunks = self._chunks[shard]
        joins = chunks and chunks[-1][1] + size <= self._chunk_bytes
        before = chunks.pop()[1] if joins else 0
        chunks.append((last_seq, before + size))
        self.total += size
        if self.total >= self._bytes_max:
            self.is_full = True

    def trim(self, shard: int, seq: int) -> None:
        """A checkpoint has taken the place of a shard's log up to a sequence."""
        chunks = self._chunks[shard]
        while chunks and chunks[0][0] <= seq:
            self.total -= chunks.popleft()[1]
        if self.total < self._bytes_max // 4 * 3:
            self.is_full = False
