"""What a handler may look at when it decides, and the decision it returns.

A handler reads; it changes nothing. What it wants changed it returns as records.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from flashq.errors import Busy, JobNotFound, LevelInvalid, LimitReached
from flashq.ids import shard_of_job
from flashq.protocol import records as r
from flashq.protocol.internal import AnyPeerMessage, ChildEnded, DependencyAnswer
from flashq.protocol.limits import EngineLimits
from flashq.protocol.records import AnyRecord, Options
from flashq.shard.holdings import Queue
from flashq.shard.lifecycle import (
    CANCELLED,
    COMPLETED,
    FAILED,
    Job,
    asks_to_be_kept,
    is_special,
    options_of,
)
from flashq.shard.measuring import Measures
from flashq.shard.outbox import Origin
from flashq.shard.retry import is_final, retry_delay_ms
from flashq.shard.state import ShardState

LOST_MAX: Final = 3
"""The third loss of its session makes a job a poison job: a dead letter."""


SEQUENCES_KEPT: Final = 65_536
"""So many of the reserved sequences are kept for jobs that come by mail, which is never refused."""


class Decision(Struct):
    """What a handler decided.

    Args:
        reply: the reply object; None when the answer comes later.
        records: the facts.
        durable: whether the reply waits for them to be safe; deliveries and heartbeats do not.
        sweep: what is decided in slices, and then answered (`sweeps.Sweep`).
    """

    reply: Any
    records: list[AnyRecord] = []
    durable: bool = True
    sweep: Any = None


class Context:
    """The state, the limits and the moment of one decision."""

    __slots__ = ("epoch", "level", "limits", "measures", "reserved", "state", "throughput")

    def __init__(self, state: ShardState, limits: EngineLimits, epoch: int, level: str) -> None:
        self.state = state
        self.limits = limits
        self.epoch = epoch
        #: the server's durability level
        self.level = level
        #: job ids up to this sequence are this shard's for good
        self.reserved = 2**63
        #: completions a second, lately
        self.throughput = 0.0
        self.measures: Final = Measures()

    @property
    def now_ms(self) -> int:
        """The wall clock; it never goes back."""
        return self.state.now_ms

    def job(self, job_id: int, origin: Origin) -> Job | None:
        """Return a job that a request names, None when there is none for its asker: older clients
        have it that a cancelled job is gone."""
        job = self.state.job(job_id)
        if job is not None and job.state == CANCELLED and origin.older:
            return None
        return job if job is None or origin.sight is None or origin.sees(job.queue) else None

    def outcome(self, job_id: int, origin: Origin) -> int | None:
        """Return how a job ended that a request names and that is gone (OUTCOME_ code), None when
        that is not known: of what queue it was nobody knows, so only one who may name all
        learns it."""
        return None if origin.sight is not None else self.state.outcome(job_id)

    def need_job(self, job_id: int, origin: Origin) -> Job:
        """Return a job that a request names.

        Raises:
            JobNotFound: there is none for its asker.
        """
        job = self.job(job_id, origin)
        if job is None:
            raise JobNotFound(id=job_id)
        return job

    def peer_of(self, job_id: int) -> int:
        """Return the shard that owns a job."""
        return shard_of_job(job_id, self.state.shard_count)

    def send(self, job_id: int, body: AnyPeerMessage) -> AnyRecord:
        """Return the record of a message to the shard of a job."""
        return r.Sent(self.peer_of(job_id), body)

    def level_for(self, queue: Queue | None, asked: str | None) -> str | None:
        """Return the level to store on a job: None for the server's own, unless that is memory."""
        level = asked or (queue.settings.durability if queue is not None else None) or self.level
        return None if level == self.level != "memory" else level

    def is_durable(self, job: Job | None) -> bool:
        """Tell whether what is said of a job (of no job: by the server) waits for the log."""
        level = job.options.level if job is not None and job.options is not None else None
        return (level or self.level) == "durable"

    def is_any_durable(self, records: list[AnyRecord]) -> bool:
        """Tell whether what is said of these facts, which nobody asked for, waits for the log: by
        the server's level, or by that of a job they are about.

        Args:
            records: before they take effect.
        """
        return self.level == "durable" or any(map(self._is_about_durable, records))

    def _is_about_durable(self, record: AnyRecord) -> bool:
        if isinstance(record, r.Pushed | r.Parked):
            return record.options is not None and record.options.level == "durable"
        named = getattr(record, "ids", None) or [getattr(record, "id", 0)]
        jobs = map(self.state.index.get, named)
        return any(job is not None and self.is_durable(job) for job in jobs)

    def check_room(self, jobs: int, size: int) -> None:
        """Check that the shard can take on so many jobs of so many payload bytes.

        Raises:
            Busy: it is full.
        """
        state, limits = self.state, self.limits
        if state.next_sequence + jobs > self.reserved - SEQUENCES_KEPT:
            raise Busy(detail=f"shard {state.shard} waits for storage to reserve more job ids")
        ended = state.counts[COMPLETED] + state.counts[FAILED] + state.counts[CANCELLED]
        if state.index.count - ended + jobs > limits.shard_jobs_max:
            raise Busy(detail=f"shard {state.shard} holds {limits.shard_jobs_max} jobs")
        if state.bytes + size > limits.shard_bytes_max:
            raise Busy(detail=f"shard {state.shard} holds {limits.shard_bytes_max} bytes")

    def check_retention(self, options: Options | None, jobs: int) -> None:
        """Check that so many more jobs with these options can be kept as they ask for.

        Raises:
            LimitReached: too many are.
        """
        limit = self.limits.retained_jobs_max
        if asks_to_be_kept(options) and self.state.retained + jobs > limit:
            what = f"shard {self.state.shard} holds {limit} jobs to be kept once completed"
            raise LimitReached(detail=f"{what} (retained_jobs_max)")

    def check_joinable(self, level: str | None) -> None:
        """Check that a job of this stored level may join flows and dependencies.

        Raises:
            LevelInvalid: it is of level memory.
        """
        if (level or self.level) == "memory":
            raise LevelInvalid

    # --- what follows from a job's end

    def ending(self, job: Job, reason: str | None, *, removed: bool = False) -> list[AnyRecord]:
        """Return the messages that tell others of a job's end.

        Args:
            job: the job that ends.
            reason: None when it completed, else why it did not.
            removed: it is gone, and so can never complete.
        """
        records: list[AnyRecord] = []
        options, extra = job.options, job.extra
        if options is not None and options.parent:
            body = ChildEnded(options.parent, job.id, reason, removed)
            records.append(self.send(options.parent, body))
        if extra is not None and extra.watchers:
            outcome = "completed" if reason is None else "removed" if removed else "failed"
            for dependent in extra.watchers:
                answer = DependencyAnswer(job.id, dependent, outcome, reason)
                records.append(self.send(dependent, answer))
        return records

    def failing(
        self, job: Job, reason: str, error: str | None, *, final: bool = False, counted: bool = True
    ) -> list[AnyRecord]:
        """Return what the bad end of an attempt leads to: a retry, or the job's death.

        Args:
            job: the job whose attempt ends.
            reason: failed, timeout, stalled, lost, discarded or dependency.
            error: the text that says more.
            final: it dies whatever attempts are left.
            counted: the attempt counts.
        """
        options = options_of(job)
        attempts = job.attempts + counted
        final = final or (counted and is_final(options, attempts))
        if not final:
            run_at = self.now_ms + retry_delay_ms(options, job.id, attempts)
            return [r.Failed(job.id, reason, error, run_at, False, counted)]
        died = r.Failed(job.id, reason, error, 0, True, counted)
        return [died, *self.ending(job, error or reason, removed=options.remove_on_fail)]

    def losing(self, jobs: list[Job]) -> list[AnyRecord]:
        """Return what follows when the session that held these jobs is dead."""
        back: list[int] = []
        poisoned: list[AnyRecord] = []
        for job in jobs:
            lost = 1 + (job.extra.lost if job.extra is not None else 0)
            if lost < LOST_MAX:
                back.append(job.id)
                continue
            text = f"poison: {lost} sessions were lost while they held it"
            poisoned += self.failing(job, "lost", text, final=True, counted=False)
        records: list[AnyRecord] = [r.Requeued(back, "lost", 0)] if back else []
        return records + poisoned

    def removing(self, jobs: list[Job], reason: str) -> list[AnyRecord]:
        """Return the removal of jobs, with word to whoever depends on them."""
        if not jobs:
            return []
        records: list[AnyRecord] = [r.Removed([job.id for job in jobs], reason)]
        for job in jobs:
            if is_special(job):
                records += self.ending(job, reason, removed=True)
        return records
