"""`flashq stats`, `metrics`, `workers` and `events`: the server as a whole."""

from __future__ import annotations

import sys
from typing import Final

import click
from msgspec import structs

from flashq.cli.pages import all_pages
from flashq.cli.supervision import restarts_table, summary
from flashq.cli.verbs import Invocation, Verb, pass_invocation
from flashq.cli.wording import duration, local_time, payload_text, size, table_of
from flashq.clock import SystemClock
from flashq.protocol.objects import EVENTS
from flashq.protocol.server import SupervisorStats

_STATES: Final = (
    *("queued", "processing", "delayed", "waiting_dependencies", "completed", "cancelled"),
    "dlq",
)


@click.command(cls=Verb)
@pass_invocation
def stats(invocation: Invocation) -> None:
    """Count all jobs by state, and show the condition of each shard, and what was restarted."""
    with invocation.client() as client:
        found = client.stats()
    if invocation.as_json:
        invocation.document(found)
    else:
        table = table_of("state", "jobs", numbers=["jobs"])
        for name in (
            "queued",
            "processing",
            "delayed",
            "waiting_dependencies",
            "completed",
            "cancelled",
            "dlq",
        ):
            table.add_row(name.replace("_", " "), str(getattr(found, name)))
        invocation.table(table)
        numbers = ["shard", "epoch", "jobs", "size", "sessions", "waiters", "not safe yet"]
        shards = table_of(*numbers, numbers=numbers)
        for shard in found.shards:
            shards.add_row(
                str(shard.shard),
                str(shard.epoch),
                str(shard.jobs),
                size(shard.bytes),
                str(shard.sessions),
                str(shard.waiters),
                size(shard.unsafe_bytes),
            )
        invocation.say("")
        invocation.table(shards)
        if (told := found.coordinator) is not None:
            invocation.say(
                f"log: {size(told.log_bytes)} of at most {size(told.log_bytes_max)}; "
                f"the oldest change that is not stored yet has waited {told.lag_ms} ms"
            )
        if found.supervisor is not None:
            _show_programs(invocation, found.supervisor)
    if found.storage:
        invocation.complain(f"changes wait: {found.storage}")
    if (supervisor := found.supervisor) is not None and supervisor.hangs:
        silent = duration(supervisor.silent_ms)
        invocation.complain(f"the supervisor hangs: its loop has not turned for {silent}")
    invocation.warn_missing(found.missing_shards)


def _show_programs(invocation: Invocation, supervisor: SupervisorStats) -> None:
    now_ms = SystemClock().wall_ms()
    invocation.say(summary(supervisor, now_ms))
    if any(program.restarts for program in supervisor.programs):
        invocation.say("")
        invocation.table(restarts_table(supervisor, now_ms))


@click.command(cls=Verb)
@click.option("--history", is_flag=True, help="The last 5 minutes instead, one line for every 5 s.")
@pass_invocation
def metrics(invocation: Invocation, history: bool) -> None:
    """Show the totals since the server's start."""
    if history:
        _show_history(invocation)
        return
    with invocation.client() as client:
        found = client.metrics()
    if invocation.as_json:
        invocation.document(found.metrics)
    else:
        table = table_of("total", "value", numbers=["value"])
        for name, value in structs.asdict(found.metrics).items():
            if name != "queues":
                text = f"{value:.2f}" if isinstance(value, float) else str(value)
                table.add_row(name.removeprefix("total_").replace("_", " "), text)
        invocation.table(table)
    invocation.warn_missing(found.missing_shards)


def _show_history(invocation: Invocation) -> None:
    with invocation.client() as client:
        points = client.metrics_history()
    if invocation.as_json:
        invocation.documents(points)
        return
    numbers = ["queued", "processing", "completed", "failed", "completed/s", "latency"]
    table = table_of("at", *numbers, numbers=numbers)
    for point in points:
        table.add_row(
            f"{local_time(point.timestamp):%H:%M:%S}",
            str(point.queued),
            str(point.processing),
            str(point.completed),
            str(point.failed),
            f"{point.throughput:.1f}",
            f"{point.latency_ms:.0f} ms",
        )
    invocation.table(table)


@click.command(cls=Verb)
@pass_invocation
def workers(invocation: Invocation) -> None:
    """List the workers that were heard of in the last 30 s."""
    with invocation.client() as client:
        found = all_pages(lambda after: client.list_workers(after=after))
    if invocation.as_json:
        invocation.documents(found)
    else:
        numbers = ["held", "waiting", "processed"]
        table = table_of("worker", "name", "queues", *numbers, "heard of", numbers=numbers)
        for one in found:
            table.add_row(
                one.id,
                one.name or "",
                ", ".join(one.queues),
                str(one.jobs_held),
                str(one.pulls_waiting),
                str(one.jobs_processed),
                f"{local_time(one.last_heartbeat):%H:%M:%S}",
            )
        invocation.table(table)
    invocation.warn_missing(found.missing_shards)


@click.command(cls=Verb)
@click.argument("queue", default="*")
@click.option("--event", "names", multiple=True, type=click.Choice(EVENTS), help="Only these.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
@pass_invocation
def events(invocation: Invocation, queue: str, names: tuple[str, ...], count: int | None) -> None:
    """Print what happens to the jobs of QUEUE, or of all, until Ctrl-C."""
    from flashq.client.results import Gap

    with invocation.client() as client, client.subscribe(queue, names or "*") as happenings:
        for seen, event in enumerate(happenings, 1):
            if isinstance(event, Gap):
                invocation.complain(f"some events are missing here ({event.reason})")
            elif invocation.as_json:
                invocation.document(event)
            else:
                at = local_time(event.at)
                ids = " ".join(str(job_id) for job_id in event.ids)
                told = [event.error, event.message]
                told += [payload_text(item) for item in event.data or () if item is not None]
                more = " ".join(text for text in told if text)
                invocation.say(
                    f"{at:%H:%M:%S.%f} {event.event} {event.queue} {ids} {more}".rstrip()
                )
            sys.stdout.flush()
            if seen == count:
                break
