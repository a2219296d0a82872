"""`flashq.keepalive`: what the kernel is asked to find out."""

from __future__ import annotations

import socket

from flashq.keepalive import KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, KEEPALIVE_S, probe

GONE_MS_MAX = 30_000
"""Jobs of a host that vanished are back by then."""


def test_a_host_that_vanished_is_noticed_in_time() -> None:
    """Whether something was sent to it or not."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        probe(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        read = [
            connection.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert read == [KEEPALIVE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES]
        assert 1000 * (read[0] + read[1] * read[2]) < GONE_MS_MAX
        user_ms = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert 0 < user_ms < GONE_MS_MAX
