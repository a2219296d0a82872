"""A whole server as real processes, for tests: started, looked at, hurt, and always cleaned up.

Owns a run directory with a short path, the supervisor's process and what it prints. Its programs
are found by their titles among the supervisor's children, and ended by id only.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import create_server
from typing import Any, Final, TypeVar

from tests.contract.dealer import Dealer

T = TypeVar("T")

START_S: Final = 30.0
PATIENCE_S: Final = 20.0
LOOK_S: Final = 0.01
PATIENT: Final = ("--gather-timeout-ms", "20000")
"""Flags of a server on which no test is about silence: an answer of all shards is one of all, also
where one of them has to wait for the machine."""

_SERVE: Final = "import sys; from flashq.supervisor.process import main; sys.exit(main())"


def eventually(look: Callable[[], T], what: str, *, within_s: float = PATIENCE_S) -> T:
    """Look again and again until there is something, and return it.

    Args:
        look: returns something true once it is so.
        what: the end of "never saw ...".
        within_s: how long to go on.
    """
    ends = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < ends, f"never saw {what}; last was {found!r}"
        select.select([], [], [], LOOK_S)
    return found


class Server:
    """One running server.

    Args:
        flags: of `flashq serve`, beside those for addresses and storage.
        run_dir: an existing run directory; without one it makes its own, and removes it.
    """

    def __init__(self, *flags: str, run_dir: Path | None = None) -> None:
        self._owns_run_dir = run_dir is None
        self.run_dir = run_dir or Path(tempfile.mkdtemp(prefix="fq", dir="/tmp"))
        self.flags = (
            *("--run-dir", str(self.run_dir), "--zmq-port", "0", "--storage", "memory:"),
            *("--port", "0", "--http-port", "0", "--grpc-port", "0"),
            *flags,
        )
        self._log_path = self.run_dir / f"log-{time.monotonic_ns()}"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, *self.flags],
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,  # so that select sees every line
            )
        #: what was printed up to `ready`
        self.lines: list[str] = []

    # --- its life

    def wait_ready(self) -> None:
        """Wait for `ready` on its standard output."""
        assert self.process.stdout is not None
        while "ready" not in self.lines:
            readable, _, _ = select.select([self.process.stdout], [], [], START_S)
            assert readable, f"not ready within {START_S} s: {self.log()}"
            line = self.process.stdout.readline()
            assert line, f"ended before it was ready: {self.log()}"
            self.lines.append(line.decode().strip())

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End whatever still runs, by id, and remove what it left."""
        held = [os.pidfd_open(pid) for pid in self.pids().values() if _is_alive(pid)]
        if self.process.poll() is None:
            self.process.kill()
        for fd in held:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._owns_run_dir:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def log(self) -> str:
        """Return what it has written to standard error."""
        return self._log_path.read_text(errors="replace")

    # --- where it is

    @property
    def url(self) -> str:
        """Its TCP endpoint."""
        return next(line for line in self.lines if line.startswith("tcp://"))

    @property
    def ipc_url(self) -> str:
        """Its endpoint in the run directory."""
        return f"ipc://{self.run_dir}/router.sock"

    def shard_url(self, shard: int) -> str:
        """Return a shard's own endpoint."""
        return f"ipc://{self.run_dir}/shard-{shard}.sock"

    def dealer(self, **options: Any) -> Dealer:
        """Return a connection to it; the caller closes it."""
        return Dealer(self.url, **options)

    # --- its programs

    def pids(self) -> dict[str, int]:
        """Return the id of each program by its title, as in `flashq-shard 3`."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = {}
        with suppress(FileNotFoundError):
            for pid in map(int, path.read_text().split()):
                with suppress(FileNotFoundError, ProcessLookupError):
                    title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
                    if title and _is_alive(pid):
                        found[title] = pid
        return found

    def signal(self, title: str, number: signal.Signals) -> int:
        """Send a program a signal, and return its id."""
        pid = self.pids()[title]
        os.kill(pid, number)
        return pid

    def kill(self, title: str) -> None:
        """End a program with SIGKILL, and wait until another one has taken its place."""
        old = self.signal(title, signal.SIGKILL)
        eventually(lambda: self.pids().get(title, old) != old, f"{title} again")

    def epochs(self) -> list[int]:
        """Return the epoch of each shard, 0 for one that is not ready, as a hello is told them."""
        dealer = self.dealer()
        try:
            epochs = dealer.ask("HELLO", session=os.urandom(16))["epochs"]
        finally:
            dealer.close()
        assert isinstance(epochs, list)
        return epochs

    def restart_shard(self, shard: int) -> None:
        """Kill a shard, and wait until the router knows the epoch of the next one."""
        before = self.epochs()[shard]
        self.kill(f"flashq-shard {shard}")
        self.wait_epoch(shard, before)

    def wait_epoch(self, shard: int, before: int) -> int:
        """Wait until a shard is ready under an epoch above `before`, and return it."""
        return eventually(
            lambda: now if (now := self.epochs()[shard]) > before else 0,
            f"shard {shard} with an epoch above {before}",
        )


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody listens on."""
    sockets = [create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rsplit(")", 1)[1].split()[0] not in "ZX"
