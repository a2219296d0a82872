"""What every storage has to do, as one suite.

A storage's test file subclasses `StorageConformance` and gives it a fixture `storage`, opened with
`SHARDS` shards. The suite looks only through the port.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from zlib import crc32

import pytest

from flashq.errors import StorageRefused
from flashq.protocol.internal import Append, CheckpointSlice, Recovered, Reserve
from flashq.storage.port import READERS_MAX, Grant, Put, Storage

SHARDS = 4
EPOCH = 7
TOGETHER_S = 20


def blob(shard: int, first: int, last: int, size: int = 10) -> Append:
    """A piece of a shard's log whose content tells which it is."""
    records = f"{first}-{last}.".encode().ljust(size, b"x")
    return Append(
        shard=shard,
        epoch=EPOCH,
        first_seq=first,
        last_seq=last,
        records=records,
        checksum=crc32(records),
    )


def checkpoint(
    generation: int,
    seq: int,
    *,
    pages: list[tuple[int, bytes]] | None = None,
    parts: list[tuple[str, bytes]] | None = None,
    last: bool = True,
    full: bool = False,
    epoch: int = EPOCH,
    number: int = 0,
) -> CheckpointSlice:
    """A slice of a checkpoint of shard 1."""
    return CheckpointSlice(
        shard=1,
        epoch=epoch,
        generation=generation,
        number=number,
        seq=seq,
        pages=pages or [],
        parts=parts or [],
        last=last,
        full=full,
    )


def recovery(storage: Storage, shard: int, bytes_max: int = 1_000_000) -> Recovered:
    """Everything that a shard would get, put together from all answers."""
    whole = Recovered(cursor=0, parts=[], pages=[], log=[])
    cursor = 0
    while True:
        answer = storage.recover(shard, cursor, bytes_max)
        whole.parts += answer.parts
        whole.pages += answer.pages
        whole.log += answer.log
        if not answer.cursor:
            return whole
        assert answer.cursor > cursor
        cursor = answer.cursor


def size_of(answer: Recovered) -> int:
    """Bytes of content in an answer."""
    return sum(
        len(content)
        for contents in (
            [content for _, content in answer.parts],
            [content for _, content in answer.pages],
            [content for _, _, content in answer.log],
        )
        for content in contents
    )


def log_of(storage: Storage, shard: int) -> list[tuple[int, int]]:
    """First and last sequence of each blob of a shard's log."""
    return [(first, last) for first, last, _ in recovery(storage, shard).log]


class StorageConformance:
    """The suite."""

    def test_a_new_storage_has_nothing_but_numbers(self, storage: Storage) -> None:
        """Each shard starts without a state, and the coordinator without parts."""
        opened = storage.open(SHARDS)
        assert len(opened.uuid) == 16
        assert len(opened.shards) == SHARDS
        assert opened.parts == {}
        for number, shard in enumerate(opened.shards):
            assert (shard.incarnation, shard.last_seq) == (0, 0)
            assert recovery(storage, number) == Recovered(cursor=0, parts=[], pages=[], log=[])

    def test_names_may_be_any_text(self, storage: Storage) -> None:
        """A cron's name is its user's: with a NUL, of any script, also half a surrogate pair."""
        names = [
            "a\0b",
            "\0",
            "\u20ac\u4e2d\U0001f600",
            "\udcff",
            "n" * 5000,
            "line\nfeed",
            "'\"\\",
        ]
        storage.write([Put(name, b"1") for name in names])
        storage.write([checkpoint(1, 1, parts=[(name, b"1") for name in names])])
        assert storage.open(SHARDS).parts == dict.fromkeys(names, b"1")
        assert sorted(recovery(storage, 1).parts) == sorted((name, b"1") for name in names)
        storage.write([Put(name, b"") for name in names])
        assert storage.open(SHARDS).parts == {}

    def test_what_storage_refuses_leaves_the_rest(self, storage: Storage) -> None:
        """
        1. Nothing is stored of a group in which there is something that storage does not take.
        2. That is no trouble of the storage: the same without it is written.
        """
        if not self.forbid(storage, "forbidden"):
            return  # memory takes everything
        with pytest.raises(StorageRefused, match="storage refuses this change"):
            storage.write([blob(1, 1, 1), Put("a", b"1"), Put("forbidden", b"1")])
        opened = storage.open(SHARDS)
        assert (opened.shards[1].last_seq, opened.parts) == (0, {})
        storage.write([blob(1, 1, 1), Put("a", b"1")])
        assert storage.open(SHARDS).parts == {"a": b"1"}

    def forbid(self, storage: Storage, name: str) -> bool:
        """Let the storage take no part of this name; return whether there can be such a thing."""
        return False

    def test_a_look_says_what_is_there(self, storage: Storage) -> None:
        """Before it is opened, as often as somebody wants."""
        assert storage.look() == storage.open(SHARDS)
        storage.write([blob(1, 1, 3), Put("a", b"1")])
        assert storage.look() == storage.look() == storage.open(SHARDS)

    def test_what_a_group_wrote_is_there(self, storage: Storage) -> None:
        """A grant, a block of sequences, log of two shards and a part, in one group."""
        reserved = storage.open(SHARDS).shards[1].reserved
        storage.write(
            [
                Grant(1, EPOCH, 99, reserved),
                Reserve(shard=1, epoch=EPOCH, upto=reserved + 1000),
                blob(1, 1, 3),
                blob(2, 1, 1),
                blob(1, 4, 4),
                Put("cron.a", b"content"),
            ]
        )
        opened = storage.open(SHARDS)
        shard = opened.shards[1]
        assert (shard.epoch, shard.incarnation) == (EPOCH, 99)
        assert shard.reserved == reserved + 1000
        assert shard.last_seq == 4
        assert opened.shards[2].last_seq == 1
        assert opened.parts == {"cron.a": b"content"}
        assert log_of(storage, 1) == [(1, 3), (4, 4)]
        assert log_of(storage, 2) == [(1, 1)]
        assert log_of(storage, 0) == []

    def test_the_uuid_stays(self, storage: Storage) -> None:
        """A storage is the same one however often it is opened."""
        assert storage.open(SHARDS).uuid == storage.open(SHARDS).uuid

    def test_blocks_of_sequences_are_never_given_back(self, storage: Storage) -> None:
        """A late or repeated request for less, and a grant, leave what was reserved."""
        reserved = storage.open(SHARDS).shards[1].reserved
        storage.write([Reserve(shard=1, epoch=EPOCH, upto=reserved + 2000)])
        storage.write([Reserve(shard=1, epoch=EPOCH, upto=reserved + 1000)])
        storage.write([Grant(1, EPOCH, 1, reserved)])
        assert storage.open(SHARDS).shards[1].reserved == reserved + 2000

    def test_the_size_of_the_log_is_known(self, storage: Storage) -> None:
        """It is bounded, and what a checkpoint replaces does not count, deleted or not."""
        storage.open(SHARDS)
        storage.write([blob(1, 1, 5, 100), blob(1, 6, 9, 1000), blob(2, 1, 3, 10)])
        assert [shard.log_bytes for shard in storage.open(SHARDS).shards][:3] == [0, 1100, 10]
        storage.write([checkpoint(7, 5)])
        assert [shard.log_bytes for shard in storage.open(SHARDS).shards][:3] == [0, 1000, 10]

    def test_a_storage_that_works_can_be_probed(self, storage: Storage) -> None:
        """It changes nothing."""
        storage.open(SHARDS)
        storage.write([blob(1, 1, 1)])
        storage.probe()
        storage.write([blob(1, 2, 2)])
        assert log_of(storage, 1) == [(1, 1), (2, 2)]

    def test_an_empty_part_is_gone(self, storage: Storage) -> None:
        """Parts are replaced by name, and removed by empty content."""
        storage.write([Put("a", b"1"), Put("b", b"1")])
        storage.write([Put("a", b"2"), Put("b", b""), Put("never", b"")])
        assert storage.open(SHARDS).parts == {"a": b"2"}

    def test_a_recovery_comes_in_bounded_pieces(self, storage: Storage) -> None:
        """Parts, pages and log come in this order, each answer about as large as asked for, and
        one piece that is larger alone."""
        pages = [(number, b"p" * 1000) for number in range(10)]
        storage.write([checkpoint(1, 0, pages=pages, parts=[("rest", b"r" * 1000)])])
        storage.write([blob(1, seq, seq, size=1000) for seq in range(1, 11)])
        storage.write([blob(1, 11, 11, size=50_000)])
        answers = []
        cursor = 0
        while True:
            answers.append(storage.recover(1, cursor, 3000))
            cursor = answers[-1].cursor
            if not cursor:
                break
        sizes = [size_of(answer) for answer in answers]
        assert all(0 < size <= 3000 or size == 50_000 for size in sizes), sizes
        whole = recovery(storage, 1, 3000)
        assert whole.parts == [("rest", b"r" * 1000)]
        assert sorted(whole.pages) == pages
        assert [(first, last) for first, last, _ in whole.log] == [
            (seq, seq) for seq in range(1, 12)
        ]
        kinds = "".join(
            "a" * len(answer.parts) + "b" * len(answer.pages) + "c" * len(answer.log)
            for answer in answers
        )
        assert kinds == "".join(sorted(kinds))

    def test_a_checkpoint_counts_from_its_last_slice_on(self, storage: Storage) -> None:
        """Until then the log alone is the state; after it the log up to its sequence is gone."""
        storage.write([blob(1, 1, 2), blob(1, 3, 4), blob(1, 5, 6)])
        storage.write([checkpoint(1, 4, pages=[(0, b"zero")], last=False)])
        assert recovery(storage, 1).pages == []
        assert log_of(storage, 1) == [(1, 2), (3, 4), (5, 6)]
        storage.write([checkpoint(1, 4, pages=[(9, b"nine")], parts=[("rest", b"r")], number=1)])
        whole = recovery(storage, 1)
        assert sorted(whole.pages) == [(0, b"zero"), (9, b"nine")]
        assert whole.parts == [("rest", b"r")]
        assert log_of(storage, 1) == [(5, 6)]
        assert storage.open(SHARDS).shards[1].last_seq == 6

    def test_a_blob_that_reaches_past_the_checkpoint_stays(self, storage: Storage) -> None:
        """Blobs are cut without regard to checkpoints; a shard skips what it has."""
        storage.write([blob(1, 1, 5), checkpoint(1, 3)])
        assert log_of(storage, 1) == [(1, 5)]

    def test_a_later_checkpoint_replaces_pages_one_by_one(self, storage: Storage) -> None:
        """Only dirty pages are written again; an empty one is gone."""
        storage.write([checkpoint(1, 0, pages=[(0, b"old"), (1, b"kept"), (2, b"goes")])])
        storage.write([checkpoint(2, 0, pages=[(0, b"new"), (2, b"")], parts=[("rest", b"r")])])
        storage.write([checkpoint(3, 0, parts=[("rest", b"")])])
        whole = recovery(storage, 1)
        assert sorted(whole.pages) == [(0, b"new"), (1, b"kept")]
        assert whole.parts == []

    def test_an_unfinished_generation_leaves_nothing(self, storage: Storage) -> None:
        """A shard dies in the midst of a checkpoint; its successor's has another number."""
        storage.write([checkpoint(1, 0, pages=[(0, b"first")])])
        storage.write([checkpoint(2, 0, pages=[(0, b"dead"), (5, b"dead")], last=False)])
        storage.write([checkpoint(3, 0, pages=[(1, b"third")])])
        assert sorted(recovery(storage, 1).pages) == [(0, b"first"), (1, b"third")]

    def test_a_grant_drops_an_unfinished_generation(self, storage: Storage) -> None:
        """The successor may number its checkpoint like the one that its forerunner began."""
        storage.write([checkpoint(1, 0, pages=[(5, b"dead")], last=False)])
        storage.write([Grant(1, EPOCH + 1, 1, 0)])
        storage.write([checkpoint(1, 0, pages=[(1, b"alive")])])
        assert recovery(storage, 1).pages == [(1, b"alive")]

    def test_a_checkpoint_of_everything_replaces_everything(self, storage: Storage) -> None:
        """Storage came back with less than it had told: what it has is not to be built upon."""
        storage.write([checkpoint(1, 0, pages=[(0, b"old"), (7, b"old")], parts=[("x", b"x")])])
        storage.write([blob(1, 1, 2)])
        storage.write([checkpoint(2, 90, pages=[(0, b"new")], last=False, full=True)])
        storage.write([checkpoint(2, 90, parts=[("rest", b"r")], full=True, number=1)])
        whole = recovery(storage, 1)
        assert whole == Recovered(cursor=0, parts=[("rest", b"r")], pages=[(0, b"new")], log=[])
        assert storage.open(SHARDS).shards[1].last_seq == 90
        storage.write([blob(1, 91, 92)])
        assert log_of(storage, 1) == [(91, 92)]

    def test_a_last_slice_that_comes_again_changes_nothing(self, storage: Storage) -> None:
        """
        1. The answer to the last slice of a checkpoint of everything is late; the shard repeats it.
        2. Taken for a checkpoint of its own, it would wipe out the slices before it.
        3. The shard's successor may choose the same number: its checkpoint counts.
        """
        last = checkpoint(2, 90, parts=[("rest", b"r")], full=True, number=1)
        storage.write([checkpoint(2, 90, pages=[(0, b"page")], last=False, full=True), last])
        storage.write([blob(1, 91, 91), last])
        whole = recovery(storage, 1)
        assert (whole.parts, whole.pages) == ([("rest", b"r")], [(0, b"page")])
        assert log_of(storage, 1) == [(91, 91)]
        storage.write([Grant(1, EPOCH + 1, 1, 0)])
        storage.write([checkpoint(2, 91, pages=[(0, b"new")], epoch=EPOCH + 1)])
        assert recovery(storage, 1).pages == [(0, b"new")]
        assert log_of(storage, 1) == []

    def test_a_slice_that_comes_again_changes_nothing(self, storage: Storage) -> None:
        """The answer to a slice in the middle is late, and the shard repeats it."""
        first = checkpoint(1, 0, pages=[(0, b"a")], parts=[("rest", b"r")], last=False)
        storage.write([first, first])
        storage.write([first])
        opened = storage.open(SHARDS).shards[1]
        assert (opened.unfinished, opened.slices) == ((EPOCH, 1), 1)
        storage.write([checkpoint(1, 0, pages=[(1, b"b")], number=1)])
        opened = storage.open(SHARDS).shards[1]
        assert (opened.current, opened.unfinished, opened.slices) == ((EPOCH, 1), None, 0)
        assert sorted(recovery(storage, 1).pages) == [(0, b"a"), (1, b"b")]

    def test_an_unfinished_generation_outlives_the_coordinator(self, storage: Storage) -> None:
        """
        1. The coordinator is killed while a shard's checkpoint is on its way.
        2. The shard goes on with the next slice: its first ones were confirmed as safe.
        3. A storage that had dropped them at its opening would lose jobs.
        """
        storage.write([checkpoint(1, 0, pages=[(0, b"a")], last=False)])
        storage.open(SHARDS)
        storage.write([checkpoint(1, 0, pages=[(1, b"b")], number=1)])
        assert sorted(recovery(storage, 1).pages) == [(0, b"a"), (1, b"b")]

    def test_tidying_changes_nothing_that_counts(self, storage: Storage) -> None:
        """Superseded pages, tombstones, dropped generations and old log go, a little at a time and
        in whatever order; what a recovery sees stays the same."""
        for generation in range(1, 6):
            seq = 10 * generation
            storage.write([blob(1, n, n) for n in range(seq - 9, seq + 1)])
            pages = [(number, b"%d" % generation) for number in range(generation, 200)]
            storage.write([checkpoint(generation, seq, pages=pages, parts=[("rest", b"r")])])
            storage.write([checkpoint(90 + generation, seq, pages=[(0, b"dead")], last=False)])
            if generation == 3:
                storage.write([Grant(1, EPOCH + 1, 1, 0)])
        storage.write([checkpoint(6, 50, pages=[(7, b""), (300, b"")], parts=[("gone", b"")])])
        storage.write([blob(1, 51, 52), blob(2, 1, 1)])
        before = recovery(storage, 1)
        assert len(before.pages) == 198
        for step in range(1000):
            more = storage.tidy()
            if step % 50 == 0:
                assert recovery(storage, 1) == before
            if not more:
                break
        assert not storage.tidy()
        assert recovery(storage, 1) == before
        storage.open(SHARDS)
        assert recovery(storage, 1) == before
        assert log_of(storage, 1) == [(51, 52)]
        assert log_of(storage, 2) == [(1, 1)]

    def test_a_page_may_be_large(self, storage: Storage) -> None:
        """A page holds 1,024 jobs of any size: larger than databases like a value to be."""
        large = bytes(range(256)) * 4096 * 40
        storage.write([checkpoint(1, 0, pages=[(0, large), (1, b"small")])])
        assert sorted(recovery(storage, 1).pages) == [(0, large), (1, b"small")]

    def test_a_group_is_carried_out_in_its_order(self, storage: Storage) -> None:
        """A checkpoint that replaces a lost log, and the log that goes on from it, in one group."""
        storage.write(
            [
                checkpoint(1, 40, parts=[("rest", b"r")], full=True),
                blob(1, 41, 42),
                Put("a", b"1"),
                Put("a", b"2"),
                blob(1, 43, 43),
            ]
        )
        opened = storage.open(SHARDS)
        assert (opened.shards[1].last_seq, opened.parts) == (43, {"a": b"2"})
        assert log_of(storage, 1) == [(41, 42), (43, 43)]

    def test_a_recovery_tells_which_epoch_was_granted(self, storage: Storage) -> None:
        """By it one knows that what was read is not older than what was asked for."""
        storage.write([Grant(1, EPOCH, 1, 0)])
        assert storage.recover(1, 0, 1000).epoch == EPOCH
        storage.write([Grant(1, EPOCH + 1, 1, 0), blob(2, 1, 1)])
        assert storage.recover(1, 0, 1000).epoch == EPOCH + 1

    def test_recoveries_are_read_beside_each_other_and_beside_writes(
        self, storage: Storage
    ) -> None:
        """
        1. Shard 1 writes its log, checkpoints that supersede each other, and is tidied up after.
        2. Meanwhile all readers read its recovery, each of them again and again.
        3. Each sees one moment: log without a hole from its checkpoint on, and pages that belong
           to just that checkpoint. None sees less than what was written before it began.
        """
        rounds = 12
        together = Barrier(READERS_MAX + 1, timeout=TOGETHER_S)
        written = 0

        def write() -> None:
            nonlocal written
            for step in range(1, rounds + 1):
                together.wait()
                storage.write([blob(1, 2 * step - 1, 2 * step - 1)])
                pages = [(page, b"%d" % step) for page in range(5)]
                storage.write([checkpoint(step, 2 * step - 1, pages=pages), Put("a", b"1")])
                storage.write([blob(1, 2 * step, 2 * step)])
                written = 2 * step
                storage.tidy()

        def read() -> None:
            for _ in range(rounds):
                together.wait()
                for _ in range(3):
                    before = written
                    part = storage.recover(1, 0, 1_000_000)
                    contents = {content for _, content in part.pages}
                    assert len(part.pages) == (5 if contents else 0)
                    assert len(contents) <= 1, "pages of two checkpoints"
                    at = 2 * int(contents.pop()) - 1 if contents else 0
                    seqs = [first for first, _, _ in part.log]
                    assert seqs == list(range(at + 1, at + 1 + len(seqs)))
                    assert at + len(seqs) >= before

        with ThreadPoolExecutor(READERS_MAX + 1) as threads:
            tasks = [threads.submit(write), *(threads.submit(read) for _ in range(READERS_MAX))]
            for task in tasks:
                task.add_done_callback(lambda done: together.abort() if done.exception() else None)
        for task in sorted(
            tasks, key=lambda task: isinstance(task.exception(), BrokenBarrierError)
        ):
            task.result()
        assert log_of(storage, 1) == [(2 * rounds, 2 * rounds)]
