"""What peers can hold at the gRPC door: connections, calls, requests that never end, pings."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc.aio
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flashq.gateway import grpc as door_module
from flashq.gateway import grpc_access
from flashq.gateway.bridge import Bridge
from flashq.gateway.grpc import GrpcDoor
from flashq.tokens import Guard, Keyring

PATIENCE_S: Final = 30.0
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: Final = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
SETTINGS_ACK: Final = bytes((0, 0, 0, 4, 1, 0, 0, 0, 0))
SETTINGS_KIND: Final = 4
PING: Final = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + b"are you?"
PING_KIND: Final = 6
GOAWAY_KIND: Final = 7
ACK: Final = 1


class Peer:
    """One connection that speaks as much HTTP/2 as a test tells it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, int, bytes]:
        """Return kind, flags and content of the next frame."""
        head = await self._reader.readexactly(9)
        return head[3], head[4], await self._reader.readexactly(int.from_bytes(head[:3], "big"))

    async def until(self, kind: int, flags: int = 0) -> bytes:
        """Return the content of the next frame of a kind."""
        while True:
            found, its_flags, content = await self.frame()
            if (found, its_flags) == (kind, flags):
                return content
            assert found != GOAWAY_KIND, content

    async def rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def served(*tokens: str, calls_max: int = 100) -> AsyncIterator[str]:
    """Give the address of a door whose bridge was never started: what passes it, waits."""
    guard = Guard(Keyring(tokens) if tokens else None)
    door = GrpcDoor(Bridge("ipc:///nowhere", 1), guard, calls_max, 64 * 1024)
    try:
        yield (await door.listen("127.0.0.1", 0)).removeprefix("grpc://")
    finally:
        await door.drain(0)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Peer]:
    """Give a connection on which nothing has been said."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


async def status_of(call: Any) -> StatusCode:
    """Return how a call ended."""
    async with asyncio.timeout(PATIENCE_S):
        code = await call.code()
    assert isinstance(code, StatusCode)
    return code


class TestConnections:
    async def test_they_are_bounded(self) -> None:
        """1. two peers hold connections; 2. a third is let go at once."""
        async with (
            served(calls_max=2) as address,
            connected(address) as one,
            connected(address) as two,
        ):
            for peer in (one, two):
                peer.writer.write(PREFACE + SETTINGS)
                await peer.until(SETTINGS_KIND)
                peer.writer.write(SETTINGS_ACK)
            async with connected(address) as three:
                assert await three.rest() == b""
            one.writer.write(PING)
            await one.until(PING_KIND, ACK)

    def test_they_leave_descriptors_to_the_other_doors(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A flood of connections must not run TCP and HTTP out of descriptors."""
        monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
        assert door_module._connections_max(10_000) == 1024 // door_module.DESCRIPTORS_PARTS
        assert door_module._connections_max(10) == 10

    async def test_one_that_says_nothing_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has a few seconds to begin. Either of two limits may end it."""
        monkeypatch.setattr(door_module, "HANDSHAKE_MS_MAX", 200)
        async with served() as address, connected(address) as silent:
            assert b"settings" in await silent.rest()

    async def test_one_without_calls_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A place is for those who call."""
        monkeypatch.setattr(door_module, "IDLE_MS_MAX", 1000)
        async with served() as address, connected(address) as idle:
            idle.writer.write(PREFACE + SETTINGS + SETTINGS_ACK)
            assert b"connection idle" in await idle.rest()


class TestPings:
    async def test_a_client_may_ping_every_two_seconds_without_a_call(self) -> None:
        """Libraries keep their connections alive so; older servers' took that for an attack."""
        async with served() as address, connected(address) as peer:
            peer.writer.write(PREFACE + SETTINGS)
            await peer.until(SETTINGS_KIND)
            peer.writer.write(SETTINGS_ACK)
            for _ in range(4):
                peer.writer.write(PING)
                async with asyncio.timeout(PATIENCE_S):
                    assert await peer.until(PING_KIND, ACK) == PING[9:]
                with pytest.raises(TimeoutError):  # nothing more comes, and no end
                    await asyncio.wait_for(peer.until(GOAWAY_KIND), 2)

    async def test_a_flood_of_pings_ends_its_connection(self) -> None:
        """Each costs an answer."""
        async with served() as address, connected(address) as peer:
            peer.writer.write(PREFACE + SETTINGS + 20 * PING)
            assert b"too_many_pings" in await peer.rest()

    async def test_a_silent_client_without_calls_is_asked_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """1. it does not answer, as one whose host is gone; 2. its connection ends."""
        monkeypatch.setattr(door_module, "KEEPALIVE_MS", 1000)
        async with served() as address, connected(address) as peer:
            peer.writer.write(PREFACE + SETTINGS)
            await peer.until(SETTINGS_KIND)
            peer.writer.write(SETTINGS_ACK)
            async with asyncio.timeout(PATIENCE_S):
                await peer.until(PING_KIND)
            assert b"ping_timeout" in await peer.rest()


class TestStrangers:
    async def test_watches_leave_calls_to_others(self) -> None:
        """1. a stranger watches as often as it can; 2. a call with a token finds its place; 3. a
        watch that ends makes room for another."""
        async with (
            served("secret", calls_max=8) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            health: Any = health_pb2_grpc.HealthStub(channel)
            watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
            for watch in watches:
                await watch.read()
            refused = health.Watch(health_pb2.HealthCheckRequest())
            assert await status_of(refused) is StatusCode.RESOURCE_EXHAUSTED
            assert "use Check" in await refused.details()
            await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            method: Any = channel.unary_stream("/flashq.QueueService/StreamJobs")
            call = method(b"", metadata=(("token", "secret"),))
            async with asyncio.timeout(PATIENCE_S):
                await call.initial_metadata()
            watches[0].cancel()
            await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            again = health.Watch(health_pb2.HealthCheckRequest())
            assert (await again.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING

    async def test_a_name_to_watch_is_bounded(self) -> None:
        """It is kept for as long as the watch."""
        async with served("secret") as address, grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="x" * 257))
            assert await status_of(watch) is StatusCode.INVALID_ARGUMENT

    async def test_a_call_without_a_token_is_refused_before_its_request_comes(self) -> None:
        """1. a stranger begins calls and never sends their requests; 2. each has ended, and the
        place of each is free."""
        async with (
            served("secret", calls_max=2) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            for metadata in ((), (("token", "wrong"),)):
                method: Any = channel.stream_unary("/flashq.QueueService/Push")
                for _ in range(3):
                    call = method(metadata=metadata)
                    assert await status_of(call) is StatusCode.UNAUTHENTICATED

    async def test_half_a_question_for_health_has_little_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A place is given back though the stranger goes on being silent."""
        monkeypatch.setattr(grpc_access, "STRANGER_S_MAX", 0.2)
        async with served("secret") as address, grpc.aio.insecure_channel(address) as channel:
            for name in ("Check", "Watch"):
                method: Any = channel.stream_unary(f"/grpc.health.v1.Health/{name}")
                assert await status_of(method()) is StatusCode.DEADLINE_EXCEEDED

    async def test_the_oldest_half_question_makes_room(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """1. two strangers send half of theirs; 2. a client that asks properly is answered each
        time, and a stranger is let go for it."""
        monkeypatch.setattr(grpc_access, "STRANGERS_READ_MAX", 2)
        monkeypatch.setattr(grpc_access, "STRANGER_S_MAX", 3600.0)
        async with served("secret") as address, grpc.aio.insecure_channel(address) as channel:
            method: Any = channel.stream_unary("/grpc.health.v1.Health/Check")
            halves = [method() for _ in range(2)]
            ends = [asyncio.ensure_future(half.code()) for half in halves]
            health: Any = health_pb2_grpc.HealthStub(channel)
            async with asyncio.timeout(PATIENCE_S):
                while not any(end.done() for end in ends):  # both halves have to be there first
                    reply = await health.Check(health_pb2.HealthCheckRequest())
                    assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert {end.result() for end in ends if end.done()} == {StatusCode.DEADLINE_EXCEEDED}
            for half in halves:
                half.cancel()

    async def test_a_question_without_its_request_is_refused(self) -> None:
        """The stranger has ended its side."""
        async with served("secret") as address, grpc.aio.insecure_channel(address) as channel:
            method: Any = channel.stream_unary("/grpc.health.v1.Health/Check")
            call = method()
            await call.done_writing()
            assert await status_of(call) is StatusCode.INVALID_ARGUMENT
