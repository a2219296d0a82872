"""An hour of traffic in fast motion: one shard and the coordinator, on a real storage.

Time is an argument, so that an hour takes seconds; what is written is what a server writes: log,
checkpoints, blocks, parts. A storage's test file subclasses `ChurnConformance`, and says how large
its storage is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, Generic, TypeVar

from flashq.coordinator.engine import Coordinator, CoordinatorSettings
from flashq.ids import shard_of_queue
from flashq.protocol.codec import decode, encode_msgpack
from flashq.protocol.framing import pack_header, pairs, unpack_header
from flashq.protocol.limits import KIB, EngineLimits
from flashq.shard.identity import Identity
from flashq.shard.node import Node
from flashq.storage.port import Storage
from tests.storage.conformance import SHARDS

SHARD: Final = 1
QUEUE: Final = next(q for q in map(str, range(100)) if shard_of_queue(q, SHARDS) == SHARD)
LIMITS: Final = EngineLimits(completed_jobs_max=100, results_max=100, outcomes_max=1000)
CHECKPOINT_LOG_BYTES: Final = 64 * KIB

HOUR_MS: Final = 3_600_000
TURNS: Final = 240
BATCH_JOBS: Final = 60
PAYLOAD_BYTES: Final = 300

S = TypeVar("S", bound=Storage)


class Traffic:
    """Pushes, pulls and acknowledges, with a cron beside them.

    Args:
        storage: open.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._now_ms = 1_800_000_000_000
        self._mono_ms = 1_000_000
        self._corr = 0
        #: how many jobs have been pushed
        self.jobs = 0
        settings = CoordinatorSettings(shard_count=SHARDS, limits=LIMITS, config_hash="")
        self.coordinator = Coordinator(settings, storage.open(SHARDS), self._now_ms)
        self.node = Node(
            Identity(
                shard=SHARD,
                shard_count=SHARDS,
                config_hash="",
                limits=LIMITS,
                level="durable",
                version="",
                checkpoint_log_bytes=CHECKPOINT_LOG_BYTES,
                message_bytes_max=LIMITS.payload_bytes_max,
                drain_timeout_ms=0,
            )
        )
        self._advance(0)
        assert self.node.is_serving
        self.coordinator.handle(
            b"client",
            [
                pack_header(0, SHARD, 0),
                encode_msgpack(
                    {"cmd": "CRON", "name": "n", "queue": QUEUE, "data": 1, "schedule": "*/10"}
                ),
            ],
            self._now_ms,
            self._mono_ms,
        )

    def run(self, turns: int) -> None:
        """Let so many turns of the hour pass."""
        for _ in range(turns):
            jobs = [{"data": "x" * PAYLOAD_BYTES}] * BATCH_JOBS
            self._ask(cmd="PUSHB", queue=QUEUE, jobs=jobs)
            self.jobs += BATCH_JOBS
            found = self._ask(cmd="PULLB", queue=QUEUE, count=BATCH_JOBS + 1, timeout=1)["jobs"]
            self._ask(cmd="ACKB", ids=[job["id"] for job in found])
            self._advance(HOUR_MS // TURNS)

    def _ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request, which is safe."""
        self._corr += 1
        self.node.receive_front(
            b"client", [pack_header(0, SHARD, self._corr), encode_msgpack(request)]
        )
        self._advance(1)
        replies, self.node.out.front = self.node.out.front, []
        [answer] = [
            decode(body, dict)
            for _, frames in replies
            for header, body in pairs(frames)
            if unpack_header(header).corr == self._corr
        ]
        assert answer["ok"], answer
        return answer

    def _advance(self, ms: int) -> None:
        """Let time pass, and everybody do and say what there is."""
        self._now_ms += ms
        self._mono_ms += ms
        node = self.node
        node.observe(self._now_ms, self._mono_ms)
        node.tick()
        while True:
            node.flush()
            node.tidy()
            node.flush()
            said, node.out.coordinator = node.out.coordinator, []
            for frames in said:
                self.coordinator.handle(b"shard", frames, self._now_ms, self._mono_ms)
            self.coordinator.tick(self._now_ms, self._mono_ms)
            is_done = not (self._store() or said)
            for to, frames in self.coordinator.take_parcels():
                if to == b"shard":
                    node.receive_coordinator(frames)
                    is_done = False
            if is_done:
                return

    def _store(self) -> bool:
        """Carry out what has to be written and read; tell whether there was anything."""
        was_idle = True
        while (group := self.coordinator.take_group()) is not None:
            if group.writes:
                self._storage.write(group.writes)
            self.coordinator.committed(group)
            was_idle = False
        for recovery in self.coordinator.take_recoveries():
            part = self._storage.recover(recovery.shard, recovery.cursor, 1_000_000)
            self.coordinator.recovered(recovery, part)
            was_idle = False
        if was_idle:
            self._storage.tidy()
        return not was_idle


class ChurnConformance(ABC, Generic[S]):
    """The storage stays as small as it was."""

    @abstractmethod
    def size_of(self, storage: S) -> int:
        """Return how large a storage is."""

    @abstractmethod
    def maintain(self, storage: S) -> None:
        """Do what its database does by itself once a minute."""

    def _run(self, traffic: Traffic, storage: S, minutes: int) -> None:
        for _ in range(minutes):
            traffic.run(TURNS // 60)
            self.maintain(storage)
        while storage.tidy():
            pass
        self.maintain(storage)

    def test_an_hour_of_traffic_leaves_nothing_behind(self, storage: S) -> None:
        """After five minutes everything has its size; after an hour it is no larger, though
        everything that was stored by then has been replaced many times."""
        traffic = Traffic(storage)
        self._run(traffic, storage, 5)
        early = self.size_of(storage)
        self._run(traffic, storage, 55)
        written = traffic.jobs * PAYLOAD_BYTES
        assert self.size_of(storage) < early * 1.25
        assert early < written / 4
        shard = storage.open(SHARDS).shards[SHARD]
        assert shard.log_bytes < 2 * CHECKPOINT_LOG_BYTES
        assert len(storage.open(SHARDS).parts) < 10
