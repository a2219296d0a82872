"""The shard's end of the log: what has been written, what of it is safe, and what is sent again.

Pure. Entries are encoded once, into blobs, and kept until storage has confirmed them; after a
break of the conversation everything unconfirmed is sent again, and the coordinator ignores what
it has.
"""

from __future__ import annotations

from collections import deque
from typing import Final
from zlib import crc32

from flashq.errors import Busy, FlashQError, StorageUnavailable
from flashq.protocol.internal import Append
from flashq.protocol.limits import MIB, EngineLimits
from flashq.protocol.records import Entry, encode_entries
from flashq.shard.identity import Identity

JOURNAL_REFUSALS: Final = (Busy, StorageUnavailable)
"""Why a journal takes on no changes."""


BLOB_BYTES_MAX: Final = 8 * MIB
"""Entries beyond that are sent as another blob, which storage may write in another transaction; an
entry is not cut."""
ASYNC_LAG_MS: Final = 50
"""Level async: with an older unwritten record replies wait as they do for durable."""
READ_WAIT_MS: Final = 2000
"""With an older unwritten record a read of what is not safe is refused: it would wait for as long
as storage is away."""


class Journal:
    """Log blobs on their way to storage.

    Args:
        shard, epoch: whose log it is.
        seq: the last sequence that storage has.
        log_bytes: how much log it has since the last checkpoint.
    """

    def __init__(self, shard: int, epoch: int, seq: int, log_bytes: int = 0) -> None:
        self._shard = shard
        self._epoch = epoch
        #: the last sequence written, and the last that is safe
        self.seq = seq
        self.safe = seq
        #: bytes that are not safe yet, and bytes of log since the last checkpoint began
        self.unsafe_bytes = 0
        self.bytes_written = log_bytes
        #: storage has as much log of all shards as it may have
        self.log_full = False
        #: there is no connection to the coordinator: what is written leaves with this process alone
        self.is_cut_off = False
        self._unsafe: deque[tuple[Append, int]] = deque()

    def write(self, entries: list[Entry], mono_ms: int, *, awaited: bool = False) -> list[Append]:
        """Take on entries; return the messages that have to be sent: one, unless that is too large.

        Args:
            mono_ms: now.
            awaited: something is held back until they are safe.
        """
        records = encode_entries(entries)
        if len(records) > BLOB_BYTES_MAX and len(entries) > 1:
            half = len(entries) // 2
            return [
                *self.write(entries[:half], mono_ms, awaited=awaited),
                *self.write(entries[half:], mono_ms, awaited=awaited),
            ]
        append = Append(
            shard=self._shard,
            epoch=self._epoch,
            first_seq=self.seq + 1,
            last_seq=self.seq + len(entries),
            records=records,
            checksum=crc32(records),
            awaited=awaited,
        )
        self.seq = append.last_seq
        self.unsafe_bytes += len(records)
        self.bytes_written += len(records)
        self._unsafe.append((append, mono_ms))
        return [append]

    def confirm(self, seq: int) -> None:
        """Storage has the log up to `seq`."""
        self.safe = max(self.safe, min(seq, self.seq))
        while self._unsafe and self._unsafe[0][0].last_seq <= self.safe:
            self.unsafe_bytes -= len(self._unsafe.popleft()[0].records)

    def unconfirmed(self) -> list[Append]:
        """Return everything that has to be sent again after a break."""
        return [append for append, _ in self._unsafe]

    def oldest_ms(self) -> int | None:
        """Return when the oldest unconfirmed blob was written, None when there is none."""
        return self._unsafe[0][1] if self._unsafe else None

    def is_lagging(self, mono_ms: int) -> bool:
        """Tell whether an answer has to wait for what it tells, whatever its level."""
        return self.is_cut_off or self._is_older(ASYNC_LAG_MS, mono_ms)

    def is_late(self, mono_ms: int) -> bool:
        """Tell whether a read that has to wait is refused instead."""
        return self._is_older(READ_WAIT_MS, mono_ms)

    def _is_older(self, age_ms: int, mono_ms: int) -> bool:
        return bool(self._unsafe) and mono_ms - self._unsafe[0][1] > age_ms

    def refusal(self, limits: EngineLimits, mono_ms: int) -> FlashQError | None:
        """Return why no change can be taken on before storage has confirmed more."""
        if self.unsafe_bytes > limits.unsafe_bytes_max:
            return Busy(detail=f"{limits.unsafe_bytes_max} bytes wait for storage")
        if self.log_full:
            return Busy(
                detail=f"the log of all shards has reached {limits.log_bytes_max} bytes, "
                "and checkpoints are replacing it"
            )
        oldest_ms = self.oldest_ms()
        if oldest_ms is not None and mono_ms - oldest_ms > limits.storage_wait_ms:
            waited_ms = mono_ms - oldest_ms
            return StorageUnavailable(detail=f"changes have waited for it for {waited_ms} ms")
        return None

    def is_checkpoint_due(self, identity: Identity) -> bool:
        """Tell whether there is enough log for a checkpoint to replace.

        When the log of all shards is full, half of an equal share is enough: some shard has more.
        """
        due = identity.checkpoint_log_bytes
        if self.log_full:
            due = min(due, identity.limits.log_bytes_max // (2 * identity.shard_count))
        return self.bytes_written >= due

    def restart_count(self) -> None:
        """Count `bytes_written` from here: a checkpoint has begun."""
        self.bytes_written = 0
