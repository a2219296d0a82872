"""The transition table: each pair of states, and what an illegal one says."""

from __future__ import annotations

import pytest

from flashq.shard.lifecycle import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    DELAYED,
    FAILED,
    FLOW,
    GONE,
    NO_OPTIONS,
    PARKED,
    PENDING,
    STATE_NAMES,
    STATES,
    STATES_BY_NAME,
    TRANSITIONS,
    WAITING,
    IllegalTransition,
    Job,
    move,
    options_of,
    state_name,
)

LEGAL = {
    (WAITING, ACTIVE): "delivered",
    (WAITING, FAILED): "discarded",
    (WAITING, CANCELLED): "cancelled",
    (WAITING, GONE): "expired, drained",
    (DELAYED, WAITING): "due, promoted",
    (DELAYED, ACTIVE): "adopted: its delivery was lost, and with it what made it ready",
    (DELAYED, FAILED): "discarded",
    (DELAYED, CANCELLED): "cancelled",
    (DELAYED, GONE): "expired, drained",
    (ACTIVE, WAITING): "released, retried",
    (ACTIVE, DELAYED): "moved, retried later",
    (ACTIVE, COMPLETED): "acknowledged",
    (ACTIVE, FAILED): "failed for good",
    (ACTIVE, CANCELLED): "cancelled",
    (ACTIVE, GONE): "obliterated",
    (COMPLETED, GONE): "retention",
    (FAILED, WAITING): "retried from the dead letters",
    (FAILED, GONE): "purged",
    (PARKED, WAITING): "all dependencies completed",
    (PARKED, DELAYED): "all dependencies completed, before its time",
    (PARKED, FAILED): "a dependency failed",
    (PARKED, CANCELLED): "cancelled",
    (PARKED, GONE): "obliterated",
    (FLOW, WAITING): "all children ended",
    (FLOW, DELAYED): "all children ended, before its time",
    (FLOW, FAILED): "a child failed",
    (FLOW, CANCELLED): "cancelled",
    (FLOW, GONE): "obliterated",
    (CANCELLED, GONE): "retention",
    (PENDING, PARKED): "its dependencies are known",
    (PENDING, FLOW): "its children are made",
    (PENDING, GONE): "refused: a dependency is unknown",
}


def job_in(state: int) -> Job:
    """Return a job in this state."""
    return Job(7, "q", b"", 0, 0, 0, state, 0, None, 0, 0, None, None)


@pytest.mark.parametrize("before", range(STATES))
@pytest.mark.parametrize("after", range(STATES))
def test_every_pair_of_states(before: int, after: int) -> None:
    """A pair that is not in the table is a bug of ours and must stop the shard, not go on."""
    job = job_in(before)
    if (before, after) in LEGAL:
        move(job, after)
        assert job.state == after
    else:
        with pytest.raises(IllegalTransition, match="id=7"):
            move(job, after)
        assert job.state == before


def test_there_is_a_row_for_every_state() -> None:
    """A state without a row or a name would be noticed only when a job gets there."""
    assert len(TRANSITIONS) == len(STATE_NAMES) == STATES


def test_names_are_those_of_the_older_servers() -> None:
    """wire-contract 3.2: emitted without hyphens, read with and without. `cancelled` is our own."""
    names = [state_name(job_in(state)) for state in range(STATES)]
    assert names == [
        *("waiting", "delayed", "active", "completed", "failed"),
        *("waitingchildren", "waitingparent", "unknown", "cancelled", "unknown"),
    ]
    assert state_name(None) == "unknown"
    assert STATES_BY_NAME["waiting-children"] == STATES_BY_NAME["waitingchildren"] == PARKED
    assert STATES_BY_NAME["waiting-parent"] == STATES_BY_NAME["waitingparent"] == FLOW


def test_a_job_without_options_has_the_defaults() -> None:
    """One object stands for them, for all jobs."""
    assert options_of(job_in(WAITING)) is NO_OPTIONS


def test_extra_is_made_once() -> None:
    """A second need must not lose what the first has put there."""
    job = job_in(WAITING)
    extra = job.need_extra()
    assert job.need_extra() is extra
