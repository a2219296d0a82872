"""Replay one run with everything that happens in it, or make many and sum them up."""

from __future__ import annotations

import os
import sys
import time
import traceback
from argparse import ArgumentParser
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.kinds import KINDS
from tests.simulation.simulation import play

Tally = tuple[Counter[str], Counter[str], str | None, float]


def replay(seed: int) -> int:
    """Replay one run and tell everything."""
    report = play(seed, print)
    print(f"seed {seed}: digest {report.digest}, {report.steps} steps, rest {report.rest_s} s")
    for counts in (report.faults, report.seen):
        print("  ", dict(sorted(counts.items())))
    if report.failure is not None:
        traceback.print_exception(report.failure)
    return int(report.failure is not None)


def tally(seed: int) -> Tally:
    """Play one run; return what struck, what was seen, how it failed, and its seconds of CPU."""
    began = time.process_time()
    report = play(seed)
    failure = report.failure
    told = None if failure is None else f"{type(failure).__name__}: {failure!s:.600}"
    return report.faults, report.seen, told, time.process_time() - began


def sweep(first: int, last: int, jobs: int) -> int:
    """Make many runs; print those that fail, and how often each kind of fault struck.

    Args:
        jobs: how many processes play them.
    """
    faults: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    failed: list[int] = []
    spent_s = 0.0
    seeds = range(first, last + 1)
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        for seed, (struck, happened, failure, took_s) in zip(
            seeds, pool.map(tally, seeds, chunksize=4), strict=True
        ):
            faults += struck
            seen += happened
            spent_s += took_s
            if failure is not None:
                failed.append(seed)
                print(f"seed {seed} fails: {failure}", flush=True)
    print(f"{len(seeds)} runs in {spent_s:.1f} s of CPU, by {jobs} processes")
    for kind in sorted({*KINDS, *faults}):
        print(f"{faults[kind]:8} {kind}")
    print("-- and")
    for what, count in sorted(seen.items()):
        print(f"{count:8} {what}")
    print(f"failed: {failed}" if failed else "none failed")
    return int(bool(failed))


def main() -> int:
    """Read the command line."""
    parser = ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--seed", type=int, help="replay this run")
    group.add_argument("--seeds", help="make the runs A..B")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes that make them; one per core"
    )
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    first, last = map(int, arguments.seeds.split(".."))
    return sweep(first, last, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
