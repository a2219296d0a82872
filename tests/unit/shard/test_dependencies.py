"""Jobs that wait for other jobs: what cannot be waited for."""

from __future__ import annotations

from flashq.protocol.internal import DependencyAnswer
from flashq.shard.dependencies import outcome_of
from tests.unit.shard.harness import Shard


def test_a_job_of_level_memory_cannot_be_waited_for() -> None:
    """Nobody remembers it after a crash: the dependent waited for ever (simulated seed 54)."""
    shard = Shard()
    volatile = shard.push(durability="memory")
    assert shard.refuse("PUSH", queue="q", data=1, depends_on=[volatile])[0] == "level_invalid"


def test_one_that_has_completed_can_be_named() -> None:
    """There is nothing to wait for."""
    shard = Shard()
    volatile = shard.push(durability="memory")
    shard.pull_ids()
    shard.ask("ACK", id=volatile)
    assert shard.state_of(shard.push("p", depends_on=[volatile])) == "waiting"


def test_another_shards_job_of_level_memory_is_refused_too() -> None:
    """Its shard says so, and the push that waited for that is refused."""
    shard = Shard(number=0, count=2)
    corr = shard.send("PUSH", queue="q", data=1, depends_on=[3])
    [dependent] = shard.state.awaiting
    shard.mail(1, 1, DependencyAnswer(3, dependent, "volatile"))
    answer = shard.answer(corr)
    assert answer is not None
    assert answer["code"] == "level_invalid"
    assert shard.state.index.get(dependent) is None


def test_the_shard_that_is_asked_says_so() -> None:
    """The answer to a watch."""
    shard = Shard()
    volatile = shard.push(durability="memory")
    assert outcome_of(shard.state, volatile) == ("volatile", None)
