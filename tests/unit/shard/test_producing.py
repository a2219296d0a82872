"""PUSH, PUSHB, FLOW and GETCHILDREN: what is checked, in which order, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.protocol.internal import COORDINATOR, Fire
from flashq.protocol.records import Pushed
from tests.unit.shard.harness import Shard


class TestValidation:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("", "Queue name cannot be empty"),
            ("x" * 257, "Queue name too long (max 256 chars)"),
            ("队" * 86, "Queue name too long (max 256 chars)"),
            (
                "a:b",
                (
                    "Queue name must contain only alphanumeric characters, "
                    "underscores, hyphens, or dots"
                ),
            ),
        ],
    )
    def test_queue_names(self, shard: Shard, name: str, text: str) -> None:
        """wire-contract 4.1; FLOW and batches used to check nothing."""
        assert shard.refuse("PUSH", queue=name, data=1)[1] == text
        assert shard.refuse("PUSH", queue=name, data=1, delay=5)[1] == text
        assert shard.refuse("PUSHB", queue=name, jobs=[{"data": 1}])[1] == text
        assert shard.refuse("PUSHB", queue=name, jobs=[{"data": 1, "ttl": 5}])[1] == text
        child = {"queue": "q", "data": 1}
        assert shard.refuse("FLOW", queue=name, data=1, children=[child])[1] == text
        child = {"queue": name, "data": 1}
        assert shard.refuse("FLOW", queue="q", data=1, children=[child])[1] == text
        assert shard.refuse("PAUSE", queue=name)[1] == text

    def test_good_names(self, shard: Shard) -> None:
        for name in ("队列", "a-b_c.d", "x" * 256, "Ünïcode9"):
            assert shard.push(name)

    def test_payload_size_as_received(self) -> None:
        shard = Shard(payload_bytes_max=100)
        assert shard.push(data="x" * 98)
        code, text = shard.refuse("PUSH", queue="q", data="x" * 99)
        assert (code, text) == (
            "payload_too_large",
            "Job data too large (101 bytes, max 100 bytes)",
        )
        assert shard.push(data="x" * 98, json=True)
        assert shard.refuse("PUSH", queue="q", data="x" * 99, json=True)[0] == "payload_too_large"

    def test_size_is_checked_before_debounce_and_keys(self) -> None:
        shard = Shard(payload_bytes_max=10)
        shard.push(debounce_id="d", job_id="c", unique_key="u")
        big = {"queue": "q", "data": "x" * 20, "debounce_id": "d", "job_id": "c"}
        assert shard.refuse("PUSH", **big)[0] == "payload_too_large"

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"unique_key": "x" * 1025}, "field_too_large"),
            ({"job_id": "x" * 1025}, "field_too_large"),
            ({"debounce_id": "x" * 1025}, "field_too_large"),
            ({"tags": ["t"] * 65}, "field_too_large"),
            ({"tags": ["x" * 1025]}, "field_too_large"),
            ({"depends_on": list(range(1, 1002))}, "field_too_large"),
            ({"depends_on": [1], "durability": "memory"}, "level_invalid"),
        ],
    )
    def test_bounds_of_fields(self, shard: Shard, fields: dict[str, Any], code: str) -> None:
        assert shard.refuse("PUSH", queue="q", data=1, **fields)[0] == code

    def test_the_shards_bounds(self) -> None:
        """Only unfinished jobs count against the bound on jobs."""
        shard = Shard(shard_jobs_max=2, shard_bytes_max=1024 * 1024)
        shard.make_completed()
        shard.make_failed()
        shard.push()
        shard.push()
        assert shard.refuse("PUSH", queue="q", data=1) == ("busy", "busy: shard 0 holds 2 jobs")
        assert shard.refuse("PUSHB", queue="q", jobs=[{"data": 1}])[0] == "busy"
        shard.pull()
        shard.ask("DRAIN", queue="q")
        assert shard.push()
        shard = Shard(shard_bytes_max=1024 * 1024)
        shard.push(data="x" * 900_000)
        assert shard.refuse("PUSH", queue="q", data="x" * 900_000)[0] == "busy"

    def test_no_more_ids_than_are_reserved(self, shard: Shard) -> None:
        """Ids are never reused: those beyond the reservation are not this shard's yet."""
        shard.engine.reserve(10)
        code, text = shard.refuse("PUSH", queue="q", data=1)
        assert code == "busy"
        assert "reserve more job ids" in text


class TestOptions:
    def test_everything_is_shown_as_it_was_said(self, shard: Shard) -> None:
        said: dict[str, Any] = {
            "priority": -3,
            "ttl": 5000,
            "timeout": 70,
            "max_attempts": 4,
            "backoff": 100,
            "jitter": 0.25,
            "unique_key": "u",
            "tags": ["a", "b"],
            "lifo": True,
            "remove_on_complete": True,
            "remove_on_fail": True,
            "stall_timeout": 90,
            "keep_completed_age": 11,
            "keep_completed_count": 12,
        }
        job = shard.job(shard.push(data={"k": [1, None]}, job_id="mine", delay=250, **said))
        assert {key: job[key] for key in said} == said
        assert job["custom_id"] == "mine"
        assert job["data"] == {"k": [1, None]}
        assert job["run_at"] == job["created_at"] + 250 == shard.now_ms + 250

    def test_a_plain_push_has_all_thirty_keys_at_their_defaults(self, shard: Shard) -> None:
        """wire-contract 3.1, for readers that ask for every key."""
        job = shard.job(shard.push())
        now = shard.now_ms
        assert {"id": 1, "queue": "q", "data": None, "created_at": now, "run_at": now} == {
            key: job.pop(key) for key in ("id", "queue", "data", "created_at", "run_at")
        }
        nullable = {"unique_key", "progress_msg", "parent_id", "custom_id"}
        assert {key for key, value in job.items() if value is None} == nullable
        assert all(not value for value in job.values())
        assert len(job) == 25, "and none that older protocols do not have"

    @pytest.mark.parametrize("plain", [False, True])
    def test_a_payload_is_given_back_as_it_was_and_transcoded_for_the_other_reader(
        self, shard: Shard, plain: bool
    ) -> None:
        more: dict[str, Any] = {} if plain else {"tags": ["t"]}
        mine = shard.push(data={"b": 1, "a": [True, 1.5, "ü"]}, json=True, **more)
        yours = shard.push(data={"b": 1, "a": [True, 1.5, "ü"]}, **more)
        for job_id in (mine, yours):
            assert shard.job(job_id)["data"] == {"b": 1, "a": [True, 1.5, "ü"]}
            corr = shard.send("GETJOB", id=job_id, json=True)
            data = shard.replies[corr].body.job.data
            assert bytes(data) == '{"b":1,"a":[true,1.5,"ü"]}'.encode()

    def test_queue_defaults_apply_to_every_kind_of_push(self, shard: Shard) -> None:
        shard.ask("QUEUECONFIG", queue="q", keep_completed_age=5, keep_completed_count=6)
        ids = [shard.push(), shard.push(tags=["t"])]
        ids += shard.ask("PUSHB", queue="q", jobs=[{"data": 1}])["ids"]
        ids += shard.ask("PUSHB", queue="q", jobs=[{"data": 1, "lifo": True}])["ids"]
        flow = shard.ask("FLOW", queue="q", data=1, children=[{"queue": "q", "data": 2}])
        ids += [flow["parent_id"], *flow["children_ids"]]
        assert shard.mail(COORDINATOR, 1, Fire("cron", 1, 5, "q", b"\x01", False, b"\x80"))
        ids.append(shard.state.next_sequence - 1)
        for job_id in ids:
            job = shard.job(job_id)
            assert (job["keep_completed_age"], job["keep_completed_count"]) == (5, 6), job_id
        shard.check_recovery()


class TestUniqueKey:
    def test_a_duplicate_is_refused_in_every_unfinished_state(self, shard: Shard) -> None:
        for name, delay in (("w", 0), ("d", 9000)):
            shard.push(name, unique_key="k", delay=delay)
            assert shard.refuse("PUSH", queue=name, data=1, unique_key="k") == (
                "duplicate",
                "Duplicate job with key: k",
            )
        shard.make_active(queue="a", unique_key="k")
        shard.make_failed(queue="f", unique_key="k")
        dependency = shard.push("x")
        shard.push("p", unique_key="k", depends_on=[dependency])
        for name in "afp":
            assert shard.refuse("PUSH", queue=name, data=1, unique_key="k")[0] == "duplicate"

    def test_keys_are_per_queue(self, shard: Shard) -> None:
        shard.push("a", unique_key="k")
        assert shard.push("b", unique_key="k")

    @pytest.mark.parametrize(
        "end",
        [
            "ack",
            "ackb",
            "cancel",
            "cancel parked",
            "expire",
            "remove_on_fail",
            "purge",
            "clean failed",
            "drain",
            "obliterate",
            "clean waiting",
        ],
    )
    def test_every_end_frees_the_key(self, shard: Shard, end: str) -> None:
        """Keys used to leak on expiry, final failure, purge, clean and cancel (W30)."""
        if end in ("ack", "ackb"):
            job_id = shard.make_active(unique_key="k")
            shard.ask("ACK", id=job_id) if end == "ack" else shard.ask("ACKB", ids=[job_id])
        elif end == "cancel":
            shard.ask("CANCEL", id=shard.push(unique_key="k"))
        elif end == "cancel parked":
            waiting = shard.push("x")
            shard.ask("CANCEL", id=shard.push(unique_key="k", depends_on=[waiting]))
        elif end == "expire":
            shard.push(unique_key="k", ttl=10)
            shard.advance(11)
        elif end in ("remove_on_fail", "purge", "clean failed"):
            shard.make_failed(unique_key="k", remove_on_fail=end == "remove_on_fail")
            if end == "purge":
                shard.ask("PURGEDLQ", queue="q")
            elif end == "clean failed":
                shard.ask("CLEAN", queue="q", grace=0, state="failed")
        else:
            shard.push(unique_key="k")
            if end == "clean waiting":
                shard.ask("CLEAN", queue="q", grace=0, state="waiting")
            else:
                shard.ask(end.upper(), queue="q")
        assert shard.push(unique_key="k")

    def test_survives_a_restart(self, shard: Shard) -> None:
        shard.push(unique_key="k")
        shard = shard.crash()
        assert shard.refuse("PUSH", queue="q", data=1, unique_key="k")[0] == "duplicate"


class TestCustomId:
    def test_a_second_push_gives_the_first_job(self, shard: Shard) -> None:
        first = shard.push(data=1, job_id="mine", priority=3)
        assert shard.push(data=2, job_id="mine", priority=9, unique_key="other") == first
        assert shard.job(first)["data"] == 1
        assert shard.job(first)["priority"] == 3
        assert shard.push("another queue".replace(" ", "."), job_id="mine") != first

    @pytest.mark.parametrize("state", ["active", "completed", "failed"])
    def test_as_long_as_the_job_is_known(self, shard: Shard, state: str) -> None:
        """A completed job used to be forgotten at once (W32)."""
        make = {
            "active": shard.make_active,
            "completed": shard.make_completed,
            "failed": shard.make_failed,
        }[state]
        first = make(job_id="mine")
        assert shard.push(job_id="mine") == first
        reply = shard.ask("GETJOBBYCUSTOMID", job_id="mine", queue="q")
        assert (reply["job"]["id"], reply["state"]) == (first, state)

    def test_a_new_job_after_the_first_is_gone(self, shard: Shard) -> None:
        first = shard.push(job_id="mine")
        shard.ask("CANCEL", id=first)
        assert shard.push(job_id="mine") == first + 1

    def test_comes_before_the_unique_key_and_after_debounce(self, shard: Shard) -> None:
        first = shard.push(job_id="mine", unique_key="k", debounce_id="d")
        assert shard.push(job_id="mine", unique_key="k") == first
        code, _ = shard.refuse("PUSH", queue="q", data=1, job_id="mine", debounce_id="d")
        assert code == "debounced"

    def test_is_taken_by_a_parked_job_too(self, shard: Shard) -> None:
        waiting = shard.push("x")
        parked = shard.push(job_id="mine", depends_on=[waiting])
        assert shard.push(job_id="mine") == parked


class TestDebounce:
    def test_refuses_within_the_window_and_does_not_extend_it(self, shard: Shard) -> None:
        shard.push(debounce_id="d", debounce_ttl=100)
        shard.advance(99)
        assert shard.refuse("PUSH", queue="q", data=1, debounce_id="d") == (
            "debounced",
            "Debounced: job with id 'd' was pushed recently",
        )
        shard.advance(1)
        assert shard.push(debounce_id="d")

    def test_lasts_5_s_by_default_and_longer_than_the_job(self, shard: Shard) -> None:
        job_id = shard.push(debounce_id="d")
        shard.ask("CANCEL", id=job_id)
        shard.advance(4_999)
        assert shard.refuse("PUSH", queue="q", data=1, debounce_id="d")[0] == "debounced"
        shard.advance(1)
        assert shard.push(debounce_id="d")

    def test_survives_a_restart_and_leaves_no_queue_behind(self, shard: Shard) -> None:
        shard.push(debounce_id="d", debounce_ttl=1000)
        shard.ask("DRAIN", queue="q")
        shard = shard.crash()
        assert shard.refuse("PUSH", queue="q", data=1, debounce_id="d")[0] == "debounced"
        shard.advance(1000)
        assert shard.state.queues == {}

    def test_is_per_queue_and_starts_for_a_parked_job(self, shard: Shard) -> None:
        waiting = shard.push("x", debounce_id="d")
        shard.push(debounce_id="d", depends_on=[waiting])
        assert shard.refuse("PUSH", queue="q", data=1, debounce_id="d")[0] == "debounced"


class TestBatch:
    def test_answers_in_line_with_its_input(self) -> None:
        """Bad entries used to be dropped silently, so ids no longer lined up (W31)."""
        shard = Shard(payload_bytes_max=20)
        known = shard.push(job_id="old", unique_key="taken")
        jobs = [
            {"data": 1},
            {"data": "x" * 30},
            {"data": 2, "job_id": "old"},
            {"data": 3, "unique_key": "taken"},
            {"data": 4, "unique_key": "fresh"},
            {"data": 5, "unique_key": "fresh"},
            {"data": 6, "debounce_id": "d"},
            {"data": 7, "debounce_id": "d"},
            {"data": 8, "job_id": "new"},
            {"data": 9, "job_id": "new"},
            {"data": 10, "depends_on": [10**6]},
        ]
        reply = shard.ask("PUSHB", queue="q", jobs=jobs)
        first = known + 1
        assert reply["ids"] == [
            first, None, known, None, first + 1, None, first + 2, None, first + 3, first + 3, None,
        ]  # fmt: skip
        assert [(error["index"], error["code"]) for error in reply["errors"]] == [
            (1, "payload_too_large"),
            (3, "duplicate"),
            (5, "duplicate"),
            (7, "debounced"),
            (10, "unknown_dependency"),
        ]
        assert [shard.job(job_id)["data"] for job_id in range(first, first + 4)] == [1, 4, 6, 8]
        shard.check_recovery()

    def test_plain_entries_with_a_bad_one_among_them(self) -> None:
        shard = Shard(payload_bytes_max=20)
        jobs = [{"data": 1}, {"data": "x" * 30}, {"data": 2, "priority": 5}]
        reply = shard.ask("PUSHB", queue="q", jobs=jobs)
        assert reply["ids"] == [1, None, 2]
        assert [error["index"] for error in reply["errors"]] == [1]
        assert shard.pull_ids() == [2, 1]

    def test_bounds(self) -> None:
        shard = Shard(batch_jobs_max=2)
        assert shard.refuse("PUSHB", queue="q", jobs=[{"data": 1}] * 3) == (
            "batch_too_large",
            "Batch too large (3 jobs, max 2)",
        )
        assert shard.refuse("PUSHB", queue="q", jobs=[{"data": 1, "ttl": 9}] * 3)[0] == (
            "batch_too_large"
        )
        assert shard.ask("PUSHB", queue="q", jobs=[]) == {"ok": True, "ids": []}

    def test_entries_that_say_the_same_share_one_record(self, shard: Shard) -> None:
        """A batch stays a batch in the log."""
        jobs = [{"data": number, "max_attempts": 3, "priority": number} for number in range(5)]
        shard.ask("PUSHB", queue="q", jobs=jobs)
        (record,) = shard.log[-1].records
        assert isinstance(record, Pushed)
        assert len(record.data) == 5
        assert shard.pull_ids() == [5, 4, 3, 2, 1]
        shard.check_recovery()

    def test_crosses_pages(self, shard: Shard) -> None:
        ids = shard.ask("PUSHB", queue="q", jobs=[{"data": n} for n in range(3000)])["ids"]
        assert ids == list(range(1, 3001))
        assert [job for _ in range(3) for job in shard.pull_ids(count=1000)] == ids
        shard.check_recovery()

    def test_priorities_of_plain_entries(self, shard: Shard) -> None:
        jobs = [{"data": n, "priority": n % 3} for n in range(6)]
        shard.ask("PUSHB", queue="q", jobs=jobs)
        assert shard.pull_ids() == [3, 6, 2, 5, 1, 4]


class TestDelayAndTtl:
    def test_expires_after_its_ttl_and_says_so(self, shard: Shard) -> None:
        """Expiry used to be silent, and only noticed when pulled (W39)."""
        shard.listen()
        job_id = shard.push(ttl=100)
        shard.advance(100)
        assert shard.state_of(job_id) == "waiting"
        shard.advance(1)
        assert shard.state_of(job_id) == "unknown"
        assert shard.happened() == [("pushed", [job_id]), ("expired", [job_id])]
        assert shard.ask("METRICS")["metrics"]["total_expired"] == 1
        assert shard.ask("COUNT", queue="q")["count"] == 0

    def test_a_delayed_job_expires_too(self, shard: Shard) -> None:
        job_id = shard.push(ttl=100, delay=5000)
        shard.advance(101)
        assert shard.state_of(job_id) == "unknown"

    def test_an_active_job_does_not_expire_until_it_comes_back(self, shard: Shard) -> None:
        """1. the job is taken before its end; 2. a pull is parked; 3. the job fails after its
        end: it is expired then, and must not be handed to the parked pull."""
        job_id = shard.make_active(ttl=100)
        shard.advance(500)
        assert shard.state_of(job_id) == "active"
        corr = shard.send("PULL", queue="q", timeout=5000)
        shard.ask("FAIL", id=job_id)
        assert shard.answer(corr) is None
        assert shard.state_of(job_id) == "unknown"

    def test_a_freed_job_beyond_its_ttl_is_not_run(self, shard: Shard) -> None:
        first = shard.make_active()
        waiting = shard.push("p", depends_on=[first], ttl=100)
        shard.advance(1000)
        assert shard.state_of(waiting) == "waitingchildren"
        shard.ask("ACK", id=first)
        assert shard.state_of(waiting) == "unknown"


class TestFlow:
    def test_with_the_id_of_a_job_that_is_no_flow_is_refused(self, shard: Shard) -> None:
        """It was answered with that job, as if it had been given children."""
        job_id = shard.push(job_id="mine")
        flow = {"queue": "q", "data": 1, "children": [{"queue": "q", "data": 2}], "job_id": "mine"}
        text = f"Job {job_id} has the id 'mine' and is no flow: nothing was added"
        assert shard.refuse("FLOW", **flow) == ("wrong_state", text)
        flow["job_id"] = "other"
        assert shard.ask("FLOW", **flow) == shard.ask("FLOW", **flow)

    def test_the_parent_runs_when_all_children_have_ended(self, shard: Shard) -> None:
        children = [
            {"queue": "a", "data": 1, "priority": 5, "max_attempts": 1},
            {"queue": "b", "data": 2, "delay": 100},
        ]
        flow = shard.ask("FLOW", queue="p", data={"x": 1}, priority=2, children=children)
        parent, (first, second) = flow["parent_id"], flow["children_ids"]
        assert shard.state_of(parent) == "waitingparent"
        assert shard.job(first)["parent_id"] == parent
        assert shard.job(first)["priority"] == 5
        assert shard.job(first)["max_attempts"] == 1
        assert shard.state_of(second) == "delayed"
        shard.ask("ACK", id=shard.pull("a")["id"])
        assert shard.state_of(parent) == "waitingparent"
        assert shard.job(parent)["children_completed"] == 1
        shard.advance(100)
        shard.ask("ACKB", ids=shard.pull_ids("b"))
        job = shard.job(parent)
        assert shard.state_of(parent) == "waiting"
        assert (job["children_ids"], job["children_completed"]) == ([first, second], 2)
        assert [entry["level"] for entry in shard.ask("GETLOGS", id=parent)["logs"]] == ["info"]
        assert shard.ask("METRICS")["metrics"]["total_pushed"] == 3
        shard.check_recovery()

    @pytest.mark.parametrize("end", ["fail", "cancel", "drain", "discard"])
    def test_a_child_that_cannot_complete_fails_the_parent(self, shard: Shard, end: str) -> None:
        """It used to block the parent for ever (W34)."""
        child = {"queue": "c", "data": 1, "max_attempts": 1}
        flow = shard.ask("FLOW", queue="p", data=1, children=[child])
        (job_id,) = flow["children_ids"]
        if end == "drain":
            shard.ask("DRAIN", queue="c")
        else:
            shard.pull("c")
            shard.ask(end.upper(), id=job_id)
        parent = flow["parent_id"]
        assert shard.state_of(parent) == "failed"
        why = {
            "fail": "failed",
            "cancel": "removed: cancelled",
            "drain": "removed: drained",
            "discard": "failed: discarded",
        }[end]
        assert shard.job(parent)["error"] == f"child {job_id} {why}"

    def test_ignore_runs_the_parent_anyway(self, shard: Shard) -> None:
        children = [{"queue": "c", "data": 1, "max_attempts": 1}, {"queue": "c", "data": 2}]
        flow = shard.ask(
            "FLOW", queue="p", data=1, children=children, on_dependency_failure="ignore"
        )
        first, second = shard.pull_ids("c")
        shard.ask("FAIL", id=first)
        shard.ask("ACK", id=second)
        assert shard.state_of(flow["parent_id"]) == "waiting"
        assert shard.job(flow["parent_id"])["children_completed"] == 1

    def test_wait_lets_the_child_be_retried(self, shard: Shard) -> None:
        flow = shard.ask(
            "FLOW",
            queue="p",
            data=1,
            children=[{"queue": "c", "data": 1, "max_attempts": 1}],
            on_dependency_failure="wait",
        )
        shard.ask("FAIL", id=shard.pull("c")["id"])
        assert shard.state_of(flow["parent_id"]) == "waitingparent"
        shard.ask("RETRYDLQ", queue="c")
        shard.ask("ACK", id=shard.pull("c")["id"])
        assert shard.state_of(flow["parent_id"]) == "waiting"

    def test_children_of_a_removed_parent_live_on(self, shard: Shard) -> None:
        flow = shard.ask("FLOW", queue="p", data=1, children=[{"queue": "c", "data": 1}])
        shard.ask("CANCEL", id=flow["parent_id"])
        shard.ask("ACK", id=shard.pull("c")["id"])
        assert shard.state_of(flow["children_ids"][0]) == "completed"

    def test_parent_data_is_another_name(self, shard: Shard) -> None:
        child = {"queue": "c", "data": 1}
        flow = shard.ask("FLOW", queue="p", parent_data=[9], children=[child])
        assert shard.job(flow["parent_id"])["data"] == [9]
        code, text = shard.refuse("FLOW", queue="p", children=[child])
        assert (code, text) == ("invalid", "Invalid: missing field `data`")

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"children": []}, "flow_empty"),
            ({"depends_on": [1]}, "invalid"),
            ({"children": [{"queue": "c", "data": 1, "unique_key": "k"}]}, "invalid"),
            ({"children": [{"queue": "c", "data": 1, "job_id": "k"}]}, "invalid"),
            ({"children": [{"queue": "c", "data": 1, "durability": "memory"}]}, "level_invalid"),
            ({"children": [{"queue": "c", "data": "x" * 99}]}, "payload_too_large"),
            ({"durability": "memory"}, "level_invalid"),
            ({"data": "x" * 99}, "payload_too_large"),
        ],
    )
    def test_what_is_refused(self, fields: dict[str, Any], code: str) -> None:
        shard = Shard(payload_bytes_max=50)
        said: dict[str, Any] = {
            "queue": "p",
            "data": 1,
            "children": [{"queue": "c", "data": 1}],
            **fields,
        }
        assert shard.refuse("FLOW", **said)[0] == code

    def test_keys_of_the_parent(self, shard: Shard) -> None:
        said: dict[str, Any] = {"queue": "p", "data": 1, "children": [{"queue": "c", "data": 1}]}
        first = shard.ask("FLOW", **said, job_id="mine", unique_key="k", debounce_id="d")
        assert shard.ask("FLOW", **said, job_id="mine") == first
        assert shard.refuse("FLOW", **said, unique_key="k")[0] == "duplicate"
        assert shard.refuse("FLOW", **said, debounce_id="d")[0] == "debounced"
        assert shard.ask("COUNT", queue="c")["count"] == 1

    def test_get_children_at_any_time(self, shard: Shard) -> None:
        """It used to work only while the parent waited, and to omit finished children (W34)."""
        children = [{"queue": "c", "data": 1}, {"queue": "c", "data": 2}]
        flow = shard.ask("FLOW", queue="p", data=1, children=children)
        shard.ask("ACK", id=shard.pull("c")["id"])
        reply = shard.ask("GETCHILDREN", parent_id=flow["parent_id"])
        assert [job["id"] for job in reply["children"]] == flow["children_ids"]
        assert (reply["completed"], reply["total"]) == (1, 2)
        assert reply["children_ids"] == flow["children_ids"]
        shard.ask("ACK", id=shard.pull("c")["id"])
        shard.ask("ACK", id=shard.pull("p")["id"])
        assert shard.ask("GETCHILDREN", parent_id=flow["parent_id"])["completed"] == 2
        assert shard.refuse("GETCHILDREN", parent_id=flow["children_ids"][0]) == (
            "parent_not_found",
            f"Parent job {flow['children_ids'][0]} not found",
        )


class TestTheJobInTheReply:
    @pytest.mark.parametrize("fields", [{}, {"delay": 5, "tags": ["t"], "priority": 3}])
    def test_a_push_with_view_is_answered_with_what_getjob_says(
        self, shard: Shard, fields: dict[str, Any]
    ) -> None:
        said = shard.ask("PUSH", queue="q", data={"a": 1}, view=True, full=True, **fields)
        assert said["job"] == shard.ask("GETJOB", id=said["id"], full=True)["job"]
        assert "job" not in shard.ask("PUSH", queue="q", data=1, full=True, **fields)

    def test_the_job_that_stands_for_it(self, shard: Shard) -> None:
        first = shard.push(job_id="mine", data="first")
        push = {"queue": "q", "data": "second", "job_id": "mine", "view": True}
        said = shard.ask("PUSH", **push, session=b"s" * 16, n=1)
        assert (said["id"], said["job"]["data"]) == (first, "first")

    def test_a_repeat_is_answered_without(self, shard: Shard) -> None:
        """What is kept for repeats is small."""
        push = {"queue": "q", "data": 1, "session": b"s" * 16, "n": 1, "view": True}
        first = shard.ask("PUSH", **push)
        again = shard.ask("PUSH", **push)
        assert "job" in first
        assert again == {"ok": True, "id": first["id"]}
