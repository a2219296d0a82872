"""A coordinator with a storage in memory, both clocks in hand, and no sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from msgspec import Struct

from flashq.coordinator.engine import Coordinator, CoordinatorSettings
from flashq.coordinator.measures import Measures
from flashq.protocol.codec import decode, encode
from flashq.protocol.framing import INTERNAL, ROUTE_COORDINATOR, pack_header, unpack_header
from flashq.protocol.internal import (
    Append,
    Epochs,
    Granted,
    Internal,
    RouterHello,
    ShardHello,
    ShardReady,
    decode_internal,
    encode_internal,
)
from flashq.protocol.limits import EngineLimits
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import Storage

SHARDS = 4
HASH = "agreed"
NOW_MS = 1_800_000_000_000
ROUTER = b"router-1"
OLD = b"S-old"
NEW = b"S-new"
"""Two processes of a shard, one after the other."""


def hello(epoch: int = 0, safe_seq: int = 0, **more: int) -> ShardHello:
    """The hello of shard 1."""
    return ShardHello(shard=1, config_hash=HASH, epoch=epoch, safe_seq=safe_seq, **more)


class Outcome(Struct):
    """A reply whose success is in question."""

    ok: bool
    error: str = ""
    code: str = ""


class Bench:
    """What stands around the engine in a test: storage, clocks, and what was sent to whom."""

    def __init__(
        self, storage: Storage | None = None, *, limits: EngineLimits | None = None
    ) -> None:
        self.now_ms = NOW_MS
        self.mono_ms = 1000
        self.storage = storage or MemoryStorage(NOW_MS, bytes(16))
        self.sent: list[tuple[bytes, bytes, bytes]] = []
        self.limits = limits or EngineLimits()
        self.start()

    def start(self) -> None:
        """Start the coordinator, with what the storage has."""
        settings = CoordinatorSettings(shard_count=SHARDS, limits=self.limits, config_hash=HASH)
        self.measures = Measures()
        self.coordinator = Coordinator(
            settings, self.storage.open(SHARDS), self.now_ms, self.measures
        )
        self.turn()

    def restart(self, *, lose: bool) -> None:
        """Kill the coordinator and start it again, with its storage or with an empty one."""
        if lose:
            self.storage = MemoryStorage(self.now_ms, bytes(16))
        self.sent.clear()
        self.start()

    def pass_time(self, ms: int) -> None:
        """Let both clocks run, and take a turn."""
        self.now_ms += ms
        self.mono_ms += ms
        self.turn()

    def turn(self) -> None:
        """Tick, commit, read and send, as the process does."""
        self.coordinator.tick(self.now_ms, self.mono_ms)
        while (group := self.coordinator.take_group()) is not None:
            self.storage.write(group.writes)
            self.coordinator.committed(group)
        for recovery in self.coordinator.take_recoveries():
            part = self.storage.recover(recovery.shard, recovery.cursor, 1000)
            self.coordinator.recovered(recovery, part)
        self.take_sent()

    def take_sent(self) -> None:
        """Note what the engine sends without committing anything."""
        for to, frames in self.coordinator.take_parcels():
            self.sent += [
                (to, header, body) for header, body in zip(frames[::2], frames[1::2], strict=True)
            ]

    def hear(self, identity: bytes, *messages: Internal) -> None:
        """Give the engine messages, without a turn."""
        frames: list[bytes] = []
        for message in messages:
            header = pack_header(INTERNAL, ROUTE_COORDINATOR, 0)
            frames += [header, encode_internal(message)]
        self.coordinator.handle(identity, frames, self.now_ms, self.mono_ms)

    def say(self, identity: bytes, *messages: Internal) -> list[Any]:
        """Give the engine messages, take a turn, and return what it says to the same peer."""
        self.sent.clear()
        self.hear(identity, *messages)
        self.turn()
        return self.said_to(identity)

    def said_to(self, identity: bytes) -> list[Any]:
        """What was said to a peer since the last `say`."""
        return [decode_internal(body) for to, _, body in self.sent if to == identity]

    def ask(self, kind: Any, *, json: bool = False, **request: Any) -> Any:
        """Send a client's request by way of the router, and return its reply."""
        self.sent.clear()
        tail = b"\x00home"
        frames = [
            pack_header(int(json), ROUTE_COORDINATOR, 77, tail),
            encode(request, json=json),
        ]
        self.coordinator.handle(ROUTER, frames, self.now_ms, self.mono_ms)
        self.turn()
        [(_, header, body)] = [item for item in self.sent if item[0] == ROUTER]
        flags, route, corr, echoed = unpack_header(header)
        assert (flags & 1, route, corr, echoed) == (json, ROUTE_COORDINATOR, 77, tail)
        return decode(body, kind, json=json)

    def start_shard(self, shard: int, identity: bytes | None = None) -> Granted:
        """Let a fresh shard say hello, recover nothing, and be ready."""
        identity = identity or b"shard-%d" % shard
        granted, *_ = self.say(identity, ShardHello(shard=shard, config_hash=HASH))
        self.say(identity, ShardReady(shard=shard, epoch=granted.epoch))
        assert isinstance(granted, Granted)
        return granted

    def log_bytes(self) -> int:
        """What a router is told of the log's size."""
        [epochs] = self.say(ROUTER, RouterHello(config_hash=HASH))
        return int(epochs.coordinator.log_bytes)

    def epochs(self) -> Sequence[int]:
        """What a router is told."""
        [epochs] = self.say(ROUTER, RouterHello(config_hash=HASH))
        assert isinstance(epochs, Epochs)
        return epochs.epochs


def blob(
    shard: int, epoch: int, first: int, last: int, *, awaited: bool = True, size: int = 0
) -> Append:
    """A piece of a shard's log whose content tells which it is, of at least this size."""
    records = f"{first}-{last}".encode().ljust(size)
    return Append(
        shard=shard,
        epoch=epoch,
        first_seq=first,
        last_seq=last,
        records=records,
        checksum=crc32(records),
        awaited=awaited,
    )
