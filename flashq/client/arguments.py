"""What callers may give: jobs or ids, and the options of a push.

Owns the conversion of the former and the types of the latter. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from flashq.client.results import Job
from flashq.ids import JOB_ID_MAX
from flashq.protocol.base import Durability, OnDependencyFailure


class FlowOptions(TypedDict, total=False):
    """What may be said about a job besides queue, payload and priority.

    Attributes:
        delay: ms until it may run.
        ttl: ms until it expires unless it was handed out.
        timeout: ms that an attempt may take.
        max_attempts: attempts until it is a dead letter; 0 (the default) tries without end.
        backoff: ms before the first retry; it doubles with each further one.
        jitter: 0 to 1: how far a retry's wait may be off, as a fraction of it.
        unique_key: no other unfinished job of the queue may have it.
        on_dependency_failure: what a dependency or child that fails does: "fail" (the default),
            "ignore" or "wait".
        tags: stored with the job.
        lifo: whether it goes before those already waiting.
        remove_on_complete, remove_on_fail: whether it is forgotten at once when it ends so.
        stall_timeout: ms without a heartbeat or progress of its own after which it is handed out
            again, and an attempt counted; without it a worker holds its jobs as long as it lives.
        debounce_id: a push with it is refused for a while after another one.
        debounce_ttl: ms of that while (5000).
        job_id: the caller's own id; a second push with it gives the first job's id.
        keep_completed_age: ms to keep it, with its result, after completion or a cancel; it is kept
            so long, or the push is refused with `LimitReached`.
        keep_completed_count: how many completed and cancelled jobs of the queue to keep with it,
            those not counted that have only an age; likewise kept or refused.
        durability: "durable", "async" or "memory"; else the queue's, else the server's.
    """

    delay: int | None
    ttl: int | None
    timeout: int | None
    max_attempts: int | None
    backoff: int | None
    jitter: float | None
    unique_key: str | None
    on_dependency_failure: OnDependencyFailure | None
    tags: list[str] | None
    lifo: bool | None
    remove_on_complete: bool | None
    remove_on_fail: bool | None
    stall_timeout: int | None
    debounce_id: str | None
    debounce_ttl: int | None
    job_id: str | None
    keep_completed_age: int | None
    keep_completed_count: int | None
    durability: Durability | None


class PushOptions(FlowOptions, total=False):
    """The options of a push: those of `FlowOptions`, and `depends_on`.

    Attributes:
        depends_on: ids of jobs that have to complete first.
    """

    depends_on: list[int] | None


def id_of(job: Job | int) -> int:
    """Return the id of what is a job or an id.

    Raises:
        TypeError: it is neither.
        ValueError: no job can have such an id.
    """
    if type(job) is not int:
        if not isinstance(job, Job):
            raise TypeError(f"a job is a Job or its id, a whole number, not {job!r}")
        return job.id
    if not 0 <= job <= JOB_ID_MAX:
        raise ValueError(f"job ids are at most {JOB_ID_MAX}, not {job}")
    return job


def ids_of(found: Sequence[Job | int]) -> list[int]:
    """Return the ids of jobs or ids."""
    try:
        return [job.id for job in found]  # type: ignore[union-attr]
    except AttributeError:  # not all are jobs
        return [id_of(job) for job in found]
    except TypeError:
        raise TypeError(f"jobs are a list of Jobs or ids, not {found!r}") from None


def token_of(job: Job | int, token: int | None) -> int | None:
    """Return the token given, or else the job's own."""
    return job.token if token is None and isinstance(job, Job) else token


def tokens_of(
    found: Sequence[Job | int], tokens: Sequence[int | None] | None
) -> Sequence[int | None] | None:
    """Return the tokens given, or else the jobs' own; None when there are none."""
    if tokens is not None:
        return tokens
    try:
        return [job.token for job in found]  # type: ignore[union-attr]
    except AttributeError:  # not all are jobs
        taken = [token_of(job, None) for job in found]
        return taken if any(token is not None for token in taken) else None
