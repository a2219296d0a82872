"""A connection to the shared server in each encoding, and a queue that nobody else uses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.contract.dealer import JSON, Dealer
from tests.server import Server

_numbers = itertools.count()


@pytest.fixture(params=[0, JSON], ids=["msgpack", "json"])
def dealer(request: pytest.FixtureRequest, shared_server: Server) -> Iterator[Dealer]:
    """Return a connection; each test runs once in MessagePack and once in JSON."""
    dealer = shared_server.dealer(flags=request.param)
    yield dealer
    dealer.close()


@pytest.fixture
def queue() -> str:
    """Return a queue's name of the test's own."""
    return f"contract-{os.getpid()}-{next(_numbers)}"
