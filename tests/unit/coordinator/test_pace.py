"""Checkpoints of all shards together take a quarter of storage's time at most."""

from __future__ import annotations

from flashq.coordinator.pace import REST_TIMES, Pace
from flashq.protocol.internal import CheckpointSafe, CheckpointSlice, Resumed, ShardHello
from flashq.protocol.limits import MIB, EngineLimits
from tests.unit.coordinator.bench import HASH, SHARDS, Bench, blob

COMMIT_MS = 10
SLICES = 20


def slice_of(shard: int, epoch: int, number: int, *, full: bool = False) -> CheckpointSlice:
    """A slice in the midst of a checkpoint."""
    return CheckpointSlice(
        shard=shard,
        epoch=epoch,
        generation=5,
        number=number,
        seq=3,
        full=full,
        pages=[(number, b"p")],
    )


def write(bench: Bench) -> int:
    """Carry out what there is to write, each group in `COMMIT_MS`; return how many slices."""
    slices = 0
    while (group := bench.coordinator.take_group()) is not None:
        bench.mono_ms += COMMIT_MS
        bench.coordinator.tick(bench.now_ms, bench.mono_ms)
        bench.storage.write(group.writes)
        bench.coordinator.committed(group)
        slices += sum(isinstance(write, CheckpointSlice) for write in group.writes)
    bench.take_sent()
    return slices


def run(bench: Bench, epochs: list[int], *, full: bool = False) -> int:
    """Let every shard send its slices as fast as it may; return how long that takes, in ms."""
    began_ms = bench.mono_ms
    numbers = [0] * SHARDS
    for shard, epoch in enumerate(epochs):
        bench.hear(b"shard-%d" % shard, slice_of(shard, epoch, 0, full=full))
    while min(numbers) < SLICES:
        bench.coordinator.tick(bench.now_ms, bench.mono_ms)
        write(bench)
        confirmed = [
            shard
            for shard in range(SHARDS)
            for said in bench.said_to(b"shard-%d" % shard)
            if isinstance(said, CheckpointSafe)
        ]
        bench.sent.clear()
        for shard in confirmed:
            numbers[shard] += 1
            part = slice_of(shard, epochs[shard], numbers[shard], full=full)
            bench.hear(b"shard-%d" % shard, part)
        if not confirmed:
            bench.mono_ms += bench.coordinator.next_wait_ms(bench.now_ms, bench.mono_ms)
    return bench.mono_ms - began_ms


def test_after_a_slice_storage_rests_three_times_as_long() -> None:
    """One that took longer is followed by a longer rest, and the clock of the rest is its end."""
    pace = Pace()
    pace.begin(1000)
    assert pace.is_writing
    pace.end(1040)
    assert not pace.is_writing
    assert pace.due_ms == 1040 + REST_TIMES * 40


def test_slices_of_all_shards_take_a_quarter_of_the_time() -> None:
    """Four shards take their checkpoints at the same moment: not a quarter each."""
    bench = Bench()
    epochs = [bench.start_shard(shard).epoch for shard in range(SHARDS)]
    took_ms = run(bench, epochs)
    busy_ms = SHARDS * SLICES * COMMIT_MS
    assert busy_ms / took_ms <= 0.26
    assert busy_ms / took_ms >= 0.24


def test_a_log_that_fills_up_goes_before_the_rest() -> None:
    """The log is more than half full: checkpoints have all the time of storage."""
    bench = Bench(limits=EngineLimits(log_bytes_max=MIB))
    epochs = [bench.start_shard(shard).epoch for shard in range(SHARDS)]
    bench.say(b"shard-0", blob(0, epochs[0], 1, 1, size=MIB * 3 // 4))
    assert run(bench, epochs) <= SHARDS * (SLICES + 1) * COMMIT_MS


def test_a_shard_that_holds_everything_back_does_not_wait() -> None:
    """Storage came back with less: nobody is answered before everything is stored again. It also
    overtakes the others."""
    bench = Bench()
    epochs = [bench.start_shard(shard).epoch for shard in range(SHARDS)]
    bench.hear(b"shard-0", slice_of(0, epochs[0], 0))
    assert write(bench) == 1
    bench.hear(b"shard-1", slice_of(1, epochs[1], 0))
    assert write(bench) == 0
    [resumed] = bench.say(
        b"shard-2", ShardHello(shard=2, config_hash=HASH, epoch=epochs[2], safe_seq=9)
    )
    assert resumed == Resumed(last_seq=0, resync=True)
    bench.hear(b"shard-2", slice_of(2, epochs[2], 0, full=True))
    assert write(bench) == 1
    assert CheckpointSafe(epoch=epochs[2], generation=5) in bench.said_to(b"shard-2")
