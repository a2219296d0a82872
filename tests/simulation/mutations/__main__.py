"""Tell for each mutation in how many runs it is noticed, and as what most often."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections import Counter

from tests.simulation import mutations
from tests.simulation.mutations import MUTATIONS, notice

CHARS_MAX = 70


def main() -> int:
    """Read the command line, and count."""
    parser = ArgumentParser(prog="python -m tests.simulation.mutations", description=__doc__)
    parser.add_argument("--seeds", default="1..200", help="the runs A..B")
    parser.add_argument("names", nargs="*", help="mutations; all without any")
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split(".."))
    mutations.load()
    for name in arguments.names or MUTATIONS:
        reports = [notice(MUTATIONS[name], seed) for seed in range(first, last + 1)]
        # Numbers differ from run to run.
        kinds = Counter(re.sub(r"\d+", "N", report)[:CHARS_MAX] for report in reports if report)
        most = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(2))
        print(f"{kinds.total():4} of {len(reports)} {name:45} {most}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
