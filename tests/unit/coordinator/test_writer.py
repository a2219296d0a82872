"""The writer: what queues up is one transaction, and after an error storage is asked first."""

from __future__ import annotations

import os
import select
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import pytest

from flashq.coordinator import writer as writer_module
from flashq.coordinator import writer_engine
from flashq.coordinator.outbox import Group
from flashq.coordinator.shards import Recovery
from flashq.coordinator.writer import DirectWriter, WriterThread
from flashq.coordinator.writer_engine import (
    Broken,
    Changed,
    Committed,
    Delayed,
    Read,
    Result,
    Took,
    Trouble,
    Unreadable,
)
from flashq.errors import StorageUnavailable
from flashq.protocol.internal import Append, Recovered
from flashq.storage.census import CENSUS_PART
from flashq.storage.marks import Marks
from flashq.storage.marksfile import MarksFile, read_marks
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import READERS_MAX, Opened, Put, Write

SHARDS = 2
NOW_MS = 1_800_000_000_000
WAIT_S = 10


def blob(first: int, last: int) -> Append:
    """A piece of shard 1's log."""
    records = f"{first}-{last}".encode()
    return Append(
        shard=1,
        epoch=1,
        first_seq=first,
        last_seq=last,
        records=records,
        checksum=crc32(records),
    )


def group(*writes: Write) -> Group:
    """A group of the engine."""
    made = Group()
    made.writes.extend(writes)
    return made


class FaultyStorage(MemoryStorage):
    """Does what it is told before each write, open and probe, from the writer's thread, and before
    each read, from that one's."""

    def __init__(self) -> None:
        super().__init__(NOW_MS, bytes(16))
        self.written: list[list[Write]] = []
        self.before_write: Callable[[Sequence[Write]], None] = lambda _: None
        self.before_open: Callable[[], None] = lambda: None
        self.before_probe: Callable[[], None] = lambda: None
        self.before_recover: Callable[[], None] = lambda: None
        self.untidy = 0
        self.is_tidy = threading.Event()

    def write(self, group: Sequence[Write]) -> None:
        self.before_write(group)
        super().write(group)
        self.written.append(list(group))

    def open(self, shard_count: int) -> Opened:
        self.before_open()
        return super().open(shard_count)

    def probe(self) -> None:
        self.before_probe()

    def recover(self, shard: int, cursor: int, bytes_max: int) -> Recovered:
        self.before_recover()
        return super().recover(shard, cursor, bytes_max)

    def tidy(self) -> bool:
        self.untidy -= 1
        if not self.untidy:
            self.is_tidy.set()
        return self.untidy > 0

    def close(self) -> None:
        """Keep what is there, for the test to look at."""


class Bench:
    """A writer on a faulty storage, and what it tells."""

    def __init__(self) -> None:
        self.storage = FaultyStorage()
        self.writer = WriterThread(self.storage, self.storage.open(SHARDS))
        self.told: list[Result] = []

    def next(self, kind: type[Result]) -> Result:
        """Wait for the next result of a kind, and return it."""
        while True:
            for position, result in enumerate(self.told):
                if isinstance(result, kind):
                    del self.told[: position + 1]
                    return result
            readable, _, _ = select.select([self.writer.wake_fd], [], [], WAIT_S)
            assert readable, f"no {kind.__name__}"
            self.told += self.writer.take_results()

    def committed(self, *groups: Group) -> None:
        """See that just these groups are safe next."""
        safe: list[Group] = []
        while len(safe) < len(groups):
            result = self.next(Committed)
            assert isinstance(result, Committed)
            safe += result.groups
        assert safe == list(groups)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A writer that does not wait long before it tries again."""
    monkeypatch.setattr(writer_engine, "RETRY_MS_MIN", 1)
    monkeypatch.setattr(writer_engine, "RETRY_MS_MAX", 1)
    bench = Bench()
    yield bench
    bench.writer.close()


def test_what_queues_up_during_a_commit_is_the_next_one(bench: Bench) -> None:
    """No artificial delay: the batch grows by itself."""
    is_writing, may_go_on = threading.Event(), threading.Event()

    def stop(_: Sequence[Write]) -> None:
        is_writing.set()
        assert may_go_on.wait(WAIT_S)

    bench.storage.before_write = stop
    groups = [group(blob(n, n)) for n in range(1, 6)]
    bench.writer.submit(groups[0])
    assert is_writing.wait(WAIT_S)
    for each in groups[1:]:
        bench.writer.submit(each)
    assert not bench.writer.is_idle
    may_go_on.set()
    bench.committed(*groups)
    assert [len(writes) for writes in bench.storage.written] == [1, 4]
    assert bench.writer.is_idle


def test_a_recovery_sees_what_was_written_before_it(bench: Bench) -> None:
    """The grant of its shard is among it."""
    bench.writer.submit(group(blob(1, 1)))
    bench.writer.submit(Recovery(b"to", 1, 1, 0))
    result = bench.next(Read)
    assert isinstance(result, Read)
    assert result.part.log == [(1, 1, b"1-1")]
    assert bench.writer.is_idle


def test_commits_and_recoveries_are_carried_out_beside_a_recovery(bench: Bench) -> None:
    """
    1. As many shards recover as there are readers; storage takes its time with each of them.
    2. Meanwhile a group is committed.
    3. They have been read at the same time: each waits for all others.
    """
    are_reading, may_go_on = threading.Barrier(READERS_MAX + 1), threading.Event()

    def stop() -> None:
        are_reading.wait(WAIT_S)
        assert may_go_on.wait(WAIT_S)

    bench.storage.before_recover = stop
    recoveries = [Recovery(b"to %d" % n, 1, 1, 0) for n in range(READERS_MAX)]
    for recovery in recoveries:
        bench.writer.submit(recovery)
    are_reading.wait(WAIT_S)
    written = group(blob(1, 1))
    bench.writer.submit(written)
    bench.committed(written)
    may_go_on.set()
    read = [bench.next(Read) for _ in recoveries]
    assert {result.recovery for result in read if isinstance(result, Read)} == {*recoveries}
    assert bench.writer.is_idle


def test_a_read_that_fails_alone_is_tried_again(bench: Bench) -> None:
    """Storage takes writes meanwhile, so nobody is told that it is away."""
    bench.storage.before_recover = failing(3)
    bench.writer.submit(Recovery(b"to", 1, 1, 0))
    assert bench.next(Delayed) == Delayed("storage unavailable: disk full")
    bench.next(Read)
    assert bench.next(Delayed) == Delayed("")
    assert not any(isinstance(result, Trouble) for result in bench.told)


def test_a_mistake_of_our_own_in_a_read_ends_the_writer(bench: Bench) -> None:
    """As one in a commit does."""

    def fail() -> None:
        raise AssertionError

    bench.storage.before_recover = fail
    bench.writer.submit(Recovery(b"to", 1, 1, 0))
    broken = bench.next(Broken)
    assert isinstance(broken, Broken)
    assert isinstance(broken.error, AssertionError)


def test_the_end_does_not_wait_for_a_read_that_hangs(bench: Bench) -> None:
    """It ends with the process; should it come back before, it finds nobody."""
    is_reading, goes_on, is_over = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        is_reading.set()
        assert goes_on.wait(WAIT_S)
        threading.current_thread().name = "over"
        is_over.set()

    bench.storage.before_recover = hang
    bench.writer.submit(Recovery(b"to", 1, 1, 0))
    assert is_reading.wait(WAIT_S)
    bench.writer.close()
    goes_on.set()
    assert is_over.wait(WAIT_S)
    for thread in threading.enumerate():
        if thread.name == "over":
            thread.join(WAIT_S)
    [result] = bench.writer.take_results()
    assert isinstance(result, Read)
    bench.storage.before_recover = lambda: None
    bench.writer = WriterThread(bench.storage, bench.storage.open(SHARDS))


def test_damage_that_a_recovery_finds_is_told(bench: Bench) -> None:
    """The shard is refused; the others go on."""
    broken = blob(1, 2)
    broken.checksum ^= 1
    bench.writer.submit(group(broken))
    bench.writer.submit(Recovery(b"to", 1, 1, 0))
    result = bench.next(Unreadable)
    assert isinstance(result, Unreadable)
    assert result.reason == "storage damaged: log of shard 1, 1 to 2"


def failing(times: int) -> Callable[..., None]:
    """Fail so many times, then work."""
    left = [times]

    def fail(*_: object) -> None:
        if left[0]:
            left[0] -= 1
            raise StorageUnavailable(detail="disk full")

    return fail


def test_storage_that_is_away_is_tried_until_it_is_back(bench: Bench) -> None:
    """Groups wait, in order; the trouble is told, and its end."""
    bench.storage.before_write, bench.storage.before_open = failing(2), failing(3)
    groups = [group(Put("cron.a", b"1")), group(blob(1, 3)), group(Put("cron.a", b""))]
    for each in groups:
        bench.writer.submit(each)
    assert bench.next(Trouble) == Trouble("storage unavailable: disk full")
    bench.committed(*groups)
    names = [
        write.name if isinstance(write, Put) else write.first_seq
        for writes in bench.storage.written
        for write in writes
        if isinstance(write, Append | Put)
    ]
    assert [name for name in names if name != CENSUS_PART] == ["cron.a", 1, "cron.a"]
    assert bench.writer.is_idle


def test_trouble_ends_when_something_was_written_not_when_it_could_be_opened(bench: Bench) -> None:
    """A full disk lets itself be opened: the state must not flap."""
    bench.storage.before_write = failing(3)
    bench.writer.submit(group(blob(1, 1)))
    told = [bench.next(Trouble) for _ in range(4)]
    assert told == [*[Trouble("storage unavailable: disk full")] * 3, Trouble("")]


def test_storage_that_goes_away_is_noticed_with_nothing_to_write(
    monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """Nobody pushes anything at night; in the morning it is too late to be told."""
    monkeypatch.setattr(writer_module, "PROBE_MS", 1)
    bench.storage.before_probe = failing(1)
    bench.writer.submit(group())  # it rests already, for as long as it was told then
    away = bench.next(Trouble)
    assert isinstance(away, Trouble)
    assert away.sentence
    assert bench.next(Trouble) == Trouble("")


def test_storage_is_looked_at_between_commits_too(
    monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """A balancer gives the connection to somebody else, and commits go on as if it had not."""
    monkeypatch.setattr(writer_module, "PROBE_MS", 1)
    has_looked = threading.Event()
    bench.storage.before_probe = has_looked.set

    def write_on(_: Sequence[Write]) -> None:
        if not has_looked.is_set():
            bench.writer.submit(group(Put("cron.a", b"1")))  # so that it never rests

    bench.storage.before_write = write_on
    bench.writer.submit(group(Put("cron.a", b"1")))
    assert has_looked.wait(WAIT_S)


def test_the_end_does_not_wait_for_storage_that_hangs(
    monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """It has not answered for minutes; whoever stops the server need not wait for it."""
    monkeypatch.setattr(writer_module, "CLOSE_MS", 1)
    goes_on = threading.Event()

    def hang(_: Sequence[Write]) -> None:
        goes_on.wait()

    bench.storage.before_write = hang
    bench.writer.submit(group(blob(1, 1)))
    bench.writer.close()
    assert bench.writer.take_results() == []
    goes_on.set()
    bench.writer._thread.join()
    assert [type(result) for result in bench.writer.take_results()] == [Took, Committed]
    os.close(bench.writer.wake_fd)
    bench.storage.before_write = lambda _: None
    bench.writer = WriterThread(bench.storage, bench.storage.open(SHARDS))


def test_a_group_that_was_safe_after_all_is_not_written_again(bench: Bench) -> None:
    """
    1. The commit reaches the storage, and its answer gets lost with the connection.
    2. Storage is asked: it has the group.
    """

    def lose_the_answer(writes: Sequence[Write]) -> None:
        bench.storage.before_write = lambda _: None
        MemoryStorage.write(bench.storage, writes)
        raise StorageUnavailable(detail="connection lost")

    bench.storage.before_write = lose_the_answer
    first, second = group(blob(1, 3), Put("cron.a", b"1")), group(blob(4, 4))
    bench.writer.submit(first)
    bench.committed(first)
    bench.writer.submit(second)
    bench.committed(second)
    assert bench.storage.written == [second.writes]


def test_storage_that_has_less_than_it_had_is_told(bench: Bench) -> None:
    """
    1. The database fails over to a copy that lacks the last commits.
    2. Whatever was queued is void: the engine begins anew with what storage has.
    3. Until it does, nothing is written.
    """
    bench.writer.submit(group(blob(1, 3)))
    bench.next(Committed)
    bench.storage.before_write = failing(1)

    def fail_over() -> None:
        bench.storage.before_open = lambda: None
        bench.storage._shards[1].last_seq = 2

    bench.storage.before_open = fail_over
    bench.writer.submit(group(blob(4, 4)))
    changed = bench.next(Changed)
    assert isinstance(changed, Changed)
    assert changed.opened.shards[1].last_seq == 2
    bench.writer.submit(group(blob(5, 5)))
    bench.writer.restart()
    assert bench.writer.is_idle
    again = group(blob(3, 3))
    bench.writer.submit(again)
    bench.committed(again)
    assert bench.storage.written[1:] == [again.writes]


def test_parts_that_storage_has_lost_are_told(bench: Bench) -> None:
    """The copy had everything of the shards, but not the last cron: nobody would have noticed."""
    bench.writer.submit(group(Put("cron.a", b"1"), Put("cron.b", b"2")))
    bench.next(Committed)
    bench.storage.before_write = failing(1)

    def fail_over() -> None:
        bench.storage._parts.pop("cron.b", None)

    bench.storage.before_open = fail_over
    bench.writer.submit(group(blob(1, 1)))
    changed = bench.next(Changed)
    assert isinstance(changed, Changed)
    parts = changed.opened.parts
    assert parts == {"cron.a": b"1", "cron.b": b"2", CENSUS_PART: parts[CENSUS_PART]}
    assert changed.again == [Put("cron.b", b"2")]


def test_a_mistake_of_our_own_ends_the_writer(bench: Bench) -> None:
    """The loop raises it again: the process ends, and recovers from storage."""
    bench.writer.submit(group(blob(7, 7)))
    broken = bench.next(Broken)
    assert isinstance(broken, Broken)
    assert isinstance(broken.error, AssertionError)


def test_idle_time_is_used_for_tidying(bench: Bench) -> None:
    """After each commit, until there is nothing left to tidy."""
    bench.storage.untidy = 5
    bench.writer.submit(group(blob(1, 1)))
    bench.next(Committed)
    assert bench.storage.is_tidy.wait(WAIT_S)


def test_the_end_writes_what_is_queued(bench: Bench) -> None:
    """But does not wait for a storage that is away."""
    last = group(blob(1, 1))
    bench.writer.submit(last)
    bench.writer.close()
    assert bench.storage.written == [last.writes]
    bench.writer = WriterThread(bench.storage, bench.storage.open(SHARDS))
    bench.storage.before_write = failing(10**9)
    bench.writer.submit(group(blob(2, 2)))
    bench.next(Trouble)
    bench.writer.close()
    bench.storage.before_write = lambda _: None
    bench.writer = WriterThread(bench.storage, bench.storage.open(SHARDS))


def test_commits_are_timed_and_nothing_else(bench: Bench) -> None:
    """A group without writes, which only follows another, takes storage no time."""
    first, empty, second = group(blob(1, 1)), group(), group(blob(2, 2))
    for each in (first, empty):
        bench.writer.submit(each)
        bench.next(Committed)
    bench.writer.submit(second)
    took = bench.next(Took)
    assert isinstance(took, Took)
    assert took.seconds > 0
    bench.committed(second)
    assert not any(isinstance(result, Took) for result in bench.told)


def test_without_a_thread_everything_happens_at_once() -> None:
    """As memory needs it."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    storage.open(SHARDS)
    writer = DirectWriter(storage)
    written = group(blob(1, 1))
    writer.submit(written)
    writer.submit(Recovery(b"to", 1, 1, 0))
    took, committed, read = writer.take_results()
    assert isinstance(took, Took)
    assert committed == Committed([written])
    assert isinstance(read, Read)
    assert read.part.log == [(1, 1, b"1-1")]
    writer.close()


def test_what_is_told_is_in_the_marks(bench: Bench, tmp_path: Path) -> None:
    """
    1. A group is told to be stored: the file already says that storage must have it.
    2. The file cannot be written. A group is stored, and not told; the trouble is.
    3. It can be written again: the group is told, and in the file.
    """
    directory = tmp_path / "data"
    directory.mkdir()
    storage = FaultyStorage()
    opened = storage.open(SHARDS)
    marks = MarksFile(directory / "marks", Marks.of(opened))
    bench.writer.close()
    bench.storage, bench.writer = storage, WriterThread(storage, opened, marks)

    def last_seq() -> int:
        known = read_marks(directory / "marks")
        assert known is not None
        return known.shards[1][2]

    for seq in (1, 2):
        each = group(blob(seq, seq))
        bench.writer.submit(each)
        bench.committed(each)
        assert last_seq() == seq
    shutil.rmtree(directory)
    third = group(blob(3, 3))
    bench.writer.submit(third)
    trouble = bench.next(Trouble)
    assert isinstance(trouble, Trouble)
    assert "nothing is acknowledged without it" in trouble.sentence
    assert not any(isinstance(result, Committed) for result in bench.told)
    directory.mkdir()
    bench.committed(third)
    assert last_seq() == 3
    bench.next(Trouble)
