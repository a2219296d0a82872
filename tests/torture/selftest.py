"""The harness is itself tested: runs on servers with a safety taken out, which have to fail.

`make torture ARGS=--self-test` runs them, in five minutes; `test_torture.py` has the one without a
reply gate. All of them were last run on 2026-11-24, on SQLite and on PostgreSQL, and were as they
have to be. Whoever changes the gate, fencing, mailboxes or the checker runs them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.torture.run import Plan

PAUSE_S: Final = (0.3, 1.0)


class SelfTest(NamedTuple):
    """One kind of sabotage.

    Args:
        sabotage: what is taken out, as `serve` knows it.
        seconds: of killing.
        kinds: what is killed, so that it shows soon.
        balances: whether nothing may be found.
    """

    sabotage: str
    seconds: float
    kinds: tuple[str, ...]
    balances: bool = False
    timeout_s: float = 10.0

    def plan(self, storage: str, seed: int, say: Callable[[str], None] | None = None) -> Plan:
        """Return the run that shows it."""
        return Plan(
            storage=storage,
            seconds=self.seconds,
            pause_s=PAUSE_S,
            soon=0.0,
            seed=seed,
            sabotage=self.sabotage,
            kinds=self.kinds,
            timeout_s=self.timeout_s,
            drain_s=10.0,
            say=say,
        )


SLOW: Final = SelfTest("slow", 6.0, ("everything",), balances=True, timeout_s=60.0)
GATE: Final = SelfTest("gate,slow", 4.0, ("everything",))
FENCING: Final = SelfTest("fencing", 12.0, ("twin", "router", "shard"))
MAILBOXES: Final = SelfTest("mailboxes", 6.0, ("shard",))

SELF_TESTS: Final = (SLOW, GATE, FENCING, MAILBOXES)
"""The first is the control: what makes faults show is itself none."""
