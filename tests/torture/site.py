"""The server under torture: its processes, its storage, and their ends and returns.

Owns directories, ports and process ids. It ends only what it has started itself, by id. What is
killed here comes back here: `tend` does what systemd would.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.postgres import Postgres
from tests.server import eventually, free_ports
from tests.torture.serve import SABOTAGE

SHARDS: Final = 4
START_S: Final = 60.0
RETRY_S: Final = 0.2
COMMAND: Final = (sys.executable, "-m", "tests.torture.serve")
FLAGS: Final = {
    "shards": SHARDS,
    "grpc-port": 0,
    "log-level": "warning",
    # A silence is noticed soon, so that much is taken back and little time is spent in waiting.
    "session-timeout-ms": 2000,
    "heartbeat-interval-ms": 400,
    "stall-timeout-ms": 3000,
    # Checkpoints are under way most of the time.
    "checkpoint-log-bytes": 256 * 1024,
    "completed-jobs-max": 1_000_000,
    "results-max": 1_000_000,
}


class Site:
    """A server on one storage.

    Args:
        home: an empty directory with a short path.
        level: durable or async.
        postgres: the storage, if it is not SQLite in the data directory.
        sabotage: what is taken out of the server.
    """

    def __init__(self, home: Path, level: str, postgres: Postgres | None, sabotage: str) -> None:
        self.home = home
        self.postgres = postgres
        ports = free_ports(3)
        self.address = f"tcp://127.0.0.1:{ports[0]}"
        self.tcp_port = ports[1]
        self.http_port = ports[2]
        flags = FLAGS | {
            "run-dir": home / "run",
            "data-dir": home / "data",
            "durability": level,
            "zmq-port": ports[0],
            "port": ports[1],
            "http-port": ports[2],
        }
        if postgres is not None:
            flags["storage"] = postgres.database()
        self._flags = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        self._environ = {name: text for name, text in os.environ.items() if "FLASHQ" not in name}
        self._environ[SABOTAGE] = sabotage
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._start_at = 0.0
        #: by pid: when a program that stands still goes on
        self._stopped: dict[int, float] = {}
        self._postgres_at: float | None = None
        #: a second process for a shard that has one
        self._twin: subprocess.Popen[bytes] | None = None
        #: by id: descriptors of the children that were seen and may still run
        self._seen: dict[int, int] = {}

    # --- life

    def start(self) -> None:
        """Start `flashq serve`, and do not wait for it."""
        self._starts += 1
        with self._output().open("wb") as output, self._log().open("ab") as log:
            command = [*COMMAND, *self._flags]
            self._process = subprocess.Popen(command, stdout=output, stderr=log, env=self._environ)

    def tend(self) -> None:
        """Bring back what is due to come back."""
        now = time.monotonic()
        for pid in [pid for pid, until in self._stopped.items() if now >= until]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            del self._stopped[pid]
        if self._postgres_at is not None and now >= self._postgres_at:
            assert self.postgres is not None
            self.postgres.start()
            self._postgres_at = None
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            self._start_at = now + RETRY_S
        if self._process is None and now >= self._start_at:
            self.start()
        self._watch()

    def _watch(self) -> None:
        """Take hold of each child, so that it can be ended whoever its parent is by then."""
        for pid in self.programs().values():
            if pid not in self._seen:
                with suppress(ProcessLookupError):
                    self._seen[pid] = os.pidfd_open(pid)
        poll = select.poll()  # select() takes no descriptor above 1023
        for fd in self._seen.values():
            poll.register(fd, select.POLLIN)
        ended = {fd for fd, _ in poll.poll(0)}
        for pid in [pid for pid, fd in self._seen.items() if fd in ended]:
            os.close(self._seen.pop(pid))

    @property
    def is_ready(self) -> bool:
        """Whether the server that runs now has said so."""
        return self._output().read_bytes().endswith(b"ready\n")

    def settle(self) -> None:
        """Wait until everything is there."""

        def is_back() -> bool:
            self.tend()
            wholly = len(self.programs()) == SHARDS + 3 and self.is_ready
            is_quiet = not self._stopped and self._postgres_at is None and self._twin is None
            return wholly and is_quiet

        eventually(is_back, "the whole server again", within_s=START_S)

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(START_S)

    def close(self) -> None:
        """End whatever still runs."""
        self._watch()
        self.kill_twin()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for fd in self._seen.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        self._seen.clear()

    def log(self) -> str:
        """Return what was written to standard error."""
        return self._log().read_text(errors="replace")

    # --- its programs

    def programs(self) -> dict[str, int]:
        """Return the id of each program by its title, as in `flashq-shard 3`."""
        if self._process is None:
            return {}
        pid = self._process.pid
        found: dict[str, int] = {}
        with suppress(FileNotFoundError, ProcessLookupError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for child in map(int, children):
                title = title_of(child)
                if re.fullmatch(r"flashq-(shard \d+|router|coordinator|gateway)", title):
                    found[title] = child
        return found

    def kill(self, title: str) -> bool:
        """Send SIGKILL to a program, and tell whether it was there."""
        pid = self.programs().get(title)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def kill_everything(self, *, with_postgres: bool = False) -> None:
        """Send SIGKILL to all programs and to the supervisor, and start anew at once."""
        self._kill_all(self.programs())
        if with_postgres and self.has_postgres:
            self.kill_postgres(0.0)
        self.start()

    def kill_supervisor(self) -> None:
        """Send SIGKILL to the supervisor, and start anew while its children still drain."""
        self._kill_all({})
        self.start()

    def kill_all_but(self, title: str, still_s: float) -> None:
        """Let one program stand still, kill all others, start anew, and let that one go on.

        It finds its place taken, and may do no harm.
        """
        programs = self.programs()
        survivor = programs.pop(title, None)
        if survivor is not None:
            self._stop(survivor, still_s)
        self._kill_all(programs)
        self.start()

    def start_twin(self, title: str, still_s: float) -> bool:
        """Let a shard stand still for a while, and start another process for it meanwhile, as
        somebody does who takes it for dead. It may not come in, or do harm. Tell whether the shard
        was there."""
        pid = self.programs().get(title)
        if pid is None or pid in self._stopped:
            return False
        self._stop(pid, still_s)
        command = [*COMMAND, "shard", "--index", title.rsplit(" ", 1)[1], *self._flags]
        with (self.home / "twin.log").open("ab") as log:
            self._twin = subprocess.Popen(command, stdout=log, stderr=log, env=self._environ)
        return True

    def stop(self, title: str, still_s: float) -> bool:
        """Let a program stand still for a while, and tell whether it was there."""
        pid = self.programs().get(title)
        if pid is None or pid in self._stopped:
            return False
        self._stop(pid, still_s)
        return True

    def _stop(self, pid: int, still_s: float) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._stopped[pid] = time.monotonic() + still_s

    def kill_twin(self) -> None:
        """Kill the other process, if there is one."""
        if self._twin is not None:
            self._twin.kill()
            self._twin.wait()
            self._twin = None

    def _kill_all(self, programs: dict[str, int]) -> None:
        assert self._process is not None
        self._watch()
        self._process.kill()
        for pid in programs.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def kill_postgres(self, away_s: float) -> None:
        """Kill PostgreSQL, and start it again on the same data after a while."""
        assert self.postgres is not None
        self.postgres.kill()
        self._postgres_at = time.monotonic() + away_s

    @property
    def has_server(self) -> bool:
        """Whether there is a supervisor to kill."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_postgres(self) -> bool:
        """Whether there is a PostgreSQL to kill now."""
        return self.postgres is not None and self.postgres.is_own and self._postgres_at is None

    # --- files

    def _output(self) -> Path:
        return self.home / f"serve-{self._starts}.out"

    def _log(self) -> Path:
        return self.home / "serve.log"


def title_of(pid: int) -> str:
    """Return a process's title; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def remove(home: Path) -> None:
    """Remove a directory and what is in it."""
    shutil.rmtree(home, ignore_errors=True)
