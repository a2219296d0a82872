"""`flashq.lockfile`: one owner, a second start waits and then says why it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashq.errors import ConfigError
from flashq.lockfile import Lockfile


def test_a_second_start_fails_and_names_the_first(tmp_path: Path) -> None:
    """Without the lock the second server would bind over the first's sockets in silence."""
    path = tmp_path / "router.lock"
    held = Lockfile.acquire(path)
    waited: list[float] = []
    with pytest.raises(ConfigError, match=rf"router runs already: process {os.getpid()} "):
        Lockfile.acquire(path, wait_ms=200, pause=waited.append)
    assert sum(waited) == pytest.approx(0.2)
    held.release()


def test_a_second_start_waits_for_the_first_to_drain(tmp_path: Path) -> None:
    """A restart by systemd overlaps: the new process starts while the old one still drains."""
    path = tmp_path / "shard-0.lock"
    held = Lockfile.acquire(path)
    second = Lockfile.acquire(path, pause=lambda _: held.release())
    assert path.read_text() == f"{os.getpid()}\n"
    second.release()


def test_a_released_lock_can_be_taken_at_once(tmp_path: Path) -> None:
    """The file is left behind by design; only the kernel's lock counts."""
    path = tmp_path / "coordinator.lock"
    Lockfile.acquire(path).release()
    Lockfile.acquire(path, wait_ms=0).release()


def test_a_lock_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    """A missing directory is a setting's fault, not a traceback."""
    with pytest.raises(ConfigError, match="cannot be opened"):
        Lockfile.acquire(tmp_path / "missing" / "x.lock")
