"""Replay one run with everything that happens in it, or make many and sum them up."""

from __future__ import annotations

import sys
import time
import traceback
from argparse import ArgumentParser
from collections import Counter

from tests.simulation.kinds import KINDS
from tests.simulation.simulation import play


def replay(seed: int) -> int:
    """Replay one run and tell everything."""
    report = play(seed, print)
    print(f"seed {seed}: digest {report.digest}, {report.steps} steps, rest {report.rest_s} s")
    for counts in (report.faults, report.seen):
        print("  ", dict(sorted(counts.items())))
    if report.failure is not None:
        traceback.print_exception(report.failure)
    return int(report.failure is not None)


def sweep(first: int, last: int) -> int:
    """Make many runs; print those that fail, and how often each kind of fault struck."""
    faults: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    failed: list[int] = []
    began = time.process_time()
    for seed in range(first, last + 1):
        report = play(seed)
        faults += report.faults
        seen += report.seen
        if report.failure is not None:
            failed.append(seed)
            print(f"seed {seed} fails: {type(report.failure).__name__}: {report.failure!s:.600}")
    print(f"{last - first + 1} runs in {time.process_time() - began:.1f} s of CPU")
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
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    first, last = map(int, arguments.seeds.split(".."))
    return sweep(first, last)


if __name__ == "__main__":
    sys.exit(main())
