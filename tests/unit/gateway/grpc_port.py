"""A bridge for the gRPC door's own parts: tests answer for the shards."""

from __future__ import annotations

import asyncio
from typing import Any

from flashq.gateway.asking import Ask
from flashq.gateway.bridge import Answer
from flashq.gateway.lanes import Holder
from flashq.gateway.pending import Pending
from tests.unit.gateway.port import Asked, FakePort


class GrpcPort(FakePort):
    """What those parts take for the bridge."""

    def __init__(self) -> None:
        super().__init__()
        self.abandoned: list[Pending] = []

    async def carry_out(self, ask: Ask, holder: Holder | None = None) -> Answer:
        """Take a request on, and wait until the test has answered it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.ask(ask, holder, lambda body, ok: future.set_result(Answer(body, ok)))
        return await future

    def abandon(self, pending: Pending) -> None:
        """Note that nobody waits any more."""
        self.abandoned.append(pending)

    async def next(self, word: str) -> Asked:
        """Return the oldest request that was not taken yet, as soon as it is there."""
        while not self.asked:
            await asyncio.sleep(0)
        asked = self.asked.pop(0)
        assert asked.word == word
        return asked


def delivered(*ids: int) -> dict[str, Any]:
    """Return the reply that hands jobs out."""
    return {"jobs": [{"id": n, "queue": "q", "data": {"n": n}, "token": 1000 + n} for n in ids]}
