"""What a shard process is, and where in its life it stands."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from flashq.protocol.limits import EngineLimits


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
