"""What follows from records: which queues to serve, whose end to tell, which events to publish.

Reads the state as it is *before* the records take effect, because afterwards jobs may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from msgspec import Raw, Struct

from flashq.errors import BadMessage
from flashq.ids import job_id
from flashq.protocol import records as r
from flashq.protocol.codec import transcode
from flashq.protocol.records import AnyRecord
from flashq.shard.lifecycle import Job
from flashq.shard.state import ShardState


class Ended(Struct):
    """A job's end, for those that wait for it: `how` is completed (maybe with a result), failed,
    cancelled or gone."""

    id: int
    how: str
    reason: str | None = None
    result: bytes | None = None


class Happening(Struct):
    """An event before it is numbered."""

    event: str
    queue: str
    ids: list[int]
    error: str | None = None
    progress: int | None = None
    message: str | None = None
    data: list[Raw | None] | None = None


class Aftermath:
    """What the records of one entry lead to.

    Args:
        state: as it is before they take effect.
        audience: the queues that somebody listens to.
        wanted: tells of an event and a queue whether a webhook wants that; None: none wants any.
    """

    def __init__(
        self,
        state: ShardState,
        *,
        audience: Container[str],
        wanted: Callable[[str, str], bool] | None = None,
    ) -> None:
        self._state = state
        self._audience = audience
        self._wanted = wanted
        self.woken: set[str] = set()
        self.ended: list[Ended] = []
        self.happenings: list[Happening] = []
        #: the queues of jobs that are parked by the same entry
        self._parked_now: dict[int, str] = {}

    def note(self, records: list[AnyRecord]) -> None:
        """Take in the records of one entry."""
        for record in records:
            method = getattr(self, f"_{type(record).__name__.lower()}", None)
            if method is not None:
                method(record)

    def _is_heard(self, event: str, queue: str) -> bool:
        wanted = self._wanted
        return queue in self._audience or (wanted is not None and wanted(event, queue))

    def _say(self, event: str, queue: str, ids: list[int], **more: Any) -> None:
        if self._is_heard(event, queue):
            self.happenings.append(Happening(event, queue, ids, **more))

    def _say_by_queue(self, event: str, ids: list[int], **more: Any) -> None:
        queues: dict[str, list[int]] = {}
        for known in ids:
            job = self._state.index.get(known)
            if job is not None:
                queues.setdefault(job.queue, []).append(known)
        self.woken |= queues.keys()
        for queue, some in queues.items():
            self._say(event, queue, some, **more)

    def _job(self, known: int) -> Job | None:
        return self._state.index.get(known)

    # --- by record

    def _pushed(self, record: r.Pushed) -> None:
        self.woken.add(record.queue)
        if self._is_heard("pushed", record.queue):
            state = self._state
            step = state.shard_count
            start = job_id(record.first, state.shard, step)
            ids = list(range(start, start + len(record.data) * step, step))
            is_json = record.options is not None and record.options.json
            data = [_told(payload, is_json=is_json) for payload in record.data]
            self._say("pushed", record.queue, ids, data=data)

    def _parked(self, record: r.Parked) -> None:
        state = self._state
        new = job_id(record.sequence, state.shard, state.shard_count)
        self._parked_now[new] = record.queue

    def _queue_of(self, known: int) -> str | None:
        job = self._state.index.get(known)
        return self._parked_now.get(known) if job is None else job.queue

    def _confirmed(self, record: r.Confirmed) -> None:
        queue = self._queue_of(record.id)
        if queue is not None:
            self._say("pushed", queue, [record.id])

    def _freed(self, record: r.Freed) -> None:
        queue = self._queue_of(record.id)
        if queue is not None:
            self.woken.add(queue)

    def _delivered(self, record: r.Delivered) -> None:
        self._say("active", record.queue, record.ids)

    def _acked(self, record: r.Acked) -> None:
        groups: dict[str, tuple[list[int], list[Raw | None]]] = {}
        for position, known in enumerate(record.ids):
            job = self._job(known)
            if job is None:
                continue
            result = record.results[position] if record.results else None
            self.ended.append(Ended(known, "completed", result=result))
            ids, results = groups.setdefault(job.queue, ([], []))
            ids.append(known)
            results.append(None if result is None else Raw(result))
        self.woken |= groups.keys()
        for queue, (ids, results) in groups.items():
            self._say("completed", queue, ids, data=results if record.results else None)

    def _failed(self, record: r.Failed) -> None:
        queue = self._queue_of(record.id)
        if queue is None:
            return
        self.woken.add(queue)
        error = record.error
        if error is None and record.reason != "failed":  # which the event says already
            error = record.reason
        if record.reason in ("timeout", "stalled"):
            self._say(record.reason, queue, [record.id], error=error)
        if record.final:
            self.ended.append(Ended(record.id, "failed"))
        self._say("failed" if record.final else "retrying", queue, [record.id], error=error)

    def _requeued(self, record: r.Requeued) -> None:
        event = {"moved": "delayed", "lost": "stalled"}.get(record.reason)
        if event is not None:
            self._say_by_queue(event, record.ids)
        else:
            self.woken |= {job.queue for known in record.ids if (job := self._job(known))}

    def _progressset(self, record: r.ProgressSet) -> None:
        job = self._job(record.id)
        if job is not None:
            self._say(
                "progress",
                job.queue,
                [job.id],
                progress=record.progress,
                message=record.message,
            )

    def _promoted(self, record: r.Promoted) -> None:
        self._say_by_queue("promoted", [record.id])

    def _removed(self, record: r.Removed) -> None:
        if record.reason == "retention":
            return
        self.ended += [Ended(known, "gone") for known in record.ids]
        if record.reason in ("evicted", "purged", "cleaned", "rejected"):
            self.woken |= {job.queue for known in record.ids if (job := self._job(known))}
            return
        self._say_by_queue("expired" if record.reason == "expired" else "cancelled", record.ids)

    def _cancelled(self, record: r.Cancelled) -> None:
        self.ended += [Ended(known, "cancelled", record.reason) for known in record.ids]
        self._say_by_queue("cancelled", record.ids, error=record.reason)

    def _retried(self, record: r.Retried) -> None:
        self.woken |= {job.queue for known in record.ids if (job := self._job(known))}

    def _queueset(self, record: r.QueueSet) -> None:
        self.woken.add(record.queue)


def _told(payload: bytes, *, is_json: bool) -> Raw | None:
    """Return a payload as events carry it, in MessagePack; None for one that it cannot say."""
    if not is_json:
        return Raw(payload)
    try:
        return Raw(transcode(payload, to_json=False))
    except BadMessage:
        return None
