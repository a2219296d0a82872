"""Whether the server works, said truthfully.

Owns the three answers: alive (this gateway's loop turns), ready (requests can be carried out), and
healthy (router, every shard, coordinator and storage have just answered; who did not is named, and
so is a supervisor that hangs).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from flashq.errors import FlashQError, StorageDamaged, StorageUnavailable, Unhealthy
from flashq.gateway.bridge import Bridge
from flashq.gateway.http_commands import respond
from flashq.gateway.http_overview import Overview
from flashq.gateway.http_replies import envelope
from flashq.protocol.codec import encode_json, error_reply

ANSWER_S: Final = 3.0
"""How long anybody may take to answer; the router names silent shards after 2 s."""


class Health:
    """Answers whether the server works.

    Args:
        bridge: the way to it.
        overview: whom to ask for its shards.
        has_postgres: whether it keeps its jobs in PostgreSQL.
    """

    def __init__(self, bridge: Bridge, overview: Overview, *, has_postgres: bool) -> None:
        self._bridge: Final = bridge
        self._overview: Final = overview
        self._has_postgres: Final = has_postgres

    async def live(self, _request: Request) -> Response:
        """Say that this gateway answers."""
        return respond(envelope(encode_json({"status": "alive"})))

    async def ready(self, _request: Request) -> Response:
        """Say whether requests can be carried out, as far as is known without asking."""
        problems = self._unready()
        return _verdict(problems, {"status": "not ready" if problems else "ready"})

    async def health(self, _request: Request) -> Response:
        """Ask everybody, and name who does not answer."""
        if self._bridge.is_connected:
            shards, coordinator = await asyncio.gather(self._shards(), self._coordinator())
            problems = [*shards, *coordinator, *self._overview.storage.problems]
        else:
            problems = self._unready()
        storage_works = not any("storage" in problem for problem in problems)
        return _verdict(
            problems,
            {
                "status": "unhealthy" if problems else "healthy",
                "node_id": None,
                "is_leader": True,
                "cluster_enabled": False,
                "postgres_connected": self._has_postgres and storage_works,
                "problems": problems,
            },
        )

    def _unready(self) -> list[str]:
        if not self._bridge.is_connected:
            return ["the router does not answer"]
        epochs = self._bridge.epochs
        return [f"shard {shard} is not ready" for shard, epoch in enumerate(epochs) if not epoch]

    async def _shards(self) -> list[str]:
        stats, problem = await _answer("the router", self._overview.stats())
        if problem is not None:
            return [problem]
        problems = [f"shard {shard} does not answer" for shard in stats.missing_shards]
        if stats.storage:
            problems.insert(0, stats.storage)
        if stats.supervisor is not None and stats.supervisor.hangs:
            silent_s = stats.supervisor.silent_ms // 1000
            problems.append(f"the supervisor's loop has not turned for {silent_s} s")
        return problems

    async def _coordinator(self) -> list[str]:
        _, problem = await _answer("the coordinator", self._overview.crons(limit=0))
        return [] if problem is None else [problem]


async def _answer(who: str, asking: Awaitable[Any]) -> tuple[Any, str | None]:
    """Return somebody's answer, or what is wrong with them."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await asking, None
    except TimeoutError:
        return None, f"{who} does not answer"
    except (StorageUnavailable, StorageDamaged) as error:
        return None, error.text
    except FlashQError as error:
        return None, f"{who} does not answer: {error.text}"


def _verdict(problems: list[str], data: dict[str, Any]) -> Response:
    if not problems:
        return respond(envelope(encode_json(data)))
    error = Unhealthy(detail="; ".join(problems))
    refusal = error_reply(error)
    body = {
        "ok": False,
        "error": refusal.error,
        "code": refusal.code,
        "retryable": refusal.retryable,
        "data": data,
    }
    return respond(encode_json(body), error.http_status)
