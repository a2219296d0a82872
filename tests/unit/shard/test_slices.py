"""Very much that falls due at once is moved in slices, and others get their turn in between."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from flashq.shard import engine, leases, pulling
from flashq.shard.invariants import canonical
from flashq.shard.lifecycle import WAITING
from tests.unit.shard.harness import ALICE, BOB, Shard

SLICE = 3


@pytest.fixture(autouse=True)
def _thin(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine, leases, pulling):
        monkeypatch.setattr(module, "SLICE_JOBS", SLICE)
    monkeypatch.setattr(engine, "SETTLED_MAX", SLICE)


def is_behind(shard: Shard) -> bool:
    """Tell whether the next turn is due at once."""
    return shard.engine.next_deadline_ms() == shard.mono_ms


def catch_up(shard: Shard, turns_max: int = 100) -> int:
    """Let the shard do what is left; return in how many turns, in each of which a crash would find
    log and checkpoint that give the same state."""
    for turn in range(turns_max):
        shard.check_recovery()
        if not is_behind(shard):
            return turn
        shard.tick()
    raise AssertionError("it never ends")


class TestDelayed:
    def test_they_become_ready_in_their_order(self, shard: Shard) -> None:
        """1. Ten are due at once. 2. A request finds the first, and only these. 3. Each turn makes
        more of them ready."""
        jobs = [shard.push(queue=f"q{n % 2}", delay=10 + n // 5) for n in range(10)]
        shard.move_clock(50)
        assert [shard.state_of(job_id) for job_id in jobs[:4]] == ["waiting"] * 3 + ["delayed"]
        assert shard.pull(queue="q0")["id"] == jobs[0]
        assert shard.state_of(jobs[3]) == "delayed", "the next ones are for the next turn"
        assert catch_up(shard) == 3
        assert shard.pull_ids("q0") == jobs[2::2]
        assert shard.pull_ids("q1") == jobs[1::2]

    def test_who_waits_gets_them_as_they_come(self, shard: Shard) -> None:
        """Nobody has to ask again."""
        jobs = [shard.push(delay=10) for _ in range(6)]
        corrs = [shard.send("PULL", queue="q") for _ in range(6)]
        shard.move_clock(10)
        shard.tick()
        catch_up(shard)
        answers = [shard.answer(corr) for corr in corrs]
        assert [answer and answer["job"]["id"] for answer in answers] == jobs

    def test_those_in_between_can_be_changed(self, shard: Shard) -> None:
        """Promoted, cancelled and drained, as delayed jobs are."""
        jobs = [shard.push(delay=10) for _ in range(12)]
        shard.move_clock(10)
        assert shard.state_of(jobs[0]) == "waiting"
        shard.ask("PROMOTE", id=jobs[11])
        shard.ask("CANCEL", id=jobs[5])
        shard.ask("CHANGEPRIORITY", id=jobs[10], priority=5)
        shard.check_recovery()
        catch_up(shard)
        left = [*jobs[:5], *jobs[6:10], jobs[11]]
        assert shard.pull_ids() == [jobs[10], *left]

    def test_a_crash_in_between_loses_no_order(self) -> None:
        """What was ready by then is ready, and the rest becomes so afterwards."""
        shard = Shard()
        jobs = [shard.push(delay=10) for _ in range(10)]
        shard.move_clock(10)
        shard.tick()
        shard.push(queue="other")
        again = shard.crash()
        catch_up(again)
        assert again.pull_ids() == jobs


class TestExpiring:
    def test_none_is_handed_out(self, shard: Shard) -> None:
        """Though it has not been removed yet; and who stands behind is, in time."""
        for _ in range(20):
            shard.push(ttl=10)
        living = shard.push()
        shard.move_clock(50)
        corr = shard.send("PULL", queue="q", timeout=1000)
        assert shard.ask("PULL", queue="q", timeout=0)["job"] is None
        catch_up(shard)
        answer = shard.answer(corr)
        assert answer is not None
        assert answer["job"]["id"] == living
        assert shard.ask("METRICS")["metrics"]["total_expired"] == 20

    def test_a_request_that_finds_only_few_passes_them(self, shard: Shard) -> None:
        """Those at the head go on demand."""
        for _ in range(10):
            shard.push(queue="other", ttl=10)
        shard.push(ttl=10)
        living = shard.push()
        shard.move_clock(50)
        assert shard.pull()["id"] == living
        catch_up(shard)


class TestLeases:
    def test_a_session_that_is_lost_gives_its_jobs_back(self, shard: Shard) -> None:
        """All of them, in turns; and its pulls are dropped."""
        jobs = [shard.push() for _ in range(10)]
        assert shard.pull_ids(session=ALICE, n=1) == jobs
        waiting = [shard.send("PULL", queue="w", session=ALICE, n=2 + n) for n in range(5)]
        shard.move_clock(10_000)
        shard.tick()
        assert sum(shard.state_of(job_id) == "active" for job_id in jobs) == 10
        assert catch_up(shard) >= 4
        assert shard.pull_ids(session=BOB) == jobs
        assert [shard.answer(corr) for corr in waiting] == [None] * 5
        assert shard.engine.waiters == 0

    def test_one_that_comes_back_keeps_what_it_still_has(self, shard: Shard) -> None:
        """It was silent, but not for all of them."""
        jobs = [shard.push() for _ in range(10)]
        shard.pull_ids(session=ALICE, n=1)
        shard.move_clock(10_000)
        shard.tick()
        lost = shard.ask("SESSIONHEARTBEAT", session=ALICE, leases=jobs)["lost"]
        assert lost == jobs[:SLICE]
        catch_up(shard)
        assert [shard.state_of(job_id) for job_id in jobs[SLICE:]] == ["active"] * 7

    def test_a_goodbye_gives_everything_back_uncounted(self, shard: Shard) -> None:
        """And nothing is taken from who has said it."""
        jobs = [shard.push() for _ in range(10)]
        shard.pull_ids(session=ALICE, n=1)
        shard.ask("GOODBYE", session=ALICE)
        if is_behind(shard):
            refused = shard.refuse("PUSH", queue="q", data=1, session=ALICE, n=2)
            assert refused[0] == "session_expired"
        catch_up(shard)
        assert ALICE not in shard.state.sessions
        assert shard.pull_ids() == jobs
        assert [shard.job(job_id)["attempts"] for job_id in jobs] == [0] * 10

    def test_jobs_that_took_too_long_fail_in_turns(self, shard: Shard) -> None:
        jobs = [shard.push(timeout=100, max_attempts=1) for _ in range(10)]
        shard.pull_ids(session=ALICE, n=1)
        shard.move_clock(100)
        shard.tick()
        assert sum(shard.state_of(job_id) == "failed" for job_id in jobs) == SLICE
        catch_up(shard)
        assert [shard.state_of(job_id) for job_id in jobs] == ["failed"] * 10


class TestServing:
    def test_many_who_wait_are_served_in_turns(self, shard: Shard) -> None:
        """In their order, by one push."""
        corrs = [shard.send("PULL", queue="q") for _ in range(10)]
        ids = shard.ask("PUSHB", queue="q", payloads=list(range(10)))["ids"]
        assert sum(corr in shard.replies for corr in corrs) == SLICE
        late = shard.send("PULL", queue="q")
        catch_up(shard)
        answers = [shard.answer(corr) for corr in corrs]
        assert [answer and answer["job"]["id"] for answer in answers] == ids
        assert shard.answer(late) is None

    def test_many_who_wait_for_one_job_are_told_in_turns(self, shard: Shard) -> None:
        """With its result, though nothing else happens to it."""
        job_id = shard.make_active()
        corrs = [shard.send("WAITJOB", id=job_id) for _ in range(10)]
        shard.ask("ACK", id=job_id, result=7)
        catch_up(shard)
        answers = [shard.answer(corr) for corr in corrs]
        assert [answer and answer["result"] for answer in answers] == [7] * 10

    def test_many_time_outs_of_one_moment_come_in_turns(self, shard: Shard) -> None:
        """Each is answered."""
        corrs = [shard.send("PULL", queue=f"q{n}", timeout=100) for n in range(10)]
        shard.move_clock(100)
        shard.tick()
        assert sum(corr in shard.replies for corr in corrs) == SLICE
        catch_up(shard)
        assert [shard.answer(corr) is not None for corr in corrs] == [True] * 10

    def test_many_that_wait_for_one_job_are_freed_in_turns(self, shard: Shard) -> None:
        """The word of its end is mail to this shard itself."""
        first = shard.make_active()
        jobs = [shard.push(depends_on=[first]) for _ in range(10)]
        catch_up(shard)
        shard.ask("ACK", id=first)
        assert sum(shard.inner(job_id).state == WAITING for job_id in jobs) == SLICE
        catch_up(shard)
        assert [shard.state_of(job_id) for job_id in jobs] == ["waiting"] * 10


def test_what_is_beyond_the_bounds_goes_in_turns() -> None:
    """Also when bounds were lowered, and a start finds very much."""
    shard = Shard(dlq_jobs_max=2, completed_jobs_max=2)
    for _ in range(12):
        shard.push(max_attempts=1)
        shard.push(queue="c")
    shard.pull_ids()
    for job_id in shard.pull_ids("c"):
        shard.ask("ACK", id=job_id)
    for n in range(12):
        shard.ask("FAIL", id=1 + 2 * n)
    shard.tick()
    assert is_behind(shard)
    catch_up(shard)
    counts = shard.ask("STATS")
    assert (counts["dlq"], counts["completed"]) == (2, 2)


@pytest.mark.parametrize("seed", range(6))
def test_slices_lead_to_what_one_step_leads_to(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same requests at the same times, once in slices with turns in between."""
    ends = []
    for size in (SLICE, 1000):
        for module in (engine, leases, pulling):
            monkeypatch.setattr(module, "SLICE_JOBS", size)
        monkeypatch.setattr(engine, "SETTLED_MAX", size)
        end = canonical(_worked(Random(seed)).state)
        end["moment"] = end["moment"][1:]  # the log has an entry for each slice
        ends.append(end)
    assert ends[0] == ends[1]


def _worked(random: Random) -> Shard:
    shard, name = Shard(), ALICE
    for n in range(1, 30):
        said: dict[str, Any] = {}
        for option in ("delay", "ttl"):
            if random.random() < 0.5:
                said[option] = random.choice((5, 20, 40))
        queue = random.choice("ab")
        match random.randrange(6):
            case 0 | 1 | 2:
                jobs = [{"data": 1, "priority": random.randrange(2), **said}] * 7
                shard.ask("PUSHB", queue=queue, jobs=jobs)
            case 3:
                shard.pull_ids(queue, random.randrange(12), session=random.choice((name, BOB)))
            case 4:
                shard.send("PULL", queue=queue, timeout=30, session=BOB, n=n)
            case 5:
                shard.ask("GOODBYE", session=name)
                name = n.to_bytes(16, "big")
        catch_up(shard)
        shard.move_clock(random.choice((0, 1, 5, 20)))
        shard.tick()
        catch_up(shard)
    return shard
