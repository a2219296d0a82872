"""A storage in a file whose bytes have changed, or whose files are missing or old: no start loses
anything that was acknowledged without a word, and none that is refused has changed a byte."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import pytest

from flashq.coordinator.acceptance import accept_loss, open_accepted
from flashq.coordinator.outbox import Group
from flashq.coordinator.writer_engine import Commit, Committed, WriterEngine
from flashq.datadir import MARKS_NAME, PIN_NAME, DataDir, losses_of
from flashq.errors import FlashQError, StorageDamaged
from flashq.protocol.internal import Append, Recovered, Reserve
from flashq.storage.marksfile import MarksFile
from flashq.storage.port import Grant, Opened, Put, Write
from flashq.storage.sqlite import SqliteStorage
from tests.storage.conformance import EPOCH, blob, checkpoint, recovery

SHARDS: Final = 3
DB: Final = "flashq.db"
FLIPS: Final = 150


def big_blob(shard: int, seq: int) -> Append:
    """Several pages of log."""
    records = random.Random(seq).randbytes(3000)
    return Append(
        shard=shard,
        epoch=EPOCH,
        first_seq=seq,
        last_seq=seq,
        records=records,
        checksum=crc32(records),
    )


class Content(NamedTuple):
    """All that a server would get."""

    opened: Opened
    shards: list[Recovered]


class Server:
    """What a coordinator does with its storage and its data directory, without its process.

    Args:
        path: of the data directory.
    """

    def __init__(self, path: Path) -> None:
        self.directory = DataDir(str(path))
        self.storage = SqliteStorage(path / DB)
        #: open from the start to the end
        self._held: MarksFile | None = None

    @property
    def marks(self) -> MarksFile:
        """What it must have."""
        assert self._held is not None
        return self._held

    def start(self) -> None:
        """Look, accept and open."""
        try:
            self.opened, self._held = open_accepted(self.storage, self.directory, SHARDS)
        except FlashQError:
            self.end()
            raise
        self.engine = WriterEngine(self.opened, self.marks.marks)

    def write(self, *writes: Write) -> None:
        """Write a group as the writer does, up to where it is acknowledged."""
        group = Group()
        group.writes.extend(writes)
        self.engine.submit(group)
        while isinstance(step := self.engine.next_step(), Commit):
            self.storage.write(step.writes)
            self.engine.done(None)
        self.marks.write()
        self.engine.publish()
        assert Committed([group]) in self.engine.take_results()

    def content(self) -> Content:
        """Read everything."""
        shards = [recovery(self.storage, shard) for shard in range(SHARDS)]
        return Content(self.storage.open(SHARDS), shards)

    def end(self) -> None:
        """Let go of everything."""
        if self._held is not None:
            self._held.close()
        self.storage.close()
        self.directory.close()


def fill(server: Server, rounds: range) -> None:
    """Let some rounds of traffic be acknowledged: log, checkpoints, parts and numbers."""
    for number in rounds:
        server.write(Grant(0, number, number, 1000 * number))
        server.write(blob(0, number, number), big_blob(2, number))
        server.write(Put(f"cron.{number}", b"content %d" % number), Put("history", b"%d" % number))
        server.write(blob(1, 2 * number - 1, 2 * number))
        if number % 3 == 0:
            pages = [(page, random.Random(page).randbytes(5000)) for page in range(number)]
            server.write(
                checkpoint(number, 2 * number, pages=pages, parts=[("all", b"%d" % number)])
            )
        server.write(Reserve(shard=1, epoch=EPOCH, upto=2000 * number))


def made_by_a_crash(path: Path, copy: Path, *, last: int = 8, older: int = 5) -> Content:
    """Make a data directory as it is after SIGKILL, with a copy of its storage as it was before,
    and return what was acknowledged."""
    live = path.with_name("live")
    server = Server(live)
    server.start()
    fill(server, range(1, older))
    shutil.copytree(live, copy)
    fill(server, range(older, last))
    content = server.content()
    shutil.copytree(live, path)
    server.end()
    return content


def start_again(path: Path) -> Content:
    """Start on what is there, and read everything; a shard would refuse a log with a hole."""
    server = Server(path)
    server.start()
    try:
        content = server.content()
    finally:
        server.end()
    for recovered in content.shards:
        ends = [last for _, last, _ in recovered.log]
        begins = [first for first, _, _ in recovered.log]
        assert begins[1:] == [last + 1 for last in ends[:-1]]
    return content


def files_of(path: Path) -> dict[str, bytes]:
    """What is in a data directory, but for locks and what SQLite makes anew at each start."""
    return {
        file.name: file.read_bytes()
        for file in path.iterdir()
        if not file.name.endswith((".lock", "-shm"))
    }


class Crashed(NamedTuple):
    """A data directory as a crash has left it."""

    path: Path
    older: Path
    acknowledged: Content


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    """It is made once, and copied for each test."""
    path, older = (tmp_path_factory.mktemp("crash") / name for name in ("data", "older"))
    return Crashed(path, older, made_by_a_crash(path, older))


@pytest.fixture
def data(crashed: Crashed, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(crashed.path, tmp_path / "data"))


def loses_nothing_silently(data: Path, acknowledged: Content) -> bool:
    """Start on spoiled files, and see that either everything is there or the start is refused
    without a byte changed; return whether it was refused."""
    before = files_of(data)
    try:
        found = start_again(data)
    except FlashQError as error:
        refused = error.text
    else:
        assert found == acknowledged
        return False
    # A piece is read when its shard recovers, from a storage that has been accepted.
    if not refused.startswith(("storage damaged: log of", "storage damaged: checkpoint of")):
        assert files_of(data) == before
    return True


def test_after_a_crash_everything_is_there(data: Path, crashed: Crashed) -> None:
    """The tests below would hold for a storage that always refuses."""
    assert not loses_nothing_silently(data, crashed.acknowledged)


@pytest.mark.parametrize("name", [DB, f"{DB}-wal", f"{DB}-shm", MARKS_NAME])
def test_a_bit_that_has_changed_anywhere_loses_nothing_silently(
    data: Path, crashed: Crashed, name: str
) -> None:
    """In headers, frames, checksums, salts, pages and rows; each file alone, one bit at a time."""
    whole = (data / name).read_bytes()
    chance = random.Random(name)
    places = [
        *range(0, min(64, len(whole)), 3),
        *(chance.randrange(len(whole)) for _ in range(FLIPS)),
    ]
    saved = {file.name: file.read_bytes() for file in data.iterdir()}
    refused = 0
    for place in places:
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << chance.randrange(8)
        restore(data, saved)
        (data / name).write_bytes(spoiled)
        refused += loses_nothing_silently(data, crashed.acknowledged)
    if name == f"{DB}-wal":
        assert refused > FLIPS // 2


def restore(data: Path, saved: dict[str, bytes]) -> None:
    """Put a directory back to what it was."""
    for file in data.iterdir():
        if file.name not in saved:
            file.unlink()
    for name, content in saved.items():
        (data / name).write_bytes(content)


def checkpointed(crashed: Crashed, tmp_path: Path) -> Path:
    """A copy whose write-ahead log has gone into the file, as after an orderly end."""
    data = Path(shutil.copytree(crashed.path, tmp_path / "ended"))
    server = Server(data)
    server.start()
    server.storage.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    server.end()
    return data


def test_a_bit_in_the_file_itself_loses_nothing_silently(crashed: Crashed, tmp_path: Path) -> None:
    """After an orderly end everything is in the file."""
    data = checkpointed(crashed, tmp_path)
    assert not (data / f"{DB}-wal").exists()
    saved = {file.name: file.read_bytes() for file in data.iterdir()}
    chance = random.Random(DB)
    used = [place for place, byte in enumerate(saved[DB]) if byte]
    for place in [*range(100), *(chance.choice(used) for _ in range(3 * FLIPS))]:
        spoiled = bytearray(saved[DB])
        spoiled[place] ^= 1 << chance.randrange(8)
        restore(data, saved)
        (data / DB).write_bytes(spoiled)
        loses_nothing_silently(data, crashed.acknowledged)


@pytest.mark.parametrize("name", [DB, f"{DB}-wal"])
def test_a_file_that_was_cut_off_loses_nothing_silently(
    data: Path, crashed: Crashed, name: str
) -> None:
    """At any length."""
    saved = {file.name: file.read_bytes() for file in data.iterdir()}
    size = len(saved[name])
    for length in {0, 1, 31, 32, 33, 100, size // 2, size - 8225, size - 1}:
        if 0 <= length < size:
            restore(data, saved)
            os.truncate(data / name, length)
            loses_nothing_silently(data, crashed.acknowledged)


@pytest.mark.parametrize("name", [DB, f"{DB}-wal", f"{DB}-shm", MARKS_NAME, PIN_NAME])
@pytest.mark.parametrize("is_ended", [True, False])
def test_a_file_that_is_missing_loses_nothing_silently(
    crashed: Crashed, tmp_path: Path, name: str, *, is_ended: bool
) -> None:
    """After a crash, and after an orderly end."""
    source = checkpointed(crashed, tmp_path) if is_ended else crashed.path
    data = Path(shutil.copytree(source, tmp_path / "data"))
    (data / name).unlink(missing_ok=True)
    loses_nothing_silently(data, crashed.acknowledged)


@pytest.mark.parametrize(
    "names",
    [
        (DB, f"{DB}-wal", f"{DB}-shm"),
        (DB,),
        (f"{DB}-wal",),
        (f"{DB}-wal", f"{DB}-shm"),
        (MARKS_NAME,),
    ],
)
def test_an_older_copy_loses_nothing_silently(
    data: Path, crashed: Crashed, names: tuple[str, ...]
) -> None:
    """Somebody has put back last week's, whole or in part. Older marks alone are no loss."""
    is_other = False
    for name in names:
        is_other |= (crashed.older / name).read_bytes() != (data / name).read_bytes()
        shutil.copy(crashed.older / name, data / name)
    refused = loses_nothing_silently(data, crashed.acknowledged)
    assert refused or not is_other or names == (MARKS_NAME,)


def test_what_is_missing_is_named(data: Path, crashed: Crashed) -> None:
    """Shards with their sequences, the coordinator's changes, and what to do."""
    for name in (DB, f"{DB}-wal"):
        shutil.copy(crashed.older / name, data / name)
    with pytest.raises(StorageDamaged) as refused:
        start_again(data)
    text = refused.value.text
    for said in (
        "of shard 0 it lacks the log from 5 to 7",
        "of shard 1 it lacks the log from 9 to 14",
        "it lacks the changes 5 to 7",
        "nothing was changed",
        "flashq doctor --storage",
        "--accept-loss",
    ):
        assert said in text


def test_a_loss_that_is_accepted_is_noted_and_gives_no_number_twice(
    data: Path, crashed: Crashed
) -> None:
    """
    1. An older copy is refused. Somebody accepts the loss: what is missing is told and noted.
    2. The next start has what is there, with epochs and sequences above those that were lost.
    3. What is written from then on is there after that, and nothing is missing any more.
    """
    for name in (DB, f"{DB}-wal"):
        shutil.copy(crashed.older / name, data / name)
    directory, storage = DataDir(str(data)), SqliteStorage(data / DB)
    lost = accept_loss(storage, directory, SHARDS, 1000)
    storage.close()
    directory.close()
    assert any("of shard 1 it lacks the log from 9 to 14" in text for text in lost)
    assert len(losses_of(data)) == 1
    server = Server(data)
    server.start()
    for now, then in zip(server.opened.shards, crashed.acknowledged.opened.shards, strict=True):
        assert now.epoch > then.epoch
        assert now.reserved > then.reserved
    assert "cron.4" in server.opened.parts
    server.write(blob(1, 9, 9), Put("cron.new", b"new"))
    server.end()
    assert "cron.new" in start_again(data).opened.parts
    directory, storage = DataDir(str(data)), SqliteStorage(data / DB)
    assert accept_loss(storage, directory, SHARDS, 2000) == []
    storage.close()
    directory.close()
    assert len(losses_of(data)) == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE log SET records = x'00' WHERE shard = 0 AND first_seq = 5", "shard 0 is broken"),
        ("DELETE FROM log WHERE shard = 0 AND first_seq = 5", "shard 0 is broken behind 4"),
        ("DELETE FROM coordinator WHERE name = CAST('cron.3' AS BLOB)", "there are 7 of 8"),
    ],
)
def test_a_broken_log_is_cut_off_where_it_breaks(data: Path, damage: str, said: str) -> None:
    """Refused at first; accepted, the rest of the storage goes on."""
    server = Server(data)
    server.start()
    server.storage.connection.execute(damage)
    server.end()
    directory, storage = DataDir(str(data)), SqliteStorage(data / DB)
    lost = accept_loss(storage, directory, SHARDS, 1000)
    storage.close()
    directory.close()
    assert any(said in text for text in lost)
    start_again(data)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE shards SET floor_ordinal = floor_ordinal + 1 WHERE shard = 1",
        "UPDATE shards SET checkpoint_seq = 0 WHERE shard = 1",
        "DELETE FROM shards WHERE shard = 2",
        "DELETE FROM pages WHERE page = 4",
        "UPDATE pages SET ordinal = ordinal - 1 WHERE page = 4",
    ],
)
def test_a_broken_checkpoint_is_refused_whatever_is_accepted(data: Path, damage: str) -> None:
    """Jobs would come back as they were long ago, or not at all."""
    server = Server(data)
    server.start()
    server.storage.connection.execute(damage)
    server.end()
    before = files_of(data)
    with pytest.raises(StorageDamaged):
        start_again(data)
    assert files_of(data) == before
    directory, storage = DataDir(str(data)), SqliteStorage(data / DB)
    with pytest.raises(StorageDamaged):
        accept_loss(storage, directory, SHARDS, 1000)
    storage.close()
    directory.close()
