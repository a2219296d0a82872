"""The ZeroMQ socket of a client, as both clients open it.

Owns its options. High-water marks are off because the connection itself bounds what is outstanding;
nothing lingers because a farewell is waited for, and everything else is repeated anyway.
"""

from __future__ import annotations

from typing import Final

import zmq

RECONNECT_MS: Final = 20
RECONNECT_MS_MAX: Final = 1000


def open_socket(context: zmq.Context[zmq.Socket[bytes]], url: str) -> zmq.Socket[bytes]:
    """Return a DEALER that connects to `url`, whether anybody is there or not."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX)
    socket.setsockopt(zmq.IPV6, "[" in url)  # else such an address is never connected to
    socket.connect(url)
    return socket
