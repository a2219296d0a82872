"""`flashq queue`: look at whole queues, stop and limit them, empty them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import structs

from flashq.cli.pages import all_pages
from flashq.cli.parameters import DURATION
from flashq.cli.verbs import Invocation, Noun, pass_invocation, yes_option
from flashq.cli.wording import duration, plural, table_of
from flashq.protocol.queues import JobCountsReply

if TYPE_CHECKING:
    from flashq.client.sync_client import Client

#: What a limit is set to: a number, or nothing with "off".
OFF: Final = "off"

queue_argument: Final = click.argument("name", metavar="QUEUE")
create_option: Final = click.option(
    "--create", is_flag=True, help="Also where no such queue is known yet."
)
_STATES: Final = tuple(
    name for name in JobCountsReply.__struct_fields__ if name not in ("ok", "known")
)


def known_queue(client: Client, name: str) -> JobCountsReply:
    """Return how many jobs of a queue are in each state.

    Raises:
        click.ClickException: no such queue is known.
    """
    counts = client.get_job_counts(name)
    if not counts.known:
        raise click.ClickException(f"no queue {name} is known: it has neither jobs nor settings")
    return counts


def need_queue(client: Client, name: str, *, create: bool) -> None:
    """Refuse to set something for a queue that is not known, unless it is to come into being.

    Raises:
        click.ClickException: the sentence says how.
    """
    if not create and not client.get_job_counts(name).known:
        raise click.ClickException(
            f"no queue {name} is known: it has neither jobs nor settings; --create makes it"
        )


class LimitParameter(click.ParamType[int | None, Any]):
    """A limit, or `off`."""

    name = "limit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the limit, None for off."""
        if value == OFF:
            return None
        if isinstance(value, str) and value.isdecimal() and int(value) < 2**32:
            return int(value)
        return self.fail(f"{value!r} is neither a number below 2^32 nor `{OFF}`", param, ctx)


limit_argument: Final = click.argument("limit", metavar="LIMIT|off", type=LimitParameter())


@click.group(cls=Noun)
def queue() -> None:
    """Look at queues, stop them, limit them, empty them."""


# --- looking


@queue.command(name="list")
@pass_invocation
def list_queues(invocation: Invocation) -> None:
    """List all queues."""
    with invocation.client() as client:
        found = all_pages(lambda after: client.list_queues(after=after))
    if invocation.as_json:
        invocation.documents(found)
    else:
        table = table_of(
            "queue", "pending", "active", "dead", "rate limit", "concurrency", "",
            numbers=["pending", "active", "dead", "rate limit", "concurrency"],
        )  # fmt: skip
        for one in found:
            table.add_row(
                one.name,
                str(one.pending),
                str(one.processing),
                str(one.dlq),
                _limit_text(one.rate_limit),
                _limit_text(one.concurrency_limit),
                "paused" if one.paused else "",
            )
        invocation.table(table)
    invocation.warn_missing(found.missing_shards)


def _limit_text(limit: int | None) -> str:
    return "–" if limit is None else str(limit)


@queue.command()
@queue_argument
@pass_invocation
def counts(invocation: Invocation, name: str) -> None:
    """Count the jobs of QUEUE by state."""
    with invocation.client() as client:
        found = known_queue(client, name)
        pending = client.count(name)
        paused = client.is_paused(name)
    if invocation.as_json:
        by_state = {key: count for key, count in structs.asdict(found).items() if key in _STATES}
        invocation.document({"queue": name, **by_state, "pending": pending, "paused": paused})
        return
    table = table_of("state", "jobs", numbers=["jobs"])
    for key, count in structs.asdict(found).items():
        if key in _STATES:
            table.add_row(key, str(count))
    invocation.table(table)
    if paused:
        invocation.say(f"{name} is paused")


# --- stopping and limiting


@queue.command()
@queue_argument
@create_option
@pass_invocation
def pause(invocation: Invocation, name: str, create: bool) -> None:
    """Stop deliveries from QUEUE."""
    with invocation.client() as client:
        need_queue(client, name, create=create)
        client.pause(name)
    invocation.done(f"{name} is paused", {"queue": name, "paused": True})


@queue.command()
@queue_argument
@pass_invocation
def resume(invocation: Invocation, name: str) -> None:
    """Let QUEUE deliver again."""
    with invocation.client() as client:
        known_queue(client, name)
        client.resume(name)
    invocation.done(f"{name} delivers again", {"queue": name, "paused": False})


@queue.command(name="rate-limit")
@queue_argument
@limit_argument
@create_option
@pass_invocation
def rate_limit(invocation: Invocation, name: str, limit: int | None, create: bool) -> None:
    """Let QUEUE deliver at most LIMIT jobs a second; 0 stops it."""
    with invocation.client() as client:
        need_queue(client, name, create=create)
        if limit is None:
            client.clear_rate_limit(name)
        else:
            client.set_rate_limit(name, limit)
    said = "no rate limit" if limit is None else f"a rate limit of {plural(limit, 'job')} a second"
    invocation.done(f"{name} has {said}", {"queue": name, "rate_limit": limit})


@queue.command()
@queue_argument
@limit_argument
@create_option
@pass_invocation
def concurrency(invocation: Invocation, name: str, limit: int | None, create: bool) -> None:
    """Let at most LIMIT jobs of QUEUE be active at a time; 0 stops it."""
    with invocation.client() as client:
        need_queue(client, name, create=create)
        if limit is None:
            client.clear_concurrency(name)
        else:
            client.set_concurrency(name, limit)
    said = "no concurrency limit" if limit is None else f"a concurrency limit of {limit}"
    invocation.done(f"{name} has {said}", {"queue": name, "concurrency_limit": limit})


@queue.command()
@queue_argument
@click.option("--durability", type=click.Choice(["durable", "async", "memory"]))
@click.option("--keep-completed-age", type=DURATION, help="Keep completed jobs so long.")
@click.option("--keep-completed-count", type=click.IntRange(min=0), help="Keep so many.")
@create_option
@pass_invocation
def config(invocation: Invocation, /, name: str, create: bool, **defaults: Any) -> None:
    """Set the named defaults for the later pushes to QUEUE, and show all of them."""
    with invocation.client() as client:
        need_queue(client, name, create=create)
        found = client.queue_config(name, **defaults)
    if invocation.as_json:
        invocation.document(found)
        return
    invocation.say(f"durability: {found.durability or 'the server’s'}")
    kept_ms = found.keep_completed_age
    invocation.say(f"keep completed age: {duration(kept_ms) if kept_ms else '–'}")
    invocation.say(f"keep completed count: {found.keep_completed_count or '–'}")


# --- emptying


@queue.command()
@queue_argument
@yes_option
@pass_invocation
def drain(invocation: Invocation, name: str) -> None:
    """Remove the waiting and delayed jobs of QUEUE."""
    with invocation.client() as client:
        known_queue(client, name)
        if not invocation.yes:
            count = client.count(name)
            invocation.confirm(f"Remove {plural(count, 'waiting or delayed job')} of {name}?")
        count = client.drain(name)
    invocation.done(f"removed {plural(count, 'job')} of {name}", {"queue": name, "count": count})


@queue.command()
@queue_argument
@yes_option
@pass_invocation
def obliterate(invocation: Invocation, name: str) -> None:
    """Remove QUEUE: its jobs in every state, keys, limits, and the crons that target it."""
    with invocation.client() as client:
        known_queue(client, name)
        invocation.confirm(f"Remove the queue {name} with every job in it, active ones too?")
        count = client.obliterate(name)
    invocation.done(f"removed {name} with {plural(count, 'job')}", {"queue": name, "count": count})


@queue.command()
@queue_argument
@click.option(
    "--state",
    type=click.Choice(["waiting", "delayed", "completed", "failed", "cancelled"]),
    required=True,
)
@click.option("--grace", type=DURATION, required=True, help="Only jobs at least so old.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@yes_option
@pass_invocation
def clean(invocation: Invocation, name: str, state: str, grace: int, limit: int | None) -> None:
    """Remove the old jobs of QUEUE in one state, oldest first."""
    with invocation.client() as client:
        known_queue(client, name)
        invocation.confirm(f"Remove the {state} jobs of {name} that are {duration(grace)} old?")
        count = client.clean(name, grace, state, limit=limit)
    invocation.done(f"removed {plural(count, 'job')} of {name}", {"queue": name, "count": count})
