"""A fake server for each test that asks for one, in a directory with a short path."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from tests.unit.client.fake_server import FakeServer


@pytest.fixture
def url() -> Iterator[str]:
    """A place where nobody listens yet."""
    with tempfile.TemporaryDirectory(prefix="fq") as directory:
        yield f"ipc://{directory}/router.sock"


@pytest.fixture
def server(url: str) -> Iterator[FakeServer]:
    """A running fake server that hears of no heartbeats for the time of a test."""
    with FakeServer(url) as running:
        yield running


@pytest.fixture
def beaten(url: str) -> Iterator[FakeServer]:
    """A running fake server to which clients often send heartbeats."""
    with FakeServer(url, heartbeat_interval=200) as running:
        yield running
