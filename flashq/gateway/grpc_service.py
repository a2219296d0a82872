"""`flashq.QueueService`: what each method of the gRPC door does.

Owns statuses, deadlines and the two streams. Messages are the translation's business, waiting is
that of the requests, and jobs are the shards'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from flashq.errors import (
    BadMessage,
    FlashQError,
    JobNotFound,
    QueueNameEmpty,
    QueueNameInvalid,
    QueueNameTooLong,
)
from flashq.gateway import grpc_translation as translation
from flashq.gateway.grpc_requests import WAIT_MS, Port, Requests
from flashq.gateway.grpc_streams import JobStream, until_one_ends
from flashq.gateway.grpc_translation import BATCH_JOBS_MAX
from flashq.gateway.proto import messages
from flashq.ids import JOB_ID_MAX
from flashq.protocol.base import Reply
from flashq.protocol.jobs import GetState, PushBatchReply, PushReply, StateReply
from flashq.protocol.leases import AckBatchReply
from flashq.protocol.objects import JobView
from flashq.protocol.server import Stats, StatsReply

STREAM_BATCH_MAX: Final = 100
STREAM_PREFETCH_MAX: Final = 1000
PROCESS_QUEUE: Final = "default"
"""The queue of `ProcessJobs`, which has no field for one."""
PROCESS_PREFETCH: Final = 32
RESULTS_OPEN_MAX: Final = 256
"""Results of one stream under way to the shards; no more are read."""

ANSWER_S_MAX: Final = 0.05
"""How long before a call's deadline a pull ends, so that no job is on its way when nobody is there
to take it; a quarter of what is left, if that is less."""

CODE_KEY: Final = "flashq-code"
REJECTED_KEY: Final = "flashq-rejected"
MISSING_SHARDS_KEY: Final = "flashq-missing-shards"
"""Trailing metadata: an error's code, the places of a batch's refused jobs, the shards without an
answer."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DeadlineExceeded(FlashQError):
    """A pull's call has no time left, and no job came."""

    code = "deadline_exceeded"
    template = "no job came before the deadline"
    grpc_status = "DEADLINE_EXCEEDED"


class QueueService:
    """The methods.

    Args:
        port: the bridge.
    """

    def __init__(self, port: Port) -> None:
        self._requests: Final = Requests(port)

    def close(self) -> None:
        """End every pull and stream with `shutting down`."""
        self._requests.close()

    # --- producing

    async def push(self, request: Any, _context: Context) -> Any:
        """Add a job."""
        reply = await self._requests.ask(translation.push(request), PushReply)
        return messages.PushResponse(ok=True, id=reply.id)

    async def push_batch(self, request: Any, context: Context) -> Any:
        """Add many jobs. Older clients read a refusal of all of them as no ids, not as an error."""
        command = translation.push_batch(request)
        if len(command.jobs or ()) > BATCH_JOBS_MAX:
            return messages.PushBatchResponse(ok=False)
        try:
            reply = await self._requests.ask(command, PushBatchReply)
        except (QueueNameEmpty, QueueNameInvalid, QueueNameTooLong):
            return messages.PushBatchResponse(ok=False)
        _add_metadata(context, REJECTED_KEY, [error.index for error in reply.errors])
        ids = [job_id for job_id in reply.ids if job_id is not None]
        return messages.PushBatchResponse(ok=True, ids=ids)

    # --- consuming

    async def pull(self, request: Any, context: Context) -> Any:
        """Take one job."""
        (job,) = await self._pull(request.queue, 1, context)
        return translation.job(job)

    async def pull_batch(self, request: Any, context: Context) -> Any:
        """Take several jobs; what is too much for one message goes back."""
        jobs = await self._pull(request.queue, min(request.count, BATCH_JOBS_MAX), context)
        response = translation.jobs_that_fit(jobs)
        self._requests.give_back(jobs[len(response.jobs) :])
        return response

    async def _pull(self, queue: str, count: int, context: Context) -> Sequence[JobView]:
        """Wait for jobs until there are some, or until the call's deadline.

        Raises:
            DeadlineExceeded: none came.
        """
        while True:
            left_s = context.time_remaining()
            wait_ms = WAIT_MS
            if left_s is not None:
                until_answer_s = left_s - min(ANSWER_S_MAX, left_s / 4)
                wait_ms = min(WAIT_MS, int(until_answer_s * 1000))
            jobs = await self._requests.pull(queue, count, wait_ms)
            if jobs:
                return jobs
            if wait_ms < WAIT_MS:
                raise DeadlineExceeded

    async def ack(self, request: Any, _context: Context) -> Any:
        """Complete a job."""
        await self._requests.ask(translation.ack(request), Reply)
        return messages.AckResponse(ok=True)

    async def ack_batch(self, request: Any, context: Context) -> Any:
        """Complete many jobs."""
        reply = await self._requests.ask(translation.ack_batch(request), AckBatchReply)
        _add_metadata(context, MISSING_SHARDS_KEY, reply.missing_shards)
        return messages.AckBatchResponse(ok=True, acked=reply.ids[0])

    async def fail(self, request: Any, _context: Context) -> Any:
        """Fail an attempt."""
        await self._requests.ask(translation.fail(request), Reply)
        return messages.FailResponse(ok=True)

    # --- looking

    async def get_state(self, request: Any, _context: Context) -> Any:
        """Tell where a job is."""
        name = "unknown"
        if request.id <= JOB_ID_MAX:
            name = (await self._requests.ask(GetState(id=request.id), StateReply)).state
        return messages.GetStateResponse(id=request.id, state=translation.state(name))

    async def stats(self, _request: Any, context: Context) -> Any:
        """Count jobs."""
        reply = await self._requests.ask(Stats(), StatsReply)
        _add_metadata(context, MISSING_SHARDS_KEY, reply.missing_shards)
        return messages.StatsResponse(
            queued=reply.queued, processing=reply.processing, delayed=reply.delayed, dlq=reply.dlq
        )

    # --- streams

    async def stream_jobs(self, request: Any, context: Context) -> None:
        """Send a queue's jobs as they come, until the client is gone."""
        batch_size = min(max(request.batch_size, 1), STREAM_BATCH_MAX)
        prefetch = min(max(request.prefetch, 1), STREAM_PREFETCH_MAX)
        stream = JobStream(self._requests, request.queue, batch_size, prefetch)
        await context.send_initial_metadata(())
        with stream:
            await until_one_ends(stream.fill(), _send(stream, context))

    async def process_jobs(self, results: AsyncIterator[bytes], context: Context) -> None:
        """Send the default queue's jobs and take results, until the client sends no more."""
        stream = JobStream(self._requests, PROCESS_QUEUE, PROCESS_PREFETCH, PROCESS_PREFETCH)
        await context.send_initial_metadata(())
        with stream:
            await until_one_ends(
                stream.fill(), _send(stream, context), self._settle(results, stream)
            )

    async def _settle(self, results: AsyncIterator[bytes], stream: JobStream) -> None:
        """Carry out what the results say; return when there are no more and all are answered."""
        slots = asyncio.Semaphore(RESULTS_OPEN_MAX)
        async for body in results:
            try:
                command = translation.settlement(_parsed(messages.JobResult, body))
            except JobNotFound:
                continue  # as for every other job that is not active
            await slots.acquire()
            self._requests.settle(command, stream.holder, slots.release)
        for _ in range(RESULTS_OPEN_MAX):
            await slots.acquire()


async def _send(stream: JobStream, context: Context) -> None:
    async for job in stream.jobs():
        await context.write(translation.job(job).SerializeToString())


def _add_metadata(context: Context, key: str, numbers: Sequence[int]) -> None:
    """Name in a reply's trailing metadata what its message has no field for."""
    if numbers:
        context.set_trailing_metadata(((key, ",".join(map(str, numbers))),))


# --- methods as gRPC has them

Unary: TypeAlias = Callable[[Any, Context], Awaitable[Any]]


def method_handlers(service: QueueService) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return the handler of each method, by its name in the contract."""
    return {
        "Push": _unary(messages.PushRequest, service.push),
        "PushBatch": _unary(messages.PushBatchRequest, service.push_batch),
        "Pull": _unary(messages.PullRequest, service.pull),
        "PullBatch": _unary(messages.PullBatchRequest, service.pull_batch),
        "Ack": _unary(messages.AckRequest, service.ack),
        "AckBatch": _unary(messages.AckBatchRequest, service.ack_batch),
        "Fail": _unary(messages.FailRequest, service.fail),
        "GetState": _unary(messages.GetStateRequest, service.get_state),
        "Stats": _unary(messages.StatsRequest, service.stats),
        "StreamJobs": _stream(messages.StreamJobsRequest, service.stream_jobs),
        "ProcessJobs": _streams(service.process_jobs),
    }


def _unary(kind: Any, method: Unary) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(body: bytes, context: Context) -> bytes:
        try:
            response = await method(_parsed(kind, body), context)
        except FlashQError as error:
            await refuse(context, error)
        data: bytes = response.SerializeToString()
        return data

    return grpc.unary_unary_rpc_method_handler(handle)


def _stream(
    kind: Any, method: Callable[[Any, Context], Awaitable[None]]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(body: bytes, context: Context) -> None:
        try:
            await method(_parsed(kind, body), context)
        except FlashQError as error:
            await refuse(context, error)

    return grpc.unary_stream_rpc_method_handler(handle)


def _streams(
    method: Callable[[AsyncIterator[bytes], Context], Awaitable[None]],
) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(bodies: AsyncIterator[bytes], context: Context) -> None:
        try:
            await method(bodies, context)
        except FlashQError as error:
            await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)


def _parsed(kind: Any, body: bytes) -> Any:
    """Read a message.

    Raises:
        BadMessage: it is none of that kind.
    """
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise BadMessage(detail=str(error)) from None


async def refuse(context: Context, error: FlashQError) -> NoReturn:
    """End a call with an error's status, text and code."""
    status = grpc.StatusCode[error.grpc_status]
    await context.abort(status, error.text, ((CODE_KEY, error.code),))
    raise AssertionError("abort raises")
