"""The data directory: which storage belongs to a server, and that only one server uses it.

Owns the directory's mode, its lock and the pinned name of the storage. A server that finds another
storage than the last time would answer as if everything had been lost; so it does not start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flashq.errors import ConfigError
from flashq.lockfile import Lockfile

LOCK_NAME: Final = "flashq.lock"
PIN_NAME: Final = "storage-uuid"


class DataDir:
    """A data directory that this process holds alone.

    Args:
        path: the directory; it is made if it is not there.
        pause: waits for so many seconds while another server still has it.

    Raises:
        ConfigError: it cannot be made, or another server uses it.
    """

    def __init__(self, path: str, *, pause: Callable[[float], object] = time.sleep) -> None:
        self.path: Final = Path(path).absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"data_dir {self.path} cannot be made ({error.strerror}); "
                "name another one in FLASHQ_DATA_DIR"
            ) from error
        self._lock = Lockfile.acquire(self.path / LOCK_NAME, pause=pause)

    def pin(self, uuid: bytes, *, anew: bool = False) -> None:
        """Note which storage is used here, or see that it is the same as before.

        Args:
            uuid: 16 bytes that name the storage.
            anew: take it whatever was used before.

        Raises:
            ConfigError: it is another one.
        """
        path = self.path / PIN_NAME
        if path.exists() and not anew:
            pinned = path.read_text().strip()
            if pinned != uuid.hex():
                raise ConfigError(
                    f"the storage is {uuid.hex()}, but {self.path} belongs to storage {pinned}; "
                    f"give each its own data_dir, or remove {path} if the change is meant"
                )
            return
        fresh = path.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(uuid.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let another server have it."""
        self._lock.release()
