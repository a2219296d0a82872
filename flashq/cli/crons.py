"""`flashq cron`: pushes that the server makes by a schedule."""

from __future__ import annotations

from typing import Any

import click

from flashq.cli.pages import all_pages
from flashq.cli.parameters import DURATION, JSON
from flashq.cli.pushing import given_of, job_options
from flashq.cli.verbs import Invocation, Noun, pass_invocation, yes_option
from flashq.cli.wording import duration, moment, payload_text, shortened, table_of
from flashq.clock import SystemClock


@click.group(cls=Noun)
def cron() -> None:
    """Pushes that the server makes by a schedule."""


@cron.command()
@click.argument("name")
@click.argument("queue")
@click.argument("data", type=JSON)
@click.option(
    "--schedule",
    help="Five fields, six with seconds first, */N for N seconds, or @daily and its like.",
)
@click.option("--every", "repeat_every", type=DURATION, help="Time between firings, instead.")
@click.option("--limit", type=click.IntRange(min=1), help="Firings until it is removed.")
@click.option("--tz", help="The schedule's IANA time zone; UTC by default.")
@job_options
@pass_invocation
def add(
    invocation: Invocation,
    /,
    name: str,
    queue: str,
    data: Any,
    schedule: str | None,
    repeat_every: int | None,
    **options: Any,
) -> None:
    """Add or replace the cron NAME: it pushes DATA, a JSON value, to QUEUE.

    The same cron again changes nothing. The flags of `flashq push` are for the jobs it adds.
    """
    if (schedule is None) == (repeat_every is None):
        raise click.UsageError("say when: either --schedule or --every")
    with invocation.client() as client:
        client.add_cron(
            name, queue, data, schedule=schedule, repeat_every=repeat_every, **given_of(options)
        )
    invocation.done(f"{name} pushes to {queue}", {"name": name, "queue": queue})


@cron.command(name="list")
@pass_invocation
def list_crons(invocation: Invocation) -> None:
    """List all crons."""
    with invocation.client() as client:
        found = all_pages(lambda after: client.list_crons(after=after))
    if invocation.as_json:
        invocation.documents(found)
        return
    now_ms = SystemClock().wall_ms()
    table = table_of("name", "queue", "when", "next", "fired", "data", numbers=["fired"])
    for one in found:
        when = f"every {duration(one.repeat_every)}" if one.repeat_every else one.schedule or ""
        fired = f"{one.executions}/{one.limit}" if one.limit else str(one.executions)
        table.add_row(
            one.name,
            one.queue,
            f"{when} {one.tz}" if one.tz else when,
            moment(one.next_run, now_ms),
            fired,
            shortened(payload_text(one.data), 40),
        )
    invocation.table(table)


@cron.command()
@click.argument("name")
@yes_option
@pass_invocation
def delete(invocation: Invocation, name: str) -> None:
    """Remove the cron NAME."""
    invocation.confirm(f"Remove the cron {name}?")
    with invocation.client() as client:
        client.delete_cron(name)
    invocation.done(f"removed the cron {name}", {"name": name})
