"""`flashq dlq`: the jobs of a queue that have failed for good."""

from __future__ import annotations

import click

from flashq.cli.parameters import JOB_ID
from flashq.cli.queues import known_queue, queue_argument
from flashq.cli.verbs import Invocation, Noun, pass_invocation, yes_option
from flashq.cli.wording import distance, payload_text, plural, shortened, table_of
from flashq.clock import SystemClock


@click.group(cls=Noun)
def dlq() -> None:
    """Look at dead letters, retry or remove them."""


@dlq.command(name="list")
@queue_argument
@click.option("--count", type=click.IntRange(min=1), default=100, help="At most so many (100).")
@pass_invocation
def list_letters(invocation: Invocation, name: str, count: int) -> None:
    """List the dead letters of QUEUE, oldest failure first."""
    with invocation.client() as client:
        known_queue(client, name)
        found = client.get_dlq(name, count)
    if invocation.as_json:
        invocation.documents(found)
        return
    now_ms = SystemClock().wall_ms()
    table = table_of("id", "attempts", "failed", "error", "data", numbers=["id", "attempts"])
    for one in found:
        failed_at = one.history[-1].at if one.history else 0
        table.add_row(
            str(one.id),
            str(one.attempts),
            distance(failed_at, now_ms),
            shortened(one.error or "", 60),
            shortened(payload_text(one.data), 40),
        )
    invocation.table(table)


@dlq.command()
@queue_argument
@click.argument("job_id", metavar="[ID]", type=JOB_ID, required=False)
@pass_invocation
def retry(invocation: Invocation, name: str, job_id: int | None) -> None:
    """Put the dead letter ID, or all of QUEUE, back to work."""
    with invocation.client() as client:
        known_queue(client, name)
        count = client.retry_dlq(name, job_id)
    invocation.done(f"{plural(count, 'job')} back to work", {"queue": name, "count": count})
    if job_id is not None and not count:
        raise click.ClickException(f"job {job_id} is no dead letter of {name}")


@dlq.command()
@queue_argument
@yes_option
@pass_invocation
def purge(invocation: Invocation, name: str) -> None:
    """Remove the dead letters of QUEUE."""
    with invocation.client() as client:
        known_queue(client, name)
        invocation.confirm(f"Remove all dead letters of {name}?")
        count = client.purge_dlq(name)
    invocation.done(f"removed {plural(count, 'job')} of {name}", {"queue": name, "count": count})
