"""What `flashq export` reads of a storage: each shard's log first, then its pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final
from zlib import crc32

import pytest

from flashq.cli import exporting
from flashq.ids import shard_of_queue
from flashq.protocol import records as r
from flashq.protocol.internal import Append, CheckpointSlice
from flashq.protocol.records import AnyRecord, Entry, encode_entries
from flashq.shard.checkpoint import Checkpoint
from flashq.shard.evolve import evolve
from flashq.shard.state import ShardState
from flashq.storage import open_snapshot
from flashq.storage.form import form_part
from flashq.storage.port import Grant, Put
from flashq.storage.sqlite import SqliteStorage
from tests.unit.cli.conftest import Run

SHARDS: Final = 2
QUEUE: Final = next(q for q in map(str, range(100)) if shard_of_queue(q, SHARDS) == 1)
NOW_MS: Final = 1_800_000_000_000


class Filled:
    """A storage with one shard's checkpoint of 3,000 jobs, some log before and some after it."""

    def __init__(self, path: Path) -> None:
        self.storage = SqliteStorage(path)
        self.storage.open(SHARDS)
        self.storage.write([form_part(), Grant(1, 1, 7, 10**6)])
        self._seq = 0
        state = ShardState(1, SHARDS)
        for first in range(1, 3001, 300):
            push = r.Pushed(QUEUE, first, [b"1"] * 300, [0], NOW_MS, r.Options(json=True))
            self.log(push)
            evolve(state, Entry(NOW_MS, [push]))
        checkpoint = Checkpoint(state, full=True)
        slice_ = CheckpointSlice(
            shard=1,
            epoch=1,
            generation=1,
            seq=checkpoint.seq,
            full=True,
            last=True,
            parts=checkpoint.take_part(),
            pages=checkpoint.next_pages(10**6, 10**9),
        )
        self.storage.write([slice_])
        self.log(r.Delivered(QUEUE, [3, 5, 7], 99, b""), r.Acked([5], []))
        self.log(r.Removed([6001, 11], "cancelled"))
        self.log(r.Parked(QUEUE, 4000, b"2", 0, NOW_MS, None, ["x"]))
        self.log(r.Pushed(QUEUE, 9000, [b"3"], [0], NOW_MS, r.Options(json=True)))

    def log(self, *records: AnyRecord) -> None:
        """Add one entry to the log, as a blob of its own."""
        blob = encode_entries([Entry(NOW_MS, list(records))])
        self._seq += 1
        append = Append(
            shard=1,
            epoch=1,
            first_seq=self._seq,
            last_seq=self._seq,
            records=blob,
            checksum=crc32(blob),
        )
        self.storage.write([append])


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    """A storage, which is open."""
    made = Filled(tmp_path / "flashq.db")
    yield made
    made.storage.close()


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("bytes_max", [1, 5000, 10**9])
def test_jobs_by_shard_and_id(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bytes_max: int,
) -> None:
    """Each once, as the log after the checkpoint has left it, in however many pieces storage gives
    both; a job whose push is not answered yet is nobody's to see."""
    monkeypatch.setattr(exporting, "READ_BYTES_MAX", bytes_max)
    where = ("export", "--jobs", "--data-dir", str(tmp_path))
    jobs = [json.loads(line) for line in run(*where).out.splitlines()]
    expected = [n * SHARDS + 1 for n in (*range(1, 3001), 9000)]
    assert [job["id"] for job in jobs] == [i for i in expected if i not in (11, 6001)]
    told = {job["id"]: job["state"] for job in jobs if job["state"] != "waiting"}
    assert told == {3: "active", 5: "completed", 7: "active"}
    [line] = run(*where, "--queue", QUEUE, "--state", "completed").out.splitlines()
    assert json.loads(line)["id"] == 5
    assert run(*where, "--queue", "other than that").out == ""


def test_what_is_stored_in_another_form_is_refused(
    filled: Filled, run: Run, tmp_path: Path
) -> None:
    """To read it all the same would print what it was not."""
    filled.storage.write([Put("form", b"1")])
    outcome = run("export", "--jobs", "--data-dir", str(tmp_path))
    assert (outcome.status, outcome.out) == (1, "")
    assert "in form 1, and this flashq reads form" in outcome.err


def test_what_does_not_fit_together_is_said(run: Run, tmp_path: Path, filled: Filled) -> None:
    """In a sentence, once the export gets there."""
    filled.log(r.Promoted(8201))
    outcome = run("export", "--jobs", "--data-dir", str(tmp_path))
    assert (outcome.status, len(outcome.out.splitlines())) == (1, 3000 - 2)
    assert "record about job 8201, which is not there" in outcome.err


def test_a_reader_that_stops_holds_up_nobody(filled: Filled, tmp_path: Path) -> None:
    """
    1. `flashq export | less`: one job is read, and then no more.
    2. The write-ahead log goes into the file as a whole: nobody keeps it from that.
    3. The rest is read later, as it was when the shard was.
    """
    url = f"sqlite:///{tmp_path}/flashq.db"
    jobs = exporting.jobs_of(partial(open_snapshot, url), queue=None, state=None)
    first = next(jobs)
    filled.log(r.Pushed(QUEUE, 9001, [b"4"], [0], NOW_MS, r.Options(json=True)))
    checkpoint = filled.storage.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert checkpoint == (0, 0, 0)
    assert filled.storage.ahead_bytes() == 0
    rest = [job.id for job in jobs]
    assert len({first.id, *rest}) == 3000 - 2 + 1
    again = exporting.jobs_of(partial(open_snapshot, url), queue=None, state=None)
    assert sum(1 for _ in again) == 3000 - 2 + 2
