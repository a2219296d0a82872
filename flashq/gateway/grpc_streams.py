"""A queue's jobs on their way into one stream.

Owns the bounded buffer between pulling and sending, and whose the jobs are: the stream's, until
they are settled or it ends. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Self

from flashq.errors import FlashQError
from flashq.gateway.grpc_requests import WAIT_MS, Requests
from flashq.gateway.lanes import Holder
from flashq.protocol.objects import JobView


class JobStream:
    """The jobs of one stream.

    Use it as a context: at its end everything that was pulled and not settled goes back at once. A
    stream that breaks off has lost what it was sent; one that its client or the server ends in
    order has not, and nothing that was never sent is lost.

    Args:
        requests: where jobs are pulled.
        queue: whose jobs.
        batch_size: most jobs pulled at a time.
        buffer_max: most jobs pulled and not yet sent.
    """

    def __init__(self, requests: Requests, queue: str, batch_size: int, buffer_max: int) -> None:
        self._requests: Final = requests
        self._queue: Final = queue
        self._batch_size: Final = batch_size
        self._buffer_max: Final = buffer_max
        self._buffer: deque[JobView] = deque()
        self._changed: Final = asyncio.Condition()
        self.holder: Final = Holder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_lost = kind is not None and not issubclass(kind, FlashQError)
        self._requests.leave(self.holder, is_lost=is_lost, unsent={job.id for job in self._buffer})

    async def fill(self) -> None:
        """Pull jobs as long as there is room, and never return.

        Raises:
            FlashQError: a pull is refused, or the door closes.
        """
        changed = self._changed
        while True:
            async with changed:
                await changed.wait_for(lambda: len(self._buffer) < self._buffer_max)
            count = min(self._batch_size, self._buffer_max - len(self._buffer))
            jobs = await self._requests.pull(self._queue, count, WAIT_MS, self.holder)
            async with changed:
                self._buffer += jobs
                changed.notify_all()

    async def jobs(self) -> AsyncIterator[JobView]:
        """Yield the jobs in the order of their delivery, without end."""
        changed = self._changed
        while True:
            async with changed:
                await changed.wait_for(lambda: self._buffer)
                job = self._buffer.popleft()
                changed.notify_all()
            yield job


async def until_one_ends(*parts: Coroutine[Any, Any, None]) -> None:
    """Run the parts of a call beside each other until the first of them ends; cancel the rest.

    Raises:
        Exception: what that part raised.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
