"""A server with all its doors, and names for the queues of its tests."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import PATIENT, Server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def doors() -> Iterator[Server]:
    """Return the server that these tests share: use queue names of your own."""
    with tempfile.TemporaryDirectory(prefix="fqg", dir="/tmp") as directory:
        path = Path(directory) / "door.sock"
        server = Server("--shards", "4", "--unix-socket", str(path), *PATIENT)
        try:
            server.wait_ready()
            yield server
            assert server.terminate() == 0, server.log()
            assert not path.exists()
            assert "Traceback" not in server.log()
        finally:
            server.close()


@pytest.fixture
def queue() -> str:
    """Return a queue's name of the test's own."""
    return f"door-{os.getpid()}-{next(_numbers)}"
