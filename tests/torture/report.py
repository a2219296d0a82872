"""The report: runs beside each other in one table, and what went wrong in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.torture.checker import KINDS, Verdict
from tests.torture.run import Outcome

BUILD: Final = Path(__file__).parents[2] / "build"
"""Where reports are kept, by who runs this and by continuous integration."""
WIDTH: Final = 110


def print_report(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the table of some runs, and the violations that were found."""
    console.print(_table(outcomes))
    for outcome in outcomes:
        for example in outcome.verdict.examples:
            console.print(f"{outcome.plan.storage}: {example}", markup=False, soft_wrap=True)
        if outcome.home is not None:
            console.print(f"{outcome.plan.storage}: ledgers and logs are in {outcome.home}")


def write_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the same into a file, for who comes later."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        print_report(Console(file=file, width=WIDTH), outcomes)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="the ledger test; of those killed: (holding work, during recovery)")
    table.add_column("")
    for outcome in outcomes:
        plan = outcome.plan
        table.add_column(f"{plan.storage}, {plan.level}", justify="right")
    verdicts = [outcome.verdict for outcome in outcomes]
    _row(table, "seconds of killing", [f"{outcome.plan.seconds:.0f}" for outcome in outcomes])
    _row(table, "seed", [str(outcome.plan.seed) for outcome in outcomes])
    for name in verdicts[0].counts:
        _row(table, name, [f"{verdict.counts[name]:,}" for verdict in verdicts])
    table.add_section()
    for kind in KINDS:
        _row(table, kind, [_violations(verdict, kind) for verdict in verdicts])
    table.add_section()
    for kind in dict.fromkeys(kind for verdict in verdicts for kind in verdict.deaths):
        name = f"killed: {kind}"
        _row(table, name, [_deaths(verdict, kind) for verdict in verdicts])
    table.add_section()
    for code in dict.fromkeys(code for verdict in verdicts for code in verdict.refusals):
        _row(table, f"told: {code}", [f"{verdict.refusals[code]:,}" for verdict in verdicts])
    table.add_section()
    _row(table, "verdict", [_word(verdict) for verdict in verdicts])
    return table


def _row(table: Table, name: str, cells: Sequence[str]) -> None:
    table.add_row(name, *cells)


def _violations(verdict: Verdict, kind: str) -> str:
    excused = verdict.excused[kind]
    return f"{verdict.violations[kind]}" + (f" (+{excused} in the window)" if excused else "")


def _deaths(verdict: Verdict, kind: str) -> str:
    deaths = verdict.deaths.get(kind)
    if deaths is None:
        return "-"
    return f"{deaths.killed} ({deaths.holding}, {deaths.recovering})"


def _word(verdict: Verdict) -> str:
    if not verdict.balances:
        return "FAILED"
    return "passed" if verdict.counts_as_run else "does not count: run longer"
