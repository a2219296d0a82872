"""`flashq pull`, `ack`, `fail`, `release` and `wait`: a worker's verbs, one at a time.

A job that `pull` took is held by its `stall_timeout`, without a session: it stays with whoever
knows its token after this process has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from flashq.cli.asking import ask
from flashq.cli.parameters import DURATION, JOB_ID, JSON
from flashq.cli.verbs import CALL_TIMEOUT_MS, Invocation, Verb, pass_invocation
from flashq.cli.wording import distance, payload_text, plural
from flashq.clock import SystemClock

F = TypeVar("F", bound=Callable[..., Any])

LEASE_HELP: Final = (
    "The job's lease token, as pull shows it: refused if the job is no longer yours. "
    "(The access token goes before the verb, or into FLASHQ_TOKEN.)"
)


def _lease_option(function: F) -> F:
    return click.option("--token", "lease", type=click.IntRange(min=0), help=LEASE_HELP)(function)


@click.command(cls=Verb)
@click.argument("queue")
@click.option("--count", type=click.IntRange(min=1), default=1, help="At most so many (1).")
@click.option("--timeout", type=DURATION, default=0, help="Wait so long for the first (0).")
@click.option("--ack", is_flag=True, help="Complete each job once it is printed.")
@pass_invocation
def pull(invocation: Invocation, queue: str, count: int, timeout: int, ack: bool) -> None:
    """Take jobs from QUEUE and print them; exit status 1 when there is none.

    Without --ack a job is yours for its stall timeout (30 s by default): finish it with `flashq
    ack ID --token TOKEN`, `fail` or `release`, or it goes back to its queue.
    """
    if ack:
        with invocation.client() as client:
            jobs = client.pull_batch(queue, count, timeout)
            _print_jobs(invocation, jobs)
            sys.stdout.flush()
            done = client.ack_batch(jobs)
        if done < len(jobs):
            invocation.complain(f"{len(jobs) - done} of {plural(len(jobs), 'job')} were lost")
            raise click.exceptions.Exit(1)
    else:
        jobs = _pull_without_session(invocation, queue, count, timeout)
        _print_jobs(invocation, jobs)
    if not jobs:
        raise click.ClickException(f"{queue} has no job to hand out")


def _pull_without_session(
    invocation: Invocation, queue: str, count: int, timeout: int
) -> list[Any]:
    from flashq.client.results import Delivered
    from flashq.protocol.leases import PullBatch

    return ask(
        invocation.reachable_endpoint(),
        PullBatch(queue=queue, count=count, timeout=timeout),
        Delivered,
        timeout_ms=timeout + CALL_TIMEOUT_MS,
        token=invocation.token,
    ).jobs


def _print_jobs(invocation: Invocation, jobs: list[Any]) -> None:
    if invocation.as_json:
        invocation.documents(jobs)
        return
    now_ms = SystemClock().wall_ms()
    for job in jobs:
        pushed = distance(job.created_at, now_ms)
        invocation.say(
            f"job {job.id} token {job.token}, attempt {job.attempts + 1}, pushed {pushed}"
        )
        invocation.say(f"  {payload_text(job.data)}")


@click.command(cls=Verb)
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option("--result", type=JSON, help="Kept for who waits for the job.")
@_lease_option
@pass_invocation
def ack(invocation: Invocation, job_id: int, result: Any, lease: int | None) -> None:
    """Complete the active job ID."""
    with invocation.client() as client:
        client.ack(job_id, result, token=lease)
    invocation.done(f"completed {job_id}", {"id": job_id})


@click.command(cls=Verb)
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option("--error", help="Why, for people.")
@_lease_option
@pass_invocation
def fail(invocation: Invocation, job_id: int, error: str | None, lease: int | None) -> None:
    """End the attempt of the active job ID: it is retried, or becomes a dead letter."""
    with invocation.client() as client:
        client.fail(job_id, error, token=lease)
        state = client.get_state(job_id)
    invocation.done(f"failed {job_id}, which is {state} now", {"id": job_id, "state": state})


@click.command(cls=Verb)
@click.argument("job_ids", metavar="ID...", type=JOB_ID, nargs=-1, required=True)
@_lease_option
@pass_invocation
def release(invocation: Invocation, job_ids: tuple[int, ...], lease: int | None) -> None:
    """Give active jobs back to their queues; no attempt is counted."""
    tokens = None if lease is None else [lease] * len(job_ids)
    with invocation.client() as client:
        count = client.release(job_ids, tokens=tokens)
    invocation.done(f"released {plural(count, 'job')}", {"count": count})
    if count < len(job_ids):
        raise click.exceptions.Exit(1)


@click.command(cls=Verb)
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option("--timeout", type=DURATION, default=30_000, help="Wait so long (30s).")
@pass_invocation
def wait(invocation: Invocation, job_id: int, timeout: int) -> None:
    """Wait for the end of job ID and print its result as JSON.

    Exit status 1 when it failed, is unknown, or has not ended in time.
    """
    with invocation.client() as client:
        result = client.finished(job_id, timeout)
    invocation.document({"id": job_id, "result": result} if invocation.as_json else result)
