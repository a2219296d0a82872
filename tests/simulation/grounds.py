"""What a shard says and takes for safe stands on what storage holds, at the moment it says it.

A crash at the right moment shows the same, but few runs have one there. What storage has lost
again still counts: a shard may have been told of it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.checkers import ShardHistory


class Grounds:
    """Those of one shard.

    Args:
        history: what it has decided, and what of it storage has.
    """

    def __init__(self, history: ShardHistory) -> None:
        self._history: Final = history
        #: sequences up to this one were given to it for good
        self._reserved = 0
        #: the log sequence that has the taking of a message, by its sender, incarnation and number
        self._taken: Final[dict[tuple[int, int, int], int]] = {}

    def reserved(self, upto: int) -> None:
        """Storage has made sequences the shard's."""
        self._reserved = max(self._reserved, upto)

    def used(self, sequence: int) -> None:
        """The shard makes a job of this sequence."""
        if sequence > self._reserved:
            raise Violation(
                f"shard {self._history.shard} uses sequence {sequence}, and storage has "
                f"{self._reserved} as reserved"
            )

    def took(self, sender: int, incarnation: int, number: int, seq: int) -> None:
        """The shard has carried out a message, by the entry of this log sequence."""
        self._taken[sender, incarnation, number] = seq

    def stands_on(self, seq: int, what: str) -> None:
        """The shard does something that must not be undone.

        Args:
            seq: the log sequence that must not be lost from now on.
            what: it does.
        """
        history = self._history
        if seq > max(history.stored, history.held):
            raise Violation(
                f"shard {history.shard} {what} at {seq}, and storage has {history.stored}"
            )

    def confirms(self, sender: int, incarnation: int, number: int) -> None:
        """The shard tells a sender that it has safely taken a message, and all before it."""
        seq = self._taken.get((sender, incarnation, number), 0)
        self.stands_on(seq, f"confirms mail {number} of {sender}")
