"""What a shard process is, and where in its life it stands."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from flashq.protocol.limits import EngineLimits
from flashq.protocol.sessions import HelloReply


class Phase(Enum):
    HELLO = "hello"
    RECOVERING = "recovering"
    RESERVING = "reserving"
    SERVING = "serving"
    DRAINING = "draining"
    DEAD = "dead"


class Identity(Struct, frozen=True):
    """What a shard process is told about itself and the rest.

    Args:
        shard, shard_count: its number, of how many.
        config_hash: of the settings that all processes share.
        limits: the bounds of its engine.
        level: the server's durability level.
        version: of the program.
        checkpoint_log_bytes: log bytes after which a checkpoint begins.
        message_bytes_max: the largest message, told to clients.
        drain_timeout_ms: how long a drain may take.
    """

    shard: int
    shard_count: int
    config_hash: str
    limits: EngineLimits
    level: str
    version: str
    checkpoint_log_bytes: int
    message_bytes_max: int
    drain_timeout_ms: int

    def hello_reply(self, epoch: int) -> HelloReply:
        """Return what a client that asks this shard itself is told of it."""
        epochs = [0] * self.shard_count
        epochs[self.shard] = epoch
        return HelloReply(
            version=self.version,
            boot=epoch,
            shard_count=self.shard_count,
            epochs=epochs,
            heartbeat_interval=self.limits.heartbeat_interval_ms,
            session_timeout=self.limits.session_timeout_ms,
            batch_jobs_max=self.limits.batch_jobs_max,
            payload_bytes_max=self.limits.payload_bytes_max,
            message_bytes_max=self.message_bytes_max,
        )
