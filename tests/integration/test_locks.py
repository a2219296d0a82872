"""A program whose place is taken waits for it, and can be stopped while it waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flashq.lockfile import Lockfile
from tests.integration.programs import Program, Site
from tests.server import eventually


@pytest.fixture
def site() -> Iterator[Site]:
    """Return a run directory with nothing in it."""
    site = Site()
    yield site
    site.close()


def wait_until_it_waits(program: Program, lock: Path) -> None:
    """Wait until a program has opened a lock that it cannot get."""
    fds = Path(f"/proc/{program.process.pid}/fd")

    def has_opened() -> bool:
        with suppress(FileNotFoundError):  # one that was closed meanwhile
            return str(lock) in {os.readlink(fd) for fd in fds.iterdir()}
        return False

    eventually(has_opened, f"that {lock} is waited for")


@pytest.mark.parametrize("package", ["coordinator", "router"])
def test_a_program_that_waits_for_its_lock_can_be_stopped(site: Site, package: str) -> None:
    """Ctrl-C of a second server in a run directory took until its programs were killed."""
    path = site.settings.run().lock(package)
    held = Lockfile.acquire(path)
    program = site.start(package)
    wait_until_it_waits(program, path)
    program.stop()
    assert program.finish() == (0, "")
    held.release()


def test_a_gateway_waits_for_one_that_still_listens(site: Site) -> None:
    """
    1. A server drains; its gateway still listens.
    2. The next one starts, on the same ports, and waits.
    3. The first gateway is gone: the second one listens, instead of having been refused.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    path = site.settings.run().lock(f"gateway-127.0.0.1-{port}")
    held = Lockfile.acquire(path)
    ports = {"FLASHQ_PORT": str(port), "FLASHQ_HTTP_PORT": "0", "FLASHQ_GRPC_PORT": "0"}
    gateway = site.start("gateway", **ports)
    wait_until_it_waits(gateway, path)
    listening.close()
    held.release()
    gateway.until_ready()
    assert f"json://127.0.0.1:{port}" in gateway.endpoints
