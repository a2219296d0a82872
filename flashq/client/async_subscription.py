"""What an asyncio client's listener holds: an iterator of events.

Owns the waiting of one listener; what it is handed and when is the client's.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from flashq.client.results import Event, Gap
from flashq.client.subscriptions import EventBuffer
from flashq.errors import ConnectionClosed

if TYPE_CHECKING:
    from flashq.client.async_client import AsyncClient


class AsyncSubscription(EventBuffer):
    """An asynchronous iterator of events, and of a `Gap` wherever some are missing.

    It listens from `async with`, or else from its first event asked for, until it or its client is
    closed.
    """

    def __init__(self, queue: str, events: frozenset[str], client: AsyncClient) -> None:
        super().__init__(queue, events)
        self._client: Final = client
        self._arrived: Final = asyncio.Event()
        self._started = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap:
        try:
            await self._start()
        except ConnectionClosed:
            if not self._client.is_closed:
                raise
            raise StopAsyncIteration from None
        while True:
            item = self.take()
            if item is not None:
                return item
            if isinstance(self.ended, ConnectionClosed):
                raise StopAsyncIteration
            if self.ended is not None:
                raise self.ended
            self._arrived.clear()
            await self._arrived.wait()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._client.listen(self)

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._arrived.set()

    async def close(self) -> None:
        """Listen no more."""
        if self.ended is None:
            self.ended = ConnectionClosed()
            self.wake()
            if self._started:
                await self._client.unlisten(self)
