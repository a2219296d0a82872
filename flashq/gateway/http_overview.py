"""What the whole server looks like, asked once for everybody at the HTTP door who wants to know.

Owns the questions that gather it, and the short time that an answer is shared. Reads nothing else
and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from flashq.errors import FlashQError
from flashq.gateway.bridge import Bridge
from flashq.gateway.http_replies import refusal_of
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode, encode_json
from flashq.protocol.crons import CronsReply, ListCrons
from flashq.protocol.objects import Metrics, MetricsPoint, QueueInfo
from flashq.protocol.paging import LISTED_MAX
from flashq.protocol.queues import ListQueues, QueuesReply
from flashq.protocol.server import (
    GetMetrics,
    GetMetricsHistory,
    ListWorkers,
    MetricsHistoryReply,
    MetricsReply,
    Stats,
    StatsReply,
    WorkerInfo,
    WorkersReply,
)
from flashq.protocol.webhooks import ListWebhooks, WebhooksReply, WebhookView

QUEUES_SHOWN: Final = 200
"""Queues on a dashboard: those with most jobs. It asks for others by name."""
WORKERS_SHOWN: Final = 200
WORKER_QUEUES_SHOWN: Final = 10
"""How many of each worker's queues are on it."""
QUEUES_COUNTED: Final = 1000
"""Queues with figures of their own where everything is counted: those with most jobs."""
SHARED_S: Final = 0.9
"""How long an answer serves also those who ask later: a little less than a dashboard's second."""
HISTORY_SHARED_S: Final = 2.0
"""How long dashboards are shown the same history; it gets a point every 5 s."""
HISTORY_ANSWER_S: Final = 1.0
"""How long they wait for a newer one before they see the last again."""
STUCK_S: Final = 5.0
"""How long a shard's log may stay unsafe without any progress before storage is said to hang."""

R = TypeVar("R", bound=Reply)


class View(Struct, kw_only=True, frozen=True):
    """The server at one moment, with its fullest queues; `timestamp` is Unix milliseconds."""

    stats: StatsReply
    metrics: Metrics
    queues: list[QueueInfo]
    queues_total: int
    workers: list[WorkerInfo]
    timestamp: int
    silent_shards: list[int] = []
    """Of which `metrics` has what they said last."""
    unknown_shards: list[int] = []
    """Of which something is not in `stats` or `metrics`, because nobody has heard of them yet."""


class Overview:
    """Everybody's view of the server.

    Args:
        bridge: whom to ask.
        wall_ms, mono_s: the clocks.
    """

    def __init__(
        self, bridge: Bridge, wall_ms: Callable[[], int], mono_s: Callable[[], float]
    ) -> None:
        self._bridge: Final = bridge
        self._wall_ms: Final = wall_ms
        self._mono_s: Final = mono_s
        #: what dashboards are shown, and for how long
        self._points: list[MetricsPoint] = []
        self._points_until = 0.0
        self._view: View | None = None
        self._view_until = 0.0
        #: the gathering under way
        self._looking: asyncio.Task[View] | None = None
        self.storage: Final = StorageWatch()

    async def close(self) -> None:
        """End what is under way."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError, FlashQError):
                await self._looking

    async def count(self) -> View:
        """Return the server as it is now, with all that is counted.

        Raises:
            FlashQError: it cannot be asked.
        """
        return await self._gather(QUEUES_COUNTED, LISTED_MAX)

    async def look(self) -> View:
        """Return the server as dashboards show it, as it is now or was a moment ago.

        Raises:
            FlashQError: it cannot be asked.
        """
        if self._view is not None and self._mono_s() < self._view_until:
            return self._view
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> View:
        self._view = await self._gather(QUEUES_SHOWN, WORKERS_SHOWN)
        self._view_until = self._mono_s() + SHARED_S
        return self._view

    async def _gather(self, queues_max: int, workers_max: int) -> View:
        stats, metrics, queues, workers = await asyncio.gather(
            self.stats(),
            self._ask(GetMetrics(queues=0), MetricsReply),
            self._ask(ListQueues(fullest=True, limit=queues_max), QueuesReply),
            self._ask(ListWorkers(limit=workers_max), WorkersReply),
        )
        return View(
            stats=stats,
            metrics=metrics.metrics,
            queues=queues.queues,
            queues_total=queues.total,
            workers=workers.workers,
            timestamp=self._wall_ms(),
            silent_shards=metrics.missing_shards,
            unknown_shards=sorted({*stats.unknown_shards, *metrics.unknown_shards}),
        )

    async def history(self) -> list[MetricsPoint]:
        """Ask the coordinator for the figures of the last minutes, oldest first.

        Raises:
            FlashQError: it cannot be asked.
        """
        return (await self._ask(GetMetricsHistory(), MetricsHistoryReply)).points

    async def recent_history(self) -> list[MetricsPoint]:
        """Return the figures of the last minutes, or those of before while nobody can be asked."""
        if self._mono_s() >= self._points_until:
            self._points_until = self._mono_s() + HISTORY_SHARED_S
            with suppress(FlashQError, TimeoutError):
                async with asyncio.timeout(HISTORY_ANSWER_S):
                    self._points = await self.history()
        return self._points

    async def webhooks(self) -> list[WebhookView]:
        """Ask the coordinator now.

        Raises:
            FlashQError: it cannot be asked.
        """
        return (await self._ask(ListWebhooks(limit=LISTED_MAX), WebhooksReply)).webhooks

    async def stats(self) -> StatsReply:
        """Ask every shard now.

        Raises:
            FlashQError: they cannot be asked.
        """
        stats = await self._ask(Stats(), StatsReply)
        self.storage.note(stats, self._mono_s())
        return stats

    async def crons(self, after: str | None = None, limit: int | None = None) -> CronsReply:
        """Ask the coordinator now.

        Args:
            after: the name behind which the page begins; None for the first.
            limit: how many; None for the default.

        Raises:
            FlashQError: it cannot be asked.
        """
        return await self._ask(ListCrons(after=after, limit=limit), CronsReply)

    async def queue_names(self) -> list[str]:
        """Ask for all queues now, page by page.

        Raises:
            FlashQError: the shards cannot be asked.
        """
        names: list[str] = []
        after = None
        while True:
            found = await self._ask(ListQueues(after=after, limit=LISTED_MAX), QueuesReply)
            names += [info.name for info in found.queues]
            after = found.next
            if after is None:
                return names

    async def _ask(self, request: Struct, kind: type[R]) -> R:
        answer = await self._bridge.request(encode_json(request), json=True)
        if not answer.ok:
            raise refusal_of(answer.body)
        return decode(answer.body, kind, json=True)


class StorageWatch:
    """Tells from what the shards say whether storage makes progress."""

    def __init__(self) -> None:
        #: by shard: how far its log was safe, and since when it has been no further
        self._stuck: dict[int, tuple[int, float]] = {}
        self._now = 0.0

    def note(self, stats: StatsReply, now_s: float) -> None:
        """Take in what the shards say at a time (monotonic seconds)."""
        self._now = now_s
        stuck: dict[int, tuple[int, float]] = {}
        for shard in stats.shards:
            if shard.safe_seq < shard.log_seq:
                known = self._stuck.get(shard.shard)
                same = known is not None and known[0] == shard.safe_seq
                stuck[shard.shard] = known if same and known else (shard.safe_seq, now_s)
        self._stuck = stuck

    @property
    def problems(self) -> list[str]:
        """What is wrong with storage, as far as is known."""
        waits = [self._now - since for _, since in self._stuck.values()]
        worst = max(waits, default=0.0)
        if worst < STUCK_S:
            return []
        return [f"storage has confirmed nothing for {worst:.0f} s"]


def _shown(worker: WorkerInfo) -> WorkerInfo:
    return replace(worker, queues=worker.queues[:WORKER_QUEUES_SHOWN])


def dashboard_frame(view: View, history: Any) -> bytes:
    """Return what a dashboard is told each second: no more, however much there is."""
    stats = view.stats
    return encode_json(
        {
            "stats": {
                "queued": stats.queued,
                "processing": stats.processing,
                "delayed": stats.delayed,
                "dlq": stats.dlq,
                "completed": stats.completed,
                "cancelled": stats.cancelled,
                "waiting_dependencies": stats.waiting_dependencies,
            },
            "metrics": view.metrics,
            "queues": view.queues,
            "queues_total": view.queues_total,
            "workers": [_shown(worker) for worker in view.workers],
            "metrics_history": history,
            "missing_shards": stats.missing_shards,
            "timestamp": view.timestamp,
        }
    )
