"""When checkpoints are taken and how they are sent: one slice at a time, each confirmed.

Pure. A checkpoint begins when the log since the last one has grown long, or at once when storage
has lost what it had acknowledged. Its first slice leaves when the log up to it is safe; every
further one when the one before is confirmed, so that storage sets the pace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flashq.protocol.internal import CheckpointSafe, CheckpointSlice
from flashq.protocol.limits import MIB
from flashq.shard.checkpoint import Checkpoint
from flashq.shard.state import ShardState

SLICE_JOBS_MAX: Final = 2000
SLICE_BYTES_MAX: Final = 2 * MIB
"""So many jobs, or bytes of them, are encoded at a time: 5 ms of a shard's time at most. A block of
16 jobs is not cut, so that very large ones take longer."""
REPEAT_MS: Final = 3000
"""A slice that is not confirmed for so long is sent again. It may wait for those of other shards,
which may together take a part of storage's time only."""


class Checkpointing:
    """The checkpoints of one shard under one epoch.

    Args:
        state: what is written.
        epoch: under which.
        tell: sends a slice to the coordinator.
    """

    def __init__(
        self, state: ShardState, epoch: int, tell: Callable[[CheckpointSlice], None]
    ) -> None:
        self._state = state
        self._epoch = epoch
        self._tell = tell
        self._current: Checkpoint | None = None
        self._generation = 0
        #: number of the slice that is sent next
        self._number = 0
        #: the slice that is on its way, and since when
        self._slice: CheckpointSlice | None = None
        self._sent_ms = 0
        #: pages may be missing in storage: the next checkpoint writes all of them
        self._full_next = False

    @property
    def is_under_way(self) -> bool:
        return self._current is not None

    def begin(self, *, full: bool = False) -> None:
        """Take a checkpoint of the state as it is now, instead of one that is under way.

        Args:
            full: write every page, whatever storage has.
        """
        if self._current is not None:
            self._current.abandon()
            self._full_next = True
        self._slice = None
        self._current = Checkpoint(self._state, full=full or self._full_next)
        self._full_next = False
        self._generation = max(self._generation + 1, self._current.seq)
        self._number = 0

    def send_next(self, mono_ms: int, safe_seq: int | None) -> None:
        """Send the next slice, if none is on its way.

        Args:
            mono_ms: now.
            safe_seq: the log is safe up to here; None if the checkpoint has to replace the log.
        """
        checkpoint = self._current
        if checkpoint is None or self._slice is not None:
            return
        if safe_seq is not None and checkpoint.seq > safe_seq:
            return
        parts = checkpoint.take_part()
        pages = checkpoint.next_pages(SLICE_JOBS_MAX, SLICE_BYTES_MAX)
        self._slice = CheckpointSlice(
            shard=self._state.shard,
            epoch=self._epoch,
            generation=self._generation,
            number=self._number,
            seq=checkpoint.seq,
            full=checkpoint.full,
            parts=parts,
            pages=pages,
            last=checkpoint.is_done,
        )
        self._number += 1
        self._send(mono_ms)

    def _send(self, mono_ms: int) -> None:
        assert self._slice is not None, "there is a slice to send"
        self._sent_ms = mono_ms
        self._tell(self._slice)

    def tick(self, mono_ms: int) -> None:
        """Send a slice again that has not been confirmed for long."""
        if self._slice is not None and mono_ms - self._sent_ms >= REPEAT_MS:
            self._send(mono_ms)

    def next_deadline_ms(self) -> int | None:
        """Return when `tick` is due, on the monotonic clock."""
        return None if self._slice is None else self._sent_ms + REPEAT_MS

    def confirmed(self, message: CheckpointSafe) -> int | None:
        """Take in storage's word that it has a slice.

        Returns:
            The sequence of the checkpoint when that was its last slice, else None.
        """
        piece = self._slice
        if (
            piece is None
            or message.generation != piece.generation
            or message.number != piece.number
            or message.last != piece.last
        ):
            return None
        self._slice = None
        if not piece.last:
            return None
        self._current = None
        return piece.seq
