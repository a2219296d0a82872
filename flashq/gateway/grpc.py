"""The door for gRPC: `flashq.QueueService`, with health and reflection beside it.

Owns the listening port, who may call, and the limits of messages and calls. What the methods do is
the service's business. gRPC's libraries are an extra, and they start threads: this is imported by a
gateway's own process only, never by one that forks.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from flashq.errors import AuthenticationRequired, ConfigError, FlashQError, TokenInvalid
from flashq.gateway.bridge import Bridge
from flashq.gateway.grpc_service import Context, QueueService, method_handlers, refuse
from flashq.gateway.proto import messages

SERVICE: Final[str] = messages.SERVICE.full_name
HEALTH_PREFIX: Final = f"/{health.SERVICE_NAME}/"
"""What may be asked without a token: whoever asks for health seldom has one."""
HEALTH_LOOK_S: Final = 0.25

KEEPALIVE_MS: Final = 10_000
"""A client that says nothing for so long is asked whether it is there, and has as long to answer;
then its connection is gone, and with it its streams."""
PING_MS_MIN: Final = 5000
"""A client may ask the same of the server, so often."""

BEARER: Final = b"bearer "

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Guard(grpc.aio.ServerInterceptor):
    """Lets nobody call without a token.

    Args:
        tokens: one of which has to be shown.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens: Final = [token.encode() for token in tokens]

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Hand on a call that may be made, and refuse every other."""
        try:
            if not handler_call_details.method.startswith(HEALTH_PREFIX):
                self._check(handler_call_details)
        except FlashQError as error:
            return _refusal(error)
        return await continuation(handler_call_details)

    def _check(self, details: grpc.HandlerCallDetails) -> None:
        shown = _token_of(details)
        # All are compared, so that the time taken does not tell which one nearly fits.
        fits = [hmac.compare_digest(shown, token) for token in self._tokens]
        if not any(fits):
            raise TokenInvalid if shown else AuthenticationRequired


def _token_of(details: grpc.HandlerCallDetails) -> bytes:
    """Return the token in a call's metadata: `authorization: Bearer TOKEN`, else `token: TOKEN`."""
    metadata = {
        key: value if isinstance(value, bytes) else value.encode()
        for key, value in details.invocation_metadata or ()
    }
    header = metadata.get("authorization", b"")
    if header[: len(BEARER)].lower() == BEARER:
        return header[len(BEARER) :].strip()
    return metadata.get("token", b"")


def _refusal(error: FlashQError) -> Handler:
    """Return what refuses a call of any kind, without waiting for a request."""

    async def handle(_bodies: object, context: Context) -> None:
        await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)


class GrpcDoor:
    """The server.

    Args:
        bridge: who carries requests out.
        tokens: one of which a client has to show; none when everybody may ask.
        calls_max: most calls at a time, those that wait included.
        bytes_max: the largest request.
    """

    def __init__(
        self, bridge: Bridge, tokens: Sequence[str], calls_max: int, bytes_max: int
    ) -> None:
        self._bridge: Final = bridge
        self._service: Final = QueueService(bridge)
        self._health: Final = health.aio.HealthServicer()
        self._health_look: asyncio.Task[None] | None = None
        # What the library logs by itself would stand between the lines of ours.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._server: Final = grpc.aio.server(
            interceptors=[_Guard(tokens)] if tokens else [],
            maximum_concurrent_rpcs=calls_max,
            options=[
                ("grpc.so_reuseport", 0),  # else two gateways would share a port, and not know
                ("grpc.max_receive_message_length", bytes_max),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
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
        address = "127.0.0.1" if host == "localhost" else host
        name = f"[{address}]" if ":" in address else address
        try:
            bound = server.add_insecure_port(f"{name}:{port}")
        except RuntimeError:
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
