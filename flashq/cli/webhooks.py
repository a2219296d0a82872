"""`flashq webhook`: addresses that the server tells of what happens to jobs."""

from __future__ import annotations

from typing import IO

import click

from flashq.cli.pages import all_pages
from flashq.cli.verbs import Invocation, Noun, pass_invocation, yes_option
from flashq.cli.wording import distance, plural, shortened, table_of
from flashq.clock import SystemClock


@click.group(cls=Noun)
def webhook() -> None:
    """Addresses that the server tells of what happens to jobs."""


@webhook.command()
@click.argument("address", metavar="URL")
@click.argument("events", nargs=-1, required=True)
@click.option("--queue", help="Only of this queue.")
@click.option(
    "--secret-file",
    type=click.File("r"),
    help="File with the secret that signs requests; - for stdin. Not on the command line, which "
    "others can read.",
)
@click.option("--replace", metavar="ID", help="Replace this one.")
@pass_invocation
def add(
    invocation: Invocation,
    /,
    address: str,
    events: tuple[str, ...],
    queue: str | None,
    secret_file: IO[str] | None,
    replace: str | None,
) -> None:
    """Have URL told of EVENTS, as in `completed failed`, or * for everything."""
    secret = None if secret_file is None else secret_file.read().rstrip("\r\n")
    with invocation.client() as client:
        made = client.add_webhook(address, events, queue=queue, secret=secret, webhook=replace)
    invocation.done(f"{made} tells {address}", {"id": made, "url": address})


@webhook.command(name="list")
@pass_invocation
def list_webhooks(invocation: Invocation) -> None:
    """List all webhooks."""
    with invocation.client() as client:
        found = all_pages(lambda after: client.list_webhooks(after=after))
    if invocation.as_json:
        invocation.documents(found)
        return
    columns = ("id", "url", "events", "queue", "signed", "pending", "dead", "last error")
    table = table_of(*columns, numbers=["pending", "dead"])
    for one in found:
        table.add_row(
            one.id,
            shortened(one.url, 60),
            " ".join(one.events),
            one.queue or "",
            "yes" if one.signed else "no",
            str(one.pending),
            str(one.dead),
            shortened(one.last_error or "", 60),
        )
    invocation.table(table)


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@yes_option
@pass_invocation
def delete(invocation: Invocation, webhook_id: str) -> None:
    """Remove the webhook ID, and everything that it was still to be told."""
    invocation.confirm(f"Remove the webhook {webhook_id}?")
    with invocation.client() as client:
        client.delete_webhook(webhook_id)
    invocation.done(f"removed the webhook {webhook_id}", {"id": webhook_id})


@webhook.command()
@click.argument("webhook_id", metavar="[ID]", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=100, help="At most so many (100).")
@pass_invocation
def dead(invocation: Invocation, webhook_id: str | None, limit: int) -> None:
    """List what the webhook ID, or any, could not be told."""
    with invocation.client() as client:
        found = client.webhook_dead(webhook_id, limit=limit)
    if invocation.as_json:
        invocation.documents(found)
        return
    now_ms = SystemClock().wall_ms()
    columns = ("webhook", "delivery", "event", "job", "attempts", "died", "reason")
    table = table_of(*columns, numbers=["delivery", "job", "attempts"])
    for one in found:
        table.add_row(
            one.webhook,
            str(one.delivery),
            one.event,
            str(one.job_id),
            str(one.attempts),
            distance(one.died_at, now_ms),
            shortened(one.reason, 60),
        )
    invocation.table(table)


@webhook.command()
@click.argument("webhook_id", metavar="[ID]", required=False)
@click.argument("delivery", type=click.IntRange(min=1), required=False)
@pass_invocation
def retry(invocation: Invocation, webhook_id: str | None, delivery: int | None) -> None:
    """Have told again what the webhook ID, or any, could not be told; or only one DELIVERY."""
    with invocation.client() as client:
        count = client.retry_webhook(webhook_id, delivery)
    invocation.done(f"{plural(count, 'event')} to be told again", {"count": count})
    if delivery is not None and not count:
        raise click.ClickException(f"{delivery} is no dead delivery of {webhook_id}, or no room")
