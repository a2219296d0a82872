"""What a router has to know of the server's settings, as its engine gets it."""

from __future__ import annotations

from msgspec import Struct

from flashq.protocol.limits import EngineLimits


class RouterSettings(Struct, frozen=True, kw_only=True):
    """What a router has to know. Durations in ms.

    `boot` differs between any two starts. `peer_bytes_max` is what may be under way to a shard,
    `unread_bytes_max` what is kept for a client that does not read, `all_unread_bytes_max` what
    replies to all of them may be expected to have.
    """

    version: str
    boot: int
    shard_count: int
    limits: EngineLimits
    message_bytes_max: int
    peer_bytes_max: int
    unread_bytes_max: int
    all_unread_bytes_max: int
    gather_timeout_ms: int
    config_hash: str
