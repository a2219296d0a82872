"""Where a server's doors are, and gateways started beside its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.server import Server

SCHEME = "json://"
_GATEWAY = "import sys; from flashq.gateway.process import main; sys.exit(main())"
FREE_PORTS = ("--port", "0", "--http-port", "0", "--grpc-port", "0")


def address_of(server: Server) -> tuple[str, int]:
    """Return host and port where the older protocol is spoken."""
    return _address(next(line for line in server.lines if line.startswith(SCHEME)))


def path_of(server: Server) -> str:
    """Return the path of the Unix socket."""
    scheme = "json+unix://"
    return next(line for line in server.lines if line.startswith(scheme)).removeprefix(scheme)


def _address(line: str) -> tuple[str, int]:
    host, _, port = line.removeprefix(SCHEME).rpartition(":")
    return host, int(port)


class Gateway:
    """One more gateway of a server of 4 shards, started by hand."""

    def __init__(self, server: Server, *flags: str) -> None:
        command = [sys.executable, "-c", _GATEWAY, "--run-dir", str(server.run_dir)]
        command += ["--shards", "4", "--storage", "memory:", *FREE_PORTS, *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def address(self) -> tuple[str, int]:
        """Wait until it is ready, and return its host and port."""
        return _address(next(one for one in self.endpoints() if one.startswith(SCHEME)))

    def endpoints(self) -> list[str]:
        """Wait until it is ready, and return where its doors are. Once."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.strip())
            if lines[-1] == "ready":
                return lines
        raise AssertionError(f"it ended before it was ready: {lines}")

    def finish(self, within_s: float) -> tuple[int, str]:
        """Wait for its end, and return its exit status and what it said."""
        output, _ = self.process.communicate(timeout=within_s)
        return self.process.returncode, output


@contextmanager
def another_gateway(server: Server, *flags: str) -> Iterator[Gateway]:
    """Give one more gateway for the length of a block."""
    gateway = Gateway(server, *flags)
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
        gateway.process.communicate()
