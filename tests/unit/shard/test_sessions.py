"""What sessions leave behind is bounded: themselves, their answers, and who waits."""

from __future__ import annotations

import pytest

from flashq.shard import engine, holdings, leases
from tests.unit.shard.harness import ALICE, BOB, CARL, Shard


class TestFloods:
    def test_too_many_sessions_that_hold_something_are_busy(self) -> None:
        """They are not forgotten for others."""
        shard = Shard(sessions_max=2)
        shard.push()
        shard.pull(session=ALICE, n=1)
        shard.send("PULL", queue="other", session=BOB, n=1)
        code, _ = shard.refuse("SESSIONHEARTBEAT", session=CARL)
        assert code == "busy"

    def test_a_flood_of_sessions_makes_room_for_itself(self) -> None:
        """1. Alice works, and Bob pushes now and then. 2. Somebody asks once under each of many
        names. 3. Nobody is busy, and who has asked before is still known."""
        shard = Shard(sessions_max=50)
        job_id = shard.push()
        shard.pull(session=ALICE, n=1)
        for n in (1, 2):
            answer = shard.ask("PUSH", queue="b", data=1, session=BOB, n=n)
        for n in range(200):
            shard.ask("PUSH", queue="c", data=1, session=n.to_bytes(16, "big"), n=1)
            assert shard.engine.sessions <= 50
        assert shard.state_of(job_id) == "active"
        assert shard.ask("PUSH", queue="b", data=1, session=BOB, n=2) == answer
        lost = (0).to_bytes(16, "big")
        code, _ = shard.refuse("PUSH", queue="c", data=1, session=lost, n=1)
        assert code == "session_expired", "it may have been carried out"
        shard.check_recovery()


class TestAnswers:
    """What is kept for the repeats of a session that never says what it has got."""

    def test_of_too_many_the_oldest_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request whose answer is gone is not carried out again."""
        monkeypatch.setattr(holdings, "SESSION_ANSWERS_MAX", 16)
        shard = Shard()
        for n in range(1, 101):
            shard.ask("PUSH", queue="q", data=n, session=ALICE, n=n)
            assert len(shard.state.sessions[ALICE].answers) <= 16
        again = shard.ask("PUSH", queue="q", data=100, session=ALICE, n=100)
        assert again["id"] == 100
        assert shard.refuse("PUSH", queue="q", data=1, session=ALICE, n=1)[0] == "session_expired"
        assert shard.ask("COUNT", queue="q")["count"] == 100
        shard.check_recovery()

    def test_of_too_large_ones_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer to a batch has all its ids."""
        monkeypatch.setattr(holdings, "SESSION_ANSWERS_BYTES_MAX", 8000)
        shard = Shard()
        for n in range(1, 30):
            shard.ask("PUSHB", queue="q", payloads=[0] * 100, session=ALICE, n=n)
            assert shard.state.sessions[ALICE].bytes <= 8000
        shard.check_recovery()

    def test_a_pull_that_waits_is_repeated_all_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has no answer yet, however many younger requests had one."""
        monkeypatch.setattr(holdings, "SESSION_ANSWERS_MAX", 16)
        shard = Shard()
        shard.send("PULL", queue="w", session=ALICE, n=1)
        for n in range(2, 100):
            shard.ask("PUSH", queue="q", data=n, session=ALICE, n=n)
        repeat = shard.send("PULL", queue="w", session=ALICE, n=1)
        job_id = shard.push(queue="w")
        answer = shard.answer(repeat)
        assert answer is not None
        assert answer["job"]["id"] == job_id

    def test_all_sessions_together_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The one that has been silent for longest goes first."""
        monkeypatch.setattr(engine, "ANSWERS_BYTES_MAX", 20_000)
        monkeypatch.setattr(leases, "ANSWERS_BYTES_MAX", 20_000)
        shard = Shard()
        for n in range(100):
            name = n.to_bytes(16, "big")
            shard.ask("PUSHB", queue="q", payloads=[0] * 100, session=name, n=1)
            assert shard.state.answer_bytes < 22_000
        assert name in shard.state.sessions
        shard.check_recovery()


class TestWaiters:
    def test_who_waits_no_longer_leaves_the_line(self, shard: Shard) -> None:
        """1. One waits for a minute. 2. Many behind it wait for a moment, again and again."""
        shard.send("PULL", queue="q", timeout=60_000, session=ALICE, n=1)
        for n in range(2, 100):
            shard.send("PULL", queue="q", timeout=1, session=ALICE, n=n)
            shard.send("PULL", queue="q", timeout=1)
            shard.advance(2)
        core = shard.engine._core
        assert [len(line) for line in core.pulls.values()] == [1]
        assert len(shard.engine._leases.sessions[ALICE].waiters) == 1
        assert shard.engine.waiters == 1

    def test_many_who_wait_for_one_job_cost_what_they_are(self, shard: Shard) -> None:
        """Each leaves the line by itself when its time is up."""
        job_id = shard.push()
        corrs = [shard.send("WAITJOB", id=job_id, timeout=n) for n in range(1, 30)]
        shard.advance(15)
        assert len(shard.engine._core.waits[job_id]) == 14
        assert sum(corr in shard.replies for corr in corrs) == 15
        shard.advance(20)
        assert not shard.engine._core.waits
