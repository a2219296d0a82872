"""`make torture`: run the ledger test, print its table, and write it to build/torture.txt."""

from __future__ import annotations

import argparse
import sys
from random import SystemRandom
from typing import Final

from rich.console import Console

from tests.torture.report import BUILD, print_report, write_report
from tests.torture.run import Plan, torture
from tests.torture.selftest import SELF_TESTS

EXTRA_S: Final = 300.0


def main() -> int:
    """Run what the flags say; the status is 0 when everything is as it has to be."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of killing, for each storage")
    parser.add_argument("--storage", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--level", choices=("durable", "async"), default="durable")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000))
    parser.add_argument("--keep", action="store_true", help="keep the ledgers in any case")
    parser.add_argument("--self-test", action="store_true", help="see that sabotage is noticed")
    flags = parser.parse_args()
    console = Console()
    storages = ("sqlite", "postgres") if flags.storage == "both" else (flags.storage,)
    if flags.self_test:
        return _self_test(console, storages, flags.seed)
    outcomes = []
    for storage in storages:
        plan = Plan(
            storage=storage,
            seconds=flags.minutes * 60,
            seed=flags.seed,
            level=flags.level,
            extra_s=EXTRA_S,
            say=console.print,
        )
        outcomes.append(torture(plan, keep_always=flags.keep))
    print_report(console, outcomes)
    write_report(BUILD / "torture.txt", outcomes)
    verdicts = [outcome.verdict for outcome in outcomes]
    return 0 if all(each.balances and each.counts_as_run for each in verdicts) else 1


def _self_test(console: Console, storages: tuple[str, ...], seed: int) -> int:
    """Run with each safety taken out; a run that balances then is a failure."""
    outcomes, failed = [], []
    for storage in storages:
        for test in SELF_TESTS:
            outcome = torture(test.plan(storage, seed, console.print))
            outcomes.append(outcome)
            is_right = outcome.verdict.balances is test.balances
            found = ", ".join(f"{n} {kind}" for kind, n in outcome.verdict.violations.items())
            word = "as it has to be" if is_right else "WRONG"
            console.print(f"{storage}, {test.sabotage}: {found or 'balances'}: {word}")
            if not is_right:
                failed.append(outcome)
    if failed:
        print_report(console, failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
