"""One program of a server in a process of its own, with its run directory and sockets around it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import zmq

from flashq.config import Settings, load_settings

SHARDS = 2
WAIT_MS = 20_000
"""For what has to come; only a broken program makes a test wait so long."""


class Program:
    """`python -m flashq.<package>.process`, started and ready.

    Args:
        package: router or coordinator.
        run_dir: where its sockets are.
        settings: by name, as the environment has them.
    """

    def __init__(self, package: str, run_dir: Path, **settings: str) -> None:
        environ = {name: value for name, value in os.environ.items() if "FLASHQ" not in name}
        environ |= {"FLASHQ_RUN_DIR": str(run_dir), "FLASHQ_SHARDS": str(SHARDS)}
        environ |= {"FLASHQ_ZMQ_PORT": "0", "FLASHQ_STORAGE": "memory:"} | settings
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"flashq.{package}.process"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        #: what it printed before `ready`
        self.endpoints: list[str] = []

    def until_ready(self) -> Program:
        """Wait until it takes requests."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                return self
            self.endpoints.append(line.strip())
        raise AssertionError(self.process.communicate()[1])

    def stop(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def finish(self) -> tuple[int, str]:
        """Wait for its end, and return its exit status and what it complained about."""
        _, complaints = self.process.communicate(timeout=WAIT_MS / 1000)
        return self.process.returncode, complaints

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Site:
    """A run directory, a ZeroMQ context and the programs of one test; all gone after it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="fq")
        self.run_dir = Path(self._directory.name) / "run"
        self.run_dir.mkdir(mode=0o700)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.programs: list[Program] = []
        self._sockets: list[zmq.Socket[bytes]] = []
        self.settings: Settings = load_settings(
            {"run_dir": str(self.run_dir), "shards": str(SHARDS), "storage": "memory:"},
            environ={},
        )

    def start(self, package: str, **settings: str) -> Program:
        """Start a program, and do not wait for it."""
        program = Program(package, self.run_dir, **settings)
        self.programs.append(program)
        return program

    def socket(self, kind: int, identity: bytes = b"") -> zmq.Socket[bytes]:
        """Make a socket that gives up after a while instead of hanging the test."""
        socket = self.context.socket(kind)
        self._sockets.append(socket)
        socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        socket.setsockopt(zmq.LINGER, 0)
        if identity:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        return socket

    def bind(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        """Stand in for a program that listens."""
        socket = self.socket(kind)
        socket.bind(endpoint)
        return socket

    def dealer(self, endpoint: str, identity: bytes = b"") -> zmq.Socket[bytes]:
        """Stand in for a client, or for a shard that talks to the coordinator."""
        socket = self.socket(zmq.DEALER, identity)
        socket.connect(endpoint)
        return socket

    def close(self) -> None:
        """End everything."""
        for program in self.programs:
            program.kill()
        for socket in self._sockets:
            socket.close(linger=0)
        self.context.term()
        self._directory.cleanup()
