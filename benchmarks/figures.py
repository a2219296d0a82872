"""The measurements. Each gives one figure or two; `__main__` puts them into a table."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from statistics import median, quantiles
from time import monotonic, perf_counter, sleep
from typing import Any, Final

from benchmarks import echo
from benchmarks.server import Server, warm_memory
from flashq import AsyncClient, Client, Worker

PAYLOAD: Final = {"c": 1, "b": 2, "i": 3, "ts": 1234567890}
BATCH: Final = 1000
BATCH_BODY_BYTES: Final = 24_100
"""The body of a PUSHB of 1,000 such payloads."""
SINGLE_BODY_BYTES: Final = 90
CYCLED_JOBS: Final = 2_000_000
"""So many jobs wait before they are pulled: more than can be in SECONDS."""
SECONDS: Final = 3.0
"""How long each throughput is measured."""

Entries = list[dict[str, Any]]


def entries(count: int = BATCH, priorities: int = 1) -> Entries:
    """Return a batch of the payload; with several priorities each entry names one."""
    if priorities == 1:
        return [{"data": PAYLOAD} for _ in range(count)]
    return [{"data": PAYLOAD, "priority": index % priorities} for index in range(count)]


async def _lanes(lanes: int, work: Callable[[], Any]) -> float:
    """Have `lanes` tasks repeat `work`, which returns a count; return counts a second."""
    until = perf_counter() + SECONDS

    async def lane() -> int:
        done = 0
        while perf_counter() < until:
            done += await work()
        return done

    started = perf_counter()
    done = await asyncio.gather(*(lane() for _ in range(lanes)))
    return sum(done) / (perf_counter() - started)


def push_batches(server: Server) -> float:
    """Jobs a second: batches of 1,000, one client, four in flight."""
    warm_memory()

    async def measure() -> float:
        async with AsyncClient(server.url) as client:
            batch = entries()

            async def push() -> int:
                return len(await client.push_batch("batches", batch))

            await push()
            return await _lanes(4, push)

    return asyncio.run(measure())


def pull_and_ack(server: Server, lanes: int) -> float:
    """Jobs a second through pull 1,000 and ack 1,000, one client, so many cycles in flight."""

    async def measure() -> float:
        async with AsyncClient(server.url) as client:
            batch = entries()
            for _ in range(CYCLED_JOBS // BATCH // 4):
                await asyncio.gather(*(client.push_batch("cycle", batch) for _ in range(4)))

            async def cycle() -> int:
                return await client.ack_batch(await client.pull_batch("cycle", BATCH, timeout=0))

            done = await _lanes(lanes, cycle)
            assert await client.count("cycle"), "there was always something to pull"
            return done

    return asyncio.run(measure())


def single_pushes(server: Server, queues: int) -> float:
    """Pushes a second, 100 in flight, spread over so many queues."""

    async def measure() -> float:
        async with AsyncClient(server.url) as client:
            turn = 0

            async def push() -> int:
                nonlocal turn
                turn += 1
                await client.push(f"single-{turn % queues}", PAYLOAD)
                return 1

            await push()
            return await _lanes(100, push)

    return asyncio.run(measure())


def push_latency(server: Server, count: int = 4000) -> tuple[float, float]:
    """p50 and p99 in µs of one push at a time."""
    with Client(server.url) as client:
        taken = []
        for _ in range(count):
            started = perf_counter()
            client.push("latency", PAYLOAD)
            taken.append((perf_counter() - started) * 1e6)
    ordered = quantiles(taken, n=100)
    return median(taken), ordered[98]


def echo_latency(address: str) -> float:
    """p50 in µs of a bare round trip."""
    return 1e6 / echo.messages_per_second(address, SINGLE_BODY_BYTES, 1, 1.0)


def wake_latency(server: Server, count: int = 1000) -> float:
    """p50 in µs from push to the handler of a worker that waits for it."""
    taken: list[float] = []
    seen = threading.Event()

    async def handler(job: Any) -> None:
        taken.append((perf_counter() - job.data["at"]) * 1e6)
        seen.set()

    with Worker(["wake"], handler, url=server.url), Client(server.url) as client:
        for _ in range(count):
            seen.clear()
            client.push("wake", {"at": perf_counter()})
            assert seen.wait(10)
    return median(taken)


def refill_and_cycle(server: Server) -> float:
    """Jobs a second that are pushed, pulled and acknowledged, in batches of 1,000, 4 in flight."""

    async def measure() -> float:
        async with AsyncClient(server.url) as client:
            batch = entries()

            async def cycle() -> int:
                await client.push_batch("whole", batch)
                return await client.ack_batch(await client.pull_batch("whole", BATCH, timeout=0))

            return await _lanes(4, cycle)

    return asyncio.run(measure())


def worker_rate(server: Server, jobs: int = 300_000) -> float:
    """Jobs a second that a worker with a handler that does nothing takes and acknowledges."""

    async def handler(job: Any) -> None:
        return None

    with Client(server.url) as client:
        batch = entries()
        for _ in range(jobs // BATCH):
            client.push_batch("worked", batch)
        started = perf_counter()
        with Worker(["worked"], handler, url=server.url):
            while client.get_job_counts("worked").active or client.count("worked"):
                sleep(0.02)
            return jobs / (perf_counter() - started)


def cost_by_depth(server: Server, waiting: int, rounds: int = 60) -> float:
    """µs for each job that is pushed and pulled with 10 priorities while so many wait."""
    queue = f"depth-{waiting}"
    batch = entries(priorities=10)
    with Client(server.url) as client:
        for _ in range(waiting // BATCH):
            client.push_batch(queue, batch)
        taken = []
        for _ in range(rounds):
            started = perf_counter()
            client.push_batch(queue, batch)
            jobs = client.pull_batch(queue, BATCH, timeout=0)
            taken.append(perf_counter() - started)
            client.ack_batch(jobs)
        client.obliterate(queue)
    return median(taken) * 1e6 / BATCH


def pushes_by_depth(server: Server, few: int, many: int) -> tuple[float, float]:
    """Jobs a second in batches of 1,000, 4 in flight, with so few and with so many waiting."""

    async def measure() -> tuple[float, float]:
        async with AsyncClient(server.url) as client:
            batch = entries()

            async def push() -> int:
                return len(await client.push_batch("deep", batch))

            rates = []
            for waiting in (few, many):
                while await client.count("deep") < waiting:
                    await asyncio.gather(*(push() for _ in range(4)))
                warm_memory()
                rates.append(await _lanes(4, push))
            return rates[0], rates[1]

    return asyncio.run(measure())


def memory_per_job(server: Server, jobs: int = 1_000_000) -> tuple[float, float]:
    """Bytes that a waiting job takes in its shard, and in its shard and the coordinator."""
    with Client(server.url) as client:
        client.push("memory", PAYLOAD)
        shards, everything = server.memory_bytes("flashq-shard"), server.memory_bytes()
        batch = entries()
        for _ in range(jobs // BATCH):
            client.push_batch("memory", batch)
        grown_shards = server.memory_bytes("flashq-shard") - shards
        grown = server.memory_bytes() - everything
        client.obliterate("memory")
    return grown_shards / jobs, grown / jobs


def idle(server: Server, seconds: float = 10.0) -> tuple[float, float]:
    """MB that an idle server takes, and per cent of one core that it uses."""
    before, started = server.cpu_seconds(), monotonic()
    sleep(seconds)
    used = (server.cpu_seconds() - before) / (monotonic() - started)
    return server.memory_bytes() / 1e6, used * 100
