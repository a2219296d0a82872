"""`flashq.privacy`: what keeps the server's files to its own user."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashq.errors import ConfigError
from flashq.privacy import (
    OTHERS,
    OTHERS_WRITE,
    check_directory,
    for_its_owner,
    keep_to_owner,
    make_directory,
    restrict,
)


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """As somebody starts a server whose shell forbids nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    """Return a file's mode."""
    return stat.S_IMODE(path.stat().st_mode)


def test_what_a_program_makes_is_its_users_only(tmp_path: Path) -> None:
    """Whatever umask it was started with."""
    keep_to_owner()
    (tmp_path / "file").touch(0o666)
    (tmp_path / "directory").mkdir()
    assert mode_of(tmp_path / "file") == 0o600
    assert mode_of(tmp_path / "directory") == 0o700


def test_a_directory_is_made_with_those_above_it(tmp_path: Path) -> None:
    """None of them can others write to, and what was there stays as it was."""
    tmp_path.chmod(0o751)
    path = tmp_path / "a" / "b" / "run"
    make_directory(path, "run_dir")
    make_directory(path, "run_dir")
    assert [mode_of(one) for one in (path, path.parent, path.parent.parent)] == [
        0o700,
        0o755,
        0o755,
    ]
    assert mode_of(tmp_path) == 0o751
    check_directory(path, "run_dir", OTHERS)


def test_a_directory_below_one_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    """Another one could be put in its place; with the sticky bit, as /tmp has it, it cannot."""
    above = tmp_path / "above"
    make_directory(above / "run", "run_dir")
    above.chmod(0o777)
    with pytest.raises(ConfigError, match=f"do: chmod o-w {above}"):
        check_directory(above / "run", "run_dir", OTHERS)
    above.chmod(0o1777)
    check_directory(above / "run", "run_dir", OTHERS)


def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner can open it at any time."""
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000_000)
    with pytest.raises(ConfigError, match=r"belongs to user .* do: chown 4000000000"):
        check_directory(tmp_path, "data_dir", OTHERS_WRITE)


def test_rights_are_taken_from_files_of_our_own(tmp_path: Path) -> None:
    """A link leads to what may be somebody else's, and is left alone."""
    outside, directory = tmp_path / "outside", tmp_path / "data"
    outside.touch(0o644)
    directory.mkdir()
    (directory / "link").symlink_to(outside)
    (directory / "db").touch(0o666)
    for path in directory.iterdir():
        restrict(path)
    assert mode_of(directory / "db") == 0o600
    assert mode_of(outside) == 0o644
    with open(tmp_path / "new", "w", opener=for_its_owner):
        assert mode_of(tmp_path / "new") == 0o600
