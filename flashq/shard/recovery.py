"""Recovery: a state from what storage gives back, piece by piece.

Pure. Parts and pages of the checkpoint come first, then the log, which goes through the same
`evolve` as live entries do. Whatever does not fit together is damage.
"""

from __future__ import annotations

from flashq.errors import BadMessage
from flashq.protocol.internal import Fetch, Recovered
from flashq.protocol.records import Entry, decode_entries
from flashq.shard.checkpoint import JobLoader, load_part, mark_clean
from flashq.shard.evolve import evolve
from flashq.shard.lifecycle import Damage
from flashq.shard.state import ShardState


class Recovery:
    """Fills a fresh state.

    Args:
        state: the state to fill.
        epoch: under which storage is asked for it.
    """

    def __init__(self, state: ShardState, epoch: int = 0) -> None:
        self._state = state
        self._epoch = epoch
        #: of the piece that comes next
        self._cursor = 0
        self._loader: JobLoader | None = JobLoader(state)
        #: how much log was replayed, which is what the next checkpoint replaces
        self.log_bytes = 0

    def fetch(self) -> Fetch:
        """Return the request for the next piece, which may be sent again."""
        return Fetch(epoch=self._epoch, cursor=self._cursor)

    def is_next(self, piece: Recovered) -> bool:
        """Tell whether this is the next piece; another one was asked for twice, or before a newer
        grant."""
        return (piece.epoch, piece.at) == (self._epoch, self._cursor)

    def take(self, piece: Recovered) -> None:
        """Take in the next piece.

        Raises:
            Damage: it does not fit to what came before.
        """
        self._cursor = piece.cursor
        for _, content in piece.parts:
            load_part(self._state, content)
        for key, content in piece.pages:
            if self._loader is None:
                raise Damage(f"page {key} comes after the log has begun")
            self._loader.load(content, key)
        for first, last, records in piece.log:
            self._finish_pages()
            self._replay(first, last, records)
        if not piece.cursor:
            self._finish_pages()

    def _finish_pages(self) -> None:
        if self._loader is not None:
            self._loader.finish()
            self._loader = None
            mark_clean(self._state)

    def _replay(self, first: int, last: int, records: bytes) -> None:
        state = self._state
        entries = entries_after(state.shard, state.seq, (first, last, records))
        if entries:
            self.log_bytes += len(records)
        for entry in entries:
            evolve(state, entry)


def entries_after(shard: int, seq: int, blob: tuple[int, int, bytes]) -> list[Entry]:
    """Return the entries of a blob of the log, none when they are before `seq` already.

    Args:
        shard: whose log it is.
        seq: the log sequence up to which everything is known.
        blob: first and last sequence, and content.

    Raises:
        Damage: it is broken, or is not what comes after `seq`.
    """
    first, last, records = blob
    if last <= seq:
        return []
    if first != seq + 1:
        raise Damage(f"the log of shard {shard} goes on at {first} after {seq}")
    try:
        entries = decode_entries(records)
    except BadMessage as error:
        raise Damage(f"log of shard {shard}, {first} to {last}: {error.text}") from None
    if len(entries) != last - seq:
        raise Damage(f"log of shard {shard}, {first} to {last}, ends at {seq + len(entries)}")
    return entries
