"""The figures of the last minutes: one point for each interval, the same for whoever asks.

Owns when shards are asked for their figures, what is made of the answers, and what is stored: now
and then, since it is of use and not of consequence. A shard that does not answer counts with what
it said last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from flashq.coordinator.outbox import Outbox
from flashq.coordinator.parts import Form
from flashq.coordinator.shards import ShardLink
from flashq.protocol.internal import Sampled, TakeSample
from flashq.protocol.objects import MetricsPoint

INTERVAL_MS: Final = 5000
FIRST_MS: Final = 1000
"""After the first shard serves, the others have so long to do so too before the first point."""
ANSWER_MS: Final = 1000
"""So long shards have to answer."""
POINTS_MAX: Final = 60
STORED_EVERY: Final = 12
"""Points: once a minute, if there is anything new in them."""

FORM: Final[Form[list[MetricsPoint]]] = Form("history", list[MetricsPoint])


class History:
    """See the module.

    Args:
        outbox: where questions and writes go.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._points: deque[MetricsPoint] = deque(maxlen=POINTS_MAX)
        #: what each shard said last
        self._samples: dict[int, Sampled] = {}
        #: of the question under way: when it was asked, on both clocks, and who has to answer yet
        self._asked_ms: int | None = None
        self._asked_mono_ms = 0
        self._missing: set[int] = set()
        #: when shards are asked next, on the monotonic clock; None before the first one serves
        self._ask_at_ms: int | None = None
        #: points since the history was stored, and what was the last one then
        self._unstored = 0
        self._stored: MetricsPoint | None = None

    def load(self, parts: Mapping[str, bytes]) -> None:
        """Take up what was stored.

        Raises:
            ConfigError, StorageDamaged: it cannot be read.
        """
        for _, points in FORM.stored(parts):
            self._points.extend(points)
            self._stored = points[-1]

    @property
    def points(self) -> list[MetricsPoint]:
        """The points, oldest first."""
        return list(self._points)

    def tick(self, now_ms: int, mono_ms: int, shards: Sequence[ShardLink]) -> None:
        """Ask for figures when it is time, and make a point of what has been answered.

        Args:
            now_ms, mono_ms: the clocks.
            shards: those that serve and can be reached.
        """
        if self._asked_ms is not None and mono_ms >= self._asked_mono_ms + ANSWER_MS:
            self._add_point(self._asked_ms)
        if not shards:
            return
        if self._ask_at_ms is None:
            self._ask_at_ms = mono_ms + FIRST_MS
        elif mono_ms >= self._ask_at_ms:
            self._ask_at_ms = mono_ms + INTERVAL_MS
            self._asked_ms, self._asked_mono_ms = now_ms, mono_ms
            self._missing = {link.shard for link in shards}
            for link in shards:
                assert link.identity is not None, "it can be reached"
                self._outbox.send(link.identity, TakeSample(at=now_ms))

    def next_at_ms(self, *, is_served: bool) -> int | None:
        """Return when `tick` has something to do, on the monotonic clock.

        Args:
            is_served: there are shards to ask.
        """
        if self._asked_ms is not None:
            return self._asked_mono_ms + ANSWER_MS
        return self._ask_at_ms if is_served else None

    def take(self, sample: Sampled) -> None:
        """Take a shard's figures."""
        self._samples[sample.shard] = sample
        if sample.at == self._asked_ms:
            self._missing.discard(sample.shard)
            if not self._missing:
                self._add_point(self._asked_ms)

    def _add_point(self, at_ms: int) -> None:
        self._asked_ms = None
        samples = self._samples.values()
        completed = sum(sample.completed for sample in samples)
        latency_ms = sum(sample.latency_ms_sum for sample in samples)
        throughput = 0.0
        if self._points:
            before = self._points[-1]
            passed_ms = at_ms - before.timestamp
            if passed_ms > 0 and completed > before.completed:
                throughput = (completed - before.completed) * 1000 / passed_ms
        self._points.append(
            MetricsPoint(
                timestamp=at_ms,
                queued=sum(sample.queued for sample in samples),
                processing=sum(sample.processing for sample in samples),
                completed=completed,
                failed=sum(sample.failed for sample in samples),
                throughput=throughput,
                latency_ms=latency_ms / completed if completed else 0.0,
            )
        )
        self._unstored += 1

    def store(self, *, now: bool = False) -> None:
        """Write the history if that is due and would tell something new.

        Args:
            now: because it is the end.
        """
        if self._unstored < (1 if now else STORED_EVERY):
            return
        self._unstored = 0
        last = self._points[-1]
        if self._stored is None or _figures(last) != _figures(self._stored):
            self._stored = last
            self._outbox.write(FORM.put("", self.points), is_told=False)


def _figures(point: MetricsPoint) -> tuple[int, int, int, int]:
    return point.queued, point.processing, point.completed, point.failed
