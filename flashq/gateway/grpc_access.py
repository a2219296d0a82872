"""Who may call at the gRPC door, and how little a stranger can hold there.

Owns tokens in metadata and the calls of peers that show none which counts. Their calls are refused
before anything of a request is read. Only health is answered to them: few requests are read at a
time, and each has few seconds to come.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health

from flashq.clock import SystemClock
from flashq.errors import AuthenticationRequired, BadMessage, FlashQError
from flashq.gateway.grpc_requests import GRANT
from flashq.gateway.grpc_service import Context, refuse
from flashq.tokens import Guard, digest_of

HEALTH_PREFIX: Final = f"/{health.SERVICE_NAME}/"
"""What may be asked without a token: programs that ask for health seldom have one."""
STRANGER_S_MAX: Final = 5.0
"""How long the request of a stranger may take to come."""
STRANGERS_READ_MAX: Final = 16
"""Most requests of strangers that are read at a time. The oldest makes room for the next, so that
nobody who sends half a request keeps others from being answered."""

BEARER: Final = b"bearer "

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]] | None


class TokenCheck(grpc.aio.ServerInterceptor):
    """Lets nobody call without a token, and notes with each call what its token allows.

    Args:
        guard: knows the tokens.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard: Final = guard
        self._mono_ms: Final = SystemClock().mono_ms
        #: the requests of strangers that are on their way, the oldest first
        self._reading: Final[OrderedDict[asyncio.Timeout, None]] = OrderedDict()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return what handles a call. The address of a caller is known only when it is handled."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        token = _token_of(handler_call_details.invocation_metadata)
        if token is not None and self._guard.find(digest_of(token)) is not None:
            return _checked(handler, self._check)
        if handler_call_details.method.startswith(HEALTH_PREFIX):
            return self._hurried(handler)
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _check(self, context: Context) -> None:
        try:
            token = _token_of(context.invocation_metadata())
            shown = self._guard.show(token, _address_of(context), self._mono_ms())
        except FlashQError as error:
            await refuse(context, error)
        GRANT.set(partial(shown.grant, self._guard))

    async def _refuse(self, _requests: object, context: Context) -> NoReturn:
        """Refuse a call without reading its request."""
        await self._check(context)  # counts a wrong token, and says what is wrong
        await refuse(context, AuthenticationRequired())

    def _hurried(self, handler: Handler) -> Handler:
        """Return a handler of a method with one request that waits only a little for it."""

        async def answer(requests: AsyncIterator[Any], context: Context) -> None:
            request = await self._first(requests, context)
            if handler.response_streaming:
                streaming: Any = handler.unary_stream
                await streaming(request, context)
            else:
                unary: Any = handler.unary_unary
                await context.write(await unary(request, context))

        return grpc.stream_stream_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )

    async def _first(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """Return the request of a call, if it comes in time."""
        reading = self._reading
        if len(reading) >= STRANGERS_READ_MAX:
            oldest, _ = reading.popitem(last=False)
            oldest.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(STRANGER_S_MAX) as limit:
                reading[limit] = None
                try:
                    return await anext(requests)
                finally:
                    reading.pop(limit, None)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the request of a call without a token has to come within {STRANGER_S_MAX:g} s",
            )
        except StopAsyncIteration:
            await refuse(context, BadMessage(detail="the call has no request"))


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


def _token_of(metadata: Metadata) -> bytes | None:
    """Return the token in a call's metadata: `authorization: Bearer TOKEN`, else `token: TOKEN`."""
    found = {
        key: value if isinstance(value, bytes) else value.encode() for key, value in metadata or ()
    }
    header = found.get("authorization", b"")
    if header[: len(BEARER)].lower() == BEARER:
        return header[len(BEARER) :].strip() or None
    return found.get("token") or None


def _address_of(context: Context) -> str:
    """Return the host that a call comes from: `ipv4:127.0.0.1:5000` without both its ends."""
    return str(context.peer()).partition(":")[2].rpartition(":")[0]
