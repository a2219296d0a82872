"""The data directory: one server, one storage."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from flashq.datadir import PIN_NAME, DataDir, known_of, losses_of
from flashq.errors import ConfigError
from flashq.storage.acceptance import Known
from flashq.storage.marks import Marks
from flashq.storage.marksfile import MarksFile

UUID = bytes(range(16))


def test_it_is_made_for_the_servers_user_only(tmp_path: Path) -> None:
    """Jobs are nobody else's business."""
    directory = DataDir(str(tmp_path / "new" / "data"))
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    directory.close()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o720])
def test_one_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """They could put another storage in the place of the server's."""
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match="do: chmod go-w"):
        DataDir(str(tmp_path))
    tmp_path.chmod(0o755)
    DataDir(str(tmp_path)).close()


def test_files_in_it_are_taken_from_others(tmp_path: Path) -> None:
    """An earlier start, or a copy, left them open to everybody."""
    for name in ("flashq.db", "flashq.db-wal"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o664)
    DataDir(str(tmp_path)).close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_one_server_has_it(tmp_path: Path) -> None:
    """A second one is told who has it; it gets it when that one is gone."""
    first = DataDir(str(tmp_path))
    with pytest.raises(ConfigError, match=f"process {os.getpid()} has held"):
        DataDir(str(tmp_path), pause=lambda _: None)
    first.close()
    DataDir(str(tmp_path)).close()


def test_it_knows_its_storage_and_what_that_must_have(tmp_path: Path) -> None:
    """Nothing at first; then the name, and the marks as they were written."""
    directory = DataDir(str(tmp_path))
    assert directory.known() == Known(str(tmp_path), None, None)
    directory.pin(UUID)
    MarksFile(directory.marks_path, Marks(UUID, 3, [(1, 2, 4)])).close()
    known = known_of(tmp_path)
    assert (known.pinned, known.marks and known.marks.shards) == (UUID, [(1, 2, 4)])
    directory.pin(bytes(16))
    assert directory.known().pinned == bytes(16)
    directory.close()


def test_a_name_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """The file is named, and what to do."""
    (tmp_path / PIN_NAME).write_text("0001zz")
    with pytest.raises(ConfigError, match=f"{PIN_NAME} does not name a storage.*--accept-loss"):
        known_of(tmp_path)


def test_accepted_losses_are_kept(tmp_path: Path) -> None:
    """Each is a line of JSON."""
    assert losses_of(tmp_path) == []
    directory = DataDir(str(tmp_path))
    directory.record_loss(1000, UUID, ["one", "two"])
    directory.record_loss(2000, UUID, ["three"])
    directory.close()
    lost = [json.loads(line) for line in losses_of(tmp_path)]
    assert [(loss["at"], loss["lost"]) for loss in lost] == [
        (1000, ["one", "two"]),
        (2000, ["three"]),
    ]


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """In a sentence that names the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="FLASHQ_DATA_DIR"):
        DataDir(str(tmp_path / "file" / "data"))
