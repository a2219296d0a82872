"""What the router knows of the server besides what shards answer now: what the coordinator and the
supervisor have said, and what each shard has counted when it was heard last.

Owns the figures of shards that are silent. What is counted never goes back while a shard is away:
else who makes rates of it would see jobs that never were. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from flashq.protocol.histogram import Distribution, merge
from flashq.protocol.internal import Epochs
from flashq.protocol.objects import Metrics
from flashq.protocol.server import StatsReply, SupervisorStats

Supervised = Callable[[], SupervisorStats | None]
"""Gives what the server's supervisor has noted; None without one."""


class _Durations(Struct):
    """What a shard's processes have counted: those before this one, and this one."""

    epoch: int
    now: Distribution
    before: Distribution | None = None

    def total(self) -> Distribution:
        """Return both."""
        return self.now if self.before is None else merge([self.before, self.now])


class Known:
    """All of it.

    Args:
        supervisor: see `Supervised`.
    """

    def __init__(self, supervisor: Supervised = lambda: None) -> None:
        self.supervisor: Final = supervisor
        #: what the coordinator has said last
        self.coordinator = Epochs(epochs=[])
        #: what each shard has said last, without its queues
        self._metrics: Final[dict[int, Metrics]] = {}
        self._stats: Final[dict[int, StatsReply]] = {}
        #: by shard and name
        self._durations: Final[dict[tuple[int, str], _Durations]] = {}

    def metrics(
        self, told: Mapping[int, Metrics], missing: Iterable[int]
    ) -> tuple[list[Metrics], list[int]]:
        """Take what shards have counted, and add what the silent ones had when they were heard.

        Returns:
            The totals of all shards but those of which nothing is known; and those.
        """
        for shard, metrics in told.items():
            self._metrics[shard] = replace(metrics, queues=[], jobs_per_second=0.0)
        found = [self._metrics[shard] for shard in missing if shard in self._metrics]
        return [*told.values(), *found], [one for one in missing if one not in self._metrics]

    def stats(
        self, told: Mapping[int, StatsReply], missing: Iterable[int]
    ) -> tuple[list[StatsReply], list[int]]:
        """Take what shards say of their jobs, and add what the silent ones said last, without the
        condition they were in. Durations go on where a shard's last process ended.

        Returns:
            What all shards say but those of which nothing is known; and those.
        """
        found = []
        for shard, stats in told.items():
            epoch = stats.shards[0].epoch if stats.shards else 0
            whole = replace(
                stats,
                wait_seconds=self._go_on(shard, "wait", epoch, stats.wait_seconds),
                processing_seconds=self._go_on(shard, "work", epoch, stats.processing_seconds),
            )
            self._stats[shard] = replace(whole, shards=[])
            found.append(whole)
        found += [self._stats[shard] for shard in missing if shard in self._stats]
        return found, [one for one in missing if one not in self._stats]

    def _go_on(
        self, shard: int, name: str, epoch: int, told: Distribution | None
    ) -> Distribution | None:
        known = self._durations.get((shard, name))
        if told is None:
            return None if known is None else known.total()
        if known is None:
            known = self._durations[shard, name] = _Durations(epoch, told)
        elif epoch > known.epoch:
            known.before, known.epoch, known.now = known.total(), epoch, told
        elif epoch == known.epoch:
            known.now = told
        return known.total()
