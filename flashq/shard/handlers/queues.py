"""Whole queues: pause, limits, defaults, removal, counts, dead letters, and the shard's totals."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from msgspec.structs import replace

from flashq.errors import FieldTooLarge, StateInvalid
from flashq.protocol import queues as q
from flashq.protocol import records as r
from flashq.protocol.base import CountReply, Reply
from flashq.protocol.internal import COORDINATOR, Obliterated
from flashq.protocol.objects import Metrics, QueueInfo, QueueMetrics
from flashq.protocol.paging import Listed, fullest, page
from flashq.protocol.records import AnyRecord, QueueSettings
from flashq.protocol.server import GetMetrics, MetricsReply, Stats, StatsReply
from flashq.shard.context import Context, Decision
from flashq.shard.holdings import DEFAULT_SETTINGS, Queue
from flashq.shard.lifecycle import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    DELAYED,
    FAILED,
    FLOW,
    KEPT,
    PARKED,
    STATES,
    STATES_BY_NAME,
    WAITING,
    Job,
)
from flashq.shard.outbox import Origin
from flashq.shard.sweeps import Sweep, jobs_of
from flashq.shard.views import fitting, job_view

DLQ_COUNT: Final = 100
DLQ_COUNT_MAX: Final = 10_000
_NO_COUNTS: Final = [0] * STATES
_OLDER_STATES: Final = "Invalid state. Use: waiting, delayed, completed, failed"
"""The text that older clients know."""
_CLEANABLE: Final = (WAITING, DELAYED, COMPLETED, FAILED, CANCELLED)


def _settings(context: Context, name: str) -> QueueSettings:
    queue = context.state.queues.get(name)
    return DEFAULT_SETTINGS if queue is None else queue.settings


def _set(context: Context, name: str, reply: Any = None, **changes: Any) -> Decision:
    """Decide a change of a queue's settings."""
    before = _settings(context, name)
    after = replace(before, **changes)
    records: list[AnyRecord] = [] if after == before else [r.QueueSet(name, after)]
    return Decision(Reply() if reply is None else reply, records, context.level == "durable")


def pause(context: Context, command: q.Pause, origin: Origin) -> Decision:
    """Stop deliveries."""
    return _set(context, command.queue, paused=True)


def resume(context: Context, command: q.Resume, origin: Origin) -> Decision:
    """Deliver again."""
    return _set(context, command.queue, paused=False)


def is_paused(context: Context, command: q.IsPaused, origin: Origin) -> Decision:
    """Tell whether the queue is paused."""
    return Decision(q.PausedReply(paused=_settings(context, command.queue).paused))


def set_rate_limit(context: Context, command: q.SetRateLimit, origin: Origin) -> Decision:
    """Limit deliveries a second. The same limit again changes nothing, and gives no tokens."""
    return _set(context, command.queue, rate_limit=command.limit)


def clear_rate_limit(context: Context, command: q.ClearRateLimit, origin: Origin) -> Decision:
    """Lift the rate limit."""
    return _set(context, command.queue, rate_limit=None)


def set_concurrency(context: Context, command: q.SetConcurrency, origin: Origin) -> Decision:
    """Limit how many jobs are active; those that are already count."""
    return _set(context, command.queue, concurrency=command.limit)


def clear_concurrency(context: Context, command: q.ClearConcurrency, origin: Origin) -> Decision:
    """Lift the concurrency limit."""
    return _set(context, command.queue, concurrency=None)


def configure(context: Context, command: q.QueueConfig, origin: Origin) -> Decision:
    """Set the named defaults, and give all of them."""
    changes = {
        field: getattr(command, field)
        for field in ("durability", "keep_completed_age", "keep_completed_count")
        if getattr(command, field) is not None
    }
    after = replace(_settings(context, command.queue), **changes)
    reply = q.QueueConfigReply(
        durability=after.durability,
        keep_completed_age=after.keep_completed_age,
        keep_completed_count=after.keep_completed_count,
    )
    return _set(context, command.queue, reply, **changes)


# --- removal


def drain(context: Context, command: q.Drain, origin: Origin) -> Decision:
    """Remove the waiting and delayed jobs."""
    return _removal(context, command.queue, (WAITING, DELAYED), "drained")


def _removal(
    context: Context, name: str, states: tuple[int, ...], reason: str, jobs: list[Job] | None = None
) -> Decision:
    """Decide the removal of a queue's jobs in these states, or of some of them."""

    def change(some: list[Job]) -> list[AnyRecord]:
        # Of those that ended everybody has been told.
        kept = [job.id for job in some if job.state in KEPT]
        others = [job for job in some if job.state not in KEPT] if kept else some
        records = context.removing(others, reason)
        return [*records, r.Removed(kept, reason)] if kept else records

    return Sweep(
        name,
        jobs_of(context.state.queues.get(name), states, is_ordered=False) if jobs is None else jobs,
        states,
        states,
        change,
        lambda count: (CountReply(count=count), []),
        context.level == "durable",
    ).decide(context)


def obliterate(context: Context, command: q.Obliterate, origin: Origin) -> Decision:
    """Remove the queue with everything in it, and the crons that target it."""
    counted = (WAITING, DELAYED, ACTIVE, FAILED, PARKED, FLOW)
    name, states = command.queue, (*counted, *KEPT)

    def change(some: list[Job]) -> list[AnyRecord]:
        records = context.removing([job for job in some if job.state in counted], "obliterated")
        kept = [job.id for job in some if job.state in KEPT]
        return [*records, r.Removed(kept, "obliterated")] if kept else records

    def finish(count: int) -> tuple[CountReply, list[AnyRecord]]:
        gone: list[AnyRecord] = [r.QueueGone(name)]
        gone.append(r.Sent(COORDINATOR, Obliterated(name)))
        return CountReply(count=count), gone

    jobs = jobs_of(context.state.queues.get(name), states, is_ordered=False)
    durable = context.level == "durable"
    return Sweep(name, jobs, states, counted, change, finish, durable).decide(context)


def clean(context: Context, command: q.Clean, origin: Origin) -> Decision:
    """Remove old jobs in one state, oldest first."""
    state = STATES_BY_NAME.get(command.state.lower())
    if state not in _CLEANABLE or (state == CANCELLED and origin.older):
        raise StateInvalid(_OLDER_STATES) if origin.older else StateInvalid
    cutoff = context.now_ms - command.grace
    found = jobs_of(context.state.queues.get(command.queue), (state,))
    jobs = [job for job in found if job.created_at <= cutoff]
    if command.limit is not None:
        del jobs[command.limit :]
    return _removal(context, command.queue, (state,), "cleaned", jobs)


# --- counts


def count(context: Context, command: q.Count, origin: Origin) -> Decision:
    """Count the waiting and delayed jobs."""
    counts = _counts(context, command.queue)
    return Decision(CountReply(count=counts[WAITING] + counts[DELAYED]))


def _counts(context: Context, name: str) -> list[int]:
    queue = context.state.queues.get(name)
    return _NO_COUNTS if queue is None else queue.counts


def get_job_counts(context: Context, command: q.GetJobCounts, origin: Origin) -> Decision:
    """Count the jobs by state."""
    counts = _counts(context, command.queue)
    return Decision(
        q.JobCountsReply(
            ok=True,
            known=command.queue in context.state.queues or origin.older,
            waiting=counts[WAITING],
            active=counts[ACTIVE],
            delayed=counts[DELAYED],
            completed=counts[COMPLETED],
            failed=counts[FAILED],
            waitingchildren=counts[PARKED],
            waitingparent=counts[FLOW],
            cancelled=0 if origin.older else counts[CANCELLED],
        )
    )


def list_queues(context: Context, command: q.ListQueues, origin: Origin) -> Decision:
    """List queues that have a job or a setting."""
    queues = context.state.queues.values()
    found = list(queues)
    if command.search:
        wanted = command.search.casefold()
        found = [queue for queue in queues if wanted in queue.name.casefold()]
    limit = command.limit
    if command.fullest:
        listed = Listed(fullest(found, _name, _jobs, limit=limit), None)
    else:
        listed = page(found, _name, limit=limit, after=command.after)
    infos = [_info(queue) for queue in listed.entries]
    return Decision(q.QueuesReply(ok=True, queues=infos, total=len(found), next=listed.next))


def _name(queue: Queue) -> str:
    return queue.name


def _jobs(queue: Queue) -> int:
    counts = queue.counts
    return counts[WAITING] + counts[DELAYED] + counts[ACTIVE] + counts[FAILED]


def _info(queue: Queue) -> QueueInfo:
    counts, settings = queue.counts, queue.settings
    return QueueInfo(
        name=queue.name,
        pending=counts[WAITING] + counts[DELAYED],
        processing=counts[ACTIVE],
        dlq=counts[FAILED],
        paused=settings.paused,
        rate_limit=settings.rate_limit,
        concurrency_limit=settings.concurrency,
    )


def stats(context: Context, command: Stats, origin: Origin) -> Decision:
    """Count this shard's jobs; the node adds the shard's condition."""
    counts = context.state.counts
    return Decision(
        StatsReply(
            ok=True,
            queued=counts[WAITING],
            processing=counts[ACTIVE],
            delayed=counts[DELAYED],
            dlq=counts[FAILED],
            completed=counts[COMPLETED],
            cancelled=0 if origin.older else counts[CANCELLED],
            waiting_dependencies=counts[PARKED] + counts[FLOW],
            wait_seconds=context.measures.queue_wait.snapshot(),
            processing_seconds=context.measures.processing.snapshot(),
        )
    )


def metrics(context: Context, command: GetMetrics, origin: Origin) -> Decision:
    """Give this shard's totals and the counts of its fullest queues.

    `jobs_per_second` and `avg_latency_ms` are the mean over all completions; whoever gathers
    several shards weighs them by `total_completed`.
    """
    totals, queues = context.state.totals, context.state.queues.values()
    done = totals.completed
    return Decision(
        MetricsReply(
            ok=True,
            metrics=Metrics(
                total_pushed=totals.pushed,
                total_completed=done,
                total_failed=totals.failed,
                total_expired=totals.expired,
                total_cancelled=totals.cancelled,
                total_retried=totals.retried,
                total_timed_out=totals.timed_out,
                total_stalled=totals.stalled,
                total_lost=totals.lost,
                total_evicted=totals.evicted,
                jobs_per_second=context.throughput,
                avg_latency_ms=totals.latency_ms_sum / done if done else 0.0,
                queues=[
                    QueueMetrics(
                        name=queue.name,
                        pending=queue.counts[WAITING] + queue.counts[DELAYED],
                        processing=queue.counts[ACTIVE],
                        dlq=queue.counts[FAILED],
                        rate_limit=queue.settings.rate_limit,
                    )
                    for queue in fullest(queues, _name, _jobs, limit=command.queues)
                ],
            ),
        )
    )


# --- dead letters


def get_dlq(context: Context, command: q.GetDlq, origin: Origin) -> Decision:
    """List the dead letters, oldest failure first.

    Raises:
        FieldTooLarge: they are more than one reply may list; older clients get what it may.
    """
    queue = context.state.queues.get(command.queue)
    wanted = DLQ_COUNT if command.count is None else command.count
    if wanted > DLQ_COUNT_MAX and not origin.older:
        raise FieldTooLarge(field="count", size=wanted, limit=DLQ_COUNT_MAX)
    wanted = min(wanted, DLQ_COUNT_MAX)
    jobs = [] if queue is None else fitting(list(islice(queue.dlq.values(), wanted)))
    return Decision(q.DlqReply(jobs=[job_view(job, origin) for job in jobs]))


def retry_dlq(context: Context, command: q.RetryDlq, origin: Origin) -> Decision:
    """Put one dead letter, or all, back to work."""
    queue = context.state.queues.get(command.queue)
    dlq = {} if queue is None else queue.dlq
    jobs = list(dlq.values())
    if command.id is not None:
        jobs = [dlq[command.id]] if command.id in dlq else []
    return Sweep(
        command.queue,
        jobs,
        (FAILED,),
        (FAILED,),
        lambda some: [r.Retried([job.id for job in some])],
        lambda count: (q.RetriedReply(ids=[count]), []),
        context.level == "durable",
    ).decide(context)


def purge_dlq(context: Context, command: q.PurgeDlq, origin: Origin) -> Decision:
    """Remove the dead letters."""
    queue = context.state.queues.get(command.queue)
    jobs = [] if queue is None else list(queue.dlq.values())
    return _removal(context, command.queue, (FAILED,), "purged", jobs)
