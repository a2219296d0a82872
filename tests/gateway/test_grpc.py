"""The gRPC door of a whole server, with a client that was compiled from the contract."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc.aio
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.conftest import StartServer
from tests.gateway.grpc_client import TIMEOUT_S, GrpcClient, contract, message
from tests.server import Server

_names = itertools.count(1)


def address_of(server: Server) -> str:
    """Return where a server takes gRPC."""
    scheme = "grpc://"
    return next(line for line in server.lines if line.startswith(scheme)).removeprefix(scheme)


@pytest.fixture
async def client(shared_server: Server) -> AsyncIterator[GrpcClient]:
    """Return a client of the server that tests share."""
    async with GrpcClient(address_of(shared_server)) as one:
        yield one


@pytest.fixture
def queue() -> str:
    """Return the name of a queue that no other test uses."""
    return f"grpc-{next(_names)}"


async def until(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Look again and again until it is as wanted; every look asks the server."""
    async with asyncio.timeout(TIMEOUT_S):
        while await look() != wanted:
            pass


def code_of(error: grpc.aio.AioRpcError) -> str:
    """Return the code in an error's metadata."""
    return str(dict(error.trailing_metadata())["flashq-code"])


# --- producing


async def test_a_job_keeps_everything_that_was_said_about_it(
    client: GrpcClient, queue: str
) -> None:
    """Each option of a push comes back under its number in Job; the payload as it was."""
    first = await client.call("Push", queue=queue, data=b'{"a": [1, "\xc3\xbc"]}', delay_ms=60_000)
    assert first.ok
    assert first.id > 0
    options: dict[str, Any] = {"priority": -7, "max_attempts": 3, "unique_key": "key", "lifo": True}
    second = await client.call(
        "Push", queue=queue, data=b"null", ttl_ms=50_000, timeout_ms=4000, backoff_ms=9, **options
    )
    job = await client.call("Pull", queue=queue)
    assert (job.id, job.queue, job.data) == (second.id, queue, b"null")
    assert (job.ttl, job.timeout, job.backoff) == (50_000, 4000, 9)
    assert {name: getattr(job, name) for name in options} == options
    assert 0 < job.created_at <= job.run_at <= job.started_at
    assert (job.attempts, job.progress, list(job.depends_on)) == (0, 0, [])
    assert not job.HasField("progress_msg")
    assert await client.state(first.id) == "DELAYED"


async def test_a_payload_passes_as_it_is(client: GrpcClient, queue: str) -> None:
    """Payloads are JSON texts in bytes, and no reader on the way writes them anew."""
    payload = b'{"z": 1, "a": {"b": [true, 1.50, "\\u00fc"]}}'
    await client.call("Push", queue=queue, data=payload)
    assert (await client.call("Pull", queue=queue)).data == payload


async def test_0_stands_for_not_set(client: GrpcClient, queue: str) -> None:
    """A job without any option has none, and no key."""
    await client.call("Push", queue=queue, data=b"1", delay_ms=0, ttl_ms=0, max_attempts=0)
    job = await client.call("Pull", queue=queue)
    assert (job.ttl, job.timeout, job.max_attempts, job.backoff, job.priority) == (0,) * 5
    assert not job.HasField("unique_key")


async def test_a_duration_beyond_all_bounds_is_cut(client: GrpcClient, queue: str) -> None:
    """A uint64 holds more than any of flashq's numbers: an absurd delay is a long delay."""
    reply = await client.call("Push", queue=queue, data=b"1", delay_ms=2**64 - 1)
    assert await client.state(reply.id) == "DELAYED"


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": 1,}', b"nonsense", b'"\xff"', b"1 2"])
async def test_a_payload_that_is_not_json_is_refused(
    client: GrpcClient, queue: str, data: bytes
) -> None:
    """Empty bytes are no JSON either, and a bad one refuses its whole batch."""
    error = await client.refused("Push", queue=queue, data=data)
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith("Invalid JSON data: ")
    jobs = [message("JobInput")(data=b"1"), message("JobInput")(data=data)]
    error = await client.refused("PushBatch", queue=queue, jobs=jobs)
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith("Invalid JSON: ")
    assert (await client.refused("Pull", 0.2, queue=queue)).code() is StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "Queue name cannot be empty"),
        ("q" * 257, "Queue name too long (max 256 chars)"),
        ("a/b", "Queue name must contain only alphanumeric characters, underscores, hyphens, or"),
    ],
)
async def test_a_queue_without_a_valid_name_takes_no_job(
    client: GrpcClient, name: str, text: str
) -> None:
    """A push says why; a batch says by `ok` that it was refused, and older clients see no ids."""
    error = await client.refused("Push", queue=name, data=b"1")
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith(text)
    batch = await client.call("PushBatch", queue=name, jobs=[message("JobInput")(data=b"1")])
    assert (batch.ok, list(batch.ids)) == (False, [])


async def test_a_push_that_is_refused_says_why(client: GrpcClient, queue: str) -> None:
    """The status is that of the catalogue, the text the older one, and the code is beside them."""
    await client.call("Push", queue=queue, data=b"1", unique_key="k")
    error = await client.refused("Push", queue=queue, data=b"1", unique_key="k")
    assert error.code() is StatusCode.ALREADY_EXISTS
    assert error.details() == "Duplicate job with key: k"
    assert code_of(error) == "duplicate"
    big = b'"' + b"x" * 1024 * 1024 + b'"'
    error = await client.refused("Push", queue=queue, data=big)
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert error.details() == f"Job data too large ({len(big)} bytes, max 1048576 bytes)"
    error = await client.refused("Push", queue=queue, data=b"1", depends_on=[2**64 - 1])
    assert code_of(error) in ("invalid", "unknown_dependency")


async def test_a_batch_takes_each_job_by_itself(client: GrpcClient, queue: str) -> None:
    """`ids` has those that were taken; the places of the others are in the metadata."""
    new = message("JobInput")
    jobs = [new(data=b"%d" % n, unique_key="same" if n else "") for n in range(3)]
    call = client.start("PushBatch", queue=queue, jobs=[*jobs, new(data=b"3", priority=5)])
    batch = await call
    assert batch.ok
    assert len(batch.ids) == 3
    assert dict(await call.trailing_metadata())["flashq-rejected"] == "2"
    pulled = await client.call("PullBatch", queue=queue, count=10)
    assert [job.data for job in pulled.jobs] == [b"3", b"0", b"1"]
    assert {job.id for job in pulled.jobs} == set(batch.ids)


async def test_a_batch_has_1000_jobs_at_most(client: GrpcClient, queue: str) -> None:
    """One more, and nothing of it is taken."""
    job = message("JobInput")(data=b"1")
    assert len((await client.call("PushBatch", queue=queue, jobs=[job] * 1000)).ids) == 1000
    batch = await client.call("PushBatch", queue=queue, jobs=[job] * 1001)
    assert (batch.ok, list(batch.ids)) == (False, [])
    pulled = await client.call("PullBatch", queue=queue, count=2**32 - 1)
    assert len(pulled.jobs) == 1000
    acked = await client.call("AckBatch", ids=[one.id for one in pulled.jobs])
    assert (acked.ok, acked.acked) == (True, 1000)


async def test_a_message_above_the_limit_is_refused(client: GrpcClient, queue: str) -> None:
    """It is not even read: 16 MiB is what every program of the server takes."""
    error = await client.refused("Push", queue=queue, data=b"x" * (16 * 1024 * 1024))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED


# --- consuming


async def test_a_pull_waits_for_a_job(client: GrpcClient, queue: str) -> None:
    """It is answered by the push, without asking again."""
    pull = asyncio.ensure_future(client.call("Pull", None, queue=queue))
    await client.call("GetState", id=1)
    pushed = await client.call("Push", queue=queue, data=b"1")
    assert (await pull).id == pushed.id


@pytest.mark.parametrize(("method", "fields"), [("Pull", {}), ("PullBatch", {"count": 3})])
async def test_a_pull_ends_with_its_deadline(
    client: GrpcClient, queue: str, method: str, fields: dict[str, Any]
) -> None:
    """And a job that comes after it is for others."""
    error = await client.refused(method, 0.2, queue=queue, **fields)
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    pushed = await client.call("Push", queue=queue, data=b"1")
    assert (await client.call("Pull", queue=queue)).id == pushed.id


async def test_a_pull_whose_client_is_gone_keeps_no_job(client: GrpcClient, queue: str) -> None:
    """1. a client waits, and gives up; 2. a job is pushed; 3. somebody else gets it at once, and no
    attempt is counted."""
    pulls = [client.start("Pull", None, queue=queue) for _ in range(3)]
    await client.call("GetState", id=1)
    for pull in pulls:
        pull.cancel()
    pushed = await client.call("Push", queue=queue, data=b"1")
    job = await client.call("Pull", queue=queue)
    assert (job.id, job.attempts) == (pushed.id, 0)


async def test_a_count_of_0_only_waits(client: GrpcClient, queue: str) -> None:
    """As it always did; it takes no job from anybody."""
    pushed = await client.call("Push", queue=queue, data=b"1")
    error = await client.refused("PullBatch", 0.2, queue=queue, count=0)
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert await client.state(pushed.id) == "WAITING"


async def test_a_reply_is_never_too_large_for_a_client(client: GrpcClient, queue: str) -> None:
    """A client takes 4 MiB unless told otherwise: what is beyond that goes back at once."""
    data = b'"' + b"x" * 900_000 + b'"'
    for _ in range(6):
        await client.call("Push", queue=queue, data=data)
    first = await client.call("PullBatch", queue=queue, count=6)
    second = await client.call("PullBatch", queue=queue, count=6)
    assert (len(first.jobs), len(second.jobs)) == (4, 2)
    assert all(job.attempts == 0 for job in second.jobs)


async def test_a_result_is_kept(client: GrpcClient, shared_server: Server, queue: str) -> None:
    """It is read through any door."""
    await client.call("Push", queue=queue, data=b"1")
    job = await client.call("Pull", queue=queue)
    error = await client.refused("Ack", id=job.id, result=b"{")
    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith("Invalid result JSON: ")
    assert await client.state(job.id) == "ACTIVE"
    assert (await client.call("Ack", id=job.id, result=b'{"r": [1]}')).ok
    assert await client.state(job.id) == "COMPLETED"
    dealer = shared_server.dealer()
    try:
        assert dealer.ask("GETRESULT", id=job.id)["result"] == {"r": [1]}
    finally:
        dealer.close()


@pytest.mark.parametrize("method", ["Ack", "Fail"])
@pytest.mark.parametrize("job_id", [0, 1, 2**53, 2**64 - 1])
async def test_a_job_that_is_not_active_is_not_found(
    client: GrpcClient, method: str, job_id: int
) -> None:
    """Also one whose id no job can have."""
    error = await client.refused(method, id=job_id)
    assert error.code() is StatusCode.NOT_FOUND
    assert error.details() == f"Job {job_id} not found"


async def test_acks_of_many_count_those_that_were_active(client: GrpcClient, queue: str) -> None:
    """The others are skipped."""
    for _ in range(3):
        await client.call("Push", queue=queue, data=b"1")
    pulled = await client.call("PullBatch", queue=queue, count=2)
    ids = [job.id for job in pulled.jobs]
    reply = await client.call("AckBatch", ids=[*ids, 1, 2**64 - 1])
    assert (reply.ok, reply.acked) == (True, 2)
    assert [await client.state(job_id) for job_id in ids] == ["COMPLETED"] * 2
    assert (await client.call("AckBatch", ids=[])).acked == 0


async def test_an_unknown_job_has_a_state(client: GrpcClient) -> None:
    """It is none of the others, and no error."""
    for job_id in (0, 1, 2**53, 2**64 - 1):
        response = await client.call("GetState", id=job_id)
        assert (response.id, response.state) == (job_id, 0)


async def test_stats_count_all_queues(start_server: StartServer) -> None:
    """One number for each of what jobs do."""
    async with GrpcClient(address_of(start_server())) as client:
        for name in "abc":
            await client.call("Push", queue=name, data=b"1", max_attempts=1)
        await client.call("Push", queue="d", data=b"1", delay_ms=60_000)
        await client.call("Fail", id=(await client.call("Pull", queue="a")).id)
        await client.call("Pull", queue="b")
        stats = await client.call("Stats")
        assert (stats.queued, stats.processing, stats.delayed, stats.dlq) == (1, 1, 1, 1)


# --- streams


async def test_a_stream_brings_jobs_as_they_come(client: GrpcClient, queue: str) -> None:
    """In their order; and they are acknowledged by calls of their own."""
    stream = client.start("StreamJobs", None, queue=queue, batch_size=1, prefetch=1)
    await stream.initial_metadata()
    ids = []
    for number in range(5):
        ids.append((await client.call("Push", queue=queue, data=b"%d" % number)).id)
        job = await stream.read()
        assert (job.id, job.data) == (ids[-1], b"%d" % number)
        assert (await client.call("Ack", id=job.id)).ok
    stream.cancel()
    assert [await client.state(job_id) for job_id in ids] == ["COMPLETED"] * 5


@pytest.mark.parametrize(("batch_size", "prefetch"), [(0, 0), (1, 1000), (2**32 - 1, 2**32 - 1)])
async def test_a_stream_takes_any_sizes(
    client: GrpcClient, queue: str, batch_size: int, prefetch: int
) -> None:
    """Out of range means the nearest that is not."""
    job = message("JobInput")(data=b"1")
    pushed = await client.call("PushBatch", queue=queue, jobs=[job] * 250)
    stream = client.start("StreamJobs", None, queue=queue, batch_size=batch_size, prefetch=prefetch)
    assert [(await stream.read()).id for _ in range(250)] == list(pushed.ids)
    stream.cancel()


async def test_a_stream_that_ends_gives_its_jobs_back(client: GrpcClient, queue: str) -> None:
    """1. a stream brings three jobs; 2. one is acknowledged; 3. it is cancelled; 4. the other two,
    and what was on its way, are there for somebody else, at no cost."""
    job = message("JobInput")(data=b"1")
    pushed = await client.call("PushBatch", queue=queue, jobs=[job] * 5)
    stream = client.start("StreamJobs", None, queue=queue, batch_size=10, prefetch=10)
    taken = [(await stream.read()).id for _ in range(3)]
    await client.call("Ack", id=taken[0])
    stream.cancel()
    await until(lambda: client.state(taken[1]), "WAITING")
    rest = await client.call("PullBatch", queue=queue, count=10)
    assert sorted(one.id for one in rest.jobs) == sorted(pushed.ids)[1:]
    assert all(one.attempts == 0 for one in rest.jobs)
    error = await client.refused("Ack", id=taken[0])
    assert error.code() is StatusCode.NOT_FOUND


_VANISHING: Final = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
stream = channel.unary_stream("/flashq.QueueService/StreamJobs")(bytes.fromhex(sys.argv[2]))
print(len(next(stream)), flush=True)
next(stream)
"""


async def test_a_client_that_vanishes_gives_its_jobs_back(
    client: GrpcClient, shared_server: Server, queue: str
) -> None:
    """1. another process streams a job; 2. it is killed, and says nothing any more; 3. the job is
    given to somebody else, long before any lease would have ended."""
    pushed = await client.call("Push", queue=queue, data=b"1")
    request = message("StreamJobsRequest")(queue=queue, batch_size=1).SerializeToString()
    command = [sys.executable, "-c", _VANISHING, address_of(shared_server), request.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        await asyncio.to_thread(other.stdout.readline)
        assert await client.state(pushed.id) == "ACTIVE"
        other.send_signal(signal.SIGKILL)
    job = await client.call("Pull", queue=queue)
    assert (job.id, job.attempts) == (pushed.id, 0)


async def test_a_stream_outlives_a_shard(start_server: StartServer) -> None:
    """1. a stream waits, and holds a job; 2. the shard is killed and comes back; 3. the stream goes
    on, and the job is still its own."""
    server = start_server("--shards", "1")
    async with GrpcClient(address_of(server)) as client:
        first = await client.call("Push", queue="q", data=b"1")
        stream = client.start("StreamJobs", None, queue="q", batch_size=1, prefetch=1)
        assert (await stream.read()).id == first.id
        await asyncio.to_thread(server.restart_shard, 0)
        second = await client.call("Push", queue="q", data=b"2")
        assert (await stream.read()).id == second.id
        assert (await client.call("AckBatch", ids=[first.id, second.id])).acked == 2
        stream.cancel()


async def test_results_on_a_stream(start_server: StartServer) -> None:
    """Each way in which a worker can answer, and what is not an answer to anything."""
    server = start_server()
    async with GrpcClient(address_of(server)) as client:
        jobs = [message("JobInput")(data=b"%d" % n, max_attempts=1) for n in range(4)]
        pushed = list((await client.call("PushBatch", queue="default", jobs=jobs)).ids)
        stream = client.start("ProcessJobs", None)
        assert [(await stream.read()).id for _ in range(4)] == pushed
        result = message("JobResult")
        await stream.write(result(id=2**64 - 1, success=True))
        await stream.write(result(id=1, success=False, error="never existed"))
        await stream.write(result(id=pushed[0], success=True, result=b'{"r": 1}'))
        await stream.write(result(id=pushed[1], success=True, result=b"no JSON"))
        await stream.write(result(id=pushed[2], success=False, error="it broke"))
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is StatusCode.OK
        states = [await client.state(job_id) for job_id in pushed]
        assert states[:3] == ["COMPLETED", "COMPLETED", "FAILED"]
        again = await client.call("Pull", queue="default")
        assert (again.id, again.attempts) == (pushed[3], 0)
    dealer = server.dealer()
    try:
        results = [dealer.ask("GETRESULT", id=job_id)["result"] for job_id in pushed[:2]]
        assert results == [{"r": 1}, None]
        assert dealer.ask("GETJOB", id=pushed[2])["job"]["error"] == "it broke"
    finally:
        dealer.close()


# --- beside the service


async def test_reflection_shows_the_contract(client: GrpcClient) -> None:
    """A tool that knows nothing finds the services, and every message of ours."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # type: ignore[arg-type]
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="flashq.QueueService"),
    ]
    services, file = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
    assert {one.name for one in services.list_services_response.service} == {
        "flashq.QueueService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    (described,) = file.file_descriptor_response.file_descriptor_proto
    assert described == contract().serialized_pb


async def test_health_is_told_and_can_be_watched(client: GrpcClient) -> None:
    """Of the server as a whole and of the service; of another service nothing is known."""
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "flashq.QueueService"):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S)
        async for seen in watch:
            if seen.status == serving:
                break
        watch.cancel()
        request = health_pb2.HealthCheckRequest(service=name)
        assert (await stub.Check(request, timeout=TIMEOUT_S)).status == serving
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=TIMEOUT_S)
    assert raised.value.code() is StatusCode.NOT_FOUND


async def test_health_says_when_the_router_is_away(start_server: StartServer) -> None:
    """1. all is well; 2. the router is stopped; 3. a watcher hears of it; 4. and of its return."""
    server = start_server()
    async with GrpcClient(address_of(server)) as client:
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=3 * TIMEOUT_S)
        statuses = health_pb2.HealthCheckResponse
        wanted = [statuses.SERVING, statuses.NOT_SERVING, statuses.SERVING]
        actions = [signal.SIGSTOP, signal.SIGCONT, None]
        async for seen in watch:
            if seen.status == wanted[0]:
                wanted.pop(0)
                number = actions.pop(0)
                if number is None:
                    break
                server.signal("flashq-router", number)
        assert wanted == []


async def test_what_is_not_ours_is_refused(client: GrpcClient) -> None:
    """Another method, and bytes that are no message."""
    channel: Any = client.channel
    unknown = channel.unary_unary("/flashq.QueueService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await unknown(b"", timeout=TIMEOUT_S)
    assert raised.value.code() is StatusCode.UNIMPLEMENTED
    push = channel.unary_unary("/flashq.QueueService/Push")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await push(b"\xff\xff", timeout=TIMEOUT_S)
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT
    assert code_of(raised.value) == "bad_message"
    stream = channel.stream_stream("/flashq.QueueService/ProcessJobs")(timeout=TIMEOUT_S)
    await stream.write(b"\xff\xff")
    assert await stream.code() is StatusCode.INVALID_ARGUMENT


# --- who may call


async def test_a_token_is_asked_for(start_server: StartServer) -> None:
    """In either place, in every method and for reflection; health is everybody's."""
    address = address_of(start_server("--auth-tokens", "first,second"))
    for metadata in (
        [("authorization", "Bearer first")],
        [("authorization", "bearer second")],
        [("token", "second")],
    ):
        async with GrpcClient(address, metadata) as client:
            assert (await client.call("Push", queue="q", data=b"1")).ok
    async with GrpcClient(address) as client:
        error = await client.refused("Push", queue="q", data=b"1")
        assert error.code() is StatusCode.UNAUTHENTICATED
        assert error.details() == "Authentication required"
        for name in ("StreamJobs", "ProcessJobs"):
            assert await client.start(name).code() is StatusCode.UNAUTHENTICATED
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # type: ignore[arg-type]
        listed = stub.ServerReflectionInfo(iter(()), timeout=TIMEOUT_S)
        assert await listed.code() is StatusCode.UNAUTHENTICATED
        health: Any = health_pb2_grpc.HealthStub(client.channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    async with GrpcClient(address, [("authorization", "Bearer third")]) as client:
        error = await client.refused("Stats")
        assert (error.code(), error.details()) == (StatusCode.UNAUTHENTICATED, "Invalid token")


# --- its end


async def test_a_server_that_stops_says_so(start_server: StartServer) -> None:
    """Nobody is left waiting, and what a stream held is not lost in between."""
    server = start_server()
    async with GrpcClient(address_of(server)) as client:
        await client.call("Push", queue="q", data=json.dumps("x").encode())
        stream = client.start("StreamJobs", None, queue="q", batch_size=1)
        assert (await stream.read()).data == b'"x"'
        pull = client.start("Pull", None, queue="empty")
        await client.call("GetState", id=1)
        status = asyncio.ensure_future(asyncio.to_thread(server.terminate))
        assert await stream.code() is StatusCode.UNAVAILABLE
        assert await pull.code() is StatusCode.UNAVAILABLE
        assert await pull.details() == "shutting down"
        assert await status == 0
    assert "Traceback" not in server.log()
