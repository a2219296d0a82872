"""What keeps the server's files to its own user: modes that are set, and checked at the start.

Owns the umask of every program, and the rule which directories are safe to work in. The tokens that
clients show guard doors; whoever reaches a shard's socket, a lock or the storage's file needs none.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from flashq.errors import ConfigError

OTHERS: Final = 0o077
"""Every right of the group and of everybody else."""
OTHERS_WRITE: Final = 0o022


def keep_to_owner() -> None:
    """Let whatever this process makes from now on be its user's only, whatever umask it was started
    with. What others may reach is opened to them by name, after it is made."""
    os.umask(OTHERS)


def make_directory(path: Path, setting: str) -> None:
    """Make a directory for its owner only, if it is not there. Those above it are made as usual,
    but never so that others can write to them.

    Args:
        path: the directory.
        setting: which it is, for the error, as in `run_dir`.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        if path.is_dir():
            return
        missing = [path]
        while not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            directory.mkdir(0o700 if directory is path else 0o755, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{setting} {path} cannot be made ({error.strerror}); "
            f"name another one in FLASHQ_{setting.upper()}"
        ) from error


def check_directory(path: Path, setting: str, forbidden: int) -> None:
    """Refuse a directory that is not the server's own, or is open to others.

    Args:
        path: the directory, which is there.
        setting: which it is, for the error.
        forbidden: rights that nobody but its owner may have: `OTHERS` or `OTHERS_WRITE`.

    Raises:
        ConfigError: with what to do.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"{setting} {path} belongs to user {status.st_uid}, and the server runs as user "
            f"{os.geteuid()}; name another one in FLASHQ_{setting.upper()}, or do: "
            f"chown {os.geteuid()} {path}"
        )
    if mode & forbidden:
        what = "read and write" if mode & OTHERS_WRITE else "read"
        raise ConfigError(
            f"{setting} {path} is not safe: its mode is {mode:04o}, so others could {what} what "
            f"is in it; do: chmod {'700' if forbidden == OTHERS else 'go-w'} {path}"
        )
    link = path.lstat()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{setting} {path} is a link that belongs to user {link.st_uid}")
    for parent in path.parents:
        above = parent.stat()
        if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            raise ConfigError(
                f"{setting} {path} is not safe: everybody can write to {parent}, and so put "
                f"another directory in its place; do: chmod o-w {parent}"
            )


def restrict(path: Path) -> None:
    """Take every right to a file from others than its owner, if they have one and it is ours."""
    status = path.lstat()
    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    if is_ours and status.st_mode & OTHERS:
        path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)


def for_its_owner(path: str, flags: int) -> int:
    """Open a file as `open` wants it, of a mode that lets nobody else read or write it."""
    return os.open(path, flags, 0o600)
