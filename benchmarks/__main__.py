"""`python -m benchmarks`: measure, and print one table.

Everything runs on this machine, client and load included. Each measurement has a server of its own,
and the bare echo of the same bytes is measured right before it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click
import zmq
from rich.console import Console
from rich.table import Table

from benchmarks import doors, durable, echo, figures, stall
from benchmarks.server import Server, running

Row = tuple[str, str, str, str]
"""What, its figure, at least, and the bare echo beside it."""


def _median_of(runs: int, measure: Callable[[Server], float], *flags: str) -> float:
    found = []
    for _ in range(runs):
        with running(*flags) as server:
            found.append(measure(server))
    return median(found)


def _batches(runs: int) -> list[Row]:
    with echo.hops() as address:
        bare = figures.BATCH * echo.messages_per_second(
            address, figures.BATCH_BODY_BYTES, 4, figures.SECONDS
        )
    pushed = _median_of(runs, figures.push_batches)
    alone = _median_of(runs, lambda server: figures.pull_and_ack(server, 1))
    cycled = _median_of(runs, lambda server: figures.pull_and_ack(server, 4))
    return [
        (
            "push, batches of 1,000, 4 in flight (jobs/s)",
            f"{pushed:,.0f}",
            "1,500,000 and half of the echo",
            f"{bare:,.0f}",
        ),
        ("pull 1,000 + ack 1,000, 4 in flight (jobs/s)", f"{cycled:,.0f}", "400,000", ""),
        ("the same, one at a time (jobs/s)", f"{alone:,.0f}", "", ""),
    ]


def _singles(runs: int) -> list[Row]:
    with echo.hops() as address:
        bare = echo.messages_per_second(address, figures.SINGLE_BODY_BYTES, 100, figures.SECONDS)
    one = _median_of(runs, lambda server: figures.single_pushes(server, 1))
    spread = _median_of(runs, lambda server: figures.single_pushes(server, 32))
    return [
        (
            "single pushes, 100 in flight, one queue (per s)",
            f"{one:,.0f}",
            "35,000 and 60 % of the echo",
            f"{bare:,.0f}",
        ),
        ("the same over 32 queues (per s)", f"{spread:,.0f}", "22,000", f"{bare:,.0f}"),
    ]


def _latencies(_: int) -> list[Row]:
    with echo.hops() as address:
        bare = figures.echo_latency(address)
    with running() as server:
        p50, p99 = figures.push_latency(server)
        wake = figures.wake_latency(server)
    return [
        (
            "single push, one at a time, p50 / p99 (µs)",
            f"{p50:,.0f} / {p99:,.0f}",
            "at most 350 / 1,000",
            f"{bare:,.0f}",
        ),
        ("push to a waiting worker's handler, p50 (µs)", f"{wake:,.0f}", "at most 400", ""),
    ]


def _worker(runs: int) -> list[Row]:
    rate = _median_of(runs, figures.worker_rate)
    return [("worker, handler that does nothing (jobs/s)", f"{rate:,.0f}", "60,000", "")]


def _depth(_: int) -> list[Row]:
    with running() as server:
        shallow = figures.cost_by_depth(server, 1000)
        deep = figures.cost_by_depth(server, 1_000_000)
    return [
        (
            "push + pull at 1,000,000 waiting against 1,000, 10 priorities",
            f"{deep / shallow:.2f} × ({deep:.2f} / {shallow:.2f} µs)",
            "at most 1.5 ×",
            "",
        )
    ]


def _memory(_: int) -> list[Row]:
    with running() as server:
        megabytes, per_cent = figures.idle(server)
        in_shard, in_all = figures.memory_per_job(server)
    return [
        (
            "memory per waiting job, shard (with the coordinator's log) (bytes)",
            f"{in_shard:,.0f} ({in_all:,.0f})",
            "at most 320",
            "",
        ),
        (
            "idle server, 32 shards: memory / of one core",
            f"{megabytes:,.0f} MB / {per_cent:.1f} %",
            "at most 150 MB / 3 %",
            "",
        ),
    ]


def _durable(runs: int) -> list[Row]:
    with durable.databases() as database:
        copies = durable.bare_copies(database(), figures.BATCH_BODY_BYTES)
        small = durable.bare_copies(database(), figures.SINGLE_BODY_BYTES)
        bare = {
            "SQLite": (durable.bare_fsyncs(figures.BATCH_BODY_BYTES), 0.0),
            "PostgreSQL": (copies, small),
        }
        rows: list[Row] = []
        for name, least in DURABLE_AT_LEAST.items():
            make = database if name == "PostgreSQL" else str
            big, one = bare[name]
            rows += _durable_rows(runs, name, make, least, (big, one))
        return rows


DURABLE_AT_LEAST = {
    "SQLite": ("700,000", "", "22,000", "10,000", "", ""),
    "PostgreSQL": ("500,000", "200,000", "20,000", "10,000", "40,000", "at most 2,500"),
}


def _durable_rows(
    runs: int,
    name: str,
    make: Callable[[], str],
    least: tuple[str, ...],
    bare: tuple[float, float],
) -> list[Row]:
    def median_of(measure: Callable[[Server], float]) -> float:
        found = []
        for _ in range(runs):
            with running(storage=make()) as server:
                found.append(measure(server))
        return median(found)

    rows = [
        (
            f"{name}: durable push, batches of 1,000, 4 in flight (jobs/s)",
            f"{median_of(figures.push_batches):,.0f}",
            least[0],
            f"{bare[0] * figures.BATCH:,.0f} (one commit a batch)",
        ),
        (
            f"{name}: durable push + pull + ack, batches of 1,000 (jobs/s)",
            f"{median_of(figures.refill_and_cycle):,.0f}",
            least[1],
            "",
        ),
        (
            f"{name}: durable single pushes, 100 in flight, one queue (per s)",
            f"{median_of(lambda server: figures.single_pushes(server, 1)):,.0f}",
            least[2],
            "",
        ),
        (
            f"{name}: the same over 32 queues (per s)",
            f"{median_of(lambda server: figures.single_pushes(server, 32)):,.0f}",
            least[3],
            "",
        ),
        (
            f"{name}: worker, handler that does nothing, acks durable (jobs/s)",
            f"{median_of(figures.worker_rate):,.0f}",
            least[4],
            "",
        ),
    ]
    with running(storage=make()) as server:
        p50, _ = figures.push_latency(server, 1000)
    commit = f"{1e6 / bare[1]:,.0f} (a commit)" if bare[1] else ""
    rows.append(
        (f"{name}: durable single push, one at a time, p50 (µs)", f"{p50:,.0f}", least[5], commit)
    )
    seconds = durable.recovery_seconds(make())
    rows.append(
        (f"{name}: recovery of 1,000,000 waiting jobs (s)", f"{seconds:.1f}", "at most 10", "")
    )
    return rows


def _deep(_: int) -> list[Row]:
    longest = stall.longest_stall_ms(3_000_000)
    rows = [
        (
            "longest stall of a shard with 3,000,000 jobs waiting (ms)",
            f"{longest:.1f}",
            "at most 5",
            "",
        )
    ]
    with durable.databases() as database:
        for name, storage in (("SQLite", ""), ("PostgreSQL", database())):
            with running(storage=storage) as server:
                shallow, deep = figures.pushes_by_depth(server, 5_000, 5_000_000)
            rows.append(
                (
                    f"{name}: slowdown of durable pushes with 5,000,000 jobs waiting against 5,000",
                    f"{shallow / deep:.2f} × ({shallow:,.0f} / {deep:,.0f} jobs/s)",
                    "at most 1.3 ×",
                    "",
                )
            )
    return rows


def _doors(runs: int) -> list[Row]:
    rows: list[Row] = []
    memory = ("--durability", "memory")
    ten = partial(doors.line_pushes, connections=10, in_flight=1)
    hundred = partial(doors.line_pushes, connections=1, in_flight=100)
    measures: tuple[tuple[str, str, Callable[[Server], float], tuple[str, ...]], ...] = (
        ("JSON lines: PUSHB of 1,000, 4 in flight (jobs/s)", "500,000", doors.line_batches, ()),
        ("MessagePack over TCP: the same (jobs/s)", "600,000", doors.frame_batches, ()),
        ("JSON lines: PUSH, 10 connections, one in flight, memory (per s)", "12,000", ten, memory),
        ("JSON lines: PUSH, one connection, 100 in flight (per s)", "25,000", hundred, ()),
        ("HTTP: push, 64 connections (per s)", "5,000", doors.http_pushes, ()),
    )
    for text, least, measure, flags in measures:
        rows.append((text, f"{_median_of(runs, measure, *flags):,.0f}", least, ""))
    with running() as server:
        megabytes, batches, singles = doors.listeners(server, runs)
    rows.append(
        (
            "1,000 idle WebSocket listeners: memory / batches / single pushes beside them",
            f"{megabytes:.0f} MB / {batches:.0%} / {singles:.0%}",
            "at most 60 MB, at least 90 % of the rate without them",
            "",
        )
    )
    return rows


GROUPS: dict[str, Callable[[int], list[Row]]] = {
    "batches": _batches,
    "singles": _singles,
    "latency": _latencies,
    "worker": _worker,
    "depth": _depth,
    "memory": _memory,
    "doors": _doors,
    "durable": _durable,
    "deep": _deep,
}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _heading() -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d} · {_processor()}, {os.cpu_count()} cores · "
        f"Python {platform.python_version()}, pyzmq {version('pyzmq')}, "
        f"libzmq {zmq.zmq_version()}, msgspec {version('msgspec')} · "
        f"flashq {version('flashq')}, 32 shards, memory: and async where a row says nothing else"
    )


@click.command(help=__doc__)
@click.option("--runs", default=3, show_default=True, help="Runs a throughput is the median of.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.argument("groups", nargs=-1, type=click.Choice(list(GROUPS)))
def main(runs: int, as_json: bool, groups: tuple[str, ...]) -> None:
    """Measure the named groups, or all."""
    rows: list[Row] = []
    for name in groups or tuple(GROUPS):
        print(f"measuring {name}", file=sys.stderr)
        rows += GROUPS[name](runs)
    if as_json:
        print(json.dumps({"setting": _heading(), "rows": rows}, indent=2))
        return
    table = Table("measure", "figure", "at least", "bare echo", title=_heading())
    for row in rows:
        table.add_row(*row)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


main()
