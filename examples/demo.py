"""The demo behind `make demo`: real work on real processes, two of which are killed on the way.

It starts a server and four workers, indexes every file of Python's standard library through eight
queues, kills one shard (while it holds waiting and active jobs) and one worker with SIGKILL, and
then does the same work in a plain loop. The exit status is 0 only if both agree in every file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Final, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from examples.source_index import FIGURES, index_file, source_files, totals
from flashq import AsyncClient
from flashq.ids import shard_of_queue
from flashq.rundir import RunDir

QUEUES: Final = tuple(f"index-{number}" for number in range(8))
WORKERS: Final = 4
ACTIVE_MAX: Final = 4
"""Jobs of one queue that are active at a time; the rest of them wait in their shard."""
FILES_MIN: Final = 2 * ACTIVE_MAX * len(QUEUES)
SESSION_TIMEOUT_MS: Final = 4000
HEARTBEAT_MS: Final = 1000
"""Shorter than a server's defaults, so that a killed worker's jobs are back before the end."""
JOB_TIMEOUT_MS: Final = 600_000
STOP_TIMEOUT_S: Final = 10.0
SHARD_DIES_AT: Final = 0.02
WORKER_DIES_AT: Final = 0.5
"""Shares of the results that have arrived when it happens."""

_AS_CHILD: Final = """
import ctypes, runpy, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module in a process that ends with its parent, however that ends."""


class DemoFailed(Exception):
    """Something did not go as it has to; the text says what."""


@contextlib.contextmanager
def process(
    module: str, *arguments: str, environ: dict[str, str], log: IO[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a module in a process of its own for the length of a block, and stop it at any end.

    Args:
        module: its name, as behind `python -m`.
        arguments: what stands behind it.
        environ: its environment.
        log: takes its stderr; its stdout is then a pipe.
    """
    started = subprocess.Popen(
        [sys.executable, "-c", _AS_CHILD, module, *arguments],
        env=environ,
        stdout=None if log is None else subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield started
    finally:
        _stop(started)


def _stop(started: subprocess.Popen[str]) -> None:
    """End a process that may run, stand still, or be gone already."""
    if started.poll() is None:
        started.send_signal(signal.SIGCONT)
        started.terminate()
        try:
            started.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
    if started.stdout is not None:
        started.stdout.close()


@contextlib.contextmanager
def server(run_dir: Path) -> Iterator[str]:
    """Run a whole server, and give its TCP endpoint once it is ready."""
    log_path = run_dir / "server.log"
    run_dir.mkdir(mode=0o700)
    flags = [
        f"--run-dir={run_dir}",
        "--storage=memory:",
        "--zmq-port=0",
        "--port=0",
        "--http-port=0",
        "--grpc-port=0",
        f"--session-timeout-ms={SESSION_TIMEOUT_MS}",
        f"--heartbeat-interval-ms={HEARTBEAT_MS}",
    ]
    with (
        log_path.open("w") as log,
        process("flashq", "serve", *flags, environ=_without_settings(), log=log) as started,
    ):
        assert started.stdout is not None
        endpoints = []
        for line in started.stdout:
            if line.strip() == "ready":
                break
            endpoints.append(line.strip())
        else:
            raise DemoFailed(f"the server did not start:\n{log_path.read_text()}")
        yield next(endpoint for endpoint in endpoints if endpoint.startswith("tcp://"))


def _without_settings() -> dict[str, str]:
    """Return the environment without what belongs to another server."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FLASHQ_") and name != "DATABASE_URL"
    }


@contextlib.contextmanager
def workers(url: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Run the worker processes."""
    environ = _without_settings() | {"FLASHQ_URL": url}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(process("examples.demo_worker", *QUEUES, environ=environ))
            for _ in range(WORKERS)
        ]


class Run:
    """One pass of all files through the queues.

    Args:
        files: what to index.
        run_dir: the server's run directory.
        client: connected to it.
        staff: the worker processes.
        progress: where people see how far it is.
    """

    def __init__(
        self,
        files: list[str],
        run_dir: RunDir,
        client: AsyncClient,
        staff: list[subprocess.Popen[str]],
        progress: Progress,
    ) -> None:
        self._files = files
        self._run_dir = run_dir
        self._client = client
        self._staff = staff
        self._progress = progress
        self.figures: dict[str, dict[str, int]] = {}

    async def push(self) -> dict[str, int]:
        """Push one job for each file, and return their ids by file."""
        ids: dict[str, int] = {}
        for number, queue in enumerate(QUEUES):
            await self._client.set_concurrency(queue, ACTIVE_MAX)
            mine = self._files[number :: len(QUEUES)]
            if mine:
                entries = [{"data": name, "job_id": name} for name in mine]
                ids |= zip(mine, await self._client.push_batch(queue, entries), strict=True)
        return ids

    async def collect(self, ids: dict[str, int], task: TaskID) -> None:
        """Wait for every job's result, and kill a shard and a worker on the way."""
        deaths = [
            (max(1, int(len(ids) * SHARD_DIES_AT)), self._kill_shard),
            (max(2, int(len(ids) * WORKER_DIES_AT)), self._kill_worker),
        ]
        waits = [asyncio.create_task(self._result(name, job_id)) for name, job_id in ids.items()]
        try:
            for arrived, wait in enumerate(asyncio.as_completed(waits), 1):
                await wait
                self._progress.advance(task)
                if deaths and arrived >= deaths[0][0]:
                    _, kill = deaths.pop(0)
                    await kill()
        finally:
            for unfinished in waits:
                unfinished.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _result(self, name: str, job_id: int) -> None:
        self.figures[name] = await self._client.finished(job_id, JOB_TIMEOUT_MS)

    async def _kill_worker(self) -> None:
        victim = self._staff[0]
        victim.kill()
        self._say(f"killed a worker (process {victim.pid}); {WORKERS - 1} go on")

    async def _kill_shard(self) -> None:
        """Kill a shard that holds waiting and active jobs, and see that it comes back with them.

        The workers stand still meanwhile, so that what was counted before is what it died with.
        """
        for worker in self._staff:
            worker.send_signal(signal.SIGSTOP)
        try:
            queue, waiting, active = await self._busiest_queue()
            shard = shard_of_queue(queue, (await self._client.connect()).shard_count)
            pid = int(self._run_dir.lock(f"shard-{shard}").read_text())
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            after = await self._client.get_job_counts(queue)  # answered by its successor
            seconds = time.monotonic() - began
            successor = int(self._run_dir.lock(f"shard-{shard}").read_text())
        finally:
            for worker in self._staff:
                worker.send_signal(signal.SIGCONT)
        if (after.waiting, after.active) != (waiting, active) or successor == pid:
            raise DemoFailed(
                f"shard {shard} died with {waiting} waiting and {active} active jobs of {queue}, "
                f"and process {successor} came back with {after.waiting} and {after.active}"
            )
        self._say(
            f"killed shard {shard} (process {pid}) while it held {waiting} waiting "
            f"and {active} active jobs of {queue}; process {successor} has all of them "
            f"{seconds:.2f} s later"
        )

    async def _busiest_queue(self) -> tuple[str, int, int]:
        """Return the queue with the most waiting jobs of those with active ones, and its counts.

        They are counted until nothing changes: what the workers had sent may still be on its way.
        """
        before: list[tuple[int, int, str]] = []
        while True:
            counts = [(queue, await self._client.get_job_counts(queue)) for queue in QUEUES]
            now = [(count.waiting, count.active, queue) for queue, count in counts]
            if now == before:
                break
            before = now
        waiting, active, queue = max(count for count in now if count[1])
        if not waiting or not active:
            raise DemoFailed(f"no queue has both waiting and active jobs: {now}")
        return queue, waiting, active

    def _say(self, sentence: str) -> None:
        self._progress.console.print(sentence, highlight=False)


async def through_queues(
    files: list[str], run_dir: Path, progress: Progress
) -> dict[str, dict[str, int]]:
    """Index the files by server and workers, and return each file's figures."""
    with server(run_dir) as url:
        async with AsyncClient(url) as client:
            task = progress.add_task("through the queue", total=len(files))
            with workers(url) as staff:
                run = Run(files, RunDir(str(run_dir)), client, staff, progress)
                await run.collect(await run.push(), task)
            metrics = (await client.metrics()).metrics
    progress.console.print(
        f"{metrics.total_pushed} jobs pushed, {metrics.total_completed} completed, "
        f"{metrics.total_lost} given back because their worker was gone",
        highlight=False,
    )
    return run.figures


def in_a_loop(files: list[str], progress: Progress) -> dict[str, dict[str, int]]:
    """Index the files one after the other, without a queue."""
    task = progress.add_task("in a plain loop", total=len(files))
    figures = {}
    for name in files:
        figures[name] = index_file(name)
        progress.advance(task)
    return figures


def report(
    console: Console, queued: dict[str, dict[str, int]], plain: dict[str, dict[str, int]]
) -> bool:
    """Print the totals of both ways and where they differ, and return whether they are equal."""
    table = Table("", "through the queue", "in a plain loop")
    rows = zip(FIGURES, totals(queued).values(), totals(plain).values(), strict=True)
    for name, *sums in [("files", len(queued), len(plain)), *rows]:
        table.add_row(name.replace("_", " "), *(f"{count:,}" for count in sums))
    console.print(table)
    different = sorted(
        name for name in queued.keys() | plain.keys() if queued.get(name) != plain.get(name)
    )
    for name in different:
        console.print(f"{name}: {queued.get(name)} through the queue, {plain.get(name)} without")
    equal = len(plain) - len(different)
    console.print(f"{equal} of {len(plain)} files are equal", highlight=False)
    return not different


def _exit_on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser("python -m examples.demo", description=__doc__)
    parser.add_argument("--limit", type=int, metavar="FILES", help="only so many files")
    limit = parser.parse_args().limit
    if limit is not None and limit < FILES_MIN:
        parser.error(f"--limit is at least {FILES_MIN}, or no shard would hold waiting jobs")
    warnings.simplefilter("ignore")  # old sources warn about themselves when they are parsed
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    files = source_files(limit)
    console = Console()
    temporary = tempfile.mkdtemp(prefix="flashq-demo-")
    try:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        ) as progress:
            queued = asyncio.run(through_queues(files, Path(temporary, "run"), progress))
            plain = in_a_loop(files, progress)
    except DemoFailed as failure:
        console.print(f"the demo failed: {failure}", markup=False)
        return 1
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return 0 if report(console, queued, plain) else 1


if __name__ == "__main__":
    sys.exit(main())
