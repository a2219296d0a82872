"""A shard's node that shows the witness what it decides and what it has recovered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.protocol.framing import BOUNCED
from flashq.protocol.internal import Happened
from flashq.protocol.records import Answer, AnyRecord, Entry, Sent
from flashq.shard.core import Core
from flashq.shard.identity import Identity
from flashq.shard.lifecycle import ACTIVE
from flashq.shard.node import Node

if TYPE_CHECKING:
    from tests.simulation.checkers import Witness


def _is_for_webhooks(record: AnyRecord) -> bool:
    """Tell whether a record was added to what was decided, since a webhook wants to be told."""
    return isinstance(record, Sent) and isinstance(record.body, Happened)


class WatchedNode(Node):
    """A node whose engine's decisions are seen as they are made.

    Args:
        identity: who it is.
        witness: sees them.
    """

    def __init__(self, identity: Identity, witness: Witness) -> None:
        self._witness = witness
        super().__init__(identity)

    def _recovered(self) -> None:
        super()._recovered()
        self._witness.recovered(self._identity.shard, self._epoch, self._state)
        self._watch(self.engine._core)

    def receive_front(self, peer: bytes, frames: list[bytes]) -> None:
        """Take one message from the front socket, and count what a router sends back."""
        before = self._state.counts[ACTIVE]
        super().receive_front(peer, frames)
        if any(header[1] & BOUNCED for header in frames[::2]):
            self._witness.came_back(before - self._state.counts[ACTIVE])

    def _watch(self, core: Core) -> None:
        """Put the witness behind every decision."""
        commit, witness, shard = core.commit, self._witness, self._identity.shard

        def commit_and_show(
            records: list[AnyRecord], *, durable: bool, answer: Answer | None = None
        ) -> None:
            before = core.state.seq
            at = core.state.now_ms
            commit(records, durable=durable, answer=answer)
            logged = core.state.seq > before
            kept = core.outbox.entries[-1].records if logged else []
            told = [record for record in kept if _is_for_webhooks(record)]
            entry = Entry(at, [*records, *told], answer)
            witness.decided(shard, core.state.seq if logged else None, entry, kept, core.clock_ms)

        core.commit = commit_and_show  # type: ignore[method-assign]
