"""`flashq.client.sockets`: which servers a socket reaches."""

from __future__ import annotations

import socket

import pytest
import zmq

from flashq.client.sockets import open_socket
from flashq.wire import send_frames


def has_ipv6() -> bool:
    """Tell whether this machine has an IPv6 loopback."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
def test_a_server_on_an_ipv6_address_is_reached() -> None:
    """ZeroMQ takes such an address, and without an option tries in vain for ever."""
    with zmq.Context[zmq.Socket[bytes]]() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.IPV6, 1)
        router.setsockopt(zmq.RCVTIMEO, 10_000)
        port = router.bind_to_random_port("tcp://[::1]")
        with open_socket(context, f"tcp://[::1]:{port}") as dealer:
            send_frames(dealer, [b"hello"])
            assert router.recv_multipart()[1:] == [b"hello"]
