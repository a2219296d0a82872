"""The gRPC door's port, limits and keeper, without a server behind it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc.aio
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flashq.config import load_settings
from flashq.errors import ConfigError
from flashq.gateway import process
from flashq.gateway.bridge import Bridge
from flashq.gateway.grpc import GrpcDoor
from flashq.gateway.proto import messages
from flashq.tokens import Guard, Keyring

BYTES_MAX: Final = 64 * 1024


def door_of(*tokens: str, calls_max: int = 100) -> GrpcDoor:
    """Return a door whose bridge was never started: what passes it, waits."""
    guard = Guard(Keyring(tokens) if tokens else None)
    return GrpcDoor(Bridge("ipc:///nowhere", 1), guard, calls_max, BYTES_MAX)


@pytest.fixture
async def door() -> AsyncIterator[GrpcDoor]:
    """Return a door for everybody with room for 2 calls."""
    one = door_of(calls_max=2)
    yield one
    await one.drain(0)


async def status_of(call: Any) -> StatusCode:
    """Return how a call ended."""
    code = await call.code()
    assert isinstance(code, StatusCode)
    return code


async def test_a_port_is_given_out_once(door: GrpcDoor) -> None:
    """The library would share it among processes, each of which would see some of the calls."""
    endpoint = await door.listen("localhost", 0)
    host, port = endpoint.removeprefix("grpc://").split(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    taken = f"^cannot listen on grpc 127.0.0.1:{port}: Address already in use$"
    with pytest.raises(ConfigError, match=taken):
        await door_of().listen("127.0.0.1", int(port))
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:5: Cannot assign requested address$"):
        await door_of().listen("192.0.2.1", 5)


@pytest.mark.skipif(not socket.has_ipv6, reason="the machine has no IPv6")
async def test_an_address_may_be_of_the_newer_kind(door: GrpcDoor) -> None:
    """It needs brackets, here and for people."""
    endpoint = await door.listen("::1", 0)
    assert endpoint.startswith("grpc://[::1]:")


async def test_calls_are_bounded(door: GrpcDoor) -> None:
    """1. two pulls wait; 2. a third call finds no room, and is told so at once."""
    endpoint = await door.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(endpoint.removeprefix("grpc://")) as channel:
        method: Any = channel.unary_stream("/flashq.QueueService/StreamJobs")
        waiting = [method(messages.StreamJobsRequest(queue="q").SerializeToString()) for _ in "12"]
        for call in waiting:
            await call.initial_metadata()
        third = method(b"", timeout=10)
        assert await status_of(third) is StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_is_bounded(door: GrpcDoor) -> None:
    """By what the settings say."""
    endpoint = await door.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(endpoint.removeprefix("grpc://")) as channel:
        method: Any = channel.unary_unary("/flashq.QueueService/Push")
        assert await status_of(method(b"x" * (BYTES_MAX + 1), timeout=10)) is (
            StatusCode.RESOURCE_EXHAUSTED
        )


async def test_without_a_router_it_does_not_serve(door: GrpcDoor) -> None:
    """And says so to whoever asks."""
    endpoint = await door.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(endpoint.removeprefix("grpc://")) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ((), "Authentication required"),
        ((("authorization", "Basic secret"),), "Authentication required"),
        ((("authorization", "Bearer "),), "Authentication required"),
        ((("authorization", "Bearer secre"),), "Invalid token"),
        ((("authorization", "Bearer secret2"),), "Invalid token"),
        ((("token", "SECRET"),), "Invalid token"),
    ],
)
async def test_a_call_without_a_token_does_not_pass(
    metadata: tuple[tuple[str, str], ...], text: str
) -> None:
    """The text says which of the two it was."""
    door = door_of("secret", "other")
    endpoint = await door.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(endpoint.removeprefix("grpc://")) as channel:
        for name in ("Push", "ProcessJobs"):
            method: Any = channel.unary_unary(f"/flashq.QueueService/{name}")
            call = method(b"", metadata=metadata, timeout=10)
            assert await status_of(call) is StatusCode.UNAUTHENTICATED
            assert await call.details() == text
    await door.drain(0)


async def test_a_drain_ends_those_who_wait() -> None:
    """With a reason, and long before its time."""
    door = door_of()
    endpoint = await door.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(endpoint.removeprefix("grpc://")) as channel:
        method: Any = channel.unary_stream("/flashq.QueueService/StreamJobs")
        call = method(messages.StreamJobsRequest(queue="q").SerializeToString())
        await call.initial_metadata()
        draining = asyncio.ensure_future(door.drain(30))
        assert await status_of(call) is StatusCode.UNAVAILABLE
        assert await call.details() == "shutting down"
        await draining


# --- where its libraries may be


async def test_a_gateway_without_the_libraries_has_one_door_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and what to do, in one line."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "flashq.gateway.grpc")
    settings = load_settings({"storage": "memory:"}, environ={})
    assert process._grpc_door(Bridge("ipc:///nowhere", 1), settings, Guard()) is None
    (line,) = "".join(capsys.readouterr()).splitlines()
    assert "pip install 'flashq[grpc]'" in line


_IMPORTED: Final = """
import sys
from flashq.config import load_settings
from flashq.supervisor import process
process.server_programs(load_settings({"storage": "memory:"}, environ={}))
import flashq.gateway.process
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"grpc", "google"}))
"""


def test_a_process_that_forks_has_not_imported_them() -> None:
    """They start threads, and children of a process that had initialised them crashed."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
