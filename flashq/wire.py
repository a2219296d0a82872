"""Whole messages in and out of a ZeroMQ socket, without waiting and at the least cost.

pyzmq's `send_multipart` and `recv_multipart` take 4.7 µs for a message of two frames and its way
back, since their flags are enum members; frame by frame, with flags that are numbers, `send` and
`recv` take 2.4 µs. All of this is public. One step goes beneath: the `send` of the class that
`zmq.Socket` derives from saves another 0.3 µs for each frame, which is worth it, since a program's
loop moves every message twice. This module alone does that; `tests/unit/test_wire.py` names the
pyzmq that it was tried with and holds what is relied on. A pyzmq without such a class costs those
0.3 µs, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

try:
    from zmq.backend import Socket as _Sender
except ImportError:  # public, and 0.3 µs slower
    _Sender: Any = zmq.Socket  # type: ignore[no-redef]

_DONTWAIT: Final = int(zmq.DONTWAIT)
_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)

_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

_send: Final = _Sender.send
_recv: Final = zmq.Socket.recv
_get: Final = zmq.Socket.get


def send_frames(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> None:
    """Send one message of at least one frame.

    Raises:
        zmq.ZMQError: EAGAIN when the peer's queue is full; then nothing was sent.
    """
    for frame in frames[:-1]:
        _send(socket, frame, _MORE)
    _send(socket, frames[-1], _DONTWAIT)


def send(socket: zmq.Socket[bytes], to: bytes, frames: Sequence[bytes]) -> None:
    """Send one message to a peer of a ROUTER socket.

    Args:
        to: the peer's routing id.
        frames: at least one.

    Raises:
        zmq.ZMQError: EAGAIN when the peer's queue is full, EHOSTUNREACH when a mandatory ROUTER
            does not know it; then nothing was sent.
    """
    _send(socket, to, _MORE)
    for frame in frames[:-1]:
        _send(socket, frame, _MORE)
    _send(socket, frames[-1], _DONTWAIT)


def receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """Take the next message, or None when there is none."""
    try:
        frame = _recv(socket, _DONTWAIT, False)
    except zmq.Again:
        return None
    frames = [frame.bytes]
    while frame.more:
        frame = _recv(socket, _DONTWAIT, False)
        frames.append(frame.bytes)
    return frames


def descriptor(socket: zmq.Socket[bytes]) -> int:
    """Return the file descriptor that becomes readable when the socket's state changes.

    Before every sleep on it one has to ask whether the socket is `readable`: sending may have
    consumed a change.
    """
    return int(socket.getsockopt(zmq.FD))


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Tell whether a message has arrived."""
    return bool(int(_get(socket, _EVENTS)) & _POLLIN)


def receive_all(
    socket: zmq.Socket[bytes],
    handle: Callable[[list[bytes]], None],
    messages_max: int,
) -> None:
    """Have what has arrived handled, so many messages at the most.

    Most often it is one, and then it is asked whether there are more: to try in vain costs an
    exception, which takes more than twice as long.

    Args:
        handle: told each message.
    """
    message = receive(socket)
    if message is None:
        return
    handle(message)
    if not readable(socket):
        return
    for _ in range(messages_max - 1):
        message = receive(socket)
        if message is None:
            return
        handle(message)
