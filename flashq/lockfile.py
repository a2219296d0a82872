"""Ownership: a lock file that one process holds for as long as it lives.

A second bind on a live ipc path succeeds in silence and steals its traffic, so each program first
holds the lock that says who it is. The kernel frees a lock with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flashq.errors import ConfigError

LOCK_WAIT_MS: Final = 10_000
"""How long a second start waits for the first to be gone; long enough for it to drain."""

_RETRY_MS: Final = 50


class Lockfile:
    """An flock that is held from `acquire` until `release` or the end of the process."""

    def __init__(self, fd: int, path: Path) -> None:
        self.path: Final = path
        self._fd = fd

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        wait_ms: int = LOCK_WAIT_MS,
        pause: Callable[[float], object] = time.sleep,
    ) -> Lockfile:
        """Take the lock, or wait for it; the file then holds this process's id.

        Args:
            path: the lock file, made if it is not there; its directory must be.
            wait_ms: how long to wait for another holder.
            pause: waits for so many seconds between two tries.

        Raises:
            ConfigError: another process still holds it, or the file cannot be opened.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the lock {path} cannot be opened ({error.strerror})") from error
        for _ in range(0, wait_ms, _RETRY_MS):
            if cls._try(fd):
                break
            pause(_RETRY_MS / 1000)
        else:
            if not cls._try(fd):
                holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(fd)
                raise ConfigError(
                    f"{path.stem} runs already: process {holder} has held {path} "
                    f"for {wait_ms} ms of waiting"
                )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(fd, path)

    @staticmethod
    def _try(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_in_place(self) -> bool:
        """Tell whether the file is still the one that others find under its name."""
        held = os.fstat(self._fd)
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)

    def release(self) -> None:
        """Give the lock back. The file stays: to remove it would race with who waits for it."""
        os.close(self._fd)
