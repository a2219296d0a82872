"""Where a program's tokens come from: the settings, the tokens file, and the server's own token.

Owns the reading of those files. What tokens mean is `flashq.tokens`' business. The server's own
programs show each other a token of their own, which the first of them that starts writes into the
run directory, for the server's user only: so a gateway needs no token out of anybody's file.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from flashq.config import Settings
from flashq.errors import ConfigError
from flashq.observability.logging import log_of
from flashq.privacy import OTHERS
from flashq.rundir import RunDir
from flashq.tokens import TOKEN_RANDOM_BYTES, Guard, Keyring, TokenEntry, read_entries

FILE_BYTES_MAX: Final = 4 * 1024 * 1024


class TokenSource:
    """The tokens of one program.

    Args:
        settings: say where they are.
        program: its name, for the log.
        with_own: the server's own token counts too: its own programs come in here.

    Raises:
        ConfigError: the tokens file cannot be read, or others may write it.
    """

    def __init__(self, settings: Settings, program: str, *, with_own: bool = False) -> None:
        self._settings: Final = settings
        self._log: Final = log_of(program)
        self._with_own: Final = with_own
        #: what every connection of this program is checked by; open where there are no tokens
        self.guard: Final = Guard(self._read() if settings.is_guarded else None)

    @property
    def can_change(self) -> bool:
        """Whether there is a file to read again."""
        return bool(self._settings.tokens_file)

    def reread(self) -> Keyring | None:
        """Read the file again; None, and a line in the log, when what it says does not fit."""
        try:
            keyring = self._read()
        except ConfigError as error:
            self._log.error("the tokens stay as they were", reason=error.text)
            return None
        self._log.info("tokens read again", tokens=len(keyring))
        return keyring

    def _read(self) -> Keyring:
        plain = list(self._settings.tokens())
        if self._with_own:
            plain.append(own_token(self._settings.run()))
        path = self._settings.tokens_file
        return Keyring(plain, self._entries_of(path) if path else ())

    def _entries_of(self, path: str) -> tuple[TokenEntry, ...]:
        text, mode = _read_file(path)
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"the tokens file {path} can be written by others than its owner, who could let "
                f"themselves in (its mode is {mode:04o}); do: chmod go-w {path}"
            )
        if mode & stat.S_IROTH:
            self._log.warning(
                "everybody on this machine can read whose tokens there are", file=path
            )
        return read_entries(text, path)


def _read_file(path: str) -> tuple[str, int]:
    """Return a tokens file's text, and its mode when it was read."""
    try:
        with open(path, encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"the tokens file {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the tokens file {path} is not UTF-8") from None
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(f"the tokens file {path} has more than {FILE_BYTES_MAX} characters")
    return text, mode


def _is_private(path: Path) -> bool:
    """Tell whether nobody else can have read or written a file."""
    status = path.lstat()
    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return is_ours and not status.st_mode & OTHERS


def own_token(run_dir: RunDir) -> str:
    """Return the token of the server's own programs, made if there is none.

    The first program to come makes it, whole: it is written beside its place, and linked there. One
    that others can have read or put there is made anew.
    """
    path = run_dir.own_token
    run_dir.create()
    with suppress(FileNotFoundError):
        if _is_private(path):
            return path.read_text()
        os.unlink(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(TOKEN_RANDOM_BYTES))
    with suppress(FileExistsError):  # another program was faster
        os.link(beside, path)
    os.unlink(beside)
    return path.read_text()
