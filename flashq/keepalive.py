"""TCP connections whose other host has vanished: the kernel finds out, and says so within 25 s.

Owns the times. A host that loses its power or its network sends nothing more, so a program that
only waits would hold what that host had for ever.
"""

from __future__ import annotations

import socket
from typing import Final

KEEPALIVE_S: Final = 10
"""How long a connection is silent before the other host is asked whether it is there."""
KEEPALIVE_INTERVAL_S: Final = 5
KEEPALIVE_PROBES: Final = 3
SILENT_MS_MAX: Final = 25_000
"""A host that answers nothing for so long is gone, also where something was sent to it."""


def probe(connection: socket.socket) -> None:
    """Have the kernel ask after the host at the other end of a TCP connection, and send small
    messages at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS_MAX)
