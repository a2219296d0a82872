"""A shard's sockets, without its process: what they tell the node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import cast

import pytest
import zmq

from flashq.shard.node import Node
from flashq.shard.process import Sockets
from tests.integration.programs import WAIT_MS, Site


@pytest.fixture
def site() -> Iterator[Site]:
    """A place for sockets."""
    site = Site()
    yield site
    site.close()


class Told:
    """Counts connections and their ends in a node's place."""

    def __init__(self) -> None:
        self.connections = 0
        self.ends = 0

    def connected(self) -> None:
        self.connections += 1

    def disconnected(self) -> None:
        self.ends += 1


def test_each_connection_to_a_coordinator_is_told(site: Site) -> None:
    """Also when another one has taken the place of the first, which was killed."""
    run_dir = site.settings.run()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    never, other_end = os.pipe()
    told = Told()
    sockets = Sockets(context, run_dir, 0, cast("Node", told), lambda: 0, 1 << 20)
    try:
        sockets.watch(never)
        for expected in (1, 2):
            coordinator = site.bind(zmq.ROUTER, run_dir.coordinator)
            while told.connections < expected:
                ready = sockets.wait(WAIT_MS)
                assert ready, "the connection was not told"
                sockets.receive(ready)
            coordinator.close(linger=0)
        assert told.connections == 2
    finally:
        sockets.close()
        context.destroy(linger=0)
        os.close(never)
        os.close(other_end)
