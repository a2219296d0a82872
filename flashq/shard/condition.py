"""What STATS says of one shard beside what its queues say: the figures that show how it fares."""

from __future__ import annotations

from flashq.protocol.server import ShardStats
from flashq.shard.engine import Engine
from flashq.shard.journal import Journal


def condition_of(engine: Engine, journal: Journal, epoch: int) -> ShardStats:
    """Return the figures of a shard that serves.

    Args:
        engine: its engine.
        journal: its log on the way to storage.
        epoch: under which it runs.
    """
    state = engine.state
    return ShardStats(
        shard=state.shard,
        epoch=epoch,
        jobs=state.index.count,
        bytes=state.bytes,
        sessions=engine.sessions,
        waiters=engine.waiters,
        unsafe_bytes=journal.unsafe_bytes,
        log_seq=state.seq,
        safe_seq=journal.safe,
        mailbox_out=sum(len(box.pending) for box in state.mailboxes.values()),
    )
