"""What storage must have: what was written is known, and what is lost is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashq.coordinator.mirror import Mirror
from flashq.protocol.internal import CheckpointSlice, Reserve
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import Grant, Opened, Put, Write
from tests.unit.coordinator.bench import blob as blob_of

SHARDS = 2
NOW_MS = 1_800_000_000_000
PARTS = {"cron.a": b"1", "cron.b": b"2"}


def blob(first: int, last: int) -> Write:
    """A piece of shard 1's log."""
    return blob_of(1, 1, first, last)


def storage_with(parts: dict[str, bytes], uuid: bytes = bytes(16)) -> MemoryStorage:
    """A storage with some log and these parts."""
    storage = MemoryStorage(NOW_MS, uuid)
    storage.open(SHARDS)
    storage.write([blob(1, 3), *(Put(name, content) for name, content in parts.items())])
    return storage


def opened_with(parts: dict[str, bytes], uuid: bytes = bytes(16)) -> Opened:
    """What such a storage says."""
    return storage_with(parts, uuid).open(SHARDS)


def test_the_mirror_knows_what_a_group_leaves() -> None:
    """Every kind of write, compared with a storage that carries it out. The beginning of a
    checkpoint does not count: it is repeated, and its slices are numbered."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    mirror = Mirror(storage.open(SHARDS))
    reserved = storage.open(SHARDS).shards[1].reserved
    unseen: list[Write] = [CheckpointSlice(shard=1, epoch=1, generation=2, seq=9)]
    groups: list[list[Write]] = [
        [blob(1, 3), blob(4, 4)],
        [Grant(1, 2**20, 7, 0)],
        [Reserve(shard=1, epoch=1, upto=reserved + 5)],
        [CheckpointSlice(shard=1, epoch=1, generation=1, seq=9, full=True, last=True)],
        [Put("a", b"1"), Put("b", b"1")],
        [Put("a", b"2"), Put("b", b"")],
        unseen,
    ]
    for writes in groups:
        assert mirror.fits(storage.open(SHARDS), writes)
        assert not mirror.has_written(storage.open(SHARDS), writes)
        storage.write(writes)
        assert mirror.fits(storage.open(SHARDS), writes)
        assert mirror.has_written(storage.open(SHARDS), writes) is (writes != unseen)
        mirror.note(writes)
    assert not Mirror(MemoryStorage(NOW_MS, bytes(16)).open(SHARDS)).fits(storage.open(SHARDS), [])
    assert not Mirror(MemoryStorage(NOW_MS, bytes(16)).open(SHARDS)).fits(storage.open(SHARDS), [])


@pytest.mark.parametrize(
    ("parts", "again"),
    [
        ({"cron.a": b"1"}, [Put("cron.b", b"2")]),
        ({"cron.a": b"0", "cron.b": b"2"}, [Put("cron.a", b"1")]),
        ({**PARTS, "cron.c": b"3"}, [Put("cron.c", b"")]),
        ({}, [Put("cron.a", b"1"), Put("cron.b", b"2")]),
    ],
)
def test_lost_parts_are_noticed_and_given_again(parts: dict[str, bytes], again: list[Put]) -> None:
    """A part is lost, is what it was before, or is there again though it was removed."""
    mirror = Mirror(opened_with(PARTS))
    opened = opened_with(parts)
    assert not mirror.fits(opened, [])
    counts, writes = mirror.reconciled(opened)
    assert counts.parts == PARTS
    assert counts.shards == opened.shards
    assert writes == again


def grant(storage: MemoryStorage) -> Opened:
    """Let another coordinator grant an epoch."""
    storage.write([Grant(0, storage.open(SHARDS).shards[0].epoch + 1, 5, 0)])
    return storage.open(SHARDS)


@pytest.mark.parametrize(
    "come_back",
    [
        lambda: grant(storage_with({"cron.new": b"9"})),
        lambda: opened_with({"cron.new": b"9"}, b"another".ljust(16)),
    ],
)
def test_what_somebody_else_has_written_is_left_alone(come_back: Callable[[], Opened]) -> None:
    """Another coordinator had the storage meanwhile, or it is another server's."""
    mirror = Mirror(opened_with(PARTS))
    counts, writes = mirror.reconciled(come_back())
    assert counts.parts == {"cron.new": b"9"}
    assert writes == []


def test_a_new_database_in_the_place_of_the_old_one_gets_everything() -> None:
    """It is empty: shards give it their state, and the coordinator its parts."""
    mirror = Mirror(opened_with(PARTS))
    counts, writes = mirror.reconciled(MemoryStorage(NOW_MS, b"new".ljust(16)).open(SHARDS))
    assert counts.parts == PARTS
    assert writes == [Put("cron.a", b"1"), Put("cron.b", b"2")]
