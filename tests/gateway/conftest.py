"""A server with all its doors, and clients of every kind in front of them."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.clients import CLIENTS, Client, connected
from tests.gateway.site import address_of, path_of
from tests.server import Server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def doors() -> Iterator[Server]:
    """Return the server that these tests share: use queue names of your own."""
    with tempfile.TemporaryDirectory(prefix="fqg", dir="/tmp") as directory:
        path = Path(directory) / "door.sock"
        server = Server("--shards", "4", "--unix-socket", str(path))
        try:
            server.wait_ready()
            yield server
            assert server.terminate() == 0, server.log()
            assert not path.exists()
            assert "Traceback" not in server.log()
        finally:
            server.close()


@pytest.fixture(params=[*CLIENTS, "python-unix"])
def client(request: pytest.FixtureRequest, doors: Server) -> Iterator[Client]:
    """Return a client; each test runs with one of every kind."""
    name, _, is_unix = request.param.partition("-unix")
    address = path_of(doors) if is_unix else address_of(doors)
    with connected(CLIENTS[name], address) as found:
        yield found


@pytest.fixture
def queue() -> str:
    """Return a queue's name of the test's own."""
    return f"door-{os.getpid()}-{next(_numbers)}"
