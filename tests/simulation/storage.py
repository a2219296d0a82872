"""The storage of the simulated coordinator, which shows the witness what becomes safe.

Also the place where storage faults go: whatever makes it slow, or fail, or tear a group apart, wraps
the `Storage` in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flashq.protocol.internal import Recovered
from flashq.storage.port import Opened, Storage, Write

if TYPE_CHECKING:
    from tests.simulation.checkers import Witness


class WatchedStorage:
    """A storage whose groups the witness sees once they are written.

    Args:
        inner: the storage itself.
        witness: sees each group.
    """

    def __init__(self, inner: Storage, witness: Witness) -> None:
        self._inner: Final = inner
        self._witness: Final = witness

    def open(self, shard_count: int) -> Opened:
        """Take hold of it."""
        return self._inner.open(shard_count)

    def write(self, group: Sequence[Write]) -> None:
        """Carry out a group."""
        self._inner.write(group)
        for write in group:
            self._witness.written(write)

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        """Give the next part of a recovery."""
        return self._inner.recover(shard, cursor, bytes_max)

    def tidy(self) -> bool:
        """Delete some of what is superseded."""
        return self._inner.tidy()

    def close(self) -> None:
        """Let go of it."""
        self._inner.close()
