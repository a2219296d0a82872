"""Which completed jobs and results are kept: never more than the bounds, oldest first.

Decides only. The bounds are a shard's (`completed_jobs_max`, `results_max`) and each job's own
(`keep_completed_age`, `keep_completed_count`).
"""

from __future__ import annotations

from typing import Final

from flashq.protocol import records as r
from flashq.protocol.records import AnyRecord
from flashq.shard.context import Context
from flashq.shard.lifecycle import COMPLETED, Job, options_of

SLACK_SHIFT: Final = 4
"""A bound may be passed by a sixteenth before the oldest go, so that they go many at a time."""


def keep_newest_of_queue(context: Context, completing: list[Job]) -> list[AnyRecord]:
    """Return the removal of completed jobs beyond `keep_completed_count`.

    Args:
        completing: jobs that complete now, and are not COMPLETED yet.
    """
    records: list[AnyRecord] = []
    newest: dict[str, tuple[int, int]] = {}
    for job in completing:
        keep = options_of(job).keep_completed_count
        if keep and not options_of(job).remove_on_complete:
            newest[job.queue] = (keep, 1 + newest.get(job.queue, (0, 0))[1])
    for name, (keep, more) in newest.items():
        queue = context.state.queues[name]
        excess = queue.counts[COMPLETED] + more - keep
        gone: list[int] = []
        for job in queue.completed:
            if len(gone) >= excess:
                break
            if job.state == COMPLETED:
                gone.append(job.id)
        if gone:
            records.append(r.Removed(gone, "retention"))
    return records


def _with_slack(bound: int) -> int:
    return bound + (bound >> SLACK_SHIFT)


def beyond_bounds(context: Context) -> list[AnyRecord]:
    """Return the removal of the oldest completed jobs and results beyond the shard's bounds."""
    state, limits = context.state, context.limits
    records: list[AnyRecord] = []
    if state.counts[COMPLETED] > _with_slack(limits.completed_jobs_max):
        excess = state.counts[COMPLETED] - limits.completed_jobs_max
        gone: list[int] = []
        for job in state.completed:
            if len(gone) >= excess:
                break
            if job.state == COMPLETED:
                gone.append(job.id)
        records.append(r.Removed(gone, "retention"))
    if state.results > _with_slack(limits.results_max):
        excess = state.results - limits.results_max
        dropped: list[int] = []
        for job in state.with_result:
            if len(dropped) >= excess:
                break
            if job.state == COMPLETED and job.extra is not None and job.extra.result is not None:
                dropped.append(job.id)
        records.append(r.ResultsDropped(dropped))
    return records


def beyond_age(context: Context) -> list[AnyRecord]:
    """Return the removal of completed jobs older than their `keep_completed_age`."""
    state = context.state
    gone = []
    for _, job_id in state.ages.pop_until(state.now_ms):
        job = state.index.get(job_id)
        if job is not None and job.state == COMPLETED:
            if job.ended_at + options_of(job).keep_completed_age <= state.now_ms:
                gone.append(job_id)
    return [r.Removed(gone, "retention")] if gone else []
