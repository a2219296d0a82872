"""The door for gRPC: `flashq.QueueService`, with health and reflection beside it.

Owns the listening port, who may call, and the limits of messages and calls. What the methods do is
the service's business. gRPC's libraries are an extra, and they start threads: this is imported by a
gateway's own process only, never by one that forks.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from flashq.clock import SystemClock
from flashq.errors import ConfigError, FlashQError
from flashq.gateway.bridge import Bridge
from flashq.gateway.grpc_requests import GRANT
from flashq.gateway.grpc_service import Context, QueueService, method_handlers, refuse
from flashq.gateway.listening import address_of, listening_socket
from flashq.gateway.proto import messages
from flashq.tokens import Guard

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


class _TokenCheck(grpc.aio.ServerInterceptor):
    """Lets nobody call without a token, and notes with each call what its token allows.

    Args:
        guard: knows the tokens.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard: Final = guard
        self._mono_ms: Final = SystemClock().mono_ms

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return what handles a call once it is allowed: only there is its address known."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH_PREFIX):
            return handler
        return _checked(handler, self._check)

    async def _check(self, context: Context) -> None:
        try:
            token = _token_of(context)
            shown = self._guard.show(token, _address_of(context), self._mono_ms())
        except FlashQError as error:
            await refuse(context, error)
        GRANT.set(partial(shown.grant, self._guard))


def _checked(handler: Handler, check: Callable[[Context], Awaitable[None]]) -> Handler:
    """Return a handler that checks its call before it looks at any request."""
    if not handler.response_streaming:
        unary: Any = handler.unary_unary

        async def answer(request: object, context: Context) -> Any:
            await check(context)
            return await unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )
    streaming: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

    async def stream(requests: object, context: Context) -> None:
        await check(context)
        await streaming(requests, context)

    async def generate(requests: object, context: Context) -> AsyncIterator[Any]:
        await check(context)
        async for response in streaming(requests, context):
            yield response

    checked: Any = generate if inspect.isasyncgenfunction(streaming) else stream
    make: Any = (
        grpc.stream_stream_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_stream_rpc_method_handler
    )
    made: Handler = make(checked, handler.request_deserializer, handler.response_serializer)
    return made


def _token_of(context: Context) -> bytes | None:
    """Return the token in a call's metadata: `authorization: Bearer TOKEN`, else `token: TOKEN`."""
    metadata = {
        key: value if isinstance(value, bytes) else value.encode()
        for key, value in context.invocation_metadata() or ()
    }
    header = metadata.get("authorization", b"")
    if header[: len(BEARER)].lower() == BEARER:
        return header[len(BEARER) :].strip() or None
    return metadata.get("token") or None


def _address_of(context: Context) -> str:
    """Return the host that a call comes from: `ipv4:127.0.0.1:5000` without both its ends."""
    return str(context.peer()).partition(":")[2].rpartition(":")[0]


class GrpcDoor:
    """The server.

    Args:
        bridge: who carries requests out.
        guard: who may ask what.
        calls_max: most calls at a time, those that wait included.
        bytes_max: the largest request.
    """

    def __init__(self, bridge: Bridge, guard: Guard, calls_max: int, bytes_max: int) -> None:
        self._bridge: Final = bridge
        self._service: Final = QueueService(bridge)
        self._health: Final = health.aio.HealthServicer()
        self._health_look: asyncio.Task[None] | None = None
        # What the library logs by itself would stand between the lines of ours.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._server: Final = grpc.aio.server(
            interceptors=[] if guard.is_open else [_TokenCheck(guard)],
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
