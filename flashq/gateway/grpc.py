"""The door for gRPC: `flashq.QueueService`, with health and reflection beside it.

Owns the listening port, and the limits of connections, messages and calls. What the methods do is
the service's business. gRPC's libraries are an extra, and they start threads: this is imported by a
gateway's own process only, never by one that forks.
"""

from __future__ import annotations

import asyncio
import os
import resource
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from flashq.errors import ConfigError
from flashq.gateway.bridge import Bridge
from flashq.gateway.grpc_access import TokenCheck
from flashq.gateway.grpc_health import BoundedHealth
from flashq.gateway.grpc_service import QueueService, method_handlers
from flashq.gateway.listening import address_of, listening_socket
from flashq.gateway.proto import messages
from flashq.tokens import Guard

SERVICE: Final[str] = messages.SERVICE.full_name
HEALTH_LOOK_S: Final = 0.25

KEEPALIVE_MS: Final = 10_000
"""A client that says nothing for so long is asked whether it is there, and has as long to answer;
then its connection is gone, and with it its streams. Clients without calls are asked too."""
PING_MS_MIN: Final = 1000
"""A client may ask the same of the server so often, with calls or without. The third ping that
comes sooner, while nothing is sent to the client, ends its connection. Clients ping each 2 s at the
most; what is below that allows for pings that arrive together."""
HANDSHAKE_MS_MAX: Final = 5000
"""How long a new connection may take until it speaks HTTP/2."""
IDLE_MS_MAX: Final = 300_000
"""How long a connection may be without a call. Its client makes another one when it calls again."""
DESCRIPTORS_PARTS: Final = 4
"""One of so many parts of the process's descriptors is this door's."""
WATCHES_PARTS: Final = 4
"""One of so many parts of the calls may watch the health."""


class GrpcDoor:
    """The server.

    Args:
        bridge: who carries requests out.
        guard: who may ask what.
        calls_max: most calls at a time, those that wait included, and most connections.
        bytes_max: the largest request.
    """

    def __init__(self, bridge: Bridge, guard: Guard, calls_max: int, bytes_max: int) -> None:
        self._bridge: Final = bridge
        self._service: Final = QueueService(bridge)
        self._health: Final = BoundedHealth(max(1, calls_max // WATCHES_PARTS))
        self._health_look: asyncio.Task[None] | None = None
        # What the library logs by itself would stand between the lines of ours.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._server: Final = grpc.aio.server(
            interceptors=[] if guard.is_open else [TokenCheck(guard)],
            maximum_concurrent_rpcs=calls_max,
            options=[
                ("grpc.so_reuseport", 0),  # else two gateways would share a port, and not know
                ("grpc.max_receive_message_length", bytes_max),
                ("grpc.max_allowed_incoming_connections", _connections_max(calls_max)),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS_MAX),
                ("grpc.max_connection_idle_ms", IDLE_MS_MAX),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
                ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),  # else it is a minute all the same
                ("grpc.http2.settings_timeout", HANDSHAKE_MS_MAX),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),  # as many as it takes
                ("grpc.http2.min_ping_interval_without_data_ms", PING_MS_MIN),
            ],
        )

    async def listen(self, host: str, port: int) -> str:
        """Listen on a port (0 for a free one), and return the endpoint for people.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        server = self._server
        handlers = method_handlers(self._service)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        address = address_of(host)
        name = f"[{address}]" if ":" in address else address
        try:
            bound = server.add_insecure_port(f"{name}:{port}")
        except RuntimeError:  # which does not say why
            listening_socket("grpc", host, port).close()
            raise ConfigError(f"cannot listen on grpc {host}:{port}") from None
        await self._set_health()
        await server.start()
        self._health_look = asyncio.create_task(self._look_at_health())
        return f"grpc://{name}:{bound}"

    async def drain(self, timeout_s: float) -> None:
        """Take no more calls, end those that wait, and answer the others."""
        if self._health_look is not None:
            self._health_look.cancel()
        await self._health.enter_graceful_shutdown()
        self._service.close()
        await self._server.stop(timeout_s)

    async def _look_at_health(self) -> None:
        """Keep the health service at what the bridge knows, so that it can be watched."""
        while True:
            await asyncio.sleep(HEALTH_LOOK_S)
            await self._set_health()

    async def _set_health(self) -> None:
        epochs = self._bridge.epochs
        serves = self._bridge.is_connected and bool(epochs) and all(epochs)
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serves
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in (health.OVERALL_HEALTH, SERVICE):
            await self._health.set(name, status)


def _connections_max(wanted: int) -> int:
    """Return how many connections the door may have, so that the other doors keep descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // DESCRIPTORS_PARTS))
    )
