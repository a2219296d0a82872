"""A gRPC client as somebody else would make it: from `flashq.proto`, with a compiler.

Owns the compiled contract, in a pool of its own, and one channel. It imports nothing of flashq.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Any, Final, Self

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tools.grpc_descriptor import compiled

TIMEOUT_S: Final = 10.0
"""For what has to come; only a broken server makes a test wait so long."""

_making: Final = threading.Lock()

Metadata = Sequence[tuple[str, str | bytes]]


@cache
def contract() -> Any:
    """Return the descriptor of `flashq.proto`, compiled just now."""
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(compiled()).file
    pool: Any = descriptor_pool.DescriptorPool()
    return pool.AddSerializedFile(file.SerializeToString())


def message(name: str) -> Any:
    """Return a message's class, the same one to every thread."""
    with _making:
        return _message(name)


@cache
def _message(name: str) -> Any:
    return message_factory.GetMessageClass(contract().message_types_by_name[name])


def state_name(number: int) -> str:
    """Return the name of a `JobState`."""
    name = contract().enum_types_by_name["JobState"].values_by_number[number].name
    assert isinstance(name, str)
    return name


class GrpcClient:
    """One channel.

    Args:
        address: host and port.
        metadata: sent with every call.
    """

    def __init__(self, address: str, metadata: Metadata = ()) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self._metadata = tuple(metadata)
        (self._service,) = contract().services_by_name.values()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.channel.close()

    def start(self, name: str, /, timeout_s: float | None = TIMEOUT_S, **fields: Any) -> Any:
        """Begin a call and return it.

        Args:
            name: the method.
            timeout_s: the call's deadline; None for none.
            fields: of its request; for a method that takes a stream, there are none.
        """
        method = self._service.methods_by_name[name]
        kinds = {(False, False): "unary_unary", (False, True): "unary_stream"}
        kind = kinds.get((method.client_streaming, method.server_streaming), "stream_stream")
        call = getattr(self.channel, kind)(
            f"/flashq.QueueService/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message(method.output_type.name).FromString,
        )
        request = () if kind == "stream_stream" else (message(method.input_type.name)(**fields),)
        return call(*request, timeout=timeout_s, metadata=self._metadata)

    async def call(self, name: str, /, timeout_s: float | None = TIMEOUT_S, **fields: Any) -> Any:
        """Make a call and return its response."""
        return await self.start(name, timeout_s, **fields)

    async def refused(
        self, name: str, /, timeout_s: float | None = TIMEOUT_S, **fields: Any
    ) -> grpc.aio.AioRpcError:
        """Make a call that has to fail and return how it did."""
        try:
            response = await self.call(name, timeout_s, **fields)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"{name} was not refused: {response}")

    async def state(self, job_id: int) -> str:
        """Return the name of a job's state, without what all have in common."""
        response = await self.call("GetState", id=job_id)
        return state_name(response.state).removeprefix("JOB_STATE_")
