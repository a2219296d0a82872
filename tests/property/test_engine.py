"""The engine against the naive model: the same requests in any order give the same answers.

After every step: the state's indexes agree; the log replayed gives the live state; and a
checkpoint, taken in slices while work goes on, with the log after it gives the live state too.
From either, the shard goes on after SIGKILL as if nothing had happened.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec import msgpack

from flashq.protocol.internal import COORDINATOR, Fire
from flashq.protocol.records import decode_entries, encode_entries
from flashq.shard.checkpoint import Checkpoint
from flashq.shard.evolve import evolve
from flashq.shard.invariants import canonical, validate
from flashq.shard.state import ShardState
from tests.property.model import Model
from tests.property.model_objects import Fields
from tests.unit.shard.harness import (
    ALICE,
    BOB,
    CARL,
    MONO_MS,
    NOW_MS,
    Shard,
    paged,
    plain,
    recovered,
    stored_jobs,
)

pytestmark = pytest.mark.timeout(300)

FIRST: Final = 1022
"""The first job's sequence: the page boundary at 1,024 is crossed soon."""
LIMITS: Final[Fields] = {
    "completed_jobs_max": 4,
    "results_max": 2,
    "dlq_jobs_max": 3,
    "job_logs_max": 3,
    "stall_timeout_ms": 30_004,
    "payload_bytes_max": 40,
}

# Durations end in different powers of two, so that deadlines of different kinds hardly ever meet in
# one millisecond: then their order would be the engine's own affair.
CHILD_OPTIONS: Final = [
    *(("priority", priority) for priority in (5, -5)),
    *(("delay", delay) for delay in (0, 16, 3016)),
    *(("ttl", ttl) for ttl in (8, 4008)),
    *(("timeout", timeout) for timeout in (1, 2501)),
    *(("max_attempts", attempts) for attempts in (1, 2)),
    *(("backoff", backoff) for backoff in (32, 1032)),
    *(("stall_timeout", stall) for stall in (2, 5002)),
    *(("keep_completed_age", age) for age in (64, 6064)),
    *(("keep_completed_count", count) for count in (1, 2)),
    ("tags", ["t"]),
    ("lifo", True),
    ("remove_on_complete", True),
    ("remove_on_fail", True),
]
PUSH_OPTIONS: Final = [
    *CHILD_OPTIONS,
    *(("unique_key", key) for key in "uv"),
    *(("job_id", key) for key in "cd"),
    *(("debounce_id", key) for key in "xy"),
    *(("debounce_ttl", ttl) for ttl in (0, 700)),
    *(("on_dependency_failure", policy) for policy in ("ignore", "wait")),
    *(("depends_on", picks) for picks in ([0], [1], [0, 1], [2, 2], [999])),
]
queues = st.sampled_from(["a", "b"])
sessions = st.sampled_from([ALICE, BOB, CARL])
TICKETS = [bytes([number]) * 16 for number in range(3)]
tickets = st.one_of(
    st.just({}), st.builds(lambda ticket: {"ticket": ticket}, st.sampled_from(TICKETS))
)
data = st.sampled_from([None, 1, "x", "x" * 37, "x" * 50])
picks = st.integers(0, 12)
some_picks = st.lists(picks, max_size=4)
tokens = st.sampled_from(["none", "none", "right", "wrong"])
results = st.sampled_from([None, 1, "r"])


def options(choices: list[tuple[str, Any]]) -> st.SearchStrategy[Fields]:
    """Return a strategy for up to three things that a push says."""
    return st.lists(st.sampled_from(choices), max_size=3).map(dict)


entries = st.builds(lambda said, payload: {**said, "data": payload}, options(PUSH_OPTIONS), data)
children = st.builds(
    lambda said, payload, queue: {**said, "data": payload, "queue": queue},
    options(CHILD_OPTIONS),
    data,
    queues,
)
#: who asks: nobody in particular, a session, or a session that may repeat the request
askers = st.one_of(
    st.just((None, None)), st.tuples(sessions, st.none()), st.tuples(sessions, st.integers(0, 3))
)


class EngineBesideModel(RuleBasedStateMachine):
    """One shard and its model, asked the same."""

    def __init__(self) -> None:
        super().__init__()
        state = ShardState(0, 1)
        state.next_sequence = FIRST
        self.live = Shard(state=state, **LIMITS)
        self.model = Model(NOW_MS, MONO_MS, FIRST, {**LIMITS})
        self.replica = self.fresh()
        self.replayed = 0
        self.corr = 0
        #: a comparison has failed, so that no more is to be learnt
        self.has_differed = False
        self.numbers = dict.fromkeys((ALICE, BOB, CARL), 0)
        self.asked: list[tuple[str, Fields]] = []
        self.held: dict[int, int] = {}
        self.mail = 0
        # storage: the current generation, and the one that is being written
        self.stored: tuple[bytes, dict[int, bytes], int, set[int]] | None = None
        self.checkpoint: Checkpoint | None = None
        self.writing: tuple[bytes, dict[int, bytes], set[int]] = (b"", {}, set())

    @staticmethod
    def fresh() -> ShardState:
        state = ShardState(0, 1)
        state.incarnation = 7
        state.next_sequence = FIRST
        return state

    # --- asking both

    def ask(self, cmd: str, **said: Any) -> Fields | None:
        """Ask engine and model; return the answer, None while there is none."""
        self.corr += 1
        self.live.send(cmd, full=True, corr=self.corr, **said)
        self.model.handle(self.corr, cmd, self.live.now_ms, self.live.mono_ms, **said)
        return self.compare(cmd).get(self.corr)

    def ask_as(
        self, asker: tuple[bytes | None, int | None], cmd: str, **said: Any
    ) -> Fields | None:
        """Ask as somebody, maybe under a number by which it can be repeated."""
        session, lag = asker
        if session is not None:
            said["session"] = session
            if lag is not None:
                self.numbers[session] += 1
                said["n"] = self.numbers[session]
                said["done_below"] = max(0, said["n"] - lag)
                self.asked.append((cmd, said))
        return self.ask(cmd, **said)

    def compare(self, what: str) -> dict[int, Fields]:
        """Check that both have answered the same, and that the log tells the same story."""
        self.has_differed = True
        real = {corr: normal(plain(reply.body)) for corr, reply in self.live.replies.items()}
        expected = {corr: normal(reply) for corr, reply in self.model.replies}
        self.live.replies.clear()
        self.model.replies.clear()
        assert real == expected, f"after {what}"
        for reply in real.values():
            for job in reply.get("jobs") or [reply.get("job")]:
                if job and job.get("token"):
                    self.held[job["id"]] = job["token"]
        for entry in decode_entries(encode_entries(self.live.log[self.replayed :])):
            evolve(self.replica, entry)
        self.replayed = len(self.live.log)
        self.replica.advance(self.live.state.now_ms, until=self.live.state.due_mark)
        assert canonical(self.replica) == canonical(self.live.state), f"replayed after {what}"
        self.has_differed = False
        return real

    def id(self, pick: int) -> int:
        """Return the id of some job, the newest first; 999 is one that never existed."""
        if pick == 999:
            return 10**6
        made = self.model.next_id - FIRST
        return self.model.next_id - 1 - pick % made if made else 10**6

    def token(self, job_id: int, which: str) -> Fields:
        if which == "none":
            return {}
        right = self.held.get(job_id, 500)
        return {"token": right if which == "right" else right - 1}

    def naming(self, said: Fields) -> Fields:
        """Return the fields of a push with real ids to depend on."""
        if "depends_on" not in said:
            return said
        return {**said, "depends_on": [self.id(pick) for pick in said["depends_on"]]}

    # --- producing

    @rule(queue=queues, said=entries, asker=askers)
    def push(self, queue: str, said: Fields, asker: Any) -> None:
        self.ask_as(asker, "PUSH", queue=queue, **self.naming(said))

    @rule(queue=queues, said=st.lists(entries, max_size=5), asker=askers)
    def push_batch(self, queue: str, said: list[Fields], asker: Any) -> None:
        jobs = [self.naming(entry) for entry in said]
        self.ask_as(asker, "PUSHB", queue=queue, jobs=jobs)

    @rule(queue=queues, count=st.integers(1, 4), asker=askers)
    def push_plain_batch(self, queue: str, count: int, asker: Any) -> None:
        jobs = [{"data": number, "priority": number % 2} for number in range(count)]
        self.ask_as(asker, "PUSHB", queue=queue, jobs=jobs)

    @rule(
        queue=queues,
        said=options([*CHILD_OPTIONS, ("unique_key", "u"), ("job_id", "c"), ("debounce_id", "x")]),
        policy=st.sampled_from(["fail", "ignore", "wait"]),
        some=st.lists(children, min_size=1, max_size=3),
        asker=askers,
    )
    def flow(self, queue: str, said: Fields, policy: str, some: list[Fields], asker: Any) -> None:
        self.ask_as(
            asker,
            "FLOW",
            queue=queue,
            data=1,
            children=some,
            on_dependency_failure=policy,
            **said,
        )

    @rule(queue=queues, priority=st.sampled_from([0, 5]), again=st.booleans())
    def fire(self, queue: str, priority: int, again: bool) -> None:
        number = self.mail if again and self.mail else self.mail + 1
        options = msgpack.encode({"priority": priority})
        body = Fire("cron", 1, 1, queue, b"\x05", False, options)
        assert not self.live.mail(COORDINATOR, self.mail + 2, body), "a message is missing"
        assert self.live.mail(COORDINATOR, number, body)
        if number > self.mail:
            self.mail = number
            self.model.fire(queue, 5, priority, self.live.now_ms, self.live.mono_ms)
        self.compare("fire")

    # --- consuming

    @rule(
        queue=queues,
        timeout=st.sampled_from([0, 0, 0, 4, 20_004]),
        ticket=tickets,
        asker=askers,
    )
    def pull(self, queue: str, timeout: int, ticket: Any, asker: Any) -> None:
        self.ask_as(asker, "PULL", queue=queue, timeout=timeout, **ticket)

    @rule(
        queue=queues,
        count=st.sampled_from([0, 1, 2, 5, 9]),
        timeout=st.sampled_from([0, 0, 0, 4, 20_004]),
        ticket=tickets,
        asker=askers,
    )
    def pull_batch(self, queue: str, count: int, timeout: int, ticket: Any, asker: Any) -> None:
        self.ask_as(asker, "PULLB", queue=queue, count=count, timeout=timeout, **ticket)

    @rule(ticket=st.sampled_from(TICKETS))
    def withdraw(self, ticket: bytes) -> None:
        self.ask("WITHDRAW", ticket=ticket)

    @rule(queue=queues, count=st.sampled_from([1, 2, 5]), asker=askers)
    def pull_and_start_later(self, queue: str, count: int, asker: Any) -> None:
        self.ask_as(asker, "PULLB", queue=queue, count=count, timeout=0, starts=True)

    @rule(queue=queues, timeout=st.sampled_from([0, 4, 20_004]), asker=askers)
    def wait_for_a_queue(self, queue: str, timeout: int, asker: Any) -> None:
        self.ask_as(asker, "PULLB", queue=queue, count=0, timeout=timeout, ready=True)

    @rule(queue=queues, asker=askers, other=askers)
    def hand_one_of_two_to_another(self, queue: str, asker: Any, other: Any) -> None:
        """What was handed out together is not held together for ever."""
        reply = self.ask_as(asker, "PULLB", queue=queue, count=2, timeout=0)
        taken = [job["id"] for job in (reply or {}).get("jobs", [])]
        self.ask_as(asker, "RELEASE", ids=taken[:1])
        self.ask_as(other, "PULL", queue=queue, timeout=0)

    @rule(pick=picks, token=tokens, result=results, asker=askers)
    def ack(self, pick: int, token: str, result: Any, asker: Any) -> None:
        job_id = self.id(pick)
        said = self.token(job_id, token)
        self.ask_as(asker, "ACK", id=job_id, result=result, **said)

    @rule(some=some_picks, token=tokens, result=results, asker=askers)
    def ack_batch(self, some: list[int], token: str, result: Any, asker: Any) -> None:
        ids = [self.id(pick) for pick in some]
        said: Fields = {}
        if token != "none":
            said["tokens"] = [self.token(job_id, token).get("token") for job_id in ids]
        if result is not None:
            said["results"] = [result] * len(ids)
        self.ask_as(asker, "ACKB", ids=ids, **said)

    @rule(asker=askers)
    def ack_everything_held(self, asker: Any) -> None:
        ids = [job.id for job in self.model.of(None, "active")]
        self.ask_as(asker, "ACKB", ids=ids, results=ids)

    @rule(pick=picks, token=tokens, error=st.sampled_from([None, "e"]), asker=askers)
    def fail(self, pick: int, token: str, error: str | None, asker: Any) -> None:
        job_id = self.id(pick)
        self.ask_as(asker, "FAIL", id=job_id, error=error, **self.token(job_id, token))

    @rule(some=some_picks, token=tokens, asker=askers)
    def release(self, some: list[int], token: str, asker: Any) -> None:
        ids = [self.id(pick) for pick in some]
        said = {} if token == "none" else {"tokens": [self.held.get(job_id) for job_id in ids]}
        self.ask_as(asker, "RELEASE", ids=ids, **said)

    @rule(pick=picks, token=tokens, cmd=st.sampled_from(["HEARTBEAT", "PROGRESS", "MOVETODELAYED"]))
    def hold_on(self, pick: int, token: str, cmd: str) -> None:
        job_id = self.id(pick)
        said: dict[str, Fields] = {"PROGRESS": {"progress": 150}, "MOVETODELAYED": {"delay": 16}}
        more = said.get(cmd, {})
        self.ask(cmd, id=job_id, **more, **self.token(job_id, token))

    @rule(some=some_picks)
    def bounce(self, some: list[int]) -> None:
        held = [(job_id, self.held.get(job_id, 1)) for job_id in map(self.id, some)]
        self.live.engine.bounced(held, self.live.now_ms, self.live.mono_ms)
        self.live._collect()
        self.model.bounce(held, self.live.now_ms, self.live.mono_ms)
        self.compare("bounce")

    # --- sessions

    @rule(session=sessions, named=st.booleans(), extra=some_picks)
    def session_heartbeat(self, session: bytes, named: bool, extra: list[int]) -> None:
        ids = [job.id for job in self.model.held(session)] if named else []
        ids += [job_id for job_id in map(self.id, extra) if job_id not in ids]
        names = {"leases": ids, "tokens": [self.held.get(job_id, 1) for job_id in ids]}
        self.ask("SESSIONHEARTBEAT", session=session, **names)

    @rule(session=sessions, every=st.integers(0, 2), extra=some_picks)
    def goodbye(self, session: bytes, every: int, extra: list[int]) -> None:
        """With none, all or some of its jobs named as lost, and some that it does not hold."""
        held = [job.id for job in self.model.held(session)]
        lost = (held[::every] if every else []) + [self.id(pick) for pick in extra]
        self.ask("GOODBYE", session=session, lost=lost)

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def repeat(self, pick: int) -> None:
        cmd, said = self.asked[-1 - pick % len(self.asked)]
        self.ask(cmd, **said)

    # --- looking

    @rule(pick=picks)
    def look_at_a_job(self, pick: int) -> None:
        for cmd in ("GETJOB", "GETSTATE", "GETRESULT", "GETLOGS", "GETPROGRESS"):
            self.ask(cmd, id=self.id(pick))
        self.ask("GETCHILDREN", parent_id=self.id(pick))

    @rule(
        queue=st.sampled_from([None, "a", "b", "none"]),
        state=st.sampled_from(
            [None, "waiting", "Delayed", "active", "completed", "failed", "waiting-children"]
        ),
        limit=st.sampled_from([None, 0, 1, 3]),
        offset=st.sampled_from([None, 1, 2]),
    )
    def look_at_jobs(self, **said: Any) -> None:
        self.ask("GETJOBS", **said)

    @rule(queue=queues, some=some_picks, count=st.sampled_from([None, 1]))
    def look_around(self, queue: str, some: list[int], count: int | None) -> None:
        for cmd in ("COUNT", "GETJOBCOUNTS", "ISPAUSED"):
            self.ask(cmd, queue=queue)
        for page in ({"limit": 1}, {"after": "a"}, {"search": "b"}, {"fullest": True, "limit": 1}):
            self.ask("LISTQUEUES", **page)
        for cmd in ("LISTQUEUES", "STATS", "METRICS"):
            self.ask(cmd)
        self.ask("DLQ", queue=queue, count=count)
        self.ask("GETJOBSBATCH", ids=[self.id(pick) for pick in some])
        self.ask("GETJOBBYCUSTOMID", job_id="c", queue=queue)
        self.ask("GETJOBBYCUSTOMID", job_id="d")

    @rule(pick=picks, timeout=st.sampled_from([4, 9004]), ticket=tickets)
    def wait_for_a_job(self, pick: int, timeout: int, ticket: Any) -> None:
        self.ask("WAITJOB", id=self.id(pick), timeout=timeout, **ticket)

    # --- changing

    @rule(
        pick=picks,
        cmd=st.sampled_from(["CANCEL", "CHANGEPRIORITY", "PROMOTE", "UPDATEJOB", "DISCARD", "LOG"]),
        asker=askers,
    )
    def change(self, pick: int, cmd: str, asker: Any) -> None:
        said: dict[str, Fields] = {
            "CHANGEPRIORITY": {"priority": 7},
            "UPDATEJOB": {"data": "new" * (1 + pick)},
            "LOG": {"message": f"m{pick}"},
        }
        more = said.get(cmd, {})
        self.ask_as(asker, cmd, id=self.id(pick), **more)

    @rule(
        queue=queues,
        what=st.sampled_from(
            [
                ("PAUSE", {}),
                ("RESUME", {}),
                ("RESUME", {}),
                ("RATELIMIT", {"limit": 0}),
                ("RATELIMIT", {"limit": 1}),
                ("RATELIMIT", {"limit": 3}),
                ("RATELIMITCLEAR", {}),
                ("RATELIMITCLEAR", {}),
                ("SETCONCURRENCY", {"limit": 0}),
                ("SETCONCURRENCY", {"limit": 2}),
                ("CLEARCONCURRENCY", {}),
                ("CLEARCONCURRENCY", {}),
                ("QUEUECONFIG", {}),
                ("QUEUECONFIG", {"keep_completed_count": 2}),
                ("QUEUECONFIG", {"keep_completed_age": 0, "keep_completed_count": 0}),
                ("DRAIN", {}),
                ("OBLITERATE", {}),
                ("PURGEDLQ", {}),
                ("RETRYDLQ", {}),
            ]
        ),
        asker=askers,
    )
    def change_a_queue(self, queue: str, what: tuple[str, Fields], asker: Any) -> None:
        cmd, more = what
        self.ask_as(asker, cmd, queue=queue, **more)

    @rule(queue=queues, pick=picks)
    def retry_one(self, queue: str, pick: int) -> None:
        self.ask("RETRYDLQ", queue=queue, id=self.id(pick))

    @rule(
        queue=queues,
        state=st.sampled_from(["waiting", "delayed", "completed", "failed", "active"]),
        grace=st.sampled_from([0, 1000]),
        limit=st.sampled_from([None, 0, 1]),
    )
    def clean(self, queue: str, state: str, grace: int, limit: int | None) -> None:
        self.ask("CLEAN", queue=queue, state=state, grace=grace, limit=limit)

    # --- time

    @rule(ms=st.sampled_from([1, 1, 16, 100, 1000, 2000, 5000, 9000, 40_000, 320_000]))
    def elapse(self, ms: int) -> None:
        """Let time pass; the engine wakes no later than anything is due, and never in vain for
        ever."""
        live, end = self.live, self.live.mono_ms + ms
        while True:
            deadline, due = live.engine.next_deadline_ms(), self.model.next_event()
            if due is not None:
                assert deadline is not None, f"asleep, and something is due at {due}"
                assert deadline <= max(due, live.mono_ms), f"wakes at {deadline}, due at {due}"
            if deadline is None or deadline >= end:
                break
            live.move_clock(max(0, deadline - live.mono_ms))
            self.tick()
            again = live.engine.next_deadline_ms()
            assert again is None or again > live.mono_ms, "a tick has left something that is due"
        live.move_clock(end - live.mono_ms)
        self.tick()

    @rule(ms=st.sampled_from([1, 3]))
    def be_late(self, ms: int) -> None:
        """The process was busy: what arrives now is handled before anything expires."""
        self.live.move_clock(ms)

    @rule()
    def tick(self) -> None:
        self.live.tick()
        self.model.tick(self.live.now_ms, self.live.mono_ms)
        self.compare("tick")

    def teardown(self) -> None:
        """At the end everybody is silent: nothing may then be held, or waited for, for ever."""
        if not self.has_differed:
            self.elapse(400_000)
            self.ask("GETJOBS")
            for queue in ("a", "b"):
                self.look_around(queue, [], None)

    # --- checkpoints and crashes

    @precondition(lambda self: self.checkpoint is None)
    @rule(full=st.booleans())
    def begin_checkpoint(self, full: bool) -> None:
        ended = {*self.model.dead, *self.model.kept}
        self.checkpoint = Checkpoint(self.live.state, full=full or self.stored is None)
        ((_, part),) = self.checkpoint.take_part()
        self.writing = (part, {}, ended)

    @precondition(lambda self: self.checkpoint is not None)
    @rule(jobs_max=st.sampled_from([1, 10]))
    def write_a_slice(self, jobs_max: int) -> None:
        assert self.checkpoint is not None
        part, pages, ended = self.writing
        pages |= dict(self.checkpoint.next_pages(jobs_max, 2**20))
        if not self.checkpoint.is_done:
            return
        before = {} if self.stored is None else self.stored[1]
        current = {number: page for number, page in {**before, **pages}.items() if page}
        self.stored = (part, current, self.checkpoint.seq, ended)
        self.checkpoint = None
        state = self.recovered()
        state.advance(self.live.state.now_ms, until=self.live.state.due_mark)
        validate(state)
        assert canonical(state) == canonical(self.live.state), "checkpointed and recovered"

    def recovered(self) -> ShardState:
        """Return the state that storage gives."""
        live = self.live
        if self.stored is None:
            state = self.fresh()
            for entry in decode_entries(encode_entries(live.log)):
                evolve(state, entry)
            read = paged(state, None, {}, 0, live.log)
        else:
            part, pages, seq, _ = self.stored
            state = recovered(live.state, part, pages, live.log[seq:])
            read = paged(state, part, pages, seq, live.log[seq:])
        assert read == stored_jobs(state), "read by pages"
        return state

    @rule(downtime_ms=st.sampled_from([0, 50, 20_000]))
    def crash(self, downtime_ms: int) -> None:
        """SIGKILL, and a new process that recovers."""
        self.compare("crash")
        self.checkpoint = None
        state = self.recovered()
        validate(state)
        ended = None if self.stored is None else self.stored[3]
        now_ms, mono_ms = self.live.now_ms + downtime_ms, 1000
        self.live = Shard(
            epoch=self.live.epoch + 1,
            state=state,
            log=self.live.log,
            now_ms=now_ms,
            mono_ms=mono_ms,
            **LIMITS,
        )
        self.model.restart(now_ms, mono_ms, ended)
        self.compare("restart")


def normal(reply: Fields) -> Fields:
    """Return a reply without what is not compared, or is left out at its default."""
    not_modelled = {"retryable", "wait_seconds", "processing_seconds"}
    reply = {key: value for key, value in reply.items() if key not in not_modelled}
    for key in ("completed", "waiting_dependencies"):
        if "queued" in reply and not reply.get(key):
            reply.pop(key, None)
    if "queues" in reply:
        reply["queues"] = sorted(reply["queues"], key=lambda info: str(info["name"]))
    if "metrics" in reply:
        reply["metrics"] = {
            key: value for key, value in reply["metrics"].items() if key.startswith("total_")
        }
    return reply


TestEngineBesideModel = EngineBesideModel.TestCase
TestEngineBesideModel.settings = settings(
    max_examples=250,
    phases=(Phase.generate, Phase.shrink),
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
