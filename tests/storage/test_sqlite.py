"""The storage in an SQLite file passes the suite, and keeps what it promises about its file."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq.errors import ConfigError, StorageDamaged, StorageUnavailable
from flashq.lockfile import Lockfile
from flashq.storage import open_snapshot
from flashq.storage.port import Put, Storage, Write
from flashq.storage.sqlite import FREE_BYTES_MAX, PAGE_BYTES, SYNCHRONOUS_FULL, SqliteStorage
from tests.storage.churn import ChurnConformance
from tests.storage.conformance import SHARDS, StorageConformance, blob, checkpoint, log_of, recovery


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "flashq.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteStorage]:
    """A storage as a coordinator opens it."""
    storage = SqliteStorage(path)
    storage.open(SHARDS)
    yield storage
    storage.close()


class TestSqliteStorage(StorageConformance, ChurnConformance[SqliteStorage]):
    """The suite, against a file."""

    def forbid(self, storage: Storage, name: str) -> bool:
        """By a trigger, such as somebody adds."""
        assert isinstance(storage, SqliteStorage)
        storage.connection.execute(
            "CREATE TRIGGER forbid BEFORE INSERT ON coordinator WHEN new.name = "
            f"CAST('{name}' AS BLOB) BEGIN SELECT RAISE(ABORT, 'forbidden'); END"
        )
        return True

    def maintain(self, storage: SqliteStorage) -> None:
        """The storage does all of it."""

    def size_of(self, storage: SqliteStorage) -> int:
        """What is in use; a part of what is free is kept for the next burst."""
        [pages] = storage.connection.execute("PRAGMA page_count").fetchone()
        [free] = storage.connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * PAGE_BYTES


def test_the_file_is_forced_to_the_disk_with_each_commit(storage: SqliteStorage) -> None:
    """SIGKILL cannot prove it, so the pragmas are read back."""
    assert storage.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert storage.connection.execute("PRAGMA synchronous").fetchone() == (SYNCHRONOUS_FULL,)


def test_what_was_written_is_there_after_the_process(path: Path) -> None:
    """Another process opens the file later."""
    first = SqliteStorage(path)
    uuid = first.open(SHARDS).uuid
    first.write([blob(1, 1, 3)])
    first.close()
    second = SqliteStorage(path)
    opened = second.open(SHARDS)
    assert opened.uuid == uuid
    assert opened.shards[1].last_seq == 3
    assert log_of(second, 1) == [(1, 3)]
    second.close()


def test_only_the_servers_user_can_read_the_file(path: Path) -> None:
    """Payloads are in it, and secrets of webhooks, wherever it lies."""
    storage = SqliteStorage(path)
    storage.open(SHARDS)
    storage.write([blob(1, 1, 3)])
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.glob(f"{path.name}*")}
    storage.close()
    assert len(modes) > 1
    assert set(modes.values()) == {0o600}


def test_another_number_of_shards_is_refused(storage: Storage) -> None:
    """Ids and queues would belong to other shards."""
    with pytest.raises(ConfigError, match="shards is 5, but the storage was made for 4"):
        storage.open(SHARDS + 1)


def test_the_file_has_one_owner(storage: Storage, path: Path) -> None:
    """Whatever data directory a second server has."""
    other = SqliteStorage(path, lock_wait_ms=0)
    with pytest.raises(ConfigError, match="runs already"):
        other.open(SHARDS)
    storage.close()
    other.open(SHARDS)
    other.close()


def test_a_file_of_another_program_is_left_alone(path: Path) -> None:
    """Its tables are none of ours; nor is a file that is no database."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    storage = SqliteStorage(path)
    for _ in range(2):
        with pytest.raises(ConfigError, match="of another program"):
            storage.open(SHARDS)
    with pytest.raises(ConfigError, match="of another program"):
        open_snapshot(f"sqlite:///{path}")
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StorageDamaged, match="not a database"):
        storage.open(SHARDS)
    storage.close()


def test_a_schema_of_a_newer_version_is_refused(storage: SqliteStorage, path: Path) -> None:
    """An older program would not understand what it finds."""
    storage.connection.execute("PRAGMA user_version=99")
    storage.close()
    with pytest.raises(ConfigError, match="newer flashq: its schema is version 99"):
        SqliteStorage(path).open(SHARDS)


def test_there_has_to_be_a_directory(tmp_path: Path) -> None:
    """A typing error must not become an empty storage somewhere else."""
    with pytest.raises(ConfigError, match="there is no directory"):
        SqliteStorage(tmp_path / "nowhere" / "flashq.db").open(SHARDS)
    with pytest.raises(ConfigError, match="there is no storage"):
        open_snapshot(f"sqlite:///{tmp_path}/nothing.db")


def test_a_hole_in_the_log_is_damage(storage: SqliteStorage) -> None:
    """Shard and sequence are named, at the start and not in the midst of work."""
    storage.write([blob(1, 1, 2), blob(1, 3, 4), blob(1, 5, 6)])
    storage.connection.execute("DELETE FROM log WHERE first_seq = 3")
    with pytest.raises(StorageDamaged, match="log of shard 1: after 2 comes 5"):
        storage.open(SHARDS)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ("UPDATE log SET records = x'00' WHERE first_seq = 3", "log of shard 1, 3 to 4"),
        ("UPDATE pages SET content = x'00' WHERE page = 7", "checkpoint of shard 1, page 7"),
        ("UPDATE pages SET checksum = 1 WHERE part = CAST('state' AS BLOB)", "shard 1, part state"),
    ],
)
def test_a_broken_piece_is_damage(storage: SqliteStorage, damage: str, place: str) -> None:
    """A bit flips on the disk: the place is named, and nothing is served."""
    storage.write([checkpoint(1, 0, pages=[(7, b"page")], parts=[("state", b"s")])])
    storage.write([blob(1, 1, 2), blob(1, 3, 4)])
    storage.connection.execute(damage)
    for _ in range(2):
        with pytest.raises(StorageDamaged, match=place):
            recovery(storage, 1)
    storage.write([blob(2, 1, 1)])
    assert log_of(storage, 2) == [(1, 1)]


def test_a_full_disk_is_unavailable_until_there_is_room(storage: SqliteStorage) -> None:
    """
    1. A group does not fit; nothing of it is written, and nothing else is before `open`.
    2. There is room again: the same group is written.
    """
    storage.write([blob(1, 1, 1)])
    [pages] = storage.connection.execute("PRAGMA page_count").fetchone()
    storage.connection.execute(f"PRAGMA max_page_count={pages}")
    group: list[Write] = [blob(1, 2, 2, size=1_000_000), Put("cron.a", b"content")]
    with pytest.raises(StorageUnavailable, match="full"):
        storage.write(group)
    with pytest.raises(StorageUnavailable, match="not been opened"):
        storage.write(group)
    opened = storage.open(SHARDS)
    assert (opened.shards[1].last_seq, opened.parts) == (1, {})
    storage.write(group)
    assert log_of(storage, 1) == [(1, 1), (2, 2)]


def test_a_file_that_cannot_be_written_is_unavailable(storage: SqliteStorage) -> None:
    """Somebody has made it read-only, or the disk has become so."""
    storage.connection.execute("PRAGMA query_only=1")
    with pytest.raises(StorageUnavailable, match="readonly"):
        storage.write([blob(1, 1, 1)])
    storage.open(SHARDS)
    storage.write([blob(1, 1, 1)])


def test_a_probe_finds_a_file_that_was_taken_away(storage: SqliteStorage, path: Path) -> None:
    """What is written into it has no name any more. Put back it goes on; none is made anew."""
    aside = path.with_name("aside.db")
    path.rename(aside)
    with pytest.raises(StorageUnavailable, match="moved, removed or replaced"):
        storage.probe()
    with pytest.raises(StorageUnavailable, match="unable to open"):
        storage.open(SHARDS)
    assert not path.exists()
    aside.rename(path)
    storage.open(SHARDS)
    storage.probe()


def test_a_recovery_reads_the_writers_file_or_nothing(storage: SqliteStorage, path: Path) -> None:
    """Another one may stand in its place, and after the end another server may write to it."""
    storage.write([blob(1, 1, 1)])
    path.rename(path.with_name("moved"))
    with pytest.raises(StorageUnavailable):
        storage.recover(1, 0, 1000)
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE other (x)")
    other.close()
    with pytest.raises(StorageUnavailable, match="has been moved, removed or replaced"):
        storage.recover(1, 0, 1000)
    storage.close()
    with pytest.raises(StorageUnavailable, match="not open"):
        storage.recover(1, 0, 1000)


def test_a_probe_finds_a_lock(
    storage: SqliteStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody works on the file by hand."""
    storage.connection.execute("PRAGMA busy_timeout=1")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            storage.probe()
    other.close()
    storage.open(SHARDS)
    storage.probe()


def test_the_file_stays_small_under_churn(storage: SqliteStorage, path: Path) -> None:
    """An hour of traffic in fast motion: log comes and goes, pages are written again and again.
    File and tables end as small as they began, but for what is kept free for the next burst."""
    seq = 0
    for generation in range(1, 40):
        for _ in range(10):
            storage.write([blob(1, seq + 1, seq + 100, size=500_000)])
            seq += 100
        pages = [(number, bytes(100_000)) for number in range(generation, generation + 10)]
        gone = [(number, b"") for number in range(generation)]
        storage.write([checkpoint(generation, seq, pages=pages + gone, parts=[("s", b"s")])])
    while storage.tidy():
        pass
    storage.close()  # also copies the write-ahead log into the file
    assert path.stat().st_size < FREE_BYTES_MAX + 10 * 100_000 + 2_000_000
    storage.open(SHARDS)
    for table, rows in (("log", 0), ("pages", 11)):
        assert storage.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)


@pytest.mark.parametrize("end", ["-wal", "-shm"])
@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_commit_into_a_file_that_was_taken_away_is_refused(
    storage: SqliteStorage, path: Path, tmp_path: Path, end: str, *, is_replaced: bool
) -> None:
    """
    1. The write-ahead log is removed, or another one put in its place. The next commit is refused:
       nobody is told that it is stored.
    2. Opened again, the storage has all of it, in files that have their names.
    3. So has a copy of these files, which is what a crash would leave.
    """
    storage.write([blob(1, 1, 1)])
    file = path.with_name(path.name + end)
    groups: list[list[Write]] = [[blob(1, 2, 2)], [blob(1, 3, 3), Put("cron.a", b"1")]]
    for last_seq, group in enumerate(groups, 2):
        file.unlink()
        if is_replaced:
            file.write_bytes(b"other")
        with pytest.raises(StorageUnavailable, match=f"{end} has been moved, removed or replaced"):
            storage.write(group)
        assert storage.open(SHARDS).shards[1].last_seq == last_seq
    storage.write([blob(1, 4, 4)])
    copies = tmp_path / "copies"
    copies.mkdir()
    for each in path.parent.glob(f"{path.name}*"):
        shutil.copy(each, copies / each.name)
    after = SqliteStorage(copies / path.name)
    assert (after.open(SHARDS).shards[1].last_seq, after.open(SHARDS).parts) == (
        4,
        {"cron.a": b"1"},
    )
    after.close()


def test_a_lock_that_was_taken_away_is_taken_again(storage: SqliteStorage, path: Path) -> None:
    """Another server would not see that somebody writes; while it does, nothing is written."""
    lock = path.with_name(path.name + ".lock")
    lock.unlink()
    with pytest.raises(StorageUnavailable, match="lock"):
        storage.write([blob(1, 1, 1)])
    other = Lockfile.acquire(lock)
    storage._lock_wait_ms = 0
    with pytest.raises(ConfigError, match="runs already"):
        storage.open(SHARDS)
    other.release()
    assert storage.open(SHARDS).shards[1].last_seq == 1
    storage.write([blob(1, 2, 2)])


def test_what_a_reader_holds_back_is_counted(storage: SqliteStorage, path: Path) -> None:
    """A snapshot that does not end keeps the write-ahead log growing; with its end it goes."""
    small = storage.ahead_bytes()
    snapshot = open_snapshot(f"sqlite:///{path}")
    storage.connection.execute("PRAGMA wal_autocheckpoint=10")
    for seq in range(1, 20):
        storage.write([blob(1, seq, seq, size=100_000)])
    held = storage.ahead_bytes()
    assert held > small + 19 * 100_000
    snapshot.close()
    for seq in range(20, 40):
        storage.write([blob(1, seq, seq, size=100_000)])
    assert storage.ahead_bytes() < held + 10 * 100_000
    storage.close()
    assert storage.ahead_bytes() == 0
