"""Which ended jobs and results are kept: never more than the bounds, oldest first.

Decides only. The bounds are a shard's (`completed_jobs_max`, `results_max`, `dlq_jobs_max`) and
each job's own (`keep_completed_age`, `keep_completed_count`). A job with a bound of its own is kept
up to that, with its result, whatever the shard's are; how many such jobs there may be is bounded
when they are pushed (`retained_jobs_max`).
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import merge
from itertools import islice
from typing import Final

from flashq.protocol import records as r
from flashq.protocol.records import AnyRecord
from flashq.shard.context import Context
from flashq.shard.lifecycle import CANCELLED, COMPLETED, FAILED, KEPT, Job, is_aged, options_of

SLACK_SHIFT: Final = 4
"""A bound may be passed by a sixteenth before the oldest go, so that they go many at a time."""


def keep_newest_of_queue(context: Context, ending: list[Job]) -> list[AnyRecord]:
    """Return the removal of completed and cancelled jobs beyond `keep_completed_count`, as if the
    jobs ended one after the other, and each let go of what it finds beyond its own count. Jobs
    that are to be kept for a time neither count nor go.

    Args:
        ending: jobs that complete, or are cancelled, now and in this order, and are not yet.
    """
    if not any(options_of(job).keep_completed_count for job in ending):
        return []
    records: list[AnyRecord] = []
    kept = [job for job in ending if not options_of(job).remove_on_complete]
    for name in dict.fromkeys(job.queue for job in kept):
        queue = context.state.queues[name]
        count, cut = queue.counts[COMPLETED] + queue.counts[CANCELLED] - queue.aged_count, 0
        fresh: list[Job] = []
        for job in kept:
            if job.queue == name and not is_aged(job):
                fresh.append(job)
                count += 1
                keep = options_of(job).keep_completed_count
                cut = max(cut, count - keep) if keep else cut
        older = _first_ids((job for job in queue.kept if job.state in KEPT), cut)
        gone = older + [job.id for job in fresh[: cut - len(older)]]
        if gone:
            records.append(r.Removed(gone, "retention"))
    return records


def _first_ids(jobs: Iterable[Job], count: int) -> list[int]:
    return [job.id for job in islice(jobs, count)]


def beyond_bounds(context: Context, most: int) -> tuple[list[AnyRecord], bool]:
    """Return the removal of the oldest completed and cancelled jobs, results and dead letters
    beyond the shard's bounds.

    Args:
        context: the moment.
        most: let so many of each go.

    Returns:
        The records, and whether that is all.
    """
    state, limits = context.state, context.limits
    records: list[AnyRecord] = []
    gone: list[int] = []
    ended = state.counts[COMPLETED] + state.counts[CANCELLED] - state.retained_ended
    over = [
        ended - limits.completed_jobs_max,
        state.results - limits.results_max,
        state.counts[FAILED] - limits.dlq_jobs_max,
    ]
    excess = min(over[0], most)
    if over[0] > limits.completed_jobs_max >> SLACK_SHIFT:
        filed = (job for job in state.kept if job.state in KEPT)
        gone = _first_ids(filed, excess)
        records.append(r.Removed(gone, "retention"))
    excess = min(over[1], most)
    if over[1] > limits.results_max >> SLACK_SHIFT:
        filed = (job for job in state.with_result if _has_result(job))
        removed = set(gone)  # their results go with them
        dropped = [job_id for job_id in _first_ids(filed, excess) if job_id not in removed]
        if dropped:
            records.append(r.ResultsDropped(dropped))
    excess = min(over[2], most)
    if over[2] > limits.dlq_jobs_max >> SLACK_SHIFT:
        # By name, so that what fails in one millisecond goes in an order that anybody can tell.
        names = sorted([name for name, queue in state.queues.items() if queue.dlq])
        by_queue = [state.queues[name].dlq.values() for name in names]
        oldest = merge(*by_queue, key=lambda job: job.ended_at)
        records += context.removing(list(islice(oldest, excess)), "evicted")
    return records, not records or max(over) <= most


def _has_result(job: Job) -> bool:
    return job.state == COMPLETED and job.extra is not None and job.extra.result is not None


def beyond_age(context: Context, most: int) -> tuple[list[AnyRecord], bool]:
    """Return the removal of completed and cancelled jobs older than their `keep_completed_age`, and
    whether that is all.

    Args:
        context: the moment.
        most: look at so many.
    """
    state = context.state
    gone = []
    due = state.ages.pop_until(state.now_ms, most)
    for _, job_id in due:
        job = state.index.get(job_id)
        if job is None or job.state not in KEPT:
            continue
        if job.ended_at + options_of(job).keep_completed_age <= state.now_ms:
            gone.append(job_id)
    return [r.Removed(gone, "retention")] if gone else [], len(due) < most
