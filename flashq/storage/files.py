"""Files by what they are, not by what they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

Identity: TypeAlias = tuple[int, int] | None
"""Device and inode; None for no file."""


def identity_of(path: str | Path) -> Identity:
    """Return which file has this path now; None for none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def sync_directory(path: Path) -> None:
    """Force to the disk which files are in a directory.

    Raises:
        OSError: it cannot be done.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
