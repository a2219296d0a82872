"""The storage in memory passes the suite, and seeds its numbers so that they do not come again."""

from __future__ import annotations

import pytest

from flashq.errors import StorageDamaged
from flashq.ids import EPOCH_BITS, JOB_ID_MAX, SHARD_COUNT_MAX, job_id
from flashq.storage.memory import (
    EPOCH_UNIT_MS,
    SEED_FROM_MS,
    SEED_PERIOD_MS,
    MemoryStorage,
    first_epoch,
    first_sequence,
)
from flashq.storage.port import Storage
from tests.storage.conformance import SHARDS, StorageConformance, blob

NOW_MS = SEED_FROM_MS + 40_000_000_000


@pytest.fixture
def storage() -> Storage:
    """A storage as a coordinator opens it."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    storage.open(SHARDS)
    return storage


class TestMemoryStorage(StorageConformance):
    """The suite, against memory."""


def test_a_broken_blob_is_damage(storage: Storage) -> None:
    """A bit flips in the coordinator's memory: the place is named, and nothing is served."""
    storage.write([blob(1, 1, 2), blob(1, 3, 4)])
    broken = blob(1, 5, 6)
    broken.checksum ^= 1
    storage.write([broken])
    with pytest.raises(StorageDamaged, match="log of shard 1, 5 to 6"):
        storage.recover(1, 0, 1000)


def test_a_hole_in_the_log_is_our_own_mistake(storage: Storage) -> None:
    """The coordinator never lets one through; storage does not either."""
    storage.write([blob(1, 1, 2)])
    with pytest.raises(AssertionError):
        storage.write([blob(1, 4, 4)])


@pytest.mark.parametrize("shard_count", [1, 2, 31, 32, 33, 512, SHARD_COUNT_MAX])
@pytest.mark.parametrize(
    "wall_ms", [0, SEED_FROM_MS, NOW_MS, SEED_FROM_MS + SEED_PERIOD_MS - 1, 2**47]
)
def test_sequences_leave_room_for_a_run(shard_count: int, wall_ms: int) -> None:
    """Wherever a run begins on the line, an eighth of the space lies before it."""
    first = first_sequence(wall_ms, shard_count)
    space = JOB_ID_MAX // shard_count
    assert 0 <= first <= space * 7 // 8
    assert job_id(first + space // 8 - 1, shard_count - 1, shard_count) <= JOB_ID_MAX


@pytest.mark.parametrize("shard_count", [1, 2, 31, 32])
@pytest.mark.parametrize("ran_ms", [1, 1000, 3_600_000, 30 * 86_400_000])
def test_a_new_run_begins_above_the_busiest_one_before(shard_count: int, ran_ms: int) -> None:
    """A shard makes three million jobs a second until the server is killed and started again at
    once: the new run's ids begin above."""
    used = first_sequence(NOW_MS, shard_count) + 3000 * ran_ms
    assert first_sequence(NOW_MS + ran_ms, shard_count) > used


def test_many_shards_share_what_a_server_can_do() -> None:
    """With 1,024 shards, 100 million jobs a second over all of them are still below the line."""
    per_shard = 100_000 * 3_600_000 // SHARD_COUNT_MAX
    used = first_sequence(NOW_MS, SHARD_COUNT_MAX) + per_shard
    assert first_sequence(NOW_MS + 3_600_000, SHARD_COUNT_MAX) > used


def test_epochs_differ_from_those_of_the_run_before() -> None:
    """A server that starts again a second later grants other epochs; a million more fit."""
    assert first_epoch(NOW_MS + EPOCH_UNIT_MS) != first_epoch(NOW_MS)
    assert first_epoch(2**47) + 2**20 < 2**EPOCH_BITS


def test_closing_forgets() -> None:
    """What was in memory is gone."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    storage.open(SHARDS)
    storage.write([blob(1, 1, 2)])
    storage.close()
    assert storage.open(SHARDS).shards[1].last_seq == 0
