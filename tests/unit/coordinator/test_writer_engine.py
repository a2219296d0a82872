"""What the writer does next, without a thread: steps, and what is told of them."""

from __future__ import annotations

from zlib import crc32

import pytest

from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.coordinator.writer import (
    RETRY_MS_MAX,
    RETRY_MS_MIN,
    Call,
    Changed,
    Commit,
    Committed,
    End,
    Open,
    Read,
    Recover,
    Rest,
    Tidy,
    Trouble,
    WriterEngine,
    carry_out,
)
from flashq.errors import StorageUnavailable
from flashq.protocol.internal import Append
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import Write

SHARDS = 2
NOW_MS = 1_800_000_000_000
AWAY = StorageUnavailable(detail="away")
RECOVERY = Recovery(b"to", 1, 1, 0)


def blob(seq: int) -> Append:
    """One entry of shard 1's log."""
    records = b"entry %d" % seq
    return Append(
        shard=1, epoch=1, first_seq=seq, last_seq=seq, records=records, checksum=crc32(records)
    )


def group(*writes: Write) -> Group:
    """A group of the coordinator."""
    made = Group()
    made.writes.extend(writes)
    return made


class Bench:
    """An engine, and a storage that carries its steps out."""

    def __init__(self) -> None:
        self.storage = MemoryStorage(NOW_MS, bytes(16))
        self.engine = WriterEngine(self.storage.open(SHARDS))
        self.rest()

    def call(self) -> Call:
        """Return the next step, which has to be for storage."""
        step = self.engine.next_step()
        assert not isinstance(step, Rest | End)
        return step

    def do(self, call: Call) -> None:
        """Let storage carry a step out."""
        self.engine.done(carry_out(call, self.storage))

    def rest(self) -> None:
        """Tidy, and see that there is nothing else to do."""
        assert self.call() == Tidy()
        self.engine.done(False)
        assert self.engine.next_step() == Rest()


@pytest.fixture
def bench() -> Bench:
    """Return one that has nothing to do."""
    return Bench()


def test_groups_are_one_transaction_up_to_the_next_recovery(bench: Bench) -> None:
    """What a shard recovers is what was written before it asked, and nothing later."""
    groups = [group(blob(1)), group(blob(2)), group(blob(3))]
    for task in (groups[0], groups[1], RECOVERY, groups[2]):
        bench.engine.submit(task)
    first = bench.call()
    assert first == Commit([blob(1), blob(2)])
    bench.do(first)
    second = bench.call()
    assert second == Recover(RECOVERY)
    bench.do(second)
    bench.do(bench.call())
    committed, read, last = bench.engine.take_results()
    assert (committed, last) == (Committed(groups[:2]), Committed(groups[2:]))
    assert isinstance(read, Read)
    assert [first for first, _, _ in read.part.log] == [1, 2]
    assert bench.engine.is_idle
    bench.rest()


def test_what_writes_nothing_is_told_in_its_turn_without_storage(bench: Bench) -> None:
    """It only waits for what was submitted before it."""
    silent = group()
    bench.engine.submit(silent)
    assert bench.engine.take_results() == []
    bench.rest()
    assert bench.engine.take_results() == [Committed([silent])]


def test_storage_is_asked_less_and_less_often_and_before_anything_else(bench: Bench) -> None:
    """Its first answer shows that it is there, its first success that it works."""
    lost = group(blob(1))
    bench.engine.submit(lost)
    assert isinstance(bench.call(), Commit)
    waits = []
    for _ in range(7):
        bench.engine.failed(AWAY)
        step = bench.engine.next_step()
        assert isinstance(step, Open)
        waits.append(step.after_ms)
    assert waits == [min(RETRY_MS_MIN * 2**n, RETRY_MS_MAX) for n in range(7)]
    assert bench.engine.take_results() == [Trouble(AWAY.text)] * 7
    bench.do(bench.call())
    assert bench.engine.take_results() == []
    bench.do(bench.call())
    assert bench.engine.take_results() == [Committed([lost]), Trouble("")]


@pytest.mark.parametrize("is_stored", [True, False])
def test_after_a_lost_answer_a_group_is_written_once(bench: Bench, *, is_stored: bool) -> None:
    """Storage says whether it has it."""
    doubtful = group(blob(1))
    bench.engine.submit(doubtful)
    commit = bench.call()
    if is_stored:
        carry_out(commit, bench.storage)
    bench.engine.failed(AWAY)
    bench.do(bench.call())
    if not is_stored:
        bench.do(commit)
    assert Committed([doubtful]) in bench.engine.take_results()
    bench.rest()


def test_what_was_asked_of_a_storage_that_is_another_is_void(bench: Bench) -> None:
    """Until the coordinator has begun anew, and knows what there is."""
    bench.engine.submit(group(blob(1)))
    bench.do(bench.call())
    bench.engine.submit(group(blob(2)))
    bench.engine.submit(RECOVERY)
    bench.call()
    bench.storage = MemoryStorage(NOW_MS, bytes(16))
    bench.engine.failed(AWAY)
    bench.do(bench.call())
    bench.engine.submit(group(blob(3)))
    assert isinstance(bench.engine.take_results()[-1], Changed)
    bench.rest()
    bench.engine.restart()
    assert bench.engine.is_idle
    bench.engine.submit(group(blob(1)))
    assert bench.call() == Commit([blob(1)])


def test_the_end_waits_for_what_is_queued_but_not_for_a_storage_that_is_away(bench: Bench) -> None:
    """The shards keep what is not safe."""
    bench.engine.submit(group(blob(1)))
    bench.engine.close()
    bench.do(bench.call())
    bench.engine.submit(group(blob(2)))
    bench.call()
    bench.engine.failed(AWAY)
    assert bench.engine.next_step() == End()
