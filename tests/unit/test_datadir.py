"""The data directory: one server, one storage."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flashq.datadir import PIN_NAME, DataDir
from flashq.errors import ConfigError

UUID = bytes(range(16))


def test_it_is_made_for_the_servers_user_only(tmp_path: Path) -> None:
    """Jobs are nobody else's business."""
    directory = DataDir(str(tmp_path / "new" / "data"))
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    directory.close()


def test_one_server_has_it(tmp_path: Path) -> None:
    """A second one is told who has it; it gets it when that one is gone."""
    first = DataDir(str(tmp_path))
    with pytest.raises(ConfigError, match=f"process {os.getpid()} has held"):
        DataDir(str(tmp_path), pause=lambda _: None)
    first.close()
    DataDir(str(tmp_path)).close()


def test_a_storage_is_pinned(tmp_path: Path) -> None:
    """The same one may come again, another one may not, unless that is what somebody wants."""
    directory = DataDir(str(tmp_path))
    directory.pin(UUID)
    directory.pin(UUID)
    with pytest.raises(ConfigError) as refused:
        directory.pin(bytes(16))
    assert UUID.hex() in str(refused.value)
    assert PIN_NAME in str(refused.value)
    directory.pin(bytes(16), anew=True)
    directory.pin(bytes(16))
    directory.close()


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """In a sentence that names the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="FLASHQ_DATA_DIR"):
        DataDir(str(tmp_path / "file" / "data"))
