"""A shard's jobs from storage one page after the other, without ever having all of them.

Pure. The log is taken in first and cut up by pages, encoded as it came; then each page of the
checkpoint gets a small state of its own, on which its part of the log goes through the same
`evolve` as in a recovery. So there is the log since the checkpoint and one page in memory, or of
a page that is stored in blocks one block, but not the shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from typing import TypeVar

from flashq.protocol.records import Entry, decode_entries, encode_entries
from flashq.shard.checkpoint import JobLoader, read_part
from flashq.shard.evolve import evolve
from flashq.shard.excerpts import excerpts
from flashq.shard.holdings import AwaitedPush
from flashq.shard.indexes import PAGE_SEQUENCES
from flashq.shard.lifecycle import Job
from flashq.shard.pages import BLOCK_SEQUENCES
from flashq.shard.recovery import entries_after
from flashq.shard.state import ShardState

Piece = tuple[int, bytes]
"""A page, or a block of one: its first sequence and its content."""

S = TypeVar("S")
L = TypeVar("L")


class PagedJobs:
    """The jobs of one shard: its log is taken in first, then its checkpoint.

    Args:
        shard: its number.
        shard_count: of how many.
        checkpoint_seq: the log sequence of its checkpoint; 0 for none.
    """

    def __init__(self, shard: int, shard_count: int, checkpoint_seq: int) -> None:
        self._shard = shard
        self._shard_count = shard_count
        #: the log sequence of the last entry, and the latest time (wall ms) of checkpoint and log
        self._seq = checkpoint_seq
        self._now_ms = 0
        #: the time of the checkpoint
        self._checkpoint_ms = 0
        #: excerpts of the log, encoded, by the page's first sequence
        self._log: dict[int, list[bytes]] = {}
        #: as a state has them; they matter to jobs that are pending for one of them
        self._awaited: dict[int, AwaitedPush] = {}
        self._awaiting: dict[int, int] = {}

    def take_log(self, first: int, last: int, records: bytes) -> None:
        """Take in the next blob of the log.

        Raises:
            Damage: it is broken, or not the next.
        """
        found: dict[int, list[Entry]] = {}
        for entry in entries_after(self._shard, self._seq, (first, last, records)):
            # The clock may have been set back between two entries; a state's time never is.
            self._now_ms = entry.at = max(self._now_ms, entry.at)
            for page, excerpt in excerpts(entry, self._shard_count, PAGE_SEQUENCES).items():
                found.setdefault(page, []).append(excerpt)
        self._seq = max(self._seq, last)
        for page, some in found.items():
            self._log.setdefault(page, []).append(encode_entries(some))

    def take_part(self, content: bytes) -> None:
        """Take in what the checkpoint has beside jobs.

        Raises:
            Damage: it is damaged, or another shard's.
        """
        part = read_part(content, self._shard, self._shard_count)
        self._checkpoint_ms = part.now_ms
        self._awaited = {push.key: push for push in part.awaited}
        self._awaiting = part.awaiting

    def jobs(self, pieces: Iterable[Piece]) -> Iterator[Job]:
        """Yield the jobs by id, once; the log has been taken in.

        Args:
            pieces: the checkpoint's pages and blocks, by their first sequence. The part has been
                taken in by the time that the first of them comes.

        Raises:
            Damage: they do not fit together.
        """
        pages = groupby(pieces, lambda piece: piece[0] // PAGE_SEQUENCES * PAGE_SEQUENCES)
        for first, stored, log in _beside(pages, self._log):
            entries = [entry for blob in log or [] for entry in decode_entries(blob)]
            if stored is None:
                yield from self._jobs_of(first, None, entries)
                continue
            head = list(islice(stored, 2))
            if len(head) == 1 and head[0][0] == first:
                yield from self._jobs_of(first, head[0][1], entries)
            else:
                yield from self._jobs_of_blocks(chain(head, stored), entries)

    def _jobs_of_blocks(self, blocks: Iterable[Piece], entries: list[Entry]) -> Iterator[Job]:
        """Yield the jobs of a page that is stored in blocks."""
        log: dict[int, list[Entry]] = {}
        for entry in entries:
            for block, excerpt in excerpts(entry, self._shard_count, BLOCK_SEQUENCES).items():
                log.setdefault(block, []).append(excerpt)
        for first, content, some in _beside(blocks, log):
            yield from self._jobs_of(first, content, some or [])

    def _jobs_of(self, first: int, content: bytes | None, entries: list[Entry]) -> Iterator[Job]:
        state = ShardState(self._shard, self._shard_count)
        state.now_ms = self._checkpoint_ms
        state.awaited, state.awaiting = self._awaited, self._awaiting
        if content is not None:
            loader = JobLoader(state)
            loader.load(content, first)
            loader.finish()
        for entry in entries:
            evolve(state, entry)
        state.advance(self._now_ms)
        for page in state.index.pages.values():
            yield from (job for job in page.jobs if job is not None)


def _beside(
    stored: Iterable[tuple[int, S]], log: dict[int, L]
) -> Iterator[tuple[int, S | None, L | None]]:
    """Yield what is stored and what the log has under each key, by key; the log is used up."""
    left = sorted(log, reverse=True)
    for key, content in stored:
        while left and left[-1] < key:
            other = left.pop()
            yield other, None, log.pop(other)
        if left and left[-1] == key:
            left.pop()
        yield key, content, log.pop(key, None)
    while left:
        other = left.pop()
        yield other, None, log.pop(other)
