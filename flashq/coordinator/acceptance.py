"""The start: a storage is looked at, accepted or refused, and only then opened.

Owns the order of that, and what it means to accept a loss. Numbers that were given out must not
come again: a shard whose log has lost something goes on with epochs and sequences above those that
the marks name, and above some that they may not name.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

from flashq.config import Settings
from flashq.datadir import DataDir
from flashq.errors import ConfigError, StorageDamaged
from flashq.storage import open_storage
from flashq.storage.acceptance import Known, check, shortfalls
from flashq.storage.backup import EPOCHS_SKIPPED, RESTORING, SEQUENCES_SKIPPED
from flashq.storage.census import taken
from flashq.storage.marks import Marks
from flashq.storage.marksfile import MarksFile
from flashq.storage.port import Grant, Opened, Storage, Write
from flashq.storage.tables import TableStorage

CUT_OFF: Final = "a restore into this storage was cut off; empty it and start over"


class Accepted(NamedTuple):
    """A storage that has what it must have, open."""

    opened: Opened
    marks: MarksFile


def open_accepted(storage: Storage, directory: DataDir, shard_count: int) -> Accepted:
    """Open a storage that has what it must have, and hold by what file that is known.

    Args:
        storage: not opened yet. Nothing is written to one that is refused.
        directory: the server's data directory.
        shard_count: how many shards the server has.

    Raises:
        ConfigError, StorageUnavailable: it cannot be used.
        StorageDamaged: it is broken, or lacks something.
    """
    found = storage.look()
    if found is not None and RESTORING in found.parts:
        raise ConfigError(CUT_OFF)
    check(found, directory.known())
    opened = storage.open(shard_count)
    return Accepted(opened, begin_marks(directory, opened))


def begin_marks(directory: DataDir, opened: Opened) -> MarksFile:
    """Hold what a storage has for what it must have from now on.

    Raises:
        StorageDamaged: its parts are not as they were written.
        StorageUnavailable: that cannot be written down.
    """
    marks = MarksFile(directory.marks_path, Marks.of(opened))
    directory.pin(opened.uuid)
    return marks


def accept_loss_of(settings: Settings, wall_ms: int) -> list[str]:
    """Take what a server's storage has for all that there is, and note what is lost.

    Args:
        settings: the server's, which must not run.
        wall_ms: the wall clock.

    Returns:
        What is lost, in sentences; nothing when nothing is missing.

    Raises:
        ConfigError, StorageUnavailable: it cannot be used, or a server uses it.
        StorageDamaged: what is left cannot be used.
    """
    storage = open_storage(settings.storage, wall_ms)
    if not isinstance(storage, TableStorage):
        return []
    directory = DataDir(settings.data_dir)
    try:
        return accept_loss(storage, directory, settings.shards, wall_ms)
    finally:
        storage.close()
        directory.close()


def accept_loss(
    storage: TableStorage, directory: DataDir, shard_count: int, wall_ms: int
) -> list[str]:
    """Take what a storage has for all that there is, and note what is lost.

    Of a log that is broken somewhere what is behind that is cut off. A checkpoint that is broken
    is not mended.

    Args:
        storage: not opened yet; the caller closes it.
        directory: the server's data directory.
        shard_count: how many shards the server has, for a storage that has to be made.
        wall_ms: the wall clock.

    Returns:
        What is lost, in sentences; nothing when nothing is missing.

    Raises:
        ConfigError, StorageUnavailable: it cannot be used.
        StorageDamaged: what is left cannot be used.
    """
    lost, known = _known_of(directory)
    lost += storage.mend()
    opened = storage.open(shard_count)
    if RESTORING in opened.parts:
        raise ConfigError(CUT_OFF)
    lost += [text for text in shortfalls(opened, known) if text not in lost]
    if not lost:
        begin_marks(directory, opened).close()
        return []
    storage.write(_going_on(opened, known))
    begin_marks(directory, storage.open(shard_count)).close()
    directory.record_loss(wall_ms, opened.uuid, lost)
    return lost


def _known_of(directory: DataDir) -> tuple[list[str], Known]:
    """Return what is wrong with what is known of the storage, and the rest of it."""
    try:
        return [], directory.known()
    except (ConfigError, StorageDamaged) as error:
        return [error.text], Known(str(directory.path), None, None)


def _going_on(opened: Opened, known: Known) -> list[Write]:
    """Return what a storage that has lost something is given, so that no number comes again."""
    shards = [(of.epoch, of.reserved) for of in opened.shards]
    changes = 0
    if known.marks is not None:
        changes = known.marks.changes
        marked = [(epoch, reserved) for epoch, reserved, _ in known.marks.shards]
        if len(marked) == len(shards):
            shards = [
                (max(epochs), max(reserved))
                for epochs, reserved in (
                    zip(*pair, strict=True) for pair in zip(shards, marked, strict=True)
                )
            ]
    with suppress(StorageDamaged):
        changes = max(changes, Marks.of(opened).changes)
    writes: list[Write] = [
        Grant(number, epoch + EPOCHS_SKIPPED, of.incarnation, reserved + SEQUENCES_SKIPPED)
        for number, (of, (epoch, reserved)) in enumerate(zip(opened.shards, shards, strict=True))
    ]
    if opened.parts:
        writes.append(taken(opened.parts, changes + 1).put())
    return writes
