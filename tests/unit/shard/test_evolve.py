"""What records do to a state, and that those which do not fit are damage, not a guess."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.protocol import records as r
from flashq.protocol.records import (
    Answer,
    AnyRecord,
    Entry,
    Options,
    decode_entries,
    encode_entries,
)
from flashq.shard.evolve import evolve
from flashq.shard.invariants import canonical, validate
from flashq.shard.lifecycle import ACTIVE, DELAYED, PENDING, WAITING, Damage
from flashq.shard.state import OUTCOME_COMPLETED, OUTCOME_REMOVED, ShardState
from tests.unit.shard.harness import ALICE

NOW = 1_000_000
TOKEN = 1 << 32 | 1


@pytest.fixture
def state() -> ShardState:
    """Two ready jobs: 1 and 2."""
    state = ShardState(0, 1)
    apply(state, r.Pushed("q", 1, [b"a", b"b"], [0], NOW, None))
    return state


def apply(
    state: ShardState, *records: AnyRecord, at: int = NOW, answer: Answer | None = None
) -> None:
    """Let an entry take effect as it comes out of the log."""
    (entry,) = decode_entries(encode_entries([Entry(at, list(records), answer)]))
    evolve(state, entry)
    validate(state)


class TestSequence:
    def test_every_logged_entry_has_a_number(self, state: ShardState) -> None:
        assert state.seq == 1
        evolve(state, Entry(NOW, []), logged=False)
        assert state.seq == 1
        evolve(state, Entry(NOW, []))
        assert state.seq == 2

    def test_time_never_goes_back(self, state: ShardState) -> None:
        apply(state, r.Pushed("q", 3, [b""], [0], NOW + 500, None), at=NOW - 50)
        assert state.now_ms == NOW

    def test_time_passes_before_the_records(self, state: ShardState) -> None:
        """A delayed job that came due is among the first when the entry delivers it."""
        apply(state, r.Pushed("q", 3, [b""], [9], NOW + 10, None))
        assert state.counts[DELAYED] == 1
        apply(state, r.Delivered("q", [3, 1], TOKEN, b""), at=NOW + 10)
        assert state.counts[ACTIVE] == 2


class TestDamage:
    @pytest.mark.parametrize(
        ("record", "text"),
        [
            (r.Pushed("q", 2, [b""], [0], NOW, None), "sequence 2 pushed, which was used"),
            (r.Parked("q", 1, b"", 0, NOW, None, ["q", "q"]), "sequence 1 parked, which was used"),
            (r.Acked([9], []), "job 9, which is not there"),
            (r.Acked([5000], []), "page 4, which is not there"),
            (r.Acked([1], []), "job 1 acknowledged, which nobody holds"),
            (r.Removed([1, 9], "drained"), "job 9, which is not there"),
            (r.Pushed("q", 4, [b""] * 3, [1, 2], 0, None), "3 jobs pushed with 2 priorities"),
            (r.Failed(9, "failed", None, 0, False, True), "job 9, which is not there"),
            (r.Requeued([9], "lost", 0), "job 9, which is not there"),
            (r.Delivered("q", [2], TOKEN, b""), "were not the first of q"),
            (r.Delivered("q", [1, 2, 3], TOKEN, b""), "were not the first of q"),
            (r.PrioritySet(9, 1), "job 9, which is not there"),
            (r.DataSet(9, b"", False), "job 9, which is not there"),
            (r.Raised(b"\x91\x01"), "page"),
            (r.ChildMade(1, 0, 7), "job 1, which is no flow's parent"),
            (r.ChildDone(1, 7, True), "child 7 of job 1"),
        ],
    )
    def test_records_that_do_not_fit(self, state: ShardState, record: AnyRecord, text: str) -> None:
        with pytest.raises(Damage, match=text):
            evolve(state, Entry(NOW, [record]))


class TestPushed:
    def test_one_priority_for_all_or_one_for_each(self) -> None:
        state = ShardState(0, 1)
        apply(state, r.Pushed("q", 1, [b"a"] * 3, [4], NOW, None))
        apply(state, r.Pushed("q", 4, [b"b"] * 2, [9, 1], NOW, Options(lifo=True)))
        assert list(state.queues["q"].ready.lanes()) == [4, 9, 1]
        assert state.next_sequence == 6

    def test_a_gap_in_the_sequences_is_fine(self, state: ShardState) -> None:
        """Jobs of level memory took the numbers between, or a new epoch started above them."""
        apply(state, r.Pushed("q", 5000, [b""], [0], NOW, None))
        assert state.index.get(5000) is not None
        assert state.next_sequence == 5001

    def test_sequences_and_ids_of_one_shard_among_many(self) -> None:
        state = ShardState(3, 32)
        apply(state, r.Pushed("q", 7, [b"", b""], [0], NOW, None))
        assert [job is not None for job in state.index.get_many([7 * 32 + 3, 8 * 32 + 3])]

    def test_a_batch_over_a_page_boundary(self) -> None:
        state = ShardState(0, 1)
        state.next_sequence = 1000
        for options in (None, Options(ttl=5), Options(json=True)):
            first = state.next_sequence
            apply(state, r.Pushed("q", first, [b"x"] * 1030, [0], NOW, options))
        assert state.index.count == 3090


class TestFailed:
    @pytest.mark.parametrize("remove", [False, True])
    @pytest.mark.parametrize("from_state", ["waiting", "delayed", "active"])
    def test_final_from_every_state(self, remove: bool, from_state: str) -> None:
        state = ShardState(0, 1)
        run_at = NOW + 50 if from_state == "delayed" else NOW
        apply(state, r.Pushed("q", 1, [b""], [0], run_at, Options(remove_on_fail=remove)))
        if from_state == "active":
            apply(state, r.Delivered("q", [1], TOKEN, ALICE))
        apply(state, r.Failed(1, "discarded", None, 0, True, False))
        assert (state.index.get(1) is None) == remove
        assert state.totals.failed == 1


class TestRemoved:
    def test_remembers_how_jobs_ended(self, state: ShardState) -> None:
        apply(state, r.Delivered("q", [1], TOKEN, b""))
        apply(state, r.Acked([1], []))
        apply(state, r.Removed([1, 2], "obliterated"))
        assert state.outcome(1) == OUTCOME_COMPLETED
        assert state.outcome(2) == OUTCOME_REMOVED
        assert state.outcome(3) is None
        assert state.queues == {}

    def test_forgets_pages_where_nothing_has_ended_for_long(self) -> None:
        """1. jobs of three pages complete; 2. so many of one page go at once that both others are
        forgotten, one of which still loses its last job in the same record."""
        state = ShardState(0, 1, outcomes_max=5)
        apply(state, r.Pushed("q", 1, [b""] * 3000, [0], NOW, None))
        ids = list(range(1, 3001))
        apply(state, r.Delivered("q", ids, TOKEN, b""))
        apply(state, r.Acked(ids, []))
        apply(state, r.Removed([*range(2048, 2100)], "retention"))
        apply(state, r.Removed([*range(1, 2048), *range(2100, 3001)], "retention"))
        assert state.index.count == 0
        assert state.outcome(3000) == OUTCOME_COMPLETED
        assert state.outcome(1) is None
        assert list(state.index.pages) == [2]


class TestAnswers:
    def test_are_kept_in_order_and_let_go(self, state: ShardState) -> None:
        for n, done_below in ((3, 0), (1, 0), (2, 0), (4, 2), (9, 4), (5, 0)):
            apply(state, answer=Answer(ALICE, n, done_below, b""))
        assert list(state.sessions[ALICE].answers) == [4, 5, 9]

    def test_a_second_answer_under_a_number_replaces_the_first(self, state: ShardState) -> None:
        """A repeated pull whose leases are gone is a new pull."""
        for n, token in ((1, 7), (2, 8), (1, 9)):
            apply(state, answer=Answer(ALICE, n, 0, b"", token))
        assert [answer.token for answer in state.sessions[ALICE].answers.values()] == [9, 8]


class TestRaised:
    def test_of_a_job_that_the_log_does_not_know(self) -> None:
        """The live state only changes the job's level; a replay gets all of it from the record."""
        from flashq.shard.pages import encode_page, image_of

        live = ShardState(0, 1)
        evolve(
            live,
            Entry(NOW, [r.Pushed("q", 1, [b"x"], [3], NOW, Options(level="memory"))]),
            logged=False,
        )
        job = live.index.get(1)
        assert job is not None
        raised = ShardState(0, 1)
        evolve(raised, Entry(NOW, [r.Pushed("q", 1, [b"x"], [3], NOW, Options())]), logged=False)
        image = raised.index.get(1)
        assert image is not None
        record = r.Raised(encode_page([image_of(image)]))
        replayed = ShardState(0, 1)
        for state in (live, replayed):
            apply(state, record)
            assert state.volatile_jobs == 0
            assert state.counts[WAITING] == 1
            assert state.next_sequence == 2
        assert canonical(live)["jobs"] == canonical(replayed)["jobs"]


class TestParked:
    def test_is_pending_until_confirmed(self) -> None:
        state = ShardState(0, 2)
        options = Options(depends_on=(1, 3))
        apply(
            state,
            r.Parked("q", 1, b"", 0, NOW, options, []),
            r.Awaited(2, "push", [2], [], [2], b"", 0),
        )
        assert state.counts[PENDING] == 1
        assert state.job(2) is None
        apply(state, r.DependencyKnown(2, 1, settled=True))
        apply(state, r.DependencyKnown(2, 3), r.Confirmed(2))
        assert state.answerable == [2]
        apply(state, r.AwaitedDone(2))
        assert state.job(2) is not None
        apply(state, r.DependencyKnown(2, 3, settled=True), r.Freed(2))
        assert state.counts[WAITING] == 1


def test_every_record_has_its_step() -> None:
    """A record without one would be noticed only in a replay."""
    from flashq.shard.evolve import _EVOLVE

    kinds: Any = AnyRecord
    assert set(_EVOLVE) == set(kinds.__args__)
