"""Backups: what was in a storage is in the restored one, and broken files restore nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq.errors import ConfigError, StorageDamaged
from flashq.protocol.internal import Recovered
from flashq.storage import open_snapshot
from flashq.storage.backup import (
    EPOCHS_SKIPPED,
    RESTORING,
    SEQUENCES_SKIPPED,
    make_backup,
    restore,
)
from flashq.storage.form import FORM_PART, form_part
from flashq.storage.port import Grant, Put, Storage
from flashq.storage.postgres import PostgresStorage
from flashq.storage.sqlite import SqliteStorage
from tests.storage.conformance import EPOCH, SHARDS, blob, checkpoint, recovery

NOW_MS = 1_800_000_000_000


def nothing(_done: int) -> None:
    """Nobody watches the progress."""


def fill(storage: Storage) -> None:
    """Put some of everything into a storage."""
    storage.open(SHARDS)
    storage.write([form_part(), Grant(1, EPOCH, 99, 5000), Put("cron.a", b"cron")])
    storage.write([blob(1, 1, 3), blob(2, 1, 1)])
    pages = [(number, b"p" * 50_000) for number in range(100)]
    storage.write([checkpoint(1, 3, pages=pages, parts=[("state", b"s")], last=False)])
    storage.write([checkpoint(1, 3, pages=[(200, b"last")], number=1)])
    storage.write([blob(1, 4, 9), blob(1, 10, 10), blob(3, 1, 7, size=5_000_000)])
    storage.write([checkpoint(2, 10, pages=[(0, b"unfinished")], last=False)])


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup, and nothing that it was made from."""
    source = tmp_path / "source.db"
    storage = SqliteStorage(source)
    fill(storage)
    path = tmp_path / "backup"
    snapshot = open_snapshot(f"sqlite:///{source}")
    make_backup(snapshot, path, NOW_MS, "1", nothing)
    snapshot.close()
    storage.close()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def target(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_dsn: str
) -> Iterator[SqliteStorage | PostgresStorage]:
    """A storage with nothing in it, not opened yet."""
    storage = (
        SqliteStorage(tmp_path / "target.db")
        if request.param == "sqlite"
        else PostgresStorage(postgres_dsn)
    )
    yield storage
    storage.close()


def test_everything_that_counts_is_restored(
    backup: Path, target: SqliteStorage | PostgresStorage, tmp_path: Path
) -> None:
    """Whatever kind of storage it came from: state and log of each shard, crons, and numbers that
    cannot have been used. An unfinished checkpoint is not restored."""
    head = restore(target, backup, nothing)
    assert (head.wall_ms, len(head.shards)) == (NOW_MS, SHARDS)
    opened = target.open(SHARDS)
    assert opened.parts == {FORM_PART: form_part().content, "cron.a": b"cron"}
    assert opened.shards[1].epoch == EPOCH + EPOCHS_SKIPPED
    assert opened.shards[1].incarnation == 99
    assert opened.shards[1].reserved == 5000 + SEQUENCES_SKIPPED
    assert opened.shards[1].last_seq == 10
    source = SqliteStorage(tmp_path / "source.db")
    source.open(SHARDS)
    for shard in range(SHARDS):
        assert recovery(target, shard) == recovery(source, shard)
    source.close()
    target.write([blob(1, 11, 11)])


def test_a_backup_is_of_one_moment(tmp_path: Path) -> None:
    """What is written after its beginning is not in it, nor does it wait for the backup's end."""
    source = tmp_path / "source.db"
    storage = SqliteStorage(source)
    fill(storage)
    snapshot = open_snapshot(f"sqlite:///{source}")
    before = recovery(storage, 1)
    storage.write([blob(1, 11, 11), checkpoint(3, 11, full=True, parts=[("state", b"new")])])
    while storage.tidy():
        pass
    make_backup(snapshot, tmp_path / "backup", NOW_MS, "1", nothing)
    snapshot.close()
    storage.close()
    target = SqliteStorage(tmp_path / "target.db")
    restore(target, tmp_path / "backup", nothing)
    assert recovery(target, 1) == before
    target.close()


def test_only_its_owner_can_read_a_backup(backup: Path) -> None:
    """Payloads are in it, and secrets of webhooks."""
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_backup_overwrites_nothing(backup: Path, tmp_path: Path) -> None:
    """Neither does it leave half a file."""
    snapshot = open_snapshot(f"sqlite:///{tmp_path / 'source.db'}")
    with pytest.raises(ConfigError, match="is there already"):
        make_backup(snapshot, backup, NOW_MS, "1", nothing)
    with pytest.raises(ConfigError, match="cannot be written"):
        make_backup(snapshot, tmp_path / "nowhere" / "backup", NOW_MS, "1", nothing)
    snapshot.close()
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_restore_overwrites_nothing(backup: Path, tmp_path: Path) -> None:
    """A storage in use keeps what it has."""
    target = SqliteStorage(tmp_path / "target.db")
    target.open(SHARDS)
    target.write([blob(1, 1, 1)])
    with pytest.raises(ConfigError, match="not empty"):
        restore(target, backup, nothing)
    assert recovery(target, 1) == Recovered(cursor=0, log=[(1, 1, blob(1, 1, 1).records)])
    target.close()


def test_a_broken_backup_restores_nothing(backup: Path, tmp_path: Path) -> None:
    """A flipped bit, a file cut off, and a file of something else, each named."""
    target = SqliteStorage(tmp_path / "target.db")
    whole = backup.read_bytes()
    middle = len(whole) // 2
    for content, error in (
        (whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], StorageDamaged),
        (whole[:-5], StorageDamaged),
        (whole[: whole.rindex(b"\x00\x00\x00")], StorageDamaged),
        (b"something else", ConfigError),
    ):
        backup.write_bytes(content)
        with pytest.raises(error):
            restore(target, backup, nothing)
    assert all(shard.last_seq == 0 for shard in target.open(SHARDS).shards)
    target.close()


@pytest.mark.parametrize("said", [b"1", b""])
def test_a_backup_of_another_form_restores_nothing(said: bytes, tmp_path: Path) -> None:
    """Its logs and checkpoints are not what this flashq takes them for. Who wrote it is named."""
    source = SqliteStorage(tmp_path / "source.db")
    fill(source)
    source.write([Put(FORM_PART, said)])
    snapshot = open_snapshot(f"sqlite:///{tmp_path / 'source.db'}")
    make_backup(snapshot, tmp_path / "backup", NOW_MS, "0.9", nothing)
    snapshot.close()
    source.close()
    target = SqliteStorage(tmp_path / "target.db")
    with pytest.raises(ConfigError, match=r"written by flashq 0\.9, .* form.* reads form"):
        restore(target, tmp_path / "backup", nothing)
    assert not target.open(SHARDS).parts
    target.close()


def test_a_restore_that_was_cut_off_is_seen(backup: Path, tmp_path: Path) -> None:
    """A server must not start with half of the jobs."""
    target = SqliteStorage(tmp_path / "target.db")

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(target, backup, stop)
    assert RESTORING in target.open(SHARDS).parts
    target.close()
