"""The file of the marks: two slots, which are written in turn, each with a number and a checksum.

Of a slot that was cut off the other one is left. A write costs a few microseconds; it is forced to
the disk at most once every `SYNC_MS`. So after the end of a process the marks are exact, and after
the end of the machine at most that old. A file that somebody takes away is made anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from flashq.errors import StorageDamaged, StorageUnavailable
from flashq.storage.files import identity_of, sync_directory
from flashq.storage.marks import Marks

SYNC_MS: Final = 1000
"""How old the marks may be on the disk itself."""


def read_marks(path: Path) -> Marks | None:
    """Return the marks in a file; None when there is none.

    Raises:
        StorageDamaged: there is, and neither of its slots is whole.
        StorageUnavailable: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageUnavailable(detail=f"{path}: {error.strerror}") from error
    half = len(content) // 2
    slots = [Marks.decode(slot) for slot in (content[:half], content[half:])]
    whole = [slot for slot in slots if slot is not None]
    if not whole:
        raise StorageDamaged(detail=f"{path}, which says what the storage must have, is broken")
    return max(whole, key=lambda slot: slot[0])[1]


def _place_of(number: int) -> int:
    """Return which slot a write goes into."""
    return number % 2


class MarksFile:
    """The file of the marks, for who writes it.

    Args:
        path: in the data directory.
        marks: what the storage has.

    Raises:
        StorageUnavailable: it cannot be written.
    """

    def __init__(self, path: Path, marks: Marks) -> None:
        self._path: Final = path
        self.marks: Final = marks
        self._number = 0
        self._slot_bytes = 0
        self._fd = -1
        #: which file it is
        self._identity = (0, 0)
        self._make()

    def _make(self) -> None:
        """Put a new file in the place of what is there, whole or not at all."""
        self._number += 2
        numbers = (self._number - 1, self._number)
        slots = [self.marks.encode(number) for number in sorted(numbers, key=_place_of)]
        fresh = self._path.with_name(self._path.name + ".new")
        with self._translated():
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            fd = os.open(fresh, flags, 0o600)
            try:
                os.pwrite(fd, b"".join(slots), 0)
                os.fsync(fd)
                fresh.rename(self._path)
                sync_directory(self._path.parent)
            except OSError:
                os.close(fd)
                raise
        self.close()
        self._fd, self._slot_bytes = fd, len(slots[0])
        status = os.fstat(fd)
        self._identity = status.st_dev, status.st_ino

    def write(self) -> None:
        """Write the marks as they are now; made anew if somebody has taken the file away.

        Raises:
            StorageUnavailable: it cannot be written.
        """
        self._number += 1
        slot = self.marks.encode(self._number)
        with self._translated():
            os.pwrite(self._fd, slot, _place_of(self._number) * self._slot_bytes)
        if identity_of(self._path) != self._identity:
            self._make()

    def sync(self) -> None:
        """Force what was written to the disk."""
        with self._translated():
            os.fdatasync(self._fd)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailable(
                detail=f"{self._path} cannot be written ({error.strerror}): it says what the "
                "storage must have, and nothing is acknowledged without it"
            ) from error

    def close(self) -> None:
        """Force the file to the disk, and close it."""
        if self._fd >= 0:
            with suppress(OSError):
                os.fdatasync(self._fd)
            os.close(self._fd)
            self._fd = -1
