"""DRAIN, OBLITERATE, CLEAN, RETRYDLQ and PURGEDLQ: they cost what they touch, in slices."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest

from flashq.errors import StorageUnavailable
from flashq.protocol.codec import decode_request, encode
from flashq.shard import sweeps
from flashq.shard.engine import Engine
from flashq.shard.outbox import Origin
from flashq.shard.state import ShardState
from tests.unit.shard.harness import ALICE, MONO_MS, NOW_MS, Shard

SLICE: Final = 4
COST_MS_MAX: Final = 1500
"""For 2,000 requests, in processor time; far above what is measured."""


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> Shard:
    """Return a shard whose sweeps are cut into small slices."""
    monkeypatch.setattr(sweeps, "SLICE_JOBS", SLICE)
    return Shard()


def _fill(shard: Shard, queue: str = "q", each: int = 6) -> list[int]:
    """Put jobs in every state into a queue; return those that have not ended."""
    for _ in range(each):
        shard.make_failed(queue=queue)
        shard.make_completed(queue=queue)
        shard.ask("CANCEL", id=shard.push(queue=queue))
    active = [shard.make_active(queue=queue) for _ in range(each)]
    first = shard.push(queue="first", delay=10**6)
    parked = [shard.push(queue=queue, depends_on=[first]) for _ in range(each)]
    delayed = [shard.push(queue=queue, delay=10**6) for _ in range(each)]
    waiting = [shard.push(queue=queue, priority=n % 3) for n in range(each)]
    return [*active, *parked, *delayed, *waiting]


def _in_turns(shard: Shard, word: str, **fields: Any) -> dict[str, Any]:
    """Carry out a sweep; after each of its slices, a crash finds log and checkpoint that agree."""
    corr = shard.send(word, **fields)
    turns = 0
    while (answer := shard.answer(corr)) is None:
        assert shard.engine.next_deadline_ms() == shard.mono_ms
        shard.check_recovery()
        shard.tick()
        turns += 1
    assert turns > 1
    shard.check_recovery()
    return answer


class TestInTurns:
    def test_each_does_what_it_does_at_once(self, thin: Shard) -> None:
        """Also with what depends on the jobs, keys, and what is left of the queue."""
        for word, fields, count in (
            ("DRAIN", {}, 12),
            ("CLEAN", {"grace": 0, "state": "waiting"}, 6),
            ("CLEAN", {"grace": 0, "state": "failed", "limit": 5}, 5),
            ("CLEAN", {"grace": 0, "state": "completed"}, 6),
            ("OBLITERATE", {}, 30),
            ("PURGEDLQ", {}, 6),
        ):
            _fill(thin)
            thin.push(queue="other")
            answer = _in_turns(thin, word, queue="q", **fields)
            assert answer["count"] == count, word
            thin.sweep("OBLITERATE", queue="q")
            assert "q" not in thin.state.queues
        assert thin.ask("COUNT", queue="other")["count"] == 6

    def test_dead_letters_go_back_to_work(self, thin: Shard) -> None:
        """All that there are, in their order."""
        dead = [thin.make_failed() for _ in range(10)]
        assert _in_turns(thin, "RETRYDLQ", queue="q")["ids"] == [10]
        assert sorted(thin.pull_ids()) == dead

    def test_the_oldest_are_cleaned_first(self, thin: Shard) -> None:
        """However many there are."""
        jobs = [thin.push(priority=n % 2) for n in range(20)]
        assert _in_turns(thin, "CLEAN", queue="q", grace=0, state="waiting", limit=9)["count"] == 9
        assert sorted(thin.pull_ids()) == jobs[9:]

    def test_what_comes_meanwhile_stays(self, thin: Shard) -> None:
        """1. A queue is drained. 2. In between, somebody pushes, one job is taken, and one gets
        another priority."""
        jobs = [thin.push() for _ in range(12)]
        corr = thin.send("DRAIN", queue="q")
        thin.tick()
        late = thin.push()
        taken = thin.pull()["id"]
        thin.ask("CHANGEPRIORITY", id=jobs[-1], priority=9)
        while (answer := thin.answer(corr)) is None:
            thin.tick()
        assert answer["count"] == 11
        assert thin.state_of(taken) == "active"
        assert thin.pull_ids() == [late]
        thin.check_recovery()

    def test_a_repeat_waits_for_the_same(self, thin: Shard) -> None:
        """And another one gets the same answer."""
        for _ in range(12):
            thin.push()
        said: dict[str, Any] = {"queue": "q", "session": ALICE, "n": 1}
        first = thin.send("DRAIN", **said)
        repeat = thin.send("DRAIN", **said)
        for _ in range(4):
            thin.tick()
        answer = thin.answer(repeat)
        assert answer is not None
        assert answer["count"] == 12
        assert thin.answer(first) is None
        assert thin.ask("DRAIN", **said)["count"] == 12

    def test_too_many_at_once_are_busy(self, thin: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each has a list of its jobs."""
        monkeypatch.setattr(sweeps, "SWEEPS_MAX", 2)
        for _ in range(12):
            thin.push()
        corrs = [thin.send("DRAIN", queue="q") for _ in range(2)]
        assert thin.refuse("DRAIN", queue="q")[0] == "busy"
        for _ in range(12):
            thin.tick()
        counts = [(thin.answer(corr) or {})["count"] for corr in corrs]
        assert sum(counts) == 12

    def test_none_goes_on_while_no_change_is_taken_on(self, thin: Shard) -> None:
        """As when storage is away; and nothing spins meanwhile."""
        for _ in range(12):
            thin.push()
        corr = thin.send("DRAIN", queue="q")
        thin.engine.refusal = StorageUnavailable(detail="away")
        thin.tick()
        assert thin.engine.next_deadline_ms() is None
        thin.engine.accept()
        thin._collect()
        while (answer := thin.answer(corr)) is None:
            thin.tick()
        assert answer["count"] == 12


class TestCost:
    def test_a_small_queue_costs_little_beside_many_jobs(self) -> None:
        """Two hundred thousand jobs of others do not count, whatever is asked of one."""
        shard = Engine(ShardState(0, 1), Shard().limits, epoch=1)
        shard.start(NOW_MS, MONO_MS)

        def ask(word: str, **fields: Any) -> None:
            command = decode_request(encode({"cmd": word, **fields}))
            shard.handle(command, Origin(b"peer", 1), NOW_MS, MONO_MS)
            shard.outbox.replies.clear()
            shard.outbox.entries.clear()

        for _ in range(20):
            ask("PUSHB", queue="large", payloads=list(range(10_000)))
        began = time.process_time()
        for _ in range(200):
            ask("PUSH", queue="small", data=1)
            ask("GETJOBS", queue="small")
            ask("GETJOBS", queue="small", state="failed")
            ask("CLEAN", queue="small", grace=0, state="failed")
            ask("CLEAN", queue="small", grace=0, state="delayed")
            ask("RETRYDLQ", queue="small")
            ask("PURGEDLQ", queue="small")
            ask("DRAIN", queue="small")
            ask("PUSH", queue="small", data=1)
            ask("OBLITERATE", queue="small")
        assert (time.process_time() - began) * 1000 < COST_MS_MAX
        assert shard.state.index.count == 200_000
