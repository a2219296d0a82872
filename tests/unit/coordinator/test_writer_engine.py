"""What the writer does next, without a thread: steps, and what is told of them."""

from __future__ import annotations

from zlib import crc32

import pytest

from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.coordinator.writer import carry_out, read
from flashq.coordinator.writer_engine import (
    COMMIT_BYTES_MAX,
    RETRY_MS_MAX,
    RETRY_MS_MIN,
    Call,
    Changed,
    Commit,
    Committed,
    Delayed,
    End,
    Excluded,
    Open,
    Probe,
    Probed,
    Read,
    Recover,
    Rest,
    Tidy,
    Trouble,
    Unreadable,
    WriterEngine,
)
from flashq.errors import StorageRefused, StorageUnavailable
from flashq.protocol.internal import Append
from flashq.protocol.limits import MIB
from flashq.storage.census import CENSUS_PART, read_census
from flashq.storage.marks import Marks
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import READERS_MAX, Grant, Put, Write

SHARDS = 2
NOW_MS = 1_800_000_000_000
AWAY = StorageUnavailable(detail="away")
RECOVERY = Recovery(b"to", 1, 1, 0)
REFUSED = StorageUnavailable(detail="too many clients")


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

    def begin_read(self) -> Recover:
        """Return the next read, which there has to be."""
        step = self.engine.next_read()
        assert step is not None
        return step

    def read(self, step: Recover) -> None:
        """Let storage carry a read out."""
        self.engine.read_done(step.number, read(self.storage, step.recovery))

    def rest(self) -> None:
        """Tidy, and see that there is nothing else to do."""
        assert self.call() == Tidy()
        self.engine.done(False)
        assert self.engine.next_step() == Rest()


@pytest.fixture
def bench() -> Bench:
    """Return one that has nothing to do."""
    return Bench()


def test_what_has_queued_up_is_one_transaction(bench: Bench) -> None:
    """Also when recoveries were submitted in between: they wait for nothing that came later."""
    groups = [group(blob(1)), group(blob(2)), group(blob(3))]
    for task in (groups[0], groups[1], RECOVERY, groups[2]):
        bench.engine.submit(task)
    commit = bench.call()
    assert commit == Commit([blob(1), blob(2), blob(3)])
    bench.do(commit)
    assert bench.engine.take_results() == [Committed(groups)]


def test_a_recovery_is_read_once_everything_before_it_is_stored(bench: Bench) -> None:
    """The grant of its shard is among that."""
    bench.engine.submit(group(blob(1)))
    commit = bench.call()
    bench.engine.submit(group(Grant(1, 2**40, 1, 0)))
    bench.engine.submit(RECOVERY)
    assert bench.engine.next_read() is None
    bench.do(commit)
    assert bench.engine.next_read() is None
    bench.do(bench.call())
    bench.read(bench.begin_read())
    result = bench.engine.take_results()[-1]
    assert isinstance(result, Read)
    assert (result.part.epoch, len(result.part.log)) == (2**40, 1)
    assert bench.engine.is_idle
    bench.rest()


def test_a_recovery_waits_for_a_group_that_writes_nothing(bench: Bench) -> None:
    """Such a group may follow one that does; storage has no part in it."""
    bench.engine.submit(group())
    bench.engine.submit(RECOVERY)
    assert bench.engine.next_read() is None
    bench.rest()
    bench.read(bench.begin_read())
    assert [type(result) for result in bench.engine.take_results()] == [Committed, Read]


def test_commits_go_on_while_something_is_read(bench: Bench) -> None:
    """Several of them, while one shard's recovery takes its time; and nothing is tidied."""
    bench.engine.submit(RECOVERY)
    reading = bench.begin_read()
    for seq in (1, 2):
        stored = group(blob(seq))
        bench.engine.submit(stored)
        bench.do(bench.call())
        assert bench.engine.take_results() == [Committed([stored])]
    assert bench.engine.next_step() == Rest()
    assert not bench.engine.is_idle
    bench.read(reading)
    [result] = bench.engine.take_results()
    assert isinstance(result, Read)
    assert bench.engine.is_idle
    bench.rest()


def test_so_many_are_read_at_once(bench: Bench) -> None:
    """The others wait for one of them to end, in their order."""
    recoveries = [Recovery(b"to", shard, 1, 0) for shard in range(READERS_MAX + 1)]
    for recovery in recoveries:
        bench.engine.submit(recovery)
    steps = [bench.begin_read() for _ in range(READERS_MAX)]
    assert [step.recovery for step in steps] == recoveries[:READERS_MAX]
    assert bench.engine.next_read() is None
    bench.engine.read_done(steps[2].number, Unreadable(steps[2].recovery, "damaged"))
    assert bench.begin_read().recovery == recoveries[-1]


def test_a_read_that_fails_alone_is_tried_again_and_commits_go_on(bench: Bench) -> None:
    """
    1. PostgreSQL has no connection left to read with; the one to write with is as it was.
    2. The writer sees that at once, and the read waits longer each time.
    3. Why, is told once, and that it is over.
    """
    bench.engine.submit(RECOVERY)
    waits = []
    for _ in range(7):
        step = bench.begin_read()
        waits.append(step.after_ms)
        bench.engine.read_failed(step.number, REFUSED)
        assert bench.engine.next_read() is None, "the writer looks first"
        assert bench.call() == Probe()
        bench.engine.done(Probed())
        stored = group(blob(len(waits)))
        bench.engine.submit(stored)
        bench.do(bench.call())
        assert Committed([stored]) in (results := bench.engine.take_results())
        assert results[:-1] == ([Delayed(REFUSED.text)] if len(waits) == 1 else [])
    assert waits == [0, *(min(RETRY_MS_MIN * 2**n, RETRY_MS_MAX) for n in range(6))]
    bench.read(bench.begin_read())
    read_at_last, over = bench.engine.take_results()
    assert isinstance(read_at_last, Read)
    assert over == Delayed("")
    bench.engine.submit(RECOVERY)
    assert bench.begin_read().after_ms == 0


def test_a_commit_shows_as_well_as_a_probe_that_storage_is_there(bench: Bench) -> None:
    """Reads must not wait for an idle moment of a busy writer."""
    bench.engine.submit(RECOVERY)
    bench.engine.submit(group(blob(1)))
    reading, commit = bench.begin_read(), bench.call()
    bench.engine.read_failed(reading.number, REFUSED)
    bench.do(commit)
    assert Delayed(REFUSED.text) in bench.engine.take_results()
    bench.read(bench.begin_read())


def test_storage_that_is_away_is_noticed_by_a_read(bench: Bench) -> None:
    """The writer probes, fails, and asks what there is; then the recovery is read."""
    bench.engine.submit(RECOVERY)
    bench.engine.read_failed(bench.begin_read().number, AWAY)
    assert bench.call() == Probe()
    bench.engine.failed(AWAY)
    assert bench.engine.next_read() is None
    bench.do(bench.call())
    step = bench.begin_read()
    assert step.after_ms == 0
    bench.read(step)
    trouble, result = bench.engine.take_results()
    assert trouble == Trouble(AWAY.text)
    assert isinstance(result, Read)
    bench.rest()
    assert bench.engine.take_results() == [Trouble("")]


@pytest.mark.parametrize("is_late", [True, False])
def test_a_read_that_fails_with_the_writer_is_no_news(bench: Bench, *, is_late: bool) -> None:
    """Its connection was one to the same server; whether it ends before or after storage is open
    again, it is read again without further ado."""
    lost = group(blob(1))
    bench.engine.submit(RECOVERY)
    bench.engine.submit(lost)
    reading, commit = bench.begin_read(), bench.call()
    bench.engine.failed(AWAY)
    if not is_late:
        bench.engine.read_failed(reading.number, AWAY)
    bench.do(bench.call())
    if is_late:
        bench.engine.read_failed(reading.number, AWAY)
    again = bench.begin_read()
    assert (again.recovery, again.after_ms) == (RECOVERY, 0)
    assert bench.call() == commit
    bench.do(commit)
    bench.read(again)
    assert not any(isinstance(result, Delayed) for result in bench.engine.take_results())
    assert bench.engine.is_idle


def test_a_read_that_succeeds_while_storage_is_full_does_not_end_the_trouble(bench: Bench) -> None:
    """Only a write shows that storage takes writes."""
    bench.engine.submit(group(blob(1)))
    bench.engine.submit(Recovery(b"to", 0, 1, 0))
    bench.call()
    bench.engine.failed(AWAY)
    bench.do(bench.call())
    assert bench.engine.next_read() is None, "its grant may be among what is not stored"
    bench.engine.submit(RECOVERY)
    commit = bench.call()
    bench.do(commit)
    for _ in range(2):
        bench.read(bench.begin_read())
    assert [type(result) for result in bench.engine.take_results()] == [
        *(Trouble, Committed, Trouble, Read, Read)
    ]


def test_what_lacks_the_grant_is_not_believed() -> None:
    """A database that lags behind the one that is written to."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    granted = storage.open(SHARDS).shards[1].epoch + 1
    with pytest.raises(StorageUnavailable, match=f"though {granted} was granted"):
        read(storage, Recovery(b"to", 1, granted, 0))


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
        bench.do(bench.call())
    assert Committed([doubtful]) in bench.engine.take_results()
    bench.rest()


def test_what_was_asked_of_a_storage_that_is_another_is_void(bench: Bench) -> None:
    """Until the coordinator has begun anew, and knows what there is."""
    bench.engine.submit(group(blob(1)))
    bench.do(bench.call())
    for task in (RECOVERY, RECOVERY, RECOVERY, group(blob(2)), RECOVERY):
        bench.engine.submit(task)
    delayed, late, later = (bench.begin_read() for _ in range(3))
    bench.engine.read_failed(delayed.number, REFUSED)
    bench.engine.done(Probed())
    bench.call()
    part = read(bench.storage, RECOVERY)
    bench.storage = MemoryStorage(NOW_MS, bytes(16))
    bench.engine.failed(AWAY)
    bench.do(bench.call())
    bench.engine.submit(group(blob(3)))
    bench.engine.submit(RECOVERY)
    *_, changed, over = bench.engine.take_results()
    assert isinstance(changed, Changed)
    assert over == Delayed("")
    bench.rest()
    assert bench.engine.next_read() is None
    bench.engine.restart()
    assert bench.engine.is_idle
    bench.engine.submit(RECOVERY)
    now = bench.begin_read()
    bench.engine.read_done(late.number, part)
    bench.engine.read_failed(later.number, AWAY)
    assert bench.engine.next_step() == Rest()
    assert bench.engine.take_results() == [Trouble("")]
    bench.read(now)
    assert bench.engine.take_results() != [part]
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


def test_the_end_does_not_wait_for_what_is_read(bench: Bench) -> None:
    """Whoever recovers asks the next coordinator again; what is queued is written."""
    bench.engine.submit(RECOVERY)
    reading = bench.begin_read()
    bench.engine.submit(group(blob(1)))
    bench.engine.submit(RECOVERY)
    bench.engine.close()
    bench.do(bench.call())
    assert bench.engine.next_read() is None
    assert bench.engine.next_step() == End()
    bench.engine.read_failed(reading.number, AWAY)
    assert bench.engine.next_step() == End()


def part(name: str, size: int = 1) -> Put:
    """A part of the coordinator's."""
    return Put(name, bytes(size).replace(b"\0", b"x"))


def refuse(bench: Bench, name: str) -> list[int]:
    """Carry out steps as long as there are any for storage to write, as one that takes no part of
    this name; return how long it is waited before each time that storage is asked what it has."""
    waits = []
    while isinstance(step := bench.engine.next_step(), Commit | Open):
        names = [each.name for each in getattr(step, "writes", ()) if isinstance(each, Put)]
        if name in names:
            bench.engine.failed(StorageRefused(detail=f"no {name}"))
        else:
            bench.do(step)
            waits += [step.after_ms] if isinstance(step, Open) else []
    return waits


def test_what_storage_refuses_is_taken_out_and_the_rest_is_written(bench: Bench) -> None:
    """
    1. Log and five changes wait. Storage takes all but the fourth.
    2. What was before it is stored. It is excluded alone, with what was decided on top of it.
    3. Then there is a pause, for it may be asked for again. After the restart others are written,
       and nothing was told to be wrong with storage.
    """
    groups = [
        group(blob(1)),
        group(part("a")),
        group(part("b")),
        group(part("c")),
        group(part("bad")),
        group(part("d")),
    ]
    for each in groups:
        bench.engine.submit(each)
    waits = refuse(bench, "bad")
    results = bench.engine.take_results()
    stored = [each for result in results if isinstance(result, Committed) for each in result.groups]
    assert stored == groups[:4]
    [excluded] = [result for result in results if isinstance(result, Excluded)]
    assert (excluded.group, excluded.void) == (groups[4], groups[5:])
    assert excluded.error.text == "storage refuses this change: no bad"
    assert sorted(excluded.opened.parts) == ["a", "b", "c", CENSUS_PART]
    assert not any(isinstance(result, Trouble) for result in results)
    assert (waits[0], waits[-1]) == (0, RETRY_MS_MIN)
    bench.engine.restart()
    bench.engine.submit(group(part("e")))
    refuse(bench, "bad")
    assert sorted(bench.storage.open(SHARDS).parts) == ["a", "b", "c", CENSUS_PART, "e"]


def test_a_log_that_storage_refuses_is_a_trouble(bench: Bench) -> None:
    """Nothing can be left out of it: it is tried again, and said."""
    bench.engine.submit(group(blob(1)))
    bench.call()
    bench.engine.failed(StorageRefused(detail="no log"))
    assert bench.engine.take_results() == [Trouble("storage refuses this change: no log")]
    bench.do(bench.call())
    assert isinstance(bench.call(), Commit)


def test_a_commit_is_bounded_and_halved_when_it_fails(bench: Bench) -> None:
    """
    1. Eleven groups of 1 MiB wait: eight are one transaction.
    2. That fails, twice: four, then two are tried. They are written: then four, then the rest.
    """

    def large(seq: int) -> Append:
        records = bytes(MIB)
        return Append(
            shard=1, epoch=1, first_seq=seq, last_seq=seq, records=records, checksum=crc32(records)
        )

    for seq in range(1, 12):
        bench.engine.submit(group(large(seq)))
    sizes = []
    for fails in (True, True, False, False, False):
        step = bench.call()
        assert isinstance(step, Commit)
        sizes.append(len(step.writes))
        if fails:
            bench.engine.failed(AWAY)
            bench.do(bench.call())
        else:
            bench.do(step)
    assert sizes == [8, 4, 2, 4, 5]
    assert COMMIT_BYTES_MAX == 8 * MIB


class MarkedBench(Bench):
    """With marks, which the test writes."""

    def __init__(self) -> None:
        super().__init__()
        opened = self.storage.open(SHARDS)
        self.marks = Marks.of(opened)
        self.engine = WriterEngine(opened, self.marks)
        self.rest()


def test_nothing_is_told_before_its_marks_are_written() -> None:
    """
    1. A group is stored. It is in the marks, and not told.
    2. The marks cannot be written: that is told, and storage is asked again.
    3. They are written: it is told, after what was stored before and before what comes after.
    """
    bench = MarkedBench()
    first, second, nothing = group(blob(1), part("a")), group(part("b")), group()
    bench.engine.submit(first)
    bench.do(bench.call())
    assert bench.engine.has_unmarked
    assert bench.engine.take_results() == []
    assert (bench.marks.shards[1][2], bench.marks.changes) == (1, 1)
    bench.engine.marks_failed(AWAY)
    assert bench.engine.take_results() == [Trouble(AWAY.text)]
    bench.do(bench.call())
    bench.engine.submit(second)
    bench.engine.submit(nothing)
    bench.do(bench.call())
    bench.engine.next_step()
    assert not any(isinstance(each, Committed) for each in bench.engine.take_results())
    bench.engine.publish()
    assert not bench.engine.has_unmarked
    told = [each for each in bench.engine.take_results() if isinstance(each, Committed)]
    assert [each.groups for each in told] == [[first], [second, nothing]]
    assert bench.marks.changes == 2


def test_changes_are_counted_on_after_a_loss() -> None:
    """A number that the marks have is never given to another change."""
    bench = MarkedBench()
    for name in ("a", "b", "c"):
        bench.engine.submit(group(part(name)))
        bench.do(bench.call())
    bench.engine.failed(AWAY)
    bench.storage._parts = {}
    bench.do(bench.call())
    bench.engine.restart()
    bench.engine.submit(group(part("d")))
    bench.do(bench.call())
    assert read_census(bench.storage.open(SHARDS).parts).number == 4
    assert bench.marks.changes == 4


def test_a_shard_that_begins_with_less_gives_up_what_is_lost() -> None:
    """Its log goes on from what storage has; until then the marks keep what it had."""
    bench = MarkedBench()
    bench.engine.submit(group(*[blob(seq) for seq in range(1, 6)]))
    bench.do(bench.call())
    bench.engine.failed(AWAY)
    bench.storage._shards[1].last_seq = 2
    bench.do(bench.call())
    bench.engine.restart()
    assert bench.marks.shards[1][2] == 5
    bench.engine.submit(group(Grant(1, 2**21, 1, 1)))
    bench.do(bench.call())
    assert bench.marks.shards[1][2] == 2
