"""Sockets that listen, and why one cannot.

Owns how a host is read that doors listen on: `localhost` is 127.0.0.1 alone.
"""

from __future__ import annotations

import socket

from flashq.errors import ConfigError


def address_of(host: str) -> str:
    """Return the address of a host in the settings."""
    return "127.0.0.1" if host == "localhost" else host


def listening_socket(door: str, host: str, port: int) -> socket.socket:
    """Return a socket that is bound to a TCP port (0 for a free one).

    Args:
        door: its name, for the sentence.

    Raises:
        ConfigError: the address cannot be listened on; the sentence says why.
    """
    address = address_of(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {door} {host}:{port}: {error.strerror}") from error
    listening.setblocking(False)
    return listening
