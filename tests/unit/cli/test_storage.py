"""`flashq migrate`, `backup`, `restore` and `export` where there is nothing to read or write."""

from __future__ import annotations

from pathlib import Path

from flashq.storage.sqlite import SqliteStorage
from tests.unit.cli.conftest import Run


def test_memory_can_only_be_read_by_its_server(run: Run, tmp_path: Path) -> None:
    """A sentence says so, and how to name another storage."""
    for words in (("migrate",), ("backup", "x"), ("restore", "x"), ("export", "--jobs")):
        outcome = run(*words, "--storage", "memory:", "--data-dir", str(tmp_path))
        assert outcome.status == 1
        assert "which only the server itself can read" in outcome.err


def test_migrate_makes_the_tables_once(run: Run, tmp_path: Path) -> None:
    """A server does the same at its start."""
    data_dir = ("--data-dir", str(tmp_path / "data"))
    assert run("--json", "migrate", *data_dir).document == {"migrations": ["tables"]}
    assert run("migrate", *data_dir).out == "everything is up to date\n"


def test_a_storage_that_nobody_has_used_has_nothing(run: Run, tmp_path: Path) -> None:
    """Neither for a backup nor for an export."""
    data_dir = ("--data-dir", str(tmp_path))
    assert "there is no storage at" in run("export", "--jobs", *data_dir).err
    run("migrate", *data_dir)
    outcome = run("backup", str(tmp_path / "file"), *data_dir)
    assert (outcome.status, "no server has used it" in outcome.err) == (1, True)
    assert not (tmp_path / "file").exists()


def test_backup_and_restore(run: Run, tmp_path: Path) -> None:
    """An empty storage of four shards moves into another data directory, whose pin follows."""
    file, old, new = tmp_path / "file", tmp_path / "old", tmp_path / "new"
    old.mkdir()
    storage = SqliteStorage(old / "flashq.db")
    storage.open(4)
    made = run("--json", "backup", str(file), "--data-dir", str(old)).document
    assert made == {"file": str(file), "bytes": file.stat().st_size, "shards": 4}
    assert "is there already" in run("backup", str(file), "--data-dir", str(old)).err
    storage.close()
    outcome = run("restore", str(file), "--data-dir", str(new))
    assert outcome.out == "4 shards restored; start the server with --shards 4\n"
    restored = SqliteStorage(new / "flashq.db")
    assert (new / "storage-uuid").read_text().strip() == restored.open(4).uuid.hex()
    restored.close()


def test_export_wants_to_know_what(run: Run) -> None:
    """A usage error, so that more kinds can come."""
    assert run("export").status == 2
