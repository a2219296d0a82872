"""How long a shard may stand still: its node alone, without sockets, with millions of jobs.

Each call into the node is a turn in which it answers nobody else. Its processor time is taken, so
that what else runs on the machine does not count.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any, Final

import msgspec

from benchmarks.figures import BATCH, PAYLOAD
from flashq.config import Settings
from flashq.ids import shard_of_queue
from flashq.protocol.framing import INTERNAL, pack_header
from flashq.protocol.internal import (
    Append,
    CheckpointSafe,
    CheckpointSlice,
    Fetch,
    Granted,
    Internal,
    Recovered,
    Reserve,
    ReservedUpTo,
    Safe,
    decode_internal,
    encode_internal,
)
from flashq.shard.node import Node
from flashq.shard.process import identity_of

START_MS: Final = 1_800_000_000_000
SMALL: Final = 10
"""Jobs in each request once the shard is full: what a stall would keep waiting."""
CHECKPOINTS: Final = 2
"""So many checkpoints are taken while those requests are answered."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class Alone:
    """A node with a storage that confirms everything at once."""

    def __init__(self) -> None:
        settings = Settings(storage="memory:", durability="durable")
        self._node = Node(identity_of(settings, 0))
        names = (f"stall-{number}" for number in range(1000))
        self.queue = next(name for name in names if shard_of_queue(name, settings.shards) == 0)
        #: seconds of each turn, by what it was for
        self.turns: dict[str, list[float]] = defaultdict(list)
        self.checkpoints = 0
        self._now_ms = 0
        self._observe()
        self._node.tick()
        self._node.out.coordinator.clear()
        self._hear(Granted(epoch=1, incarnation=1, reserved=0))
        self._answer()

    def _observe(self) -> None:
        self._now_ms += 1
        self._node.observe(START_MS + self._now_ms, self._now_ms)

    def ask(self, kind: str, **request: Any) -> dict[str, Any]:
        """Have a request answered; its turn is noted under `kind`."""
        self._observe()
        node, body = self._node, _encode(request)
        header = pack_header(0, 0, self._now_ms, b"")
        self._turn(kind, lambda: node.receive_front(b"client", [header, body]))
        self._turn("flush", node.flush)
        self._answer()
        self._turn("tidy", node.tidy)
        self._answer()
        (_, (_, reply)) = node.out.front.pop()
        answer: dict[str, Any] = _decode(reply)
        assert answer["ok"], answer
        return answer

    def _turn(self, kind: str, work: Callable[[], None]) -> None:
        started = process_time()
        work()
        self.turns[kind].append(process_time() - started)

    def _hear(self, message: Internal) -> None:
        frames = [pack_header(INTERNAL, 0, 0), encode_internal(message)]
        kind = type(message).__name__
        self._turn(kind, lambda: self._node.receive_coordinator(frames))

    def _answer(self) -> None:
        """Do the coordinator's part."""
        out = self._node.out
        while out.coordinator:
            messages, out.coordinator = out.coordinator, []
            for _, body in messages:
                match decode_internal(body):
                    case Fetch(epoch=epoch, cursor=cursor):
                        self._hear(Recovered(epoch=epoch, at=cursor, cursor=0))
                    case Reserve(epoch=epoch, upto=upto):
                        self._hear(ReservedUpTo(epoch=epoch, upto=upto))
                    case Append(epoch=epoch, last_seq=seq):
                        self._hear(Safe(epoch=epoch, seq=seq))
                    case CheckpointSlice() as piece:
                        self.checkpoints += piece.last
                        self._hear(
                            CheckpointSafe(
                                epoch=piece.epoch,
                                generation=piece.generation,
                                number=piece.number,
                                last=piece.last,
                            )
                        )


def _turns(jobs: int) -> dict[str, list[float]]:
    """Return the seconds of all turns, by what they were for: while a shard grows to so many jobs,
    and while it then answers small requests beside its checkpoints."""
    gc.disable()  # as in the shard's process
    try:
        shard = Alone()
        batch = [PAYLOAD] * BATCH
        for _ in range(jobs // BATCH):
            shard.ask("grow", cmd="PUSHB", payloads=batch, queue=shard.queue)
        done = shard.checkpoints
        while shard.checkpoints < done + CHECKPOINTS:
            shard.ask("push", cmd="PUSHB", payloads=[PAYLOAD] * SMALL, queue=shard.queue)
            pulled = shard.ask("pull", cmd="PULLB", queue=shard.queue, count=SMALL, timeout=0)
            shard.ask("ack", cmd="ACKB", ids=[job["id"] for job in pulled["jobs"]])
        return shard.turns
    finally:
        gc.enable()


def longest_stall_ms(jobs: int) -> float:
    """Return the longest that a shard stands still, in ms: the longest turn for a small request, a
    checkpoint's slice or what is tidied, up to so many jobs waiting; or, while those came in
    batches of 1,000, by how much a turn took longer than the median one.

    The work is the same each time it is done, turn by turn, and what a turn takes by itself it
    takes each time. So the less of two runs counts for each turn: time in which the host took the
    processor away is not the shard's.
    """
    first, second = _turns(jobs), _turns(jobs)
    turns = {
        kind: [min(pair) for pair in zip(first[kind], second[kind], strict=True)] for kind in first
    }
    grown = turns.pop("grow")
    growth = max(grown) - median(grown)
    return 1000 * max(growth, *(max(each) for each in turns.values()))
