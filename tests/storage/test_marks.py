"""The marks: they say what a storage must have, whatever becomes of the file or the process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flashq.errors import StorageDamaged, StorageUnavailable
from flashq.protocol.internal import Reserve
from flashq.storage.acceptance import SHOWN_MAX, Known, check, shortfalls
from flashq.storage.census import Census, taken
from flashq.storage.marks import Marks
from flashq.storage.marksfile import MarksFile, read_marks
from flashq.storage.port import Grant, Opened, Put, StoredShard
from tests.storage.conformance import EPOCH, blob, checkpoint

UUID = bytes(range(16))
SHARDS = [(1, 10, 100), (2, 20, 200)]


def opened(shards: list[tuple[int, int, int]], changes: int = 7, uuid: bytes = UUID) -> Opened:
    """What a storage has."""
    stored = [
        StoredShard(epoch=epoch, incarnation=1, reserved=reserved, last_seq=last_seq)
        for epoch, reserved, last_seq in shards
    ]
    census = taken({"a": b"1"}, changes).put()
    return Opened(uuid, stored, {"a": b"1", census.name: census.content})


def known(marks: Marks | None, pinned: bytes | None = UUID) -> Known:
    """What a data directory knows."""
    return Known("/data", pinned, marks)


def test_they_follow_what_is_stored_and_never_fall() -> None:
    """Also when storage has come back with less: until it has that again, it is missing."""
    marks = Marks.of(opened([(1, 10, 0), (2, 20, 0)], changes=0))
    marks.note([blob(0, 1, 3), checkpoint(1, 5), Reserve(shard=0, epoch=EPOCH, upto=50)], Census())
    marks.note([Grant(1, 9, 1, 30), Put("a", b"1")], Census(4))
    assert (marks.shards, marks.changes) == ([(1, 50, 3), (9, 30, 5)], 4)
    marks.note([blob(0, 1, 2), checkpoint(2, 4), Grant(1, 8, 1, 0)], Census(3))
    assert (marks.shards, marks.changes) == ([(1, 50, 3), (9, 30, 5)], 4)
    marks.give_up(0, 2)
    assert marks.shards[0] == (1, 50, 2)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (opened(SHARDS), []),
        (opened([(3, 30, 300), (4, 40, 400)], changes=9), []),
        (opened([(1, 10, 99), (2, 20, 200)]), ["of shard 0 it lacks the log from 100 to 100"]),
        (opened([(1, 10, 100), (1, 20, 200)]), ["shard 1 is at epoch 1, but had 2"]),
        (opened([(1, 10, 100), (2, 19, 200)]), ["shard 1 has sequences up to 19, but had 20"]),
        (opened(SHARDS, changes=5), ["it lacks the changes 6 to 7"]),
        (opened(SHARDS[:1]), ["it has 1 shards, not 2"]),
        (opened(SHARDS, uuid=bytes(16)), ["it is storage 0000"]),
    ],
)
def test_what_is_missing_is_said(found: Opened, said: list[str]) -> None:
    """A storage that has more is none that lacks something: its last commit was not marked."""
    missing = Marks(UUID, 7, SHARDS).missing(found)
    assert len(missing) == len(said)
    assert all(part in text for part, text in zip(said, missing, strict=True))


def test_a_storage_that_is_known_must_be_there() -> None:
    """Empty, another one, one whose marks are gone, or one whose parts do not fit."""
    marks = Marks(UUID, 7, SHARDS)
    assert shortfalls(None, known(None, None)) == []
    assert shortfalls(opened(SHARDS), known(None, None)) == []
    assert shortfalls(opened(SHARDS), known(marks, None)) == []
    for found, of, said in (
        (None, known(marks), "empty or not there"),
        (None, known(marks, None), "empty or not there"),
        (opened(SHARDS, uuid=bytes(16)), known(marks), f"belongs to storage {UUID.hex()}"),
        (opened(SHARDS, uuid=bytes(16)), known(marks, None), "belongs to storage"),
        (opened(SHARDS), known(None), "marks are not there"),
        (Opened(UUID, opened(SHARDS).shards, {"a": b"1"}), known(marks), "is missing"),
    ):
        [missing] = shortfalls(found, of)
        assert said in missing


def test_a_refusal_names_a_few_and_counts_the_rest() -> None:
    """32 shards may each lack something."""
    count = SHOWN_MAX + 3
    found = opened([(1, 1, 0)] * count)
    with pytest.raises(StorageDamaged, match=r"and 3 more\. nothing was changed") as refused:
        check(found, known(Marks(UUID, 7, [(1, 1, 1)] * count)))
    assert refused.value.text.count("lacks") == SHOWN_MAX


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "marks"


def state(path: Path) -> tuple[bytes, int, list[tuple[int, int, int]]]:
    """What is in the file."""
    marks = read_marks(path)
    assert marks is not None
    return marks.uuid, marks.changes, marks.shards


def test_the_file_has_what_was_written_last(path: Path) -> None:
    """With any number of shards; without one there are no marks."""
    assert read_marks(path) is None
    for count in (1, 2, 32, 1024):
        file = MarksFile(path, Marks(UUID, 0, [(1, 2, 3)] * count))
        for changes in range(5):
            file.marks.note([], Census(changes))
            file.write()
            assert state(path) == (UUID, changes, [(1, 2, 3)] * count)
        file.sync()
        file.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_slot_that_was_cut_off_leaves_the_one_before(path: Path) -> None:
    """Whichever of the two it is; with both of them broken it is damage."""
    file = MarksFile(path, Marks(UUID, 0, SHARDS))
    for changes in range(1, 5):
        before = path.read_bytes()
        file.marks.note([], Census(changes))
        file.write()
        after = path.read_bytes()
        changed = next(
            i for i, pair in enumerate(zip(before, after, strict=True)) if len(set(pair)) > 1
        )
        path.write_bytes(
            after[: changed + 1] + bytes([after[changed + 1] ^ 1]) + after[changed + 2 :]
        )
        assert state(path)[1] == changes - 1
        path.write_bytes(after)
        assert state(path)[1] == changes
    file.close()
    path.write_bytes(bytes(len(after)))
    with pytest.raises(StorageDamaged, match="is broken"):
        read_marks(path)


def test_a_file_that_was_taken_away_is_made_anew(path: Path) -> None:
    """What is in it is known; nothing is acknowledged while it cannot be made."""
    file = MarksFile(path, Marks(UUID, 0, SHARDS))
    path.unlink()
    file.write()
    assert state(path) == (UUID, 0, SHARDS)
    shutil.rmtree(path.parent)
    with pytest.raises(StorageUnavailable, match="cannot be written"):
        file.write()
    path.parent.mkdir()
    file.write()
    assert state(path) == (UUID, 0, SHARDS)
    file.close()


def test_a_file_that_cannot_be_read_is_no_missing_one(path: Path) -> None:
    """Nobody takes it for a new storage."""
    os.mkdir(path)
    with pytest.raises(StorageUnavailable):
        read_marks(path)
