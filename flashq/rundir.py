"""The run directory: where the programs of one server find each other's sockets and locks.

Owns the names in it, its mode and the bound on a socket's path. It holds no state and opens no
socket.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flashq.errors import ConfigError
from flashq.privacy import OTHERS, check_directory, make_directory

SOCKET_PATH_BYTES_MAX: Final = 107
"""Linux holds a socket's path in 108 bytes, the last of them zero (`man 7 unix`)."""


def default_run_dir(environ: Mapping[str, str]) -> str:
    """Return the run directory of a server that nobody has told one."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/flashq" if runtime else "/run/flashq"


class RunDir:
    """The files of one run directory, as paths for locks and as endpoints for ZeroMQ.

    Args:
        path: the directory; it need not exist before `create`.
    """

    def __init__(self, path: str) -> None:
        self.path: Final = Path(path).absolute()

    @property
    def router(self) -> str:
        """Endpoint of the router's front door."""
        return self._endpoint("router.sock")

    @property
    def coordinator(self) -> str:
        """Endpoint of the coordinator."""
        return self._endpoint("coordinator.sock")

    def shard(self, index: int) -> str:
        """Endpoint where shard `index` takes requests."""
        return self._endpoint(f"shard-{index}.sock")

    def events(self, index: int) -> str:
        """Endpoint where shard `index` publishes its events."""
        return self._endpoint(f"events-{index}.sock")

    def lock(self, program: str) -> Path:
        """Path of the lock that says who is `program` here, as in `shard-3`."""
        return self.path / f"{program}.lock"

    @property
    def own_token(self) -> Path:
        """Path of the token that the server's own programs show each other."""
        return self.path / "own.token"

    def check(self, shards: int) -> None:
        """Refuse a directory whose longest socket path the kernel would not take.

        Raises:
            ConfigError: with the path's length and the bound.
        """
        longest = max(
            self.coordinator,
            self.events(shards - 1),
            key=lambda endpoint: len(os.fsencode(endpoint)),
        ).removeprefix("ipc://")
        size = len(os.fsencode(longest))
        if size > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(
                f"run_dir is too long: the socket path {longest} has {size} bytes, "
                f"and at most {SOCKET_PATH_BYTES_MAX} are possible"
            )

    def create(self) -> None:
        """Make the directory, for its owner only, and refuse one that is open to others: what
        listens in it asks for no token.

        Raises:
            ConfigError: it cannot be made, or it belongs to or is open to others.
        """
        make_directory(self.path, "run_dir")
        check_directory(self.path, "run_dir", OTHERS)

    def _endpoint(self, name: str) -> str:
        return f"ipc://{self.path / name}"


def socket_path(endpoint: str) -> str:
    """Return the path of an endpoint of a run directory."""
    return endpoint.removeprefix("ipc://")
