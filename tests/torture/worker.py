"""A worker: takes jobs, ends them, and writes down what it had and what it was told.

`python -m tests.torture.worker DIRECTORY NAME KIND ADDRESS SEED TIMEOUT_MS`, until SIGTERM. A
`bare` one uses the client and writes everything; a `hasty` one too, but it gives its calls so
little time that some answers come too late; a `plain` one is the `Worker` that users have, which
does not tell its handler what became of an ack, so that its ledger has no `Ended`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from flashq.client.async_client import AsyncClient
from flashq.client.results import Job
from flashq.errors import FlashQError
from flashq.worker.job import AsyncWorkerJob
from flashq.worker.process import Worker
from tests.torture.ledger import Declined, Delivered, Ended, Ending, Pen, now
from tests.torture.workload import QUEUES, Payload

PULL_MAX: Final = 30
PARKED_MS: Final = 1000
CONCURRENCY: Final = 5
"""Of a plain worker, which is always hungry; it leaves the others their part."""
LEAST_MS: Final = 15
PAUSE_S_MAX: Final = 0.3
"""Jobs have to wait now and then, so that shards die with some in their queues."""
RETRY_S: Final = 0.1
HASTE_MS: Final = 60
"""How long a hasty worker waits for the answer to an ack."""


class Intended(Exception):
    """A handler fails because the payload says so."""


def result_of(uid: str) -> Payload:
    """Return what a job's result is."""
    return Payload(uid)


class BareWorker:
    """Pulls from every queue by itself.

    Args:
        pen: writes its ledger.
        address: of the router.
        random: how much it pulls.
        timeout_ms: how long it waits for an answer.
    """

    def __init__(self, pen: Pen, address: str, random: Random, timeout_ms: int) -> None:
        self._pen = pen
        self._random = random
        self._client = AsyncClient(address, timeout=timeout_ms)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until SIGTERM, and end what was begun."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        async with asyncio.TaskGroup() as pulls:
            for queue in QUEUES:
                pulls.create_task(self._pull(queue))
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._client.close()

    async def _pull(self, queue: str) -> None:
        while not self._stopping.is_set():
            count = self._random.randint(1, PULL_MAX)
            try:
                jobs = await self._client.pull_batch(queue, count, PARKED_MS)
            except FlashQError:
                await self._linger(RETRY_S)
                continue
            if jobs:
                await self._work(jobs)
                await self._linger(self._random.uniform(0, PAUSE_S_MAX))

    async def _work(self, jobs: list[Job]) -> None:
        """End those at once that take no time, and the others after theirs."""
        payloads = [msgspec.convert(job.data, Payload) for job in jobs]
        self._pen.write(
            *(
                Delivered(now(), job.id, job.token or 0, job.attempts, job.queue, payload.u)
                for job, payload in zip(jobs, payloads, strict=True)
            )
        )
        quick: list[tuple[Job, Payload]] = []
        for job, payload in zip(jobs, payloads, strict=True):
            if payload.h or payload.f > job.attempts:
                self._go_on(self._end_one(job, payload))
            else:
                quick.append((job, payload))
        if len(quick) == 1:
            await self._end_one(*quick[0])
        elif quick:
            await self._ack(quick)

    def _go_on(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ack(self, some: list[tuple[Job, Payload]]) -> None:
        jobs = [job for job, _ in some]
        leases = [(job.id, job.token or 0) for job in jobs]
        self._pen.write(Ending(now(), "ack", leases))
        try:
            count = await self._client.ack_batch(jobs, results=[result_of(p.u) for _, p in some])
        except FlashQError as error:
            self._note(error, "ack", leases)
            return  # they come again, or are done
        if count == len(jobs):
            self._pen.write(Ended(now(), "ack", leases))

    async def _end_one(self, job: Job, payload: Payload) -> None:
        if payload.h:
            await self._linger(payload.h / 1000)
        way = "fail" if payload.f > job.attempts else "ack"
        leases = [(job.id, job.token or 0)]
        self._pen.write(Ending(now(), way, leases))
        try:
            if way == "ack":
                await self._client.ack(job, result_of(payload.u))
            else:
                await self._client.fail(job, "as intended")
        except FlashQError as error:
            self._note(error, way, leases)
            return
        self._pen.write(Ended(now(), way, leases))

    def _note(self, error: FlashQError, way: str, leases: list[tuple[int, int]]) -> None:
        """Write down an error that promises that nothing happened."""
        if error.retryable:
            self._pen.write(Declined(now(), way, leases, error.code))

    async def _linger(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def plain_worker(pen: Pen, address: str) -> Worker:
    """Return a `Worker` whose handler writes down what it is about to do."""
    never = asyncio.Event()

    async def handle(job: AsyncWorkerJob) -> Payload:
        payload, token = msgspec.convert(job.data, Payload), job.job.token or 0
        pen.write(Delivered(now(), job.id, token, job.attempts, job.queue, payload.u))
        with suppress(TimeoutError):
            await asyncio.wait_for(never.wait(), max(payload.h, LEAST_MS) / 1000)
        way = "fail" if payload.f > job.attempts else "ack"
        pen.write(Ending(now(), way, [(job.id, token)]))
        if way == "fail":
            raise Intended
        return result_of(payload.u)

    return Worker(QUEUES, handle, url=address, concurrency=CONCURRENCY)


def main(directory: str, name: str, kind: str, address: str, seed: str, timeout_ms: str) -> None:
    """Work until SIGTERM."""
    pen = Pen(Path(directory), name)
    if kind == "plain":
        plain_worker(pen, address).run()
    else:
        random = Random(f"{seed}.{name}")
        patience_ms = HASTE_MS if kind == "hasty" else int(timeout_ms)
        asyncio.run(BareWorker(pen, address, random, patience_ms).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
