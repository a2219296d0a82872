"""How delayed jobs become ready when their time has come.

A part of the passing of time; see `state`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.shard.indexes import Due
from flashq.shard.lifecycle import DELAYED, WAITING

if TYPE_CHECKING:
    from flashq.shard.state import ShardState


def make_ready(state: ShardState, last: Due, most: int | None) -> list[str]:
    """Make delayed jobs ready, up to the last one, and note how far that went.

    Args:
        state: theirs.
        last: the last that becomes ready.
        most: so many at most.

    Returns:
        Their queues.
    """
    woken: list[str] = []
    due = state.delayed.pop_through(last, most)
    for run_at, job_id in due:
        job = state.index.get(job_id)
        if job is None or job.state != DELAYED or job.run_at != run_at:
            continue
        state.touch(job_id)
        queue = state.queues[job.queue]
        state.set_state(job, queue, WAITING)
        queue.ready.lane(job.priority).add(job)
        woken.append(job.queue)
    first = state.delayed.first_ms()
    if first is None or first > state.now_ms:
        state.due_mark = None
    elif due:
        state.due_mark = due[-1]
    elif state.due_mark is None:
        state.due_mark = (0, 0)
    return woken
