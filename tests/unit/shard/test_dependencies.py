"""Jobs that wait for jobs of this shard and of another, which exchange their mail by hand."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.ids import shard_of_queue
from flashq.protocol.internal import Mail, decode_internal, encode_internal
from tests.unit.shard.harness import ALICE, Shard

HERE = next(f"h{n}" for n in range(99) if shard_of_queue(f"h{n}", 2) == 0)
THERE = next(f"t{n}" for n in range(99) if shard_of_queue(f"t{n}", 2) == 1)


class Pair:
    """Two shards: `here` is asked to push, `there` owns what is waited for."""

    def __init__(self, **limits: Any) -> None:
        self.here = Shard(0, 2, **limits)
        self.there = Shard(1, 2, **limits)

    def post(self, sender: Shard, receiver: Shard) -> int:
        """Deliver a shard's mail for the other, in the form of the wire; return how much it was."""
        mailbox = sender.state.mailboxes.get(receiver.state.shard)
        if mailbox is None:
            return 0
        pending = list(mailbox.pending)
        for number, _, body in pending:
            mail = Mail(sender=sender.state.shard, incarnation=7, number=number, body=body)
            read = decode_internal(encode_internal(mail))
            assert isinstance(read, Mail)
            assert receiver.mail(read.sender, read.number, read.body)
        if pending:
            sender.engine.mail_taken(receiver.state.shard, 7, pending[-1][0])
            sender._collect()
        return len(pending)

    def exchange(self) -> None:
        """Deliver mail both ways until there is none."""
        while self.post(self.here, self.there) + self.post(self.there, self.here):
            pass
        for shard in (self.here, self.there):
            shard.check_recovery()

    def both_crash(self) -> None:
        self.here, self.there = self.here.crash(), self.there.crash()

    def flow(self, **fields: Any) -> tuple[int, list[int]]:
        """Push a flow whose parent is here and whose children are there."""
        children = fields.pop("children", [{"queue": THERE, "data": n} for n in range(2)])
        corr = self.here.send("FLOW", queue=HERE, data=1, children=children, **fields)
        assert self.here.answer(corr) is None, "answered before the children are safe"
        self.exchange()
        reply = self.here.answer(corr)
        assert reply is not None
        return reply["parent_id"], reply["children_ids"]

    def waiting(self, *dependencies: int, **fields: Any) -> int:
        """Push a job here that depends on jobs of the other shard."""
        said: dict[str, Any] = {"queue": HERE, "data": 1, "depends_on": list(dependencies)}
        corr = self.here.send("PUSH", **said, **fields)
        assert self.here.answer(corr) is None, "answered before the other shard was asked"
        self.exchange()
        reply = self.here.answer(corr)
        assert reply is not None
        assert reply["ok"], reply
        return int(reply["id"])


@pytest.fixture
def pair() -> Pair:
    """Return two shards that know nothing of each other yet."""
    return Pair()


def end(shard: Shard, job_id: int, how: str) -> None:
    """Bring a job to its end."""
    if how == "complete":
        shard.ask("ACK", id=shard.pull(THERE)["id"])
    elif how == "fail":
        shard.pull(THERE)
        shard.ask("DISCARD", id=job_id)
    else:
        shard.ask("CANCEL", id=job_id)


class TestAcrossShards:
    @pytest.mark.parametrize("crashed", [False, True])
    def test_released_when_all_have_completed(self, pair: Pair, crashed: bool) -> None:
        """It used to wait for ever when a dependency was gone before (W33)."""
        first, second = pair.there.push(THERE), pair.there.push(THERE)
        job_id = pair.waiting(first, second)
        assert pair.here.state_of(job_id) == "waitingchildren"
        if crashed:
            pair.both_crash()
        end(pair.there, first, "complete")
        pair.exchange()
        assert pair.here.state_of(job_id) == "waitingchildren"
        end(pair.there, second, "complete")
        pair.exchange()
        assert pair.here.state_of(job_id) == "waiting"
        assert pair.here.job(job_id)["depends_on"] == [first, second]

    def test_what_is_heard_of_one_a_second_time_counts_for_no_other(self, pair: Pair) -> None:
        """One failed, which is ignored; taken out of the dead letters it completes, while another
        one is still waited for."""
        twice, other = pair.there.push(THERE), pair.there.push(THERE, priority=-1)
        job_id = pair.waiting(twice, other, on_dependency_failure="ignore")
        end(pair.there, twice, "fail")
        pair.exchange()
        pair.there.ask("RETRYDLQ", queue=THERE)
        assert pair.there.pull(THERE)["id"] == twice
        pair.there.ask("ACK", id=twice)
        assert pair.post(pair.there, pair.here), "it is told of again"
        assert pair.here.state_of(job_id) == "waitingchildren"
        end(pair.there, other, "complete")
        pair.exchange()
        assert pair.here.state_of(job_id) == "waiting"

    def test_ready_when_all_had_completed(self, pair: Pair) -> None:
        done = pair.there.make_completed(queue=THERE)
        gone = pair.there.make_completed(queue=THERE, remove_on_complete=True)
        assert pair.here.state_of(pair.waiting(done, gone)) == "waiting"

    def test_a_delay_still_counts_from_the_push(self, pair: Pair) -> None:
        first = pair.there.push(THERE)
        job_id = pair.waiting(first, delay=1000)
        pair.here.advance(400)
        end(pair.there, first, "complete")
        pair.exchange()
        assert pair.here.state_of(job_id) == "delayed"
        pair.here.advance(600)
        assert pair.here.state_of(job_id) == "waiting"

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize(
        ("policy", "how", "state", "error"),
        [
            ("fail", "fail", "failed", "dependency {id} failed: discarded"),
            ("fail", "cancel", "failed", "dependency {id} removed: cancelled"),
            ("ignore", "fail", "waiting", None),
            ("ignore", "cancel", "waiting", None),
            ("wait", "fail", "waitingchildren", None),
            ("wait", "cancel", "failed", "dependency {id} removed: cancelled"),
        ],
    )
    def test_policies(
        self, pair: Pair, policy: str, how: str, state: str, error: str | None, before: bool
    ) -> None:
        """Whether the end comes before the push or after it, the outcome is the same."""
        first = pair.there.push(THERE)
        if before:
            end(pair.there, first, how)
        job_id = pair.waiting(first, on_dependency_failure=policy)
        if not before:
            end(pair.there, first, how)
            pair.exchange()
        assert pair.here.state_of(job_id) == state
        expected = None if error is None else error.format(id=first)
        assert pair.here.job(job_id).get("error") == expected

    @pytest.mark.parametrize("before", [False, True])
    def test_wait_runs_when_the_retry_completes(self, pair: Pair, before: bool) -> None:
        first = pair.there.push(THERE)
        if before:
            end(pair.there, first, "fail")
        job_id = pair.waiting(first, on_dependency_failure="wait")
        if not before:
            end(pair.there, first, "fail")
            pair.exchange()
        pair.there.ask("RETRYDLQ", queue=THERE)
        end(pair.there, first, "complete")
        pair.exchange()
        assert pair.here.state_of(job_id) == "waiting"

    def test_wait_ends_when_the_dead_letter_is_purged(self, pair: Pair) -> None:
        """Nobody waits for ever."""
        first = pair.there.make_failed(queue=THERE)
        job_id = pair.waiting(first, on_dependency_failure="wait")
        pair.there.ask("PURGEDLQ", queue=THERE)
        pair.exchange()
        assert pair.here.job(job_id)["error"] == f"dependency {first} removed: purged"

    def test_remove_on_fail_is_a_removal(self, pair: Pair) -> None:
        first = pair.there.push(THERE, remove_on_fail=True)
        job_id = pair.waiting(first, on_dependency_failure="wait")
        end(pair.there, first, "fail")
        pair.exchange()
        assert pair.here.job(job_id)["error"] == f"dependency {first} removed: discarded"

    def test_a_dependency_that_never_existed_refuses_the_push(self, pair: Pair) -> None:
        corr = pair.here.send("PUSH", queue=HERE, data=1, depends_on=[2 * 500 + 1], unique_key="k")
        pair.exchange()
        reply = pair.here.answer(corr)
        assert reply is not None
        assert reply["code"] == "unknown_dependency"
        assert reply["error"] == "unknown dependency: job 1001 never existed"
        assert pair.here.state.index.count == 0
        assert pair.here.push(HERE, unique_key="k")

    def test_one_of_level_memory_refuses_it_too(self, pair: Pair) -> None:
        """It may be gone after a crash, and nobody would be told."""
        volatile = pair.there.push(THERE, durability="memory")
        corr = pair.here.send("PUSH", queue=HERE, data=1, depends_on=[volatile])
        while pair.post(pair.here, pair.there) + pair.post(pair.there, pair.here):
            pass
        reply = pair.here.answer(corr)
        assert reply is not None
        assert reply["code"] == "level_invalid"
        assert pair.here.state.index.count == 0

    def test_one_that_ended_too_long_ago_refuses_it_too(self) -> None:
        """1. the other shard remembers the outcome of so many ended jobs, by whole pages; 2. the
        dependency's page is beyond that: it is not guessed how it ended."""
        pair = Pair(outcomes_max=1000)
        old = pair.there.make_completed(queue=THERE, remove_on_complete=True)
        for _ in range(4):
            jobs = [{"data": 1, "remove_on_complete": True}] * 1000
            ids = pair.there.ask("PUSHB", queue=THERE, jobs=jobs)["ids"]
            assert pair.there.pull_ids(THERE, count=1000) == ids
            pair.there.ask("ACKB", ids=ids)
        corr = pair.here.send("PUSH", queue=HERE, data=1, depends_on=[old])
        pair.exchange()
        reply = pair.here.answer(corr)
        assert reply is not None
        assert reply["code"] == "dependency_forgotten"
        assert reply["error"] == f"dependency no longer known: job {old} ended too long ago"
        pair.waiting(ids[-1])

    def test_one_bad_among_good_ones(self, pair: Pair) -> None:
        """The refusal waits for all answers, so that none finds a job that is gone."""
        good = pair.there.push(THERE)
        for wanted in ([good, 1001], [1001, good], [1001, 1003]):
            corr = pair.here.send("PUSH", queue=HERE, data=1, depends_on=wanted)
            pair.exchange()
            reply = pair.here.answer(corr)
            assert reply is not None
            assert reply["code"] == "unknown_dependency"
        end(pair.there, good, "complete")
        pair.exchange()
        assert pair.here.state.index.count == 0

    def test_both_shards_at_once(self, pair: Pair) -> None:
        mine, other = pair.here.push("x" + HERE), pair.there.push(THERE)
        job_id = pair.waiting(mine, other)
        pair.here.ask("ACK", id=pair.here.pull("x" + HERE)["id"])
        assert pair.here.state_of(job_id) == "waitingchildren"
        end(pair.there, other, "complete")
        pair.exchange()
        assert pair.here.state_of(job_id) == "waiting"

    def test_a_local_failure_is_told_when_the_others_have_answered(self, pair: Pair) -> None:
        mine, other = pair.here.make_failed(queue=HERE), pair.there.push(THERE)
        job_id = pair.waiting(mine, other)
        assert pair.here.state_of(job_id) == "failed"
        assert pair.here.job(job_id)["error"] == f"dependency {mine} failed: no"

    def test_a_dependency_that_ends_before_the_push_is_answered(self, pair: Pair) -> None:
        """1. a push asks after two jobs of two shards; 2. one answers `pending` and completes
        before the other has answered at all."""
        first = pair.there.push(THERE)
        corr = pair.here.send("PUSH", queue=HERE, data=1, depends_on=[first, first])
        pair.post(pair.here, pair.there)
        end(pair.there, first, "complete")
        pair.exchange()
        reply = pair.here.answer(corr)
        assert reply is not None
        assert pair.here.state_of(reply["id"]) == "waiting"

    def test_a_pending_push_is_seen_by_nobody(self, pair: Pair) -> None:
        first = pair.there.push(THERE)
        said: dict[str, Any] = {"queue": HERE, "data": 1, "depends_on": [first], "job_id": "mine"}
        corr = pair.here.send("PUSH", **said, unique_key="k")
        pending = pair.here.state.next_sequence * 2 - 2
        assert pair.here.state_of(pending) == "unknown"
        assert pair.here.refuse("CANCEL", id=pending)[0] == "job_not_found"
        assert pair.here.ask("GETJOBS")["total"] == 0
        # whether there is such a job is not known yet, so neither yes nor no is said
        assert pair.here.refuse("PUSH", queue=HERE, data=1, job_id="mine")[0] == "busy"
        assert pair.here.refuse("PUSH", queue=HERE, data=1, unique_key="k")[0] == "busy"
        assert pair.here.ask("OBLITERATE", queue=HERE)["count"] == 0
        pair.exchange()
        assert pair.here.answer(corr) == {"ok": True, "id": pending}
        assert pair.here.push(HERE, job_id="mine") == pending


class TestAwaitedAnswers:
    def test_a_batch_answers_in_line(self, pair: Pair) -> None:
        good = pair.there.push(THERE)
        jobs = [
            {"data": 1},
            {"data": 2, "depends_on": [1001]},
            {"data": 3, "depends_on": [good]},
            {"data": 4, "debounce_id": "d"},
            {"data": 5, "debounce_id": "d"},
        ]
        corr = pair.here.send("PUSHB", queue=HERE, jobs=jobs)
        assert pair.here.answer(corr) is None
        pair.exchange()
        reply = pair.here.answer(corr)
        assert reply is not None
        assert [job_id is None for job_id in reply["ids"]] == [False, True, False, False, True]
        assert [(error["index"], error["code"]) for error in reply["errors"]] == [
            (1, "unknown_dependency"),
            (4, "debounced"),
        ]
        assert pair.here.state_of(reply["ids"][2]) == "waitingchildren"

    @pytest.mark.parametrize("crashed", [False, True])
    def test_a_repeat_joins_and_gets_the_answer(self, pair: Pair, crashed: bool) -> None:
        """Before the answer there is one, a repeat waits for it; afterwards it gets the same."""
        first = pair.there.push(THERE)
        said: dict[str, Any] = {
            "queue": HERE,
            "data": 1,
            "depends_on": [first],
            "session": ALICE,
            "n": 5,
        }
        lost = pair.here.send("PUSH", **said)
        if crashed:
            pair.both_crash()
        joined = pair.here.send("PUSH", **said)
        pair.exchange()
        reply = pair.here.answer(joined)
        assert reply is not None
        assert pair.here.answer(lost) is None
        assert pair.here.ask("PUSH", **said) == reply
        pair.both_crash()
        assert pair.here.ask("PUSH", **said) == reply
        assert pair.here.ask("GETJOBS")["total"] == 1

    def test_a_session_that_expired_meanwhile_stays_expired(self, pair: Pair) -> None:
        """1. a push waits for another shard, which is away; 2. its session falls silent for
        good; 3. the shard answers: a repeat must be told that its outcome is not known, not
        push a second job."""
        first = pair.there.push(THERE)
        said: dict[str, Any] = {
            "queue": HERE,
            "data": 1,
            "depends_on": [first],
            "session": ALICE,
            "n": 5,
        }
        pair.here.send("PUSH", **said)
        pair.here.advance(300_000)
        pair.exchange()
        assert ALICE not in pair.here.state.sessions
        assert pair.here.refuse("PUSH", **said)[0] == "session_expired"
        assert pair.here.ask("GETJOBS")["total"] == 1

    def test_a_session_is_watched_after_a_restart_though_it_has_no_answer_yet(
        self, pair: Pair
    ) -> None:
        first = pair.there.push(THERE)
        said: dict[str, Any] = {
            "queue": HERE,
            "data": 1,
            "depends_on": [first],
            "session": ALICE,
            "n": 5,
        }
        pair.here.send("PUSH", **said)
        pair.both_crash()
        pair.exchange()
        assert ALICE in pair.here.state.sessions
        pair.here.advance(300_000)
        assert ALICE not in pair.here.state.sessions
        assert pair.here.refuse("PUSH", **said)[0] == "session_expired"

    def test_a_durable_push_is_answered_when_its_last_record_is_safe(self) -> None:
        pair = Pair()
        first = pair.there.push(THERE)
        said: dict[str, Any] = {"queue": HERE, "data": 1, "depends_on": [first]}
        for level, gated in (("durable", True), ("async", False)):
            corr = pair.here.send("PUSH", **said, durability=level)
            pair.exchange()
            gate = pair.here.replies[corr].gate
            assert (gate == pair.here.replies[corr].seq) == gated


class TestFlowsAcrossShards:
    @pytest.mark.parametrize("crashed", [False, True])
    def test_the_parent_runs_when_all_children_have_ended(self, pair: Pair, crashed: bool) -> None:
        parent, (first, second) = pair.flow()
        if crashed:
            pair.both_crash()
        assert pair.here.state_of(parent) == "waitingparent"
        assert pair.there.job(first)["parent_id"] == parent
        pair.there.ask("ACKB", ids=pair.there.pull_ids(THERE))
        pair.exchange()
        assert pair.here.state_of(parent) == "waiting"
        assert pair.here.job(parent)["children_completed"] == 2
        reply = pair.here.ask("GETCHILDREN", parent_id=parent)
        assert (reply["children_ids"], reply["children"]) == ([first, second], [])

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize(
        ("policy", "how", "state"),
        [
            ("fail", "fail", "failed"),
            ("fail", "cancel", "failed"),
            ("ignore", "fail", "waiting"),
            ("ignore", "cancel", "waiting"),
            ("wait", "fail", "waitingparent"),
            ("wait", "cancel", "failed"),
        ],
    )
    def test_policies(self, pair: Pair, policy: str, how: str, state: str, before: bool) -> None:
        """Also when the child ends before the parent knows that all children are made."""
        said: dict[str, Any] = {"queue": HERE, "data": 1, "children": [{"queue": THERE, "data": 1}]}
        corr = pair.here.send("FLOW", **said, on_dependency_failure=policy)
        if before:
            pair.post(pair.here, pair.there)
        else:
            pair.exchange()
        (child,) = (job["id"] for job in pair.there.ask("GETJOBS")["jobs"])
        end(pair.there, child, how)
        pair.exchange()
        reply = pair.here.answer(corr)
        assert reply is not None
        assert reply["children_ids"] == [child]
        assert pair.here.state_of(reply["parent_id"]) == state

    def test_a_parent_that_is_not_kept_still_names_its_children(self, pair: Pair) -> None:
        """1. a child here fails before the child there is made; 2. the parent dies of it as
        soon as all are made, and is not kept: the answer must name the children all the
        same."""
        mine = next(
            name for n in range(99) if shard_of_queue(name := f"m{n}", 2) == 0 and name != HERE
        )
        children = [{"queue": mine, "data": 1}, {"queue": THERE, "data": 2}]
        corr = pair.here.send("FLOW", queue=HERE, data=1, children=children, remove_on_fail=True)
        child = pair.here.pull(mine)["id"]
        pair.here.ask("CANCEL", id=child)
        pair.exchange()
        reply = pair.here.answer(corr)
        assert reply is not None
        assert reply["children_ids"][0] == child
        assert reply["children_ids"][1] > 0
        assert pair.here.state_of(reply["parent_id"]) == "unknown"
        assert pair.there.state_of(reply["children_ids"][1]) == "waiting"

    def test_a_crash_between_any_two_messages_changes_nothing(self) -> None:
        """A child is made once, and its end reaches its parent once, whatever is killed between."""
        for killed in range(8):
            pair = Pair()
            said: dict[str, Any] = {
                "queue": HERE,
                "data": 1,
                "children": [{"queue": THERE, "data": n} for n in "ab"],
            }
            pair.here.send("FLOW", **said, session=ALICE, n=1)
            for step in range(8):
                if step == killed:
                    pair.both_crash()
                if step == 4:
                    ids = pair.there.pull_ids(THERE)
                    pair.there.ask("ACKB", ids=ids)
                sender, receiver = (
                    (pair.here, pair.there) if step % 2 == 0 else (pair.there, pair.here)
                )
                mailbox = sender.state.mailboxes.get(receiver.state.shard)
                for number, _, body in list(mailbox.pending) if mailbox else []:
                    receiver.mail(sender.state.shard, number, body)
            pair.exchange()
            reply = pair.here.ask("FLOW", **said, session=ALICE, n=1)
            assert pair.there.ask("GETJOBS")["total"] == 2
            assert pair.here.state_of(reply["parent_id"]) == "waiting"
            assert pair.here.job(reply["parent_id"])["children_completed"] == 2

    def test_a_repeated_custom_id_gives_the_flow(self, pair: Pair) -> None:
        children = [{"queue": THERE, "data": 1}]
        said: dict[str, Any] = {"queue": HERE, "data": 1, "children": children, "job_id": "mine"}
        corr = pair.here.send("FLOW", **said)
        assert pair.here.refuse("FLOW", **said)[0] == "busy"
        pair.exchange()
        assert pair.here.answer(corr) == pair.here.ask("FLOW", **said)
        assert pair.there.ask("GETJOBS")["total"] == 1


class TestWithinAShard:
    """The same without mail: everything is answered at once."""

    @pytest.fixture
    def shard(self) -> Shard:
        return Shard()

    def test_chains_fall_like_dominoes(self, shard: Shard) -> None:
        jobs = [shard.push()]
        for _ in range(4):
            jobs.append(shard.push(depends_on=[jobs[-1]]))
        shard.ask("CANCEL", id=jobs[0])
        assert [shard.state_of(job_id) for job_id in jobs[1:]] == ["failed"] * 4
        assert shard.job(jobs[2])["error"] == (
            f"dependency {jobs[1]} failed: dependency {jobs[0]} removed: cancelled"
        )
        shard.check_recovery()

    def test_runs_in_order(self, shard: Shard) -> None:
        first = shard.push()
        second = shard.push(depends_on=[first])
        third = shard.push(depends_on=[first, second])
        done = []
        while jobs := shard.pull_ids():
            done += jobs
            shard.ask("ACKB", ids=jobs)
        assert done == [first, second, third]

    def test_unknown_and_itself(self, shard: Shard) -> None:
        first = shard.push()
        for wanted in (first + 1, first + 2, 10**6):
            assert shard.refuse("PUSH", queue="q", data=1, depends_on=[wanted]) == (
                "unknown_dependency",
                f"unknown dependency: job {wanted} never existed",
            )
        assert shard.refuse("PUSH", queue="q", data=1, depends_on=[0])[0] == "unknown_dependency"

    def test_a_cancelled_dependent_is_told_nothing(self, shard: Shard) -> None:
        first = shard.push()
        second = shard.push(depends_on=[first])
        shard.ask("CANCEL", id=second)
        shard.ask("ACK", id=shard.pull()["id"])
        assert shard.state_of(second) == "cancelled"
        shard.check_recovery()
