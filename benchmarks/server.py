"""A whole server of its own for a measurement: started, watched, stopped."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS_MAX = 30


@dataclass
class Server:
    """A running server.

    Args:
        url: where clients connect.
        pid: of the supervisor.
        run_dir: where its sockets are.
        endpoints: of all doors, as it has printed them.
    """

    url: str
    pid: int
    run_dir: Path
    endpoints: tuple[str, ...]

    def address(self, scheme: str) -> tuple[str, int]:
        """Return host and port of a door, by what stands before `://` in its endpoint."""
        start = f"{scheme}://"
        found = next(one for one in self.endpoints if one.startswith(start))
        host, _, port = found.removeprefix(start).rpartition(":")
        return host, int(port)

    def pids(self) -> dict[int, str]:
        """Return every process of the server, by id, with its title."""
        found = {self.pid: "flashq serve"}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text()
                title = (entry / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == self.pid:
                found[int(entry.name)] = title
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time that the whole server has used."""
        return sum(_cpu_seconds(pid) for pid in self.pids())

    def memory_bytes(self, title: str = "") -> int:
        """Return the proportional memory of the processes whose title begins so."""
        named = [pid for pid, name in self.pids().items() if name.startswith(title)]
        return sum(_proportional_bytes(pid) for pid in named)


def _cpu_seconds(pid: int) -> float:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except (OSError, IndexError):
        return 0.0


def _proportional_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")
    )


def warm_memory(size: int = 2 << 30) -> None:
    """Touch so many bytes of memory, and give them back.

    What a virtual machine has not used for a while its host may have taken away; to get such a page
    back takes several times as long as to clear one. Which run meets them is chance, so that
    runs in which a server grows are compared only after this.
    """
    with mmap.mmap(-1, size) as memory:
        for place in range(0, size, mmap.PAGESIZE):
            memory[place] = 1


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*flags: str, storage: str = "memory:") -> Iterator[Server]:
    """Start `flashq serve` with a run directory and a port of its own, and stop it afterwards.

    Args:
        flags: more flags of `flashq serve`.
        storage: its URL; empty for the default, SQLite in a directory of its own.
    """
    home = Path(tempfile.mkdtemp(prefix="fqb"))
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "flashq",
        "serve",
        *("--run-dir", str(home / "run"), "--data-dir", str(home / "data")),
        *("--zmq-port", str(port), "--log-level", "warning"),
        *(("--storage", storage) if storage else ()),
        *("--port", "0", "--http-port", "0", "--grpc-port", "0"),
        *flags,
    ]
    environment = {name: value for name, value in os.environ.items() if "FLASHQ" not in name}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        signal.alarm(READY_SECONDS_MAX)
        endpoints: list[str] = []
        for line in process.stdout:
            if line.strip() == "ready":
                break
            endpoints.append(line.strip())
        else:
            raise RuntimeError("the server did not start")
        signal.alarm(0)
        yield Server(f"tcp://127.0.0.1:{port}", process.pid, home / "run", tuple(endpoints))
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)
