"""The data directory: which storage belongs to a server, and that only one server uses it.

Owns the directory's mode, its lock, the pinned name of the storage, the file that says what that
must have, and the record of losses that were accepted. A server that finds another storage than the
last time, or one with less in it, would answer as if all that had been lost; so it does not start.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from flashq.errors import ConfigError
from flashq.lockfile import Lockfile
from flashq.privacy import (
    OTHERS_WRITE,
    check_directory,
    for_its_owner,
    make_directory,
    restrict,
)
from flashq.storage.acceptance import Known
from flashq.storage.files import sync_directory
from flashq.storage.marksfile import read_marks

LOCK_NAME: Final = "flashq.lock"
PIN_NAME: Final = "storage-uuid"
MARKS_NAME: Final = "storage-marks"
LOSSES_NAME: Final = "storage-losses"
"""A line of JSON for each loss that was accepted."""


class DataDir:
    """A data directory that this process holds alone.

    Args:
        path: the directory; it is made if it is not there.
        pause: waits for so many seconds while another server still has it.

    Raises:
        ConfigError: it cannot be made, others can write to it, or another server uses it.
    """

    def __init__(self, path: str, *, pause: Callable[[float], object] = time.sleep) -> None:
        self.path: Final = Path(path).absolute()
        make_directory(self.path, "data_dir")
        check_directory(self.path, "data_dir", OTHERS_WRITE)
        self._lock = Lockfile.acquire(self.path / LOCK_NAME, pause=pause)
        for file in self.path.iterdir():
            restrict(file)

    @property
    def marks_path(self) -> Path:
        """The file that says what the storage must have."""
        return self.path / MARKS_NAME

    def known(self) -> Known:
        """Return what is known of the storage here.

        Raises:
            ConfigError: the file that names it cannot be read.
            StorageDamaged, StorageUnavailable: the file with its marks cannot.
        """
        return known_of(self.path)

    def pin(self, uuid: bytes) -> None:
        """Note which storage is used here.

        Args:
            uuid: 16 bytes that name the storage.
        """
        path = self.path / PIN_NAME
        fresh = path.with_suffix(".new")
        with open(fresh, "w", opener=for_its_owner) as file:
            file.write(uuid.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        sync_directory(self.path)

    def record_loss(self, wall_ms: int, uuid: bytes, lost: Sequence[str]) -> None:
        """Note for ever that somebody has accepted a loss.

        Args:
            wall_ms: the wall clock.
            uuid: of the storage that is used from now on.
            lost: what is missing, in sentences.
        """
        line = json.dumps({"at": wall_ms, "storage": uuid.hex(), "lost": list(lost)})
        with (self.path / LOSSES_NAME).open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Let another server have it."""
        self._lock.release()


def known_of(directory: Path) -> Known:
    """Return what a data directory knows of its storage; nobody has to hold it.

    Raises:
        ConfigError: the file that names it cannot be read.
        StorageDamaged, StorageUnavailable: the file with its marks cannot.
    """
    path = directory / PIN_NAME
    pinned = None
    try:
        pinned = bytes.fromhex(path.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} does not name a storage ({error}); put it back, or accept that with "
            "`flashq serve --accept-loss`"
        ) from error
    return Known(str(directory), pinned, read_marks(directory / MARKS_NAME))


def losses_of(directory: Path) -> list[str]:
    """Return the losses that were accepted, each as a line of JSON."""
    try:
        return (directory / LOSSES_NAME).read_text().splitlines()
    except OSError:
        return []
