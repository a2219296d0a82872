"""What `flashq doctor --storage` checks: whether the storage has what it must have, and is whole.

Reads everything that a start of the server would read, beside a server that runs or without one,
and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flashq.cli.findings import Finding, ok
from flashq.cli.wording import local_time, plural, size
from flashq.config import MEMORY, Settings
from flashq.datadir import known_of, losses_of
from flashq.errors import ConfigError, FlashQError, StorageDamaged
from flashq.storage import examine_structure, open_snapshot
from flashq.storage.acceptance import Known, shortfalls
from flashq.storage.form import check_form
from flashq.storage.port import Snapshot

READ_BYTES_MAX: Final = 4 * 1024 * 1024
CHECK: Final = "storage"

_LOSS_ADVICE: Final = (
    "put back what is missing, or restore a backup; to go on without it: `flashq doctor --storage "
    "--accept-loss` while no server runs, or `flashq serve --accept-loss`"
)
_DAMAGE_ADVICE: Final = (
    "restore a backup. Of a log that is broken, `--accept-loss` cuts off what is behind that, and "
    "goes on; it mends nothing else"
)


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what there is to say of a server's storage.

    Args:
        settings: the server's.
    """
    if settings.storage == MEMORY:
        yield ok(CHECK, f"it is {MEMORY}, the server's own memory, which nobody else can read")
        return
    directory = Path(settings.data_dir)
    yield from _check_losses(directory)
    try:
        known = known_of(directory)
    except FlashQError as error:
        yield Finding(CHECK, "wrong", error.text, _LOSS_ADVICE)
        known = Known(str(directory), None, None)
    yield _told(known)
    try:
        examine_structure(settings.storage)
        snapshot = open_snapshot(settings.storage)
    except ConfigError as error:
        yield from _unreadable(error, known)
        return
    except StorageDamaged as error:
        yield Finding(CHECK, "wrong", error.text, _DAMAGE_ADVICE)
        return
    except FlashQError as error:
        yield Finding(CHECK, "wrong", error.text, "bring it back, and ask again")
        return
    try:
        yield from _check_content(snapshot, known)
    finally:
        snapshot.close()


def _told(known: Known) -> Finding:
    if known.marks is None:
        said = "has not been used yet" if known.pinned is None else "does not say what it must have"
        return ok("storage, marks", f"{known.place} {said}")
    last = sum(last_seq for _, _, last_seq in known.marks.shards)
    return ok(
        "storage, marks",
        f"it is storage {known.marks.uuid.hex()}, and must have {plural(last, 'change')} of "
        f"{plural(len(known.marks.shards), 'shard')} and {known.marks.changes} of the coordinator",
    )


def _check_losses(directory: Path) -> Iterator[Finding]:
    """Yield the losses that somebody has accepted."""
    for line in losses_of(directory):
        loss = json.loads(line)
        yield Finding(
            "storage, losses",
            "warning",
            f"accepted {local_time(loss['at']):%Y-%m-%d %H:%M:%S}: {'; '.join(loss['lost'])}",
        )


def _unreadable(error: ConfigError, known: Known) -> Iterator[Finding]:
    """Yield what it means that there is no storage to read."""
    missing = shortfalls(None, known)
    if not missing:
        yield ok(CHECK, f"{error.text}; nothing has been stored from {known.place}")
    for text in missing:
        yield Finding(CHECK, "wrong", f"{text} ({error.text})", _LOSS_ADVICE)


def _check_content(snapshot: Snapshot, known: Known) -> Iterator[Finding]:
    """Yield what is missing, and where it is broken."""
    opened, wrong = snapshot.opened, 0
    try:
        check_form("the storage", opened.shards, opened.parts)
    except ConfigError as error:
        yield Finding(CHECK, "wrong", error.text)
        return
    for text in shortfalls(opened, known):
        wrong += 1
        yield Finding(CHECK, "wrong", text, _LOSS_ADVICE)
    total = 0
    for shard in range(len(opened.shards)):
        try:
            total += _read_shard(snapshot, shard)
        except FlashQError as error:
            wrong += 1
            yield Finding(CHECK, "wrong", error.text, _DAMAGE_ADVICE)
    if not wrong:
        yield ok(
            CHECK,
            f"all of it is there and whole: {plural(len(opened.shards), 'shard')} with "
            f"{size(total)}, and {plural(len(opened.parts), 'part')} of the coordinator",
        )


def _read_shard(snapshot: Snapshot, shard: int) -> int:
    """Read all of a shard's recovery, and return its size in bytes.

    Raises:
        StorageDamaged: a piece of it is broken.
        StorageUnavailable: it cannot be read.
    """
    total = cursor = 0
    while True:
        part = snapshot.recover(shard, cursor, READ_BYTES_MAX)
        total += sum(len(content) for _, content in (*part.parts, *part.pages))
        total += sum(len(records) for _, _, records in part.log)
        if not part.cursor:
            return total
        cursor = part.cursor
