"""Checkpoints and recoveries give exactly the state that a shard had.

What a shard was like when a checkpoint began is compared with what storage has once it has the
checkpoint; what it recovers, with a twin: the checkpoint in storage, and after it each entry as it
was decided, whatever the log says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from flashq.protocol.internal import Recovered
from flashq.protocol.records import decode_entries
from flashq.shard.checkpoint import JobLoader, load_part, mark_clean
from flashq.shard.evolve import evolve
from flashq.shard.invariants import canonical, validate
from flashq.shard.state import ShardState
from flashq.storage.port import Generation
from tests.simulation.setting import Setting
from tests.simulation.world import Violation


class Twins:
    """Those of all shards.

    Args:
        setting: the run's.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting: Final = setting
        #: what a shard was like when a checkpoint began, by shard and the checkpoint's name
        self._begun: Final[dict[tuple[int, Generation], dict[str, Any]]] = {}

    def began(self, name: Generation, state: ShardState) -> None:
        """A shard begins a checkpoint of its state."""
        self._begun[state.shard, name] = canonical(state)

    def stored(self, shard: int, name: Generation | None, content: Recovered) -> ShardState:
        """Return the state that a shard's checkpoint in storage gives, once it was compared.

        Args:
            name: of the checkpoint; None for none.
            content: its parts and pages.
        """
        setting = self._setting
        state = ShardState(shard, setting.shards, setting.limits.outcomes_max)
        for _, part in content.parts:
            load_part(state, part)
        loader = JobLoader(state)
        for key, page in content.pages:
            loader.load(page, key)
        loader.finish()
        mark_clean(state)
        if name is not None:
            validate(state)
            _compare(f"shard {shard}: checkpoint", self._begun[shard, name], canonical(state))
        return state

    def recovered(self, state: ShardState, twin: ShardState, log: Iterable[bytes]) -> None:
        """Compare a recovered state with a twin.

        Args:
            state: what was recovered.
            twin: what the checkpoint in storage gives.
            log: the entries after that, each encoded.
        """
        for blob in log:
            for entry in decode_entries(blob):
                evolve(twin, entry)
        twin.advance(state.now_ms, until=state.due_mark)
        # Those that may have been used are passed over.
        twin.next_sequence = max(twin.next_sequence, state.next_sequence)
        validate(state)
        _compare(f"shard {state.shard}: recovery", canonical(twin), canonical(state))


def _compare(what: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in expected.items():
        if found[key] != value:
            raise Violation(
                f"{what} differs in {key}: {found[key]!s:.600} instead of {value!s:.600}"
            )
