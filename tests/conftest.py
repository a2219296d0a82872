"""What many kinds of tests share: servers of real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.server import PATIENT, Server

StartServer = Callable[..., Server]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known, and let property tests take the time they need."""
    settings.register_profile("flashq", deadline=None)  # a slow machine is no failure
    settings.load_profile("flashq")
    config.addinivalue_line("markers", "covers(*words): the commands whose contract a test checks")


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    """Return the server that tests share which hurt nobody: use queue names of your own.

    When all are done it has to end with 0 on SIGTERM, and nothing may have crashed on the way.
    """
    server = Server("--shards", "4", *PATIENT)
    try:
        server.wait_ready()
        yield server
        status = server.terminate()
        assert status == 0, server.log()
        assert "Traceback" not in server.log()
        assert "is started again" not in server.log()
    finally:
        server.close()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Return what starts a server of a test's own, with 4 shards unless told otherwise."""
    servers: list[Server] = []

    def start(*flags: str, **options: object) -> Server:
        if "--shards" not in flags:
            flags = ("--shards", "4", *flags)
        servers.append(Server(*flags, **options))  # type: ignore[arg-type]
        servers[-1].wait_ready()
        return servers[-1]

    yield start
    for server in servers:
        server.close()
