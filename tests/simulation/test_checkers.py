"""The checkers can fail: a server that is broken on purpose breaks a promise in some run.

Each mutation breaks one rule that the design names, and runs are played until one notices.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

import pytest

from flashq.router.engine import Router
from tests.simulation import mutations
from tests.simulation.kinds import CAME_BACK
from tests.simulation.mutations import MUTATIONS, Mutation, notice
from tests.simulation.setting import Profile
from tests.simulation.simulation import play

SEEDS_MAX: Final = 240
"""Most mutations are noticed by one run in ten, the rarest by one in 50: it is missed once in 120
times by so many runs."""

pytestmark = pytest.mark.timeout(300)
mutations.load()


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_a_mutation_is_noticed(mutation: Mutation) -> None:
    """As what it is, where its mark is known."""
    for seed in range(1, SEEDS_MAX + 1):
        report = notice(mutation, seed)
        if report is not None:
            marks = mutation.noticed_as
            assert not marks or any(mark in report for mark in marks), report
            return
    pytest.fail(f"{SEEDS_MAX} runs, and nobody has noticed: {mutation.story}")


def test_deliveries_that_nobody_sends_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leases save such jobs, only later: no promise is broken, but a set of runs fails, since
    nothing came back."""
    undeliverable = Router.undeliverable

    def dropped(self: Router, *args: Any, **more: Any) -> None:
        undeliverable(self, *args, **more)
        for lane in self._lanes:
            lane.frames.clear()

    def came_back(seed: int) -> int:
        return play(seed, profile=Profile.ANY).seen[CAME_BACK]

    seeds = list(islice(filter(came_back, range(1, SEEDS_MAX + 1)), 2))
    assert seeds
    monkeypatch.setattr(Router, "undeliverable", dropped)
    assert not sum(map(came_back, seeds))
