"""Whether what a storage has is what there has to be: asked before anything is written to it.

Pure. A data directory knows which storage it belongs to, and what that must have. A storage that
has less, is another one, is empty or is not there would answer as if all of it had never been; so
no server starts on it before somebody says that the loss is meant.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from flashq.errors import StorageDamaged
from flashq.storage.marks import Marks
from flashq.storage.port import Opened

SHOWN_MAX: Final = 5
"""So many things that are missing are named in one error."""

ADVICE: Final = (
    "nothing was changed; `flashq doctor --storage` says more. Put back what is missing or restore "
    "a backup, or go on without it: `flashq serve --accept-loss`"
)


class Known(NamedTuple):
    """What a data directory knows of its storage.

    Args:
        place: the directory, for texts.
        pinned: the storage's UUID; None when it has had none yet.
        marks: what it must have; None when that is not known.
    """

    place: str
    pinned: bytes | None
    marks: Marks | None


def shortfalls(found: Opened | None, known: Known) -> list[str]:
    """Return what is missing, in sentences; nothing when a server can start.

    Args:
        found: what the storage has; None when it has to be made.
        known: what is known of it.
    """
    pinned = known.pinned
    if pinned is None and known.marks is not None:
        pinned = known.marks.uuid
    if pinned is None:
        return []
    if found is None:
        return [f"it is empty or not there, but {known.place} belongs to storage {pinned.hex()}"]
    if found.uuid != pinned:
        return [
            f"it is storage {found.uuid.hex()}, but {known.place} belongs to storage {pinned.hex()}"
        ]
    if known.marks is None:
        return [f"{known.place} no longer says what it must have: its marks are not there"]
    try:
        return known.marks.missing(found)
    except StorageDamaged as error:
        return [error.text]


def check(found: Opened | None, known: Known) -> None:
    """Refuse a storage that lacks something.

    Raises:
        StorageDamaged: it does; what is missing is named.
    """
    missing = shortfalls(found, known)
    if missing:
        more = len(missing) - SHOWN_MAX
        shown = [*missing[:SHOWN_MAX], *([f"and {more} more"] if more > 0 else [])]
        raise StorageDamaged(detail=f"{'; '.join(shown)}. {ADVICE}")
