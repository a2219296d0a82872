"""`flashq top`: the queues in a live table, read again every second.

Owns the keyboard while it runs and gives it back at whatever end. Without a terminal it prints
once.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import click
from msgspec import Struct

from flashq.cli.verbs import Invocation, Verb, pass_invocation
from flashq.cli.wording import table_of
from flashq.protocol.objects import Metrics, QueueInfo
from flashq.protocol.server import StatsReply

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from flashq.client.sync_client import Client

INTERVAL_S: Final = 1.0
QUEUES_ASKED: Final = 200
"""More than any terminal has lines."""
QUIT_KEYS: Final = (b"q", b"Q", b"\x1b", b"\x03", b"\x04")


class Snapshot(Struct, frozen=True):
    """What the server said at one moment; `at` is of the monotonic clock, in seconds."""

    at: float
    stats: StatsReply
    metrics: Metrics
    queues: list[QueueInfo]
    queues_total: int


class Rates(NamedTuple):
    """Jobs a second between two snapshots."""

    pushed: float
    completed: float
    failed: float


def take(client: Client) -> Snapshot:
    """Ask the server for everything that the table shows."""
    stats, metrics = client.stats(), client.metrics(queues=0)
    queues = client.list_queues(fullest=True, limit=QUEUES_ASKED)
    total = len(queues) if queues.total is None else queues.total
    return Snapshot(time.monotonic(), stats, metrics.metrics, queues, total)


def rates(before: Snapshot | None, now: Snapshot) -> Rates | None:
    """Return the rates between two snapshots; None when there is no earlier one."""
    if before is None or now.at <= before.at:
        return None
    old, new, seconds = before.metrics, now.metrics, now.at - before.at
    return Rates(
        max(0, new.total_pushed - old.total_pushed) / seconds,
        max(0, new.total_completed - old.total_completed) / seconds,
        max(0, new.total_failed - old.total_failed) / seconds,
    )


def picture(before: Snapshot | None, now: Snapshot, url: str, rows_max: int) -> Group:
    """Return the screen.

    Args:
        before, now: the last two snapshots.
        url: the server.
        rows_max: queues that fit; those with the most to do are shown.
    """
    from rich.console import Group
    from rich.text import Text

    stats = now.stats
    away = stats.missing_shards
    alive = f"{len(stats.shards)} shards" + (f", silent: {away}" if away else "")
    lines: list[RenderableType] = [
        Text(f"flashq at {url}: {alive}", style="bold"),
        Text(
            f"{stats.queued} waiting  {stats.processing} active  {stats.delayed} delayed  "
            f"{stats.waiting_dependencies} depending  {stats.completed} completed  {stats.dlq} dead"
        ),
    ]
    if (speed := rates(before, now)) is not None:
        lines.append(
            Text(
                f"{speed.pushed:,.0f} pushed/s  {speed.completed:,.0f} completed/s  "
                f"{speed.failed:,.0f} failed/s"
            )
        )
    busiest = sorted(now.queues, key=lambda one: (-one.pending - one.processing, one.name))
    table = table_of(
        "queue", "pending", "active", "dead", "", numbers=["pending", "active", "dead"]
    )
    for one in busiest[:rows_max]:
        table.add_row(
            one.name,
            str(one.pending),
            str(one.processing),
            str(one.dlq),
            "paused" if one.paused else "",
        )
    lines += [Text(""), table]
    more = now.queues_total - min(len(busiest), rows_max)
    if more > 0:
        lines.append(Text(f"and {more} queues more"))
    return Group(*lines)


@click.command(cls=Verb)
@pass_invocation
def top(invocation: Invocation) -> None:
    """Watch the queues in a live table; q ends it.

    Where nobody can look or press q, and with --json, it prints once.
    """
    with invocation.client() as client:
        if invocation.as_json:
            now = take(client)
            invocation.document(
                {"stats": now.stats, "metrics": now.metrics, "queues": list(now.queues)}
            )
        elif not (sys.stdout.isatty() and sys.stdin.isatty()):
            console = invocation.console()
            now = take(client)
            console.print(picture(None, now, client.url, len(now.queues)))
        else:
            _watch(invocation, client)


def _watch(invocation: Invocation, client: Client) -> None:
    from rich.live import Live

    console = invocation.console()
    before, now = None, take(client)
    with _keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            rows_max = max(1, console.height - 7)
            live.update(picture(before, now, client.url, rows_max), refresh=True)
            if _quit_pressed(keyboard):
                return
            before, now = now, take(client)


def _quit_pressed(keyboard: int) -> bool:
    """Wait for the next refresh, and tell whether it is wanted."""
    deadline = time.monotonic() + INTERVAL_S
    while (left := deadline - time.monotonic()) > 0:
        if select.select([keyboard], [], [], left)[0] and os.read(keyboard, 1) in (b"", *QUIT_KEYS):
            return True
    return False


@contextmanager
def _keyboard() -> Iterator[int]:
    """Have single keys arrive at once for the length of a block."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
