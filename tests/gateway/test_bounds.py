"""Clients that hold places, descriptors, memory or calls: others are still served."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import StartServer
from tests.gateway.clients import LineClient, ServerSaid
from tests.server import Server, eventually, resident_bytes

MIB: Final = 1024 * 1024
PLACES: Final = 40
CROWD: Final = 200
TOKEN: Final = "secret"
TCP_REPAIR: Final = 19
"""An option of Linux by which a socket can be closed without a word to the other end."""

pytestmark = pytest.mark.timeout(120)


def door(server: Server, scheme: str) -> tuple[str, int]:
    """Return host and port of a door."""
    line = next(line for line in server.lines if line.startswith(f"{scheme}://"))
    host, port = line.partition("://")[2].split(":")
    return host, int(port)


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    """Return what closes a crowd of connections in the end."""
    with ExitStack() as stack:
        yield stack


def connections(stack: ExitStack, address: tuple[str, int], count: int) -> list[socket.socket]:
    """Return so many raw connections."""
    return [stack.enter_context(socket.create_connection(address, 10)) for _ in range(count)]


def has_ended(connection: socket.socket) -> bool:
    """Tell whether the server has ended a connection."""
    connection.settimeout(0)
    with suppress(BlockingIOError):
        try:
            while connection.recv(65_536):
                continue
        except ConnectionError:
            return True
        return True
    return False


def test_strangers_leave_room_for_those_who_show_a_token(
    start_server: StartServer, crowd: ExitStack
) -> None:
    """300 connections that never showed a token once took all places, for ever."""
    server = start_server(
        *("--auth-tokens", TOKEN, "--gateway-connections-max", str(PLACES)),
        *("--unauthenticated-ms", "500"),
    )
    address = door(server, "json")
    strangers = connections(crowd, address, CROWD)
    client = LineClient(address)
    assert client.ask("AUTH", token=TOKEN)["ok"]
    assert client.ask("COUNT", queue="q")["count"] == 0
    eventually(lambda: all(map(has_ended, strangers)), "the end of all strangers")
    assert client.ask("COUNT", queue="q")["count"] == 0
    client.close()


def test_replies_that_nobody_reads_are_bounded(start_server: StartServer) -> None:
    """2,400 requests for a job of 1 MB once took 1.2 GB, and a healthy shard was killed."""
    server = start_server()
    address = door(server, "json")
    client = LineClient(address)
    job_id = client.ask("PUSH", queue="large", data="x" * 1_000_000)["id"]
    before = {title: resident_bytes(pid) for title, pid in server.pids().items()}
    line = json.dumps({"cmd": "GETJOB", "id": job_id}).encode() + b"\n"
    with ExitStack() as stack:
        for greedy in connections(stack, address, 12):
            greedy.setblocking(False)
            with suppress(BlockingIOError):
                greedy.sendall(line * 200)

        def is_served() -> bool:
            with suppress(ServerSaid):  # what was asked before it takes its time
                return bool(client.ask("GETSTATE", id=job_id)["state"] == "waiting")
            return False

        for _ in range(5):
            eventually(is_served, "an answer for another client", within_s=60)
        for title, pid in server.pids().items():
            assert resident_bytes(pid) - before[title] < 300 * MIB, title
    client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="to close without a word takes CAP_NET_ADMIN")
def test_a_host_that_vanishes_gives_its_job_back(start_server: StartServer) -> None:
    """Nothing is sent when a host loses its network: the kernel asks, and the job comes back."""
    server = start_server()
    address = door(server, "json")
    client = LineClient(address)
    job_id = client.ask("PUSH", queue="q", data=1)["id"]
    with socket.create_connection(address, 20) as worker:
        worker.sendall(b'{"cmd":"PULL","queue":"q","timeout":5000}\n')
        assert json.loads(worker.recv(65_536))["job"]["id"] == job_id
        worker.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    again = eventually(
        lambda: client.ask("PULLB", queue="q", count=1, timeout=0)["jobs"],
        "the job again",
        within_s=60,
    )
    assert [job["id"] for job in again] == [job_id]
    client.close()


def test_the_limit_of_descriptors_is_shared_out(start_server: StartServer) -> None:
    """A gateway asks for what its doors need, and each has its own."""
    server = start_server("--gateway-connections-max", "3000")
    pid = server.pids()["flashq-gateway"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    soft = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max open"))
    assert soft == "unlimited" or int(soft) > 9000 or "fewer connections" in server.log()
