"""`flashq job`: look at jobs by id, and change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from flashq.cli.parameters import JOB_ID, JSON
from flashq.cli.queues import known_queue
from flashq.cli.verbs import Invocation, Noun, pass_invocation, yes_option
from flashq.cli.wording import (
    distance,
    duration,
    json_text,
    moment,
    payload_text,
    plural,
    shortened,
    table_of,
)
from flashq.clock import SystemClock
from flashq.errors import FlashQError, JobNotFound, ResultNotKept

if TYPE_CHECKING:
    from flashq.client.results import Job
    from flashq.client.sync_client import Client

STATES: Final = (
    "waiting",
    "delayed",
    "active",
    "completed",
    "failed",
    "cancelled",
    "waitingchildren",
    "waitingparent",
)

_TIMES: Final = (
    "created_at",
    "run_at",
    "started_at",
    "completed_at",
    "cancelled_at",
    "last_heartbeat",
)
_DURATIONS: Final = ("backoff", "ttl", "timeout", "stall_timeout", "keep_completed_age")

ids_argument: Final = click.argument(
    "job_ids", metavar="ID...", type=JOB_ID, nargs=-1, required=True
)
id_argument: Final = click.argument("job_id", metavar="ID", type=JOB_ID)


@click.group(cls=Noun)
def job() -> None:
    """Look at jobs and change them."""


# --- looking


@job.command()
@id_argument
@pass_invocation
def show(invocation: Invocation, job_id: int) -> None:
    """Show job ID with its state, result and history."""
    with invocation.client() as client:
        found = _found(client, job_id)
        try:
            result = client.get_result(job_id) if found.state == "completed" else None
        except ResultNotKept as error:
            result = None
            invocation.complain(error.text)
    show_job(invocation, found, result)


@job.command()
@click.argument("custom_id")
@click.option("--queue", help="Without it every queue is searched.")
@pass_invocation
def find(invocation: Invocation, custom_id: str, queue: str | None) -> None:
    """Show the job that was pushed with --job-id CUSTOM_ID."""
    with invocation.client() as client:
        found = client.get_job_by_custom_id(custom_id, queue)
    if found is None:
        raise click.ClickException(f"no job was pushed as {custom_id!r}, or it is forgotten")
    show_job(invocation, found, None)


@job.command(name="list")
@click.argument("job_ids", metavar="[ID]...", type=JOB_ID, nargs=-1)
@click.option("--queue", help="Only of this queue.")
@click.option("--state", type=click.Choice(STATES), help="Only in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="At most so many (20).")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Skip so many.")
@pass_invocation
def list_jobs(
    invocation: Invocation,
    job_ids: tuple[int, ...],
    queue: str | None,
    state: str | None,
    limit: int,
    offset: int,
) -> None:
    """List jobs, newest first, or those with the given ids."""
    if job_ids and (queue or state or offset):
        raise click.UsageError("ids name the jobs already; leave out --queue, --state, --offset")
    with invocation.client() as client:
        if job_ids:
            page = client.get_jobs_batch(job_ids)
        else:
            if queue is not None:
                known_queue(client, queue)
            page = client.get_jobs(queue, state, limit=limit, offset=offset)
    print_jobs(invocation, page)
    if not invocation.as_json and page.total is not None and page.total > len(page):
        invocation.say(f"{len(page)} of {page.total}; --limit and --offset show others")
    invocation.warn_missing(page.missing_shards)


@job.command()
@id_argument
@pass_invocation
def children(invocation: Invocation, job_id: int) -> None:
    """List the children of the flow whose parent is job ID."""
    with invocation.client() as client:
        found = client.get_children(job_id)
    print_jobs(invocation, found.children)
    if not invocation.as_json:
        invocation.say(f"{found.completed} of {plural(found.total, 'child job')} completed")


@job.command()
@id_argument
@pass_invocation
def logs(invocation: Invocation, job_id: int) -> None:
    """Print the log of job ID, oldest entry first."""
    with invocation.client() as client:
        entries = client.get_logs(job_id)
    if invocation.as_json:
        invocation.documents(entries)
        return
    now_ms = SystemClock().wall_ms()
    for entry in entries:
        invocation.say(f"{moment(entry.timestamp, now_ms)} {entry.level}: {entry.message}")


# --- changing


@job.command()
@ids_argument
@click.option("--reason", help="Why, kept with the job.")
@yes_option
@pass_invocation
def cancel(invocation: Invocation, job_ids: tuple[int, ...], reason: str | None) -> None:
    """End jobs that have not ended; they are kept as cancelled. More than one asks first."""
    if len(job_ids) > 1:
        invocation.confirm(f"Cancel {len(job_ids)} jobs?")
    _for_each(
        invocation, job_ids, "cancelled", lambda client, job_id: client.cancel(job_id, reason)
    )


@job.command()
@ids_argument
@pass_invocation
def promote(invocation: Invocation, job_ids: tuple[int, ...]) -> None:
    """Make delayed jobs ready now."""
    _for_each(invocation, job_ids, "promoted", lambda client, job_id: client.promote(job_id))


@job.command()
@ids_argument
@pass_invocation
def retry(invocation: Invocation, job_ids: tuple[int, ...]) -> None:
    """Put dead letters back to work."""
    _for_each(invocation, job_ids, "back to work", _retry)


def _retry(client: Client, job_id: int) -> None:
    found = _found(client, job_id)
    if not client.retry_dlq(found.queue, job_id):
        raise click.ClickException(
            f"job {job_id} is {found.state}; only a dead letter can be retried"
        )


@job.command()
@ids_argument
@pass_invocation
def discard(invocation: Invocation, job_ids: tuple[int, ...]) -> None:
    """Send jobs to the dead letters."""
    _for_each(invocation, job_ids, "discarded", lambda client, job_id: client.discard(job_id))


@job.command()
@id_argument
@click.argument("value", metavar="PRIORITY", type=click.IntRange(-(2**31), 2**31 - 1))
@pass_invocation
def priority(invocation: Invocation, job_id: int, value: int) -> None:
    """Change the priority of the waiting job ID; higher runs first."""
    with invocation.client() as client:
        client.change_priority(job_id, value)
    invocation.done(f"priority of {job_id} is {value}", {"id": job_id, "priority": value})


@job.command()
@id_argument
@click.argument("data", type=JSON)
@pass_invocation
def update(invocation: Invocation, job_id: int, data: Any) -> None:
    """Replace the payload of job ID with DATA, a JSON value."""
    with invocation.client() as client:
        client.update(job_id, data)
    invocation.done(f"updated {job_id}", {"id": job_id})


def _for_each(
    invocation: Invocation,
    job_ids: Sequence[int],
    done: str,
    act: Callable[[Client, int], None],
) -> None:
    """Do the same to many jobs; one that refuses does not keep the others from it."""
    refused = False
    with invocation.client() as client:
        for job_id in job_ids:
            try:
                act(client, job_id)
            except (FlashQError, click.ClickException) as error:
                refused = True
                invocation.complain(str(error))
            else:
                invocation.done(f"{job_id} {done}", {"id": job_id})
    if refused:
        raise click.exceptions.Exit(1)


def _found(client: Client, job_id: int) -> Job:
    found = client.get_job(job_id)
    if found is None:
        raise JobNotFound(id=job_id)
    return found


# --- in words


def show_job(invocation: Invocation, found: Job, result: Any) -> None:
    """Print one job with every field that says something."""
    if invocation.as_json:
        invocation.document({"job": found, "result": result})
        return
    now_ms = SystemClock().wall_ms()
    table = table_of("field", "value")
    table.show_header = False
    for name, value in _fields(found, now_ms):
        table.add_row(name, value)
    if result is not None:
        table.add_row("result", payload_text(result))
    for attempt in found.history:
        why = f": {attempt.error}" if attempt.error else ""
        table.add_row("attempt", f"{attempt.reason} {moment(attempt.at, now_ms)}{why}")
    invocation.table(table)


def _fields(found: Job, now_ms: int) -> list[tuple[str, str]]:
    """Return the name and the text of each field that is not at its default."""
    shown = [
        ("id", str(found.id)),
        ("queue", found.queue),
        ("state", found.state or "unknown"),
        ("data", payload_text(found.data)),
    ]
    for name in found.__struct_fields__:
        value = getattr(found, name)
        if not value or name in ("id", "queue", "state", "data", "history"):
            continue
        if name in _TIMES:
            text = moment(value, now_ms)
        elif name in _DURATIONS:
            text = duration(value)
        else:
            text = value if isinstance(value, str) else json_text(value)
        shown.append((name.replace("_", " "), text))
    return shown


def print_jobs(invocation: Invocation, found: Sequence[Job]) -> None:
    """Print jobs as a table, or as JSON lines."""
    if invocation.as_json:
        invocation.documents(found)
        return
    now_ms = SystemClock().wall_ms()
    table = table_of("id", "queue", "state", "attempts", "pushed", "data", numbers=["id"])
    for one in found:
        table.add_row(
            str(one.id),
            one.queue,
            one.state or "",
            str(one.attempts),
            distance(one.created_at, now_ms),
            shortened(payload_text(one.data), 60),
        )
    invocation.table(table)
