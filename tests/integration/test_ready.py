"""Ready means that every door accepts: of the gateway alone, of a whole server, and for systemd."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.integration.programs import WAIT_MS, Site

STARTS = 3
NO_GRPC = "raise ModuleNotFoundError('there is none', name='grpc')\n"


@pytest.fixture
def site() -> Iterator[Site]:
    """A place for programs."""
    found = Site()
    yield found
    found.close()


def connect(endpoint: str) -> None:
    """Connect at once, and once: a port that is not listened on refuses."""
    address = endpoint.partition("://")[2]
    if address.startswith("/"):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(address)
        return
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=WAIT_MS / 1000).close()


@pytest.mark.parametrize("has_grpc", [True, False])
def test_a_gateway_is_ready_when_all_its_doors_accept(
    site: Site, has_grpc: bool, tmp_path: Path
) -> None:
    """Without the libraries of gRPC, whose start takes its time, HTTP refused for up to 750 ms
    after `ready`."""
    more = {} if has_grpc else {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "grpc").mkdir()
    (tmp_path / "grpc" / "__init__.py").write_text(NO_GRPC)
    for start in range(STARTS):
        gateway = site.start(
            "gateway",
            FLASHQ_PORT="0",
            FLASHQ_HTTP_PORT="0",
            FLASHQ_GRPC_PORT="0",
            FLASHQ_UNIX_SOCKET=str(tmp_path / f"{start}.sock"),
            **more,
        ).until_ready()
        assert len(gateway.endpoints) == 3 + has_grpc
        for endpoint in gateway.endpoints:
            connect(endpoint)
        gateway.stop()
        gateway.finish()


def test_a_server_is_ready_when_all_its_doors_accept(start_server: StartServer) -> None:
    """It says so after the last of its programs has."""
    server = start_server("--shards", "2")
    doors = [line for line in server.lines if "://" in line and not line.startswith("ipc")]
    assert len(doors) >= 4
    for endpoint in doors:
        connect(endpoint)


def test_systemd_hears_of_it_no_sooner(site: Site, tmp_path: Path) -> None:
    """READY=1 starts what depends on the server."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(WAIT_MS / 1000)
        port = free_port()
        site.start(
            "gateway",
            NOTIFY_SOCKET=address,
            FLASHQ_PORT="0",
            FLASHQ_HTTP_PORT=str(port),
            FLASHQ_GRPC_PORT="0",
        )
        assert systemd.recv(100) == b"READY=1"
        connect(f"http://127.0.0.1:{port}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_what_is_not_listened_on_refuses() -> None:
    """Else these tests would prove nothing."""
    with pytest.raises(ConnectionRefusedError):
        connect(f"http://127.0.0.1:{free_port()}")
