"""`flashq bench`: a short load on the running server, through the asyncio client.

It measures this machine with its neighbours, from one client process; `make bench` in the source
tree compares with what ZeroMQ alone can do. Its queue is removed at the end.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct

from flashq.cli.verbs import CALL_TIMEOUT_MS, Invocation, Verb, pass_invocation
from flashq.cli.wording import table_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from flashq.client.async_client import AsyncClient
    from flashq.client.results import Job

ONE_AT_A_TIME_MAX: Final = 1000

Advance = Callable[[int], None]
"""Told how many jobs more are done."""


class Load(Struct, frozen=True):
    """What is measured.

    Args:
        queue: where.
        count: jobs in batches.
        batch: jobs in one request.
        singles: jobs in requests of their own.
        in_flight: batch requests under way at a time.
        singles_in_flight: single requests under way at a time.
        payload: of every job.
    """

    queue: str
    count: int
    batch: int
    singles: int
    in_flight: int
    singles_in_flight: int
    payload: Any


class Figure(Struct, frozen=True):
    """One line of the result. Latencies are of single requests, in µs."""

    measure: str
    jobs: int
    seconds: float
    jobs_per_second: float
    p50_us: float
    p99_us: float


class Stopwatch:
    """Times one measure and each of its requests."""

    def __init__(self, measure: str) -> None:
        self._measure = measure
        self._latencies_ns: list[int] = []
        self._began_ns = time.perf_counter_ns()

    async def timed(self, request: Awaitable[Any]) -> Any:
        """Wait for a request and note how long it took."""
        began_ns = time.perf_counter_ns()
        reply = await request
        self._latencies_ns.append(time.perf_counter_ns() - began_ns)
        return reply

    def figure(self, jobs: int) -> Figure:
        """Return the result of a measure that ends now."""
        seconds = (time.perf_counter_ns() - self._began_ns) / 1e9
        ordered = sorted(self._latencies_ns)
        return Figure(
            self._measure,
            jobs,
            seconds,
            jobs / seconds,
            ordered[len(ordered) // 2] / 1000,
            ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1000,
        )


@click.command(cls=Verb)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Jobs in batches.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="Jobs in one request.",
)
@click.option(
    "--singles",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Jobs in requests of their own.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="Batch requests under way at a time.",
)
@click.option(
    "--singles-in-flight",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Single requests under way at a time.",
)
@click.option(
    "--payload",
    "payload_bytes",
    type=click.IntRange(0, 1_000_000),
    default=64,
    show_default=True,
    help="Bytes of text in each job.",
)
@pass_invocation
def bench(invocation: Invocation, /, payload_bytes: int, **sizes: int) -> None:  # fmt: skip
    """Measure the running server by a short load from this process."""
    load = Load(queue=f"flashq-bench-{os.getpid()}", payload="x" * payload_bytes, **sizes)
    url = invocation.reachable_endpoint()
    with invocation.progress() as progress:
        figures = asyncio.run(_measure(load, url, invocation.token, progress))
    if invocation.as_json:
        invocation.documents(figures)
        return
    table = table_of(
        "measure", "jobs", "seconds", "jobs/s", "p50 µs", "p99 µs",
        numbers=["jobs", "seconds", "jobs/s", "p50 µs", "p99 µs"],
    )  # fmt: skip
    for one in figures:
        table.add_row(
            one.measure,
            f"{one.jobs:,}",
            f"{one.seconds:.3f}",
            f"{one.jobs_per_second:,.0f}",
            f"{one.p50_us:,.0f}",
            f"{one.p99_us:,.0f}",
        )
    invocation.table(table)


async def _measure(load: Load, url: str, token: str | None, progress: Progress) -> list[Figure]:
    from flashq.client.async_client import AsyncClient

    measures = (
        (push_batches, load.count),
        (pull_and_ack_batches, load.count),
        (push_singles, load.singles),
        (pull_and_ack_singles, load.singles),
        (push_one_at_a_time, min(load.singles, ONE_AT_A_TIME_MAX)),
    )
    figures = []
    async with AsyncClient(url, token=token, timeout=CALL_TIMEOUT_MS) as client:
        try:
            for measure, total in measures:
                name = measure.__name__.replace("_", " ")
                task = progress.add_task(name, total=total)
                watch = Stopwatch(name)
                jobs = await measure(client, load, watch, partial(progress.advance, task))
                figures.append(watch.figure(jobs))
        finally:
            await client.obliterate(load.queue)
    return figures


def _parts(count: int, size: int) -> Iterator[int]:
    """Yield the sizes of the parts that a count is cut into."""
    for start in range(0, count, size):
        yield min(size, count - start)


async def _side_by_side(count: int, work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(work() for _ in range(count)))


async def push_batches(client: AsyncClient, load: Load, watch: Stopwatch, advance: Advance) -> int:
    """Push `count` jobs in batches."""
    parts = _parts(load.count, load.batch)

    async def work() -> None:
        for size in parts:
            entries = [{"data": load.payload}] * size
            await watch.timed(client.push_batch(load.queue, entries))
            advance(size)

    await _side_by_side(load.in_flight, work)
    return load.count


async def pull_and_ack_batches(
    client: AsyncClient, load: Load, watch: Stopwatch, advance: Advance
) -> int:
    """Take and complete jobs in batches until there are none."""

    async def cycle() -> int:
        jobs: list[Job] = await client.pull_batch(load.queue, load.batch, 0)
        return await client.ack_batch(jobs)

    return await _until_empty(cycle, load.in_flight, watch, advance)


async def _until_empty(
    cycle: Callable[[], Awaitable[int]], in_flight: int, watch: Stopwatch, advance: Advance
) -> int:
    """Repeat a cycle, many side by side, until it finds no job; return how many it found."""
    total = 0

    async def work() -> None:
        nonlocal total
        while found := await watch.timed(cycle()):
            total += found
            advance(found)

    await _side_by_side(in_flight, work)
    return total


async def push_singles(client: AsyncClient, load: Load, watch: Stopwatch, advance: Advance) -> int:
    """Push `singles` jobs, each in a request of its own, many under way at a time."""
    await _push_each(client, load, watch, advance, load.singles, load.singles_in_flight)
    return load.singles


async def pull_and_ack_singles(
    client: AsyncClient, load: Load, watch: Stopwatch, advance: Advance
) -> int:
    """Take and complete jobs one by one, many under way at a time."""

    async def cycle() -> int:
        job = await client.pull(load.queue, 0)
        if job is None:
            return 0
        await client.ack(job)
        return 1

    return await _until_empty(cycle, load.singles_in_flight, watch, advance)


async def push_one_at_a_time(
    client: AsyncClient, load: Load, watch: Stopwatch, advance: Advance
) -> int:
    """Push jobs, each after the answer to the one before it."""
    count = min(load.singles, ONE_AT_A_TIME_MAX)
    await _push_each(client, load, watch, advance, count, 1)
    return count


async def _push_each(
    client: AsyncClient,
    load: Load,
    watch: Stopwatch,
    advance: Advance,
    count: int,
    in_flight: int,
) -> None:
    places = iter(range(count))

    async def work() -> None:
        for _ in places:
            await watch.timed(client.push(load.queue, load.payload))
            advance(1)

    await _side_by_side(in_flight, work)
