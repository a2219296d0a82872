"""One request without a session, to any program of a server: how `doctor` looks at each of them.

A pull that is asked for so survives this process: its job is held by its `stall_timeout` and not by
a session, which would end with the verb. Owns no state beyond one request.
"""

from __future__ import annotations

import socket
import time
from typing import Final, TypeVar

import zmq
from msgspec import Struct

from flashq.client.sockets import open_socket
from flashq.errors import RequestTimeout
from flashq.protocol.base import Reply
from flashq.protocol.codec import decode_reply, encode_msgpack
from flashq.protocol.framing import (
    NOTICE,
    ROUTE_ANY,
    ROUTE_ROUTER,
    pack_header,
    pairs,
    unpack_header,
)
from flashq.protocol.sessions import Auth

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 2.0


def obstacle(url: str) -> str | None:
    """Return why nothing can be reached at an endpoint; None when somebody listens there."""
    scheme, _, address = url.partition("://")
    try:
        if scheme == "ipc":
            with socket.socket(socket.AF_UNIX) as door:
                door.settimeout(CONNECT_TIMEOUT_S)
                door.connect(address)
        else:
            host, _, port = address.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S):
                pass
    except OSError as error:
        return (error.strerror or str(error) or type(error).__name__).lower()
    return None


def ask(
    url: str,
    request: Struct,
    kind: type[T],
    *,
    timeout_ms: int,
    route: int = ROUTE_ANY,
    token: str | None = None,
) -> T:
    """Send one request and return its reply.

    Args:
        url: the endpoint of a router, a shard or a coordinator.
        request: its body.
        kind: the reply's type.
        timeout_ms: how long to wait for it.
        route: a shard, or one of the ROUTE_ constants.
        token: shown first, where there is one.

    Raises:
        RequestTimeout: there was no reply in time.
        FlashQError: the reply is an error.
    """
    with zmq.Context[zmq.Socket[bytes]]() as context, open_socket(context, url) as dealer:
        deadline = time.monotonic() + timeout_ms / 1000
        try:
            if token is not None:
                _exchange(dealer, ROUTE_ROUTER, Auth(token=token), Reply, deadline)
            return _exchange(dealer, route, request, kind, deadline)
        except TimeoutError:
            raise RequestTimeout(timeout=timeout_ms, detail=f"from {url}") from None


def _exchange(
    dealer: zmq.Socket[bytes], route: int, request: Struct, kind: type[T], deadline: float
) -> T:
    dealer.send_multipart([pack_header(0, route, 1), encode_msgpack(request)])
    while True:
        left_ms = int((deadline - time.monotonic()) * 1000)
        if left_ms <= 0 or not dealer.poll(left_ms):
            raise TimeoutError
        for head, body in pairs(dealer.recv_multipart()):
            header = unpack_header(head)
            if not header.flags & NOTICE:
                return decode_reply(body, kind)
