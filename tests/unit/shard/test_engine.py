"""The engine as a whole: repeats, refusals, gates, events, levels, and what follows from an
input."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.errors import Busy, ShuttingDown, StorageUnavailable
from flashq.protocol.codec import encode_msgpack
from flashq.protocol.internal import COORDINATOR, CreateChild, Fire, Obliterated
from flashq.protocol.records import Options, Raised
from tests.unit.shard.harness import ALICE, BOB, Shard


class TestRepeats:
    def test_a_repeat_gets_the_first_answer_and_does_nothing(self, shard: Shard) -> None:
        said: dict[str, Any] = {"queue": "q", "data": 1, "session": ALICE, "n": 7}
        first = shard.ask("PUSH", **said)
        assert shard.ask("PUSH", **said) == first
        assert shard.ask("COUNT", queue="q")["count"] == 1

    @pytest.mark.parametrize("crashed", [False, True])
    def test_also_after_a_restart_and_for_every_kind_of_answer(
        self, shard: Shard, crashed: bool
    ) -> None:
        jobs = [shard.push() for _ in range(4)]
        shard.pull_ids(count=3)
        requests: list[tuple[str, dict[str, Any]]] = [
            ("PUSHB", {"queue": "q", "jobs": [{"data": 1}, {"data": 2}]}),
            ("PUSHB", {"queue": "q", "jobs": [{"data": 1, "unique_key": "k"}] * 2}),
            ("ACK", {"id": jobs[0], "result": 5}),
            ("ACKB", {"ids": [jobs[0], jobs[1]]}),
            ("FAIL", {"id": jobs[2]}),
            ("FLOW", {"queue": "p", "data": 1, "children": [{"queue": "c", "data": 1}]}),
            ("CANCEL", {"id": jobs[3]}),
            ("DRAIN", {"queue": "q"}),
        ]
        answers = [
            shard.ask(cmd, **fields, session=ALICE, n=n)
            for n, (cmd, fields) in enumerate(requests, 1)
        ]
        if crashed:
            shard = shard.crash()
        seq = shard.state.seq
        for n, (cmd, fields) in reversed(list(enumerate(requests, 1))):
            assert shard.ask(cmd, **fields, session=ALICE, n=n) == answers[n - 1]
        assert shard.state.seq == seq
        shard.check_recovery()

    def test_numbers_are_of_a_session(self, shard: Shard) -> None:
        assert shard.push(session=ALICE, n=1) != shard.push(session=BOB, n=1)

    def test_without_a_number_nothing_is_kept(self, shard: Shard) -> None:
        assert shard.push(session=ALICE) != shard.push(session=ALICE)
        assert ALICE not in shard.state.sessions

    def test_an_error_is_an_answer_too(self, shard: Shard) -> None:
        """Two copies were on their way; the first was refused, and the second carried out after
        its caller had been told that nothing happened (simulated seed 24)."""
        said: dict[str, Any] = {
            "queue": "q",
            "data": 1,
            "unique_key": "k",
            "session": ALICE,
            "n": 2,
        }
        first = shard.push(unique_key="k")
        assert shard.answer(shard.send("PUSH", **said)) == shard.answer(shard.send("PUSH", **said))
        shard.ask("CANCEL", id=first)
        assert shard.refuse("PUSH", **said)[0] == "duplicate"
        said["n"] = 3
        assert shard.ask("PUSH", **said)["id"] == first + 1

    def test_an_answer_that_nothing_was_to_be_done_is_kept(self, shard: Shard) -> None:
        """The second copy of a RETRYDLQ found what the first had not."""
        said = {"queue": "q", "session": ALICE, "n": 1}
        assert shard.ask("RETRYDLQ", **said)["ids"] == [0]
        shard.make_failed()
        assert shard.ask("RETRYDLQ", **said)["ids"] == [0]

    def test_an_error_that_a_repeat_can_help_is_not_kept(self, shard: Shard) -> None:
        """Nothing happened, and the client was told to come again."""
        shard.engine.refusal = Busy(detail="full")
        said = {"queue": "q", "data": 1, "session": ALICE, "n": 1}
        assert shard.refuse("PUSH", **said)[0] == "busy"
        shard.engine.accept()
        assert shard.ask("PUSH", **said)["ok"]

    def test_what_is_done_with_is_forgotten_and_refused(self, shard: Shard) -> None:
        for n in range(1, 6):
            shard.push(session=ALICE, n=n, done_below=n - 1)
        assert list(shard.state.sessions[ALICE].answers) == [4, 5]
        assert shard.push(session=ALICE, n=4) == 4
        code, text = shard.refuse("PUSH", queue="q", data=1, session=ALICE, n=3)
        assert (code, text) == ("session_expired", "session expired")
        shard.check_recovery()

    def test_answers_out_of_order_are_all_let_go(self, shard: Shard) -> None:
        """A pull that was parked long ago is answered after younger requests: its answer must not
        stay when the others go."""
        corr = shard.send("PULL", queue="slow", timeout=60_000, session=ALICE, n=1)
        shard.push(session=ALICE, n=2)
        shard.push(session=ALICE, n=3)
        shard.push("slow")
        assert shard.answer(corr) is not None
        assert list(shard.state.sessions[ALICE].answers) == [1, 2, 3]
        shard.push(session=ALICE, n=4, done_below=3)
        assert list(shard.state.sessions[ALICE].answers) == [3, 4]
        shard.check_recovery()

    def test_an_answer_that_nobody_needs_is_not_kept(self, shard: Shard) -> None:
        """A parked pull that its client has given up is answered below `done_below`."""
        shard.send("PULL", queue="slow", timeout=60_000, session=ALICE, n=1)
        shard.push(session=ALICE, n=5, done_below=5)
        shard.push("slow")
        assert list(shard.state.sessions[ALICE].answers) == [5]
        shard.check_recovery()

    def test_a_repeat_is_answered_even_while_changes_are_refused(self, shard: Shard) -> None:
        """`storage unavailable` says that nothing happened, and the first copy did happen."""
        first = shard.push(session=ALICE, n=1)
        shard.engine.refusal = StorageUnavailable(detail="away")
        assert shard.push(session=ALICE, n=1) == first


class TestRefusal:
    def test_changes_are_refused_and_reads_go_on(self, shard: Shard) -> None:
        job_id = shard.push()
        shard.engine.refusal = ShuttingDown()
        assert shard.refuse("PUSH", queue="q", data=1) == ("shutting_down", "shutting down")
        assert shard.refuse("PULL", queue="q")[0] == "shutting_down"
        assert shard.refuse("CANCEL", id=job_id)[0] == "shutting_down"
        assert shard.state_of(job_id) == "waiting"
        assert shard.ask("STATS")["queued"] == 1
        assert shard.answer(shard.send("WAITJOB", id=job_id)) is None

    def test_waiters_are_served_when_it_is_over(self, shard: Shard) -> None:
        """A job that came due meanwhile must not be handed out before, nor forgotten after."""
        corr = shard.send("PULL", queue="q", timeout=60_000)
        shard.push(delay=100)
        shard.engine.refusal = StorageUnavailable(detail="away")
        shard.advance(100)
        assert shard.answer(corr) is None
        shard.engine.accept()
        shard._collect()
        assert shard.answer(corr) is not None


class TestGate:
    def test_durable_answers_wait_for_their_record(self) -> None:
        shard = Shard(level="durable")
        corr = shard.send("PUSH", queue="q", data=1)
        assert shard.replies[corr].gate == shard.state.seq == 1

    def test_async_answers_do_not(self, shard: Shard) -> None:
        corr = shard.send("PUSH", queue="q", data=1)
        assert (shard.replies[corr].gate, shard.replies[corr].seq) == (0, 1)
        flow: dict[str, Any] = {"queue": "p", "data": 1, "children": [{"queue": "c", "data": 1}]}
        assert shard.replies[shard.send("FLOW", **flow)].gate == 0

    def test_a_level_asked_for_is_the_jobs_for_good(self, shard: Shard) -> None:
        corr = shard.send("PUSH", queue="q", data=1, durability="durable")
        assert shard.replies[corr].gate == 1
        job_id = shard.pull()["id"]
        corr = shard.send("ACK", id=job_id)
        assert shard.replies[corr].gate == shard.state.seq

    def test_reads_and_errors_wait_for_what_they_tell_of(self) -> None:
        """A `Duplicate` or a state that a crash could undo would be a lie."""
        shard = Shard(level="durable")
        job_id = shard.push(unique_key="k")
        for cmd, fields in (
            ("GETSTATE", {"id": job_id}),
            ("PUSH", {"queue": "q", "data": 1, "unique_key": "k"}),
            ("GETJOBS", {}),
            ("WAITJOB", {"id": 999}),
        ):
            corr = shard.send(cmd, **fields)
            assert shard.replies[corr].gate == 1, cmd

    def test_pull_waits_for_the_pushes_only(self) -> None:
        shard = Shard(level="durable")
        shard.push()
        corr = shard.send("PULL", queue="q", timeout=0)
        assert shard.state.seq == 2
        assert shard.replies[corr].gate == 1

    def test_heartbeats_and_figures_wait_for_nothing(self) -> None:
        shard = Shard(level="durable")
        shard.push()
        beat: dict[str, Any] = {"session": ALICE}
        for cmd, fields in (
            ("SESSIONHEARTBEAT", beat),
            ("STATS", {}),
            ("METRICS", {}),
            ("LISTWORKERS", {}),
        ):
            corr = shard.send(cmd, **fields)
            assert shard.replies[corr].gate == 0, cmd

    @pytest.mark.parametrize("end", ["timeout", "stall", "silence", "expiry"])
    def test_what_time_brings_about_is_waited_for_too(self, end: str) -> None:
        """`Job failed` after a time-out must not be told before its record is safe."""
        shard = Shard(level="durable")
        fields: dict[str, Any] = {"max_attempts": 1}
        if end == "timeout":
            fields["timeout"] = 50
        elif end == "stall":
            fields["stall_timeout"] = 50
        elif end == "expiry":
            fields["ttl"] = 50
        job_id = shard.push(**fields)
        if end != "expiry":
            shard.pull(session=ALICE) if end == "silence" else shard.pull()
        corr = shard.send("WAITJOB", id=job_id, timeout=60_000)
        shard.advance(20_000)
        if end != "silence":
            assert shard.replies[corr].gate == shard.state.seq
        corr = shard.send("GETSTATE", id=job_id)
        assert shard.replies[corr].gate == shard.state.seq

    def test_logs_and_progress_are_promises(self) -> None:
        """They survive a restart like everything else that was acknowledged."""
        shard = Shard(level="durable")
        job_id = shard.make_active()
        for cmd, fields in (("LOG", {"message": "x"}), ("PROGRESS", {"progress": 5})):
            corr = shard.send(cmd, id=job_id, **fields)
            assert shard.replies[corr].gate == shard.state.seq, cmd


class TestMemoryLevel:
    def test_the_log_never_hears_of_it(self, shard: Shard) -> None:
        job_id = shard.push(durability="memory")
        shard.ask("LOG", id=job_id, message="x")
        assert shard.pull()["id"] == job_id
        shard.ask("PROGRESS", id=job_id, progress=5)
        shard.ask("FAIL", id=job_id)
        shard.pull()
        shard.ask("ACK", id=job_id, result=1)
        assert shard.log == []
        assert shard.ask("GETRESULT", id=job_id)["result"] == 1
        assert shard.crash().state_of(job_id) == "unknown"

    def test_among_durable_ones_only_those_are_logged(self, shard: Shard) -> None:
        """One delivery, one ack of both kinds: the log must fit what it has."""
        jobs = [{"data": n, "durability": "memory" if n % 2 else "async"} for n in range(6)]
        ids = shard.ask("PUSHB", queue="q", jobs=jobs)["ids"]
        assert shard.pull_ids() == ids
        shard.ask("ACKB", ids=ids[:4], results=[0, 1, 2, 3])
        shard.ask("RELEASE", ids=ids[4:])
        after = shard.crash()
        assert [after.state_of(job_id) for job_id in ids] == [
            *("completed", "unknown", "completed", "unknown", "waiting", "unknown")
        ]
        assert after.ask("GETRESULT", id=ids[2])["result"] == 2

    def test_a_server_of_level_memory_logs_settings_only(self) -> None:
        shard = Shard(level="memory")
        shard.push()
        shard.ask("PUSHB", queue="q", jobs=[{"data": 1}] * 3)
        shard.push(durability="durable")
        shard.ask("PAUSE", queue="x")
        after = shard.crash()
        assert after.ask("COUNT", queue="q")["count"] == 1
        assert after.ask("ISPAUSED", queue="x")["paused"]

    def test_a_durable_duplicate_raises_it(self, shard: Shard) -> None:
        """The second push is told the job's id as its own: so the job has to last."""
        job_id = shard.push(job_id="mine", durability="memory", data={"x": 1}, priority=4)
        assert shard.push(job_id="mine") == job_id
        assert [type(record) for record in shard.log[-1].records] == [Raised]
        assert shard.state.volatile_jobs == 0
        after = shard.crash()
        assert after.job(job_id)["data"] == {"x": 1}
        assert after.pull()["id"] == job_id

    @pytest.mark.parametrize("state", ["active", "delayed", "failed", "completed"])
    def test_is_raised_in_any_state(self, shard: Shard, state: str) -> None:
        said: dict[str, Any] = {"job_id": "mine", "durability": "memory"}
        if state == "delayed":
            job_id = shard.push(**said, delay=5000)
        else:
            make = {
                "active": shard.make_active,
                "failed": shard.make_failed,
                "completed": shard.make_completed,
            }[state]
            job_id = make(**said)
        shard.push(job_id="mine")
        after = shard.crash()
        assert after.state_of(job_id) == state
        after.check_recovery()

    def test_is_raised_by_an_entry_of_the_same_batch(self, shard: Shard) -> None:
        jobs = [
            {"data": 1, "job_id": "mine", "durability": "memory"},
            {"data": 2, "job_id": "mine", "durability": "durable"},
        ]
        first, second = shard.ask("PUSHB", queue="q", jobs=jobs)["ids"]
        assert first == second
        assert shard.crash().state_of(first) == "waiting"

    def test_a_durable_duplicate_by_key_raises_it_too(self, shard: Shard) -> None:
        """`Duplicate job` says that there is one: a crash must not make that untrue."""
        job_id = shard.push(unique_key="k", durability="memory")
        code = shard.answer(shard.send("PUSH", queue="q", data=1, unique_key="k"))
        assert code is not None
        assert code["code"] == "duplicate"
        assert shard.crash().state_of(job_id) == "waiting"

    def test_two_entries_of_a_batch_raise_it_once(self, shard: Shard) -> None:
        """The second one counted one volatile job too few (simulated seed 62)."""
        job_id = shard.push(unique_key="k", durability="memory")
        shard.ask("PUSHB", queue="q", jobs=[{"data": n, "unique_key": "k"} for n in range(2)])
        assert shard.state.volatile_jobs == 0
        assert shard.crash().state_of(job_id) == "waiting"

    def test_a_window_is_of_its_own_entry(self, shard: Shard) -> None:
        """The debounce of a durable entry is logged though a volatile one stood before it."""
        jobs = [
            {"data": 1, "durability": "memory", "debounce_id": "a"},
            {"data": 2, "debounce_id": "b"},
        ]
        shard.ask("PUSHB", queue="q", jobs=jobs)
        after = shard.crash()
        assert after.refuse("PUSH", queue="q", data=1, debounce_id="b")[0] == "debounced"
        assert after.push(debounce_id="a")


class TestEvents:
    @pytest.fixture
    def shard(self) -> Shard:
        shard = Shard()
        shard.listen()
        return shard

    def test_nobody_listens_nobody_is_told(self) -> None:
        shard = Shard()
        shard.make_completed()
        assert shard.happened() == []

    def test_nobody_is_told_of_another_queue(self) -> None:
        """And it takes no number: whoever gets all that is made sees no hole."""
        shard = Shard()
        shard.listen("r")
        shard.make_completed(queue="q")
        shard.push(queue="r")
        [event] = shard.events
        assert (event.queue, event.seq) == ("r", 1)

    def test_the_life_of_a_job(self, shard: Shard) -> None:
        job_id = shard.push(data=1)
        shard.pull()
        shard.ask("PROGRESS", id=job_id, progress=50, message="half")
        shard.ask("FAIL", id=job_id, error="oh")
        shard.pull()
        shard.ask("ACK", id=job_id, result=2)
        events = shard.events
        assert [event.event for event in events] == [
            *("pushed", "active", "progress", "retrying", "active", "completed")
        ]
        assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
        assert {event.queue for event in events} == {"q"}
        assert {(event.shard, event.epoch) for event in events} == {(0, 1)}
        assert (events[2].progress, events[2].message) == (50, "half")
        assert events[3].error == "oh"
        assert [bytes(item or b"") for item in events[0].data or ()] == [b"\x01"]
        assert [bytes(item or b"") for item in events[5].data or ()] == [b"\x02"]

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            ([("CANCEL", {})], ["cancelled"]),
            ([("DISCARD", {})], ["failed"]),
            ([("DRAIN", {"queue": "q"})], ["cancelled"]),
            ([("OBLITERATE", {"queue": "q"})], ["cancelled"]),
            ([("CHANGEPRIORITY", {"priority": 5})], []),
        ],
    )
    def test_of_a_waiting_job(
        self, shard: Shard, steps: list[tuple[str, dict[str, Any]]], expected: list[str]
    ) -> None:
        job_id = shard.push()
        shard.happened()
        for cmd, fields in steps:
            shard.ask(cmd, **(fields if "queue" in fields else {"id": job_id, **fields}))
        assert shard.happened() == [(event, [job_id]) for event in expected]

    def test_delays(self, shard: Shard) -> None:
        job_id = shard.push(delay=1000)
        shard.ask("PROMOTE", id=job_id)
        shard.pull()
        shard.ask("MOVETODELAYED", id=job_id, delay=10)
        assert [event for event, _ in shard.happened()] == [
            *("pushed", "promoted", "active", "delayed")
        ]

    def test_what_time_brings_about(self, shard: Shard) -> None:
        slow = shard.make_active(queue="t", timeout=10, max_attempts=1)
        stuck = shard.make_active(queue="s", stall_timeout=20)
        lost = shard.push("l")
        shard.pull("l", session=ALICE)
        late = shard.push("e", ttl=30)
        shard.happened()
        shard.advance(10_000)
        assert shard.happened() == [
            ("timeout", [slow]),
            ("failed", [slow]),
            ("stalled", [stuck]),
            ("retrying", [stuck]),
            ("expired", [late]),
            ("stalled", [lost]),
        ]

    def test_a_batch_is_one_event(self, shard: Shard) -> None:
        ids = shard.ask("PUSHB", queue="q", jobs=[{"data": n} for n in range(3)])["ids"]
        shard.pull_ids()
        shard.ask("ACKB", ids=ids)
        assert shard.happened() == [("pushed", ids), ("active", ids), ("completed", ids)]

    def test_a_parked_job_is_pushed_and_may_fail_at_once(self, shard: Shard) -> None:
        """A push that waits here used to have no event at all (W33)."""
        first = shard.push()
        failed = shard.make_failed(queue="f")
        shard.happened()
        parked = shard.push("p", depends_on=[first])
        doomed = shard.push("p", depends_on=[failed])
        assert shard.happened() == [
            ("pushed", [parked]),
            ("pushed", [doomed]),
            ("failed", [doomed]),
        ]

    def test_a_flow(self, shard: Shard) -> None:
        flow: dict[str, Any] = {"queue": "p", "data": 1, "children": [{"queue": "c", "data": 1}]}
        reply = shard.ask("FLOW", **flow)
        assert shard.happened() == [
            ("pushed", reply["children_ids"]),
            ("pushed", [reply["parent_id"]]),
        ]

    def test_are_gated_like_replies(self) -> None:
        shard = Shard(level="durable")
        shard.listen()
        shard.push()
        assert shard.gates == [1]

    def test_what_nobody_asked_for_is_gated_by_the_level_of_its_job(self) -> None:
        """At a server of level async a durable job that a flow made, or that expired, was told of
        before that was safe (simulated seed 690)."""
        shard = Shard(level="async")
        shard.listen()
        shard.push(durability="durable", ttl=100)
        shard.push(ttl=100)
        shard.advance(101)
        options = encode_msgpack(Options(level="durable", parent=1))
        shard.mail(1, 1, CreateChild(1, 0, "q", b"\xc0", 0, 0, options))
        assert shard.gates == [1, 1, 3, 4]


class TestWhatFollows:
    def test_a_job_that_is_ready_as_it_is_parked_goes_to_a_waiter(self, shard: Shard) -> None:
        """1. somebody waits; 2. a push depends on a failed job and ignores failures, so it is
        parked and freed in one entry: the waiter must get it at once."""
        failed = shard.make_failed(queue="f")
        corr = shard.send("PULL", queue="q", timeout=60_000)
        job_id = shard.push(depends_on=[failed], on_dependency_failure="ignore")
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == job_id

    def test_a_freed_parent_goes_to_a_waiter(self, shard: Shard) -> None:
        flow: dict[str, Any] = {"queue": "p", "data": 1, "children": [{"queue": "c", "data": 1}]}
        parent = shard.ask("FLOW", **flow)["parent_id"]
        corr = shard.send("PULL", queue="p", timeout=60_000)
        shard.ask("ACK", id=shard.pull("c")["id"])
        reply = shard.answer(corr)
        assert reply is not None
        assert reply["job"]["id"] == parent

    def test_a_command_that_is_not_for_a_shard(self, shard: Shard) -> None:
        code, text = shard.refuse("CRONLIST")
        assert (code, text) == ("invalid", "Invalid: CRONLIST is not for a shard")

    def test_an_idle_shard_sleeps(self, shard: Shard) -> None:
        assert shard.engine.next_deadline_ms() is None
        shard.make_completed()
        shard.push()
        assert shard.engine.next_deadline_ms() is None

    def test_a_clock_that_jumps_expires_nobody(self, shard: Shard) -> None:
        """Sessions, leases and time-outs are on monotonic time."""
        job_id = shard.make_active(timeout=1000)
        corr = shard.send("PULL", queue="q", timeout=1000)
        shard.now_ms += 10**9
        shard.tick()
        assert shard.state_of(job_id) == "active"
        assert shard.answer(corr) is None


class TestMail:
    def test_is_taken_once_and_in_order(self, shard: Shard) -> None:
        fire = Fire("c", 1, 1, "q", b"\x01", False, b"\x80")
        assert not shard.mail(COORDINATOR, 2, fire)
        assert shard.mail(COORDINATOR, 1, fire)
        assert shard.mail(COORDINATOR, 1, fire)
        assert shard.mail(COORDINATOR, 2, fire)
        assert shard.ask("COUNT", queue="q")["count"] == 2
        shard = shard.crash()
        assert shard.mail(COORDINATOR, 2, fire)
        assert shard.ask("COUNT", queue="q")["count"] == 2

    def test_a_peer_that_lost_its_state_counts_anew(self, shard: Shard) -> None:
        fire = Fire("c", 1, 1, "q", b"\x01", False, b"\x80")
        shard.mail(COORDINATOR, 1, fire, incarnation=7)
        assert shard.mail(COORDINATOR, 1, fire, incarnation=8)
        assert shard.ask("COUNT", queue="q")["count"] == 2

    def test_to_itself_goes_on_under_a_new_incarnation(self, shard: Shard) -> None:
        """The shard is restarted, and its mailboxes go on counting."""
        for incarnation in (7, 8):
            shard.engine.start(shard.now_ms, shard.mono_ms, incarnation)
            first = shard.make_active()
            dependent = shard.push(depends_on=[first])
            assert shard.state_of(dependent) == "waitingchildren"
            shard.ask("ACK", id=first)
            assert shard.state_of(dependent) == "waiting"
            shard.ask("CANCEL", id=dependent)
        assert shard.state.inboxes[shard.state.shard] == (8, 2)

    def test_ours_is_kept_until_it_is_taken(self, shard: Shard) -> None:
        shard.push()
        shard.ask("OBLITERATE", queue="q")
        shard.ask("OBLITERATE", queue="r")
        mailbox = shard.state.mailboxes[COORDINATOR]
        assert [(number, body) for number, _, body in mailbox.pending] == [
            (1, Obliterated("q")),
            (2, Obliterated("r")),
        ]
        shard.engine.mail_taken(COORDINATOR, 6, 2)
        assert len(mailbox.pending) == 2
        shard.engine.mail_taken(COORDINATOR, 7, 1)
        shard._collect()
        assert [number for number, _, _ in mailbox.pending] == [2]
        shard.check_recovery()
