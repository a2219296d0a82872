"""GETJOB and its kin, lists with exact totals, and logs."""

from __future__ import annotations

import pytest

from flashq.shard import views
from tests.unit.shard.harness import Shard


def test_keys_at_their_defaults_are_left_out(shard: Shard) -> None:
    """A small job has a small view."""
    job = shard.ask("GETJOB", id=shard.push(tags=["t"]))["job"]
    assert job.keys() == {"id", "queue", "data", "created_at", "run_at", "tags"}


class TestLists:
    @pytest.fixture
    def jobs(self, shard: Shard) -> dict[str, list[int]]:
        """Jobs in every state, in two queues."""
        first = shard.push("other")
        return {
            "completed": [shard.make_completed(), shard.make_completed()],
            "failed": [shard.make_failed()],
            "active": [shard.make_active()],
            "delayed": [shard.push(delay=60_000)],
            "waiting": [shard.push(), shard.push(), shard.push()],
            "waitingchildren": [shard.push(depends_on=[first])],
        }

    @pytest.mark.parametrize(
        "state", ["completed", "failed", "active", "delayed", "waiting", "waitingchildren"]
    )
    def test_by_state(self, shard: Shard, jobs: dict[str, list[int]], state: str) -> None:
        """Completed jobs used never to be listed (W40)."""
        reply = shard.ask("GETJOBS", queue="q", state=state)
        assert [job["id"] for job in reply["jobs"]] == sorted(jobs[state], reverse=True)
        assert reply["total"] == len(jobs[state])
        assert {job["state"] for job in reply["jobs"]} == {state}

    def test_states_are_read_in_any_spelling(
        self, shard: Shard, jobs: dict[str, list[int]]
    ) -> None:
        """M10: hyphenated or not, in any case."""
        for state in ("waiting-children", "WaitingChildren", "WAITING-CHILDREN"):
            assert shard.ask("GETJOBS", queue="q", state=state)["total"] == 1
        assert shard.ask("GETJOBS", state="stalled") == {"ok": True, "jobs": [], "total": 0}

    def test_an_unknown_state_is_refused(self, shard: Shard, jobs: dict[str, list[int]]) -> None:
        """To list everything instead is an answer to another question."""
        code, text = shard.refuse("GETJOBS", state="nonsense")
        assert code == "state_invalid"
        assert text.startswith("Invalid state 'nonsense'. Use: waiting, delayed, active, ")

    def test_pages_newest_first_with_exact_totals(
        self, shard: Shard, jobs: dict[str, list[int]]
    ) -> None:
        everything = sorted((job_id for some in jobs.values() for job_id in some), reverse=True)
        for offset in range(len(everything) + 2):
            reply = shard.ask("GETJOBS", queue="q", limit=2, offset=offset)
            assert [job["id"] for job in reply["jobs"]] == everything[offset : offset + 2]
            assert reply["total"] == len(everything)
        assert shard.ask("GETJOBS")["total"] == len(everything) + 1
        assert shard.ask("GETJOBS", queue="none") == {"ok": True, "jobs": [], "total": 0}
        assert shard.ask("GETJOBS", queue="q", limit=0)["jobs"] == []
        assert shard.refuse("GETJOBS", limit=10_001)[0] == "field_too_large"

    def test_over_several_pages(self, shard: Shard) -> None:
        shard.ask("PUSHB", queue="q", jobs=[{"data": n} for n in range(2500)])
        reply = shard.ask("GETJOBS", queue="q", limit=3, offset=1475)
        assert [job["id"] for job in reply["jobs"]] == [1025, 1024, 1023]

    def test_full_items_carry_the_job_again(self, shard: Shard, jobs: dict[str, list[int]]) -> None:
        """M8: the TypeScript client reads `item.job`."""
        (item,) = shard.ask("GETJOBS", queue="q", state="failed", full=True)["jobs"]
        assert item["job"]["id"] == item["id"]
        assert item["job"] == {
            key: value for key, value in item.items() if key not in ("job", "state")
        }

    def test_counts_say_whether_the_queue_is_known(self, shard: Shard) -> None:
        """To those who know the word; older clients have it that there are no errors."""
        assert shard.ask("GETJOBCOUNTS", queue="typo")["known"] is False
        assert "known" not in shard.ask("GETJOBCOUNTS", queue="typo", older=True)
        shard.ask("PAUSE", queue="set")
        shard.push("pushed")
        for queue in ("set", "pushed"):
            assert "known" not in shard.ask("GETJOBCOUNTS", queue=queue)

    def test_counts(self, shard: Shard, jobs: dict[str, list[int]]) -> None:
        counts = shard.ask("GETJOBCOUNTS", queue="q")
        assert {state: counts[state] for state in jobs} == {
            state: len(some) for state, some in jobs.items()
        }
        assert shard.ask("COUNT", queue="q")["count"] == 4
        stats = shard.ask("STATS")
        assert (stats["queued"], stats["processing"], stats["delayed"]) == (4, 1, 1)
        assert (stats["dlq"], stats["completed"], stats["waiting_dependencies"]) == (1, 2, 1)

    def test_many_in_the_order_asked_for(self, shard: Shard, jobs: dict[str, list[int]]) -> None:
        ids = [jobs["waiting"][1], 999, jobs["completed"][0], jobs["failed"][0]]
        reply = shard.ask("GETJOBSBATCH", ids=ids)
        assert [job["id"] for job in reply["jobs"]] == [ids[0], ids[2], ids[3]]

    def test_the_bound_on_many(self) -> None:
        assert Shard(batch_jobs_max=1).refuse("GETJOBSBATCH", ids=[1, 2])[0] == "batch_too_large"


class TestLargeReplies:
    def test_a_page_ends_early_and_the_next_one_goes_on(
        self, shard: Shard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thousands of large payloads in one reply stopped everybody else for seconds."""
        monkeypatch.setattr(views, "REPLY_BYTES_MAX", 250)
        ids = [shard.push(data="x" * 98) for _ in range(3)]
        page = shard.ask("GETJOBS", queue="q")
        assert ([job["id"] for job in page["jobs"]], page["total"]) == (ids[:0:-1], 3)
        page = shard.ask("GETJOBS", queue="q", offset=2)
        assert [job["id"] for job in page["jobs"]] == ids[:1]

    def test_many_by_id_are_refused(self, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was asked for by name cannot be left out without a word."""
        monkeypatch.setattr(views, "REPLY_BYTES_MAX", 250)
        ids = [shard.push(data="x" * 98) for _ in range(3)]
        assert shard.refuse("GETJOBSBATCH", ids=ids)[0] == "reply_too_large"
        assert len(shard.ask("GETJOBSBATCH", ids=ids[:2])["jobs"]) == 2


class TestCustomIds:
    def test_in_a_queue_and_the_newest_of_all(self, shard: Shard) -> None:
        first = shard.push("a", job_id="mine")
        second = shard.push("b", job_id="mine")
        assert shard.ask("GETJOBBYCUSTOMID", job_id="mine", queue="a")["job"]["id"] == first
        assert shard.ask("GETJOBBYCUSTOMID", job_id="mine")["job"]["id"] == second
        assert shard.ask("GETJOBBYCUSTOMID", job_id="no") == {
            "ok": True,
            "job": None,
            "state": "unknown",
        }
        assert shard.ask("GETJOBBYCUSTOMID", job_id="mine", queue="c")["job"] is None


class TestLogs:
    def test_oldest_first_with_level_and_time(self, shard: Shard) -> None:
        job_id = shard.push()
        shard.ask("LOG", id=job_id, message="one")
        shard.advance(5)
        shard.ask("LOG", job_id=job_id, message="two", level="warn")
        now = shard.now_ms
        assert shard.ask("GETLOGS", job_id=job_id) == {
            "ok": True,
            "id": job_id,
            "logs": [
                {"timestamp": now - 5, "message": "one", "level": "info"},
                {"timestamp": now, "message": "two", "level": "warn"},
            ],
        }
        assert shard.crash().ask("GETLOGS", id=job_id) == shard.ask("GETLOGS", id=job_id)

    def test_are_bounded(self) -> None:
        shard = Shard(job_logs_max=2)
        job_id = shard.push()
        for number in range(4):
            said = shard.ask("LOG", id=job_id, message=str(number) * 20_000, level="l" * 32)
            assert said["cut"] > 10_000
        logs = shard.ask("GETLOGS", id=job_id)["logs"]
        assert [entry["message"][0] for entry in logs] == ["2", "3"]
        assert {len(entry["message"]) for entry in logs} == {10_000}
        assert "cut" not in shard.ask("LOG", id=job_id, message="x" * 10_000)
        long = {"id": job_id, "message": "m", "level": "l" * 33}
        text = "Field level too large (33 characters, max 32)"
        assert shard.refuse("LOG", **long) == ("field_too_large", text)
        assert shard.ask("LOG", **long, older=True)["ok"]
        none = Shard(job_logs_max=0)
        job_id = none.push()
        none.ask("LOG", id=job_id, message="m")
        assert none.ask("GETLOGS", id=job_id)["logs"] == []

    def test_need_an_id(self, shard: Shard) -> None:
        assert shard.refuse("LOG", message="m")[0] == "invalid"
        assert shard.refuse("GETLOGS")[0] == "invalid"
