"""The log of all shards is bounded: who hears of it, and when it is over."""

from __future__ import annotations

from flashq.coordinator.logsizes import CHUNK_BYTES_MAX, LogSizes
from flashq.protocol.internal import CheckpointSlice, Resumed, Safe, ShardHello
from flashq.protocol.limits import MIB, EngineLimits
from flashq.storage.port import StoredShard
from tests.unit.coordinator.bench import HASH, Bench, blob

EMPTY = StoredShard(epoch=1, incarnation=1, reserved=0, last_seq=0)


def test_what_a_checkpoint_replaces_does_not_count() -> None:
    """Also not what was there before this coordinator was."""
    before = StoredShard(epoch=1, incarnation=1, reserved=0, last_seq=9, log_bytes=500)
    sizes = LogSizes([EMPTY, before], 1000)
    sizes.add(0, 1, 100)
    sizes.add(1, 12, 50)
    assert sizes.total == 650
    sizes.trim(1, 9)
    assert sizes.total == 150
    sizes.trim(1, 12)
    sizes.trim(0, 1)
    assert sizes.total == 0


def test_sizes_are_kept_in_few_pieces_and_none_is_forgotten() -> None:
    """Four gigabytes of single jobs must not take a gigabyte to count. A piece that a checkpoint
    replaces half counts until the next checkpoint, and then it is gone."""
    sizes = LogSizes([EMPTY], 10**9)
    for seq in range(1, 1001):
        sizes.add(0, seq, CHUNK_BYTES_MAX // 100)
    sizes.trim(0, 150)
    assert sizes.total == 900 * (CHUNK_BYTES_MAX // 100)
    sizes.trim(0, 1000)
    assert sizes.total == 0


def test_the_log_is_full_until_a_quarter_is_free() -> None:
    """Else each blob would change what every shard has to be told."""
    sizes = LogSizes([EMPTY], 4 * CHUNK_BYTES_MAX)
    for seq in range(1, 5):
        assert not sizes.is_full
        sizes.add(0, seq, CHUNK_BYTES_MAX)
    assert sizes.is_full
    sizes.trim(0, 1)
    assert sizes.is_full
    sizes.trim(0, 2)
    assert not sizes.is_full


def test_a_log_that_is_full_at_the_start_is_full() -> None:
    """A restart is no way around the bound."""
    stored = StoredShard(epoch=1, incarnation=1, reserved=0, last_seq=9, log_bytes=500)
    assert LogSizes([stored], 500).is_full


def test_the_checkpoint_of_a_shard_that_died_replaces_its_log_all_the_same() -> None:
    """The last slice was on its way to storage when its shard was killed. The log that it replaced
    counted for ever, and changes were refused for good (simulation, seed 51 with a low bound)."""
    bench = Bench()
    epoch = bench.start_shard(1, b"old").epoch
    bench.say(b"old", blob(1, epoch, 1, 9, size=1000))
    whole = CheckpointSlice(shard=1, epoch=epoch, generation=1, seq=9, last=True)
    bench.hear(b"old", whole)
    bench.hear(b"new", ShardHello(shard=1, config_hash=HASH))
    bench.turn()
    assert bench.log_bytes() == 0


def test_shards_are_told_of_the_bound_and_of_its_end() -> None:
    """
    1. The log of two shards reaches the bound: both are told, also the one that wrote little.
    2. A shard that comes into this hears it with everything that it is told.
    3. A checkpoint takes the place of the log: everybody is told, and hellos say so too.
    """
    bench = Bench(limits=EngineLimits(log_bytes_max=MIB))
    first, second = (bench.start_shard(shard, b"S%d" % shard).epoch for shard in (1, 2))
    large = blob(1, first, 1, 1, size=MIB // 2)
    assert bench.say(b"S1", large) == [Safe(epoch=first, seq=1)]
    bench.say(b"S1", blob(1, first, 2, 2, size=MIB // 2))
    assert Safe(epoch=second, seq=0, log_full=True) in bench.said_to(b"S2")
    assert bench.said_to(b"S1")[-1] == Safe(epoch=first, seq=2, log_full=True)
    third = bench.start_shard(3, b"S3").epoch
    assert bench.said_to(b"S3")[-1] == Safe(epoch=third, seq=0, log_full=True)
    hello = ShardHello(shard=2, config_hash=HASH, epoch=second)
    assert bench.say(b"S2", hello) == [Resumed(last_seq=0, log_full=True)]

    whole = CheckpointSlice(shard=1, epoch=first, generation=1, seq=2, last=True)
    bench.say(b"S1", whole)
    assert bench.said_to(b"S2") == [Safe(epoch=second, seq=0)]
    assert bench.said_to(b"S3") == [Safe(epoch=third, seq=0)]
    assert bench.say(b"S2", hello) == [Resumed(last_seq=0)]
