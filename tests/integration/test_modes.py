"""A whole server that is started with umask 000: nothing of it is open to other users."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from flashq.client.sync_client import Client
from tests.server import Server

NOBODY: Final = 65_534


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """Forbid nothing by the umask that the server inherits."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory that everybody may enter, with a short path for sockets."""
    path = Path(tempfile.mkdtemp(prefix="fq", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_nobody_else_reads_writes_or_talks(directory: Path) -> None:
    """Not in the run directory, the data directory, the storage, locks, tokens and sockets."""
    run_dir, data_dir = directory / "run", directory / "data"
    run_dir.mkdir(0o700)
    server = Server(
        *("--shards", "2", "--auth-tokens", "right", "--data-dir", str(data_dir)),
        *("--storage", f"sqlite:///{data_dir}/flashq.db"),
        run_dir=run_dir,
    )
    try:
        server.wait_ready()
        with Client(server.ipc_url, token="right") as client:
            client.push("q", 1)
        made = [path for above in (run_dir, data_dir) for path in (above, *above.rglob("*"))]
        names = {path.name for path in made}
        assert names >= {"router.sock", "shard-1.sock", "events-0.sock", "coordinator.sock"}
        assert names >= {"own.token", "shard-0.lock", "flashq.db", "flashq.db-wal", "storage-uuid"}
        open_to_others = {
            path.name: oct(path.stat().st_mode)
            for path in made
            if stat.S_IMODE(path.stat().st_mode) & 0o077 and not path.name.startswith("log-")
        }
        assert open_to_others == {}
        if os.geteuid() == 0:
            for path in (path for path in made if path.is_socket()):
                found = subprocess.run(["/usr/bin/test", "-e", path], user=NOBODY, check=False)
                assert found.returncode == 1, path
    finally:
        server.close()


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_run_directory_that_is_open_is_refused(directory: Path, mode: int) -> None:
    """In one sentence that says what to do; nothing is started."""
    run_dir = directory / "run"
    run_dir.mkdir(mode)
    server = Server("--shards", "1", run_dir=run_dir)
    try:
        assert server.process.wait(20) == 1
        assert f"do: chmod 700 {run_dir}" in server.log()
        assert all(path.name.startswith("log-") for path in run_dir.iterdir())
    finally:
        server.close()
    run_dir.chmod(0o700)
    server = Server("--shards", "1", run_dir=run_dir)
    try:
        server.wait_ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    finally:
        server.close()
