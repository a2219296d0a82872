"""The router's front door: where clients connect, and how many may.

Owns the two listening sockets and the share of the process's descriptors that each may take: a
flood at the TCP port does not keep the server's own programs out, which come by the Unix socket.
"""

from __future__ import annotations

from typing import Final

from flashq.config import Settings
from flashq.descriptors import allow
from flashq.errors import ConfigError
from flashq.observability.logging import log_of
from flashq.places import Places
from flashq.rundir import RunDir, socket_path
from flashq.zmtp.door import Bounds, Door, Keeper

LOCAL_CONNECTIONS_MAX: Final = 1000
"""Connections at the socket in the run directory, beside those at the TCP port."""
STRANGERS_SHARE: Final = 4
"""One place in so many may be taken by peers that have not shown a token."""
OWN_DESCRIPTORS: Final = 128
"""Descriptors of the router itself, beside those for each shard."""
SHARD_DESCRIPTORS: Final = 4
"""Its connections to one shard, while they are made anew too."""
TROUBLE_MS: Final = 60_000
"""That newcomers have to wait is said at most so often."""


class Front:
    """The door, and what there is to say of it in the log.

    Args:
        settings: the server's.
        run_dir: where the Unix socket is.
        keeper: where the door asks and tells.

    Raises:
        ConfigError: an address cannot be listened on.
    """

    def __init__(self, settings: Settings, run_dir: RunDir, keeper: Keeper) -> None:
        self._log: Final = log_of("flashq-router")
        self.door: Final = Door(
            Bounds(
                # What is a little too large is answered in words; more costs the connection.
                frame_bytes_max=2 * settings.message_bytes_max,
                message_bytes_max=4 * settings.message_bytes_max,
                unread_bytes_max=settings.unread_bytes_max,
                all_unread_bytes_max=settings.all_unread_bytes_max,
                idle_ms_max=settings.idle_ms,
            ),
            keeper,
        )
        remote_max, local_max = self._shares(settings)
        address = _listen(self.door, settings, _places(remote_max, settings))
        self.door.listen_unix(socket_path(run_dir.router), _places(local_max, settings))
        #: what is shown to people
        self.endpoints: Final = (f"tcp://{address}", run_dir.router)
        self._told_ms: int | None = None

    def _shares(self, settings: Settings) -> tuple[int, int]:
        """Return how many connections there may be at the TCP port and at the Unix socket, after
        asking the kernel for as many descriptors as that takes."""
        own = OWN_DESCRIPTORS + SHARD_DESCRIPTORS * settings.shards
        wanted = own + LOCAL_CONNECTIONS_MAX + settings.zmq_connections_max
        descriptors = allow(wanted)
        remote_max, local_max = shares(descriptors, own, settings.zmq_connections_max)
        if remote_max < settings.zmq_connections_max:
            self._log.warning(
                "fewer connections are possible than zmq_connections_max says, for want of file "
                "descriptors; raise the limit (ulimit -n)",
                connections=remote_max,
                descriptors=descriptors,
            )
        return remote_max, local_max

    def tell_trouble(self, now_ms: int) -> None:
        """Say in the log that newcomers wait, if they do and it was not said just before."""
        if self.door.trouble and (self._told_ms is None or now_ms - self._told_ms >= TROUBLE_MS):
            self._told_ms = now_ms
            self._log.warning(
                "new connections wait", reason=self.door.trouble, connections=len(self.door)
            )

    def close(self) -> None:
        """Close all connections, and say how they ended."""
        self.door.close()
        if self.door.left:
            self._log.info("connections ended", **self.door.left)


def shares(descriptors: int, own: int, remote_wanted: int) -> tuple[int, int]:
    """Divide descriptors among connections at the TCP port and at the Unix socket.

    Args:
        descriptors: how many the process may have.
        own: how many of them it needs itself.
        remote_wanted: most connections at the TCP port.
    """
    left = max(2, descriptors - own)
    local_max = min(LOCAL_CONNECTIONS_MAX, left // 2)
    return min(remote_wanted, left - local_max), local_max


def _places(peers_max: int, settings: Settings) -> Places[bytes]:
    return Places(peers_max, max(1, peers_max // STRANGERS_SHARE), settings.unauthenticated_ms)


def _listen(door: Door, settings: Settings, places: Places[bytes]) -> str:
    """Listen on the TCP port, and return its address."""
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    try:
        return door.listen_tcp(host, settings.zmq_port, places)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on tcp://{host}:{settings.zmq_port}: {error.strerror}"
        ) from error
