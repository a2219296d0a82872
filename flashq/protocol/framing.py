"""The header frame that stands before each body frame.

Owns the layout of headers and the meaning of flags and routes; knows nothing of bodies or sockets.

A message on any flashq socket is one or more *pairs*: a header frame and a body frame. The header
is 12 bytes, big-endian, and may be followed by a *tail* of at most 280 bytes:

    version  u8    1
    flags    u8    bits, see below
    route    u16   a shard number, or one of the ROUTE_ constants
    corr     u64   chosen by the asker, echoed in the reply, matched by the asker alone

The tail is opaque to whoever receives a request and is echoed in the reply. The router puts a
client's return address there, so it keeps no table of requests: a reply carries its own way home.
A client's own headers have no tail.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from flashq.errors import BadMessage

VERSION: Final = 1
HEADER_BYTES: Final = 12
TAIL_BYTES_MAX: Final = 280

ROUTE_ANY: Final = 0xFFFF
"""The router works out from the body which shard it is for."""
ROUTE_COORDINATOR: Final = 0xFFFE
ROUTE_ROUTER: Final = 0xFFFD
"""For the router itself: hello, heartbeat and goodbye of a client, subscriptions."""

JSON: Final = 0x01
"""The body is JSON (UTF-8) instead of MessagePack; its reply is JSON too."""
FULL: Final = 0x02
"""The reply's job objects carry every key; without it keys at their defaults are left out."""
REPLY: Final = 0x04
"""The body answers the request with the same `corr`."""
NOTICE: Final = 0x08
"""The body was not asked for: a shard's new epoch, an event, a notice. `corr` is 0 or the
subscription's."""
DELIVERY: Final = 0x10
"""The reply hands out jobs: whoever cannot deliver it sends it back with BOUNCED."""
BOUNCED: Final = 0x20
"""A DELIVERY that could not be delivered, on its way back to the shard that sent it."""
INTERNAL: Final = 0x40
"""Between flashq's own processes; never accepted from a client."""
OLDER: Final = 0x80
"""The asker is a client of the older protocols: states and refusals that those do not have are told
in what they do have."""

CLIENT_FLAGS: Final = JSON | FULL | OLDER
"""The flags that a client may set."""
CLIENT_FLAG_SETS: Final = tuple(flags for flags in range(256) if not flags & ~CLIENT_FLAGS)
"""Every combination of them."""

_LAYOUT: Final = struct.Struct(">BBHQ")
_pack = _LAYOUT.pack
_unpack_from = _LAYOUT.unpack_from


class Header(NamedTuple):
    """A decoded header frame."""

    flags: int
    route: int
    corr: int
    tail: bytes


def pack_header(flags: int, route: int, corr: int, tail: bytes = b"") -> bytes:
    """Return the header frame for these fields."""
    return _pack(VERSION, flags, route, corr) + tail


def unpack_header(frame: bytes) -> Header:
    """Read a header frame.

    Raises:
        BadMessage: the frame is too short or too long, or of a version that is not spoken here.
    """
    if not HEADER_BYTES <= len(frame) <= HEADER_BYTES + TAIL_BYTES_MAX:
        raise BadMessage(detail=f"header of {len(frame)} bytes, expected {HEADER_BYTES}")
    version, flags, route, corr = _unpack_from(frame)
    if version != VERSION:
        raise BadMessage(detail=f"protocol version {version}, this server speaks {VERSION}")
    return Header(flags, route, corr, frame[HEADER_BYTES:])


def pairs(frames: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Split the frames of one message into (header, body) pairs.

    Raises:
        BadMessage: no frames, or an odd number of them.
    """
    if not frames or len(frames) % 2:
        raise BadMessage(detail=f"{len(frames)} frames, expected pairs of header and body")
    step = iter(frames)
    return zip(step, step, strict=True)


# --- what a router and a shard's publisher say to each other beside events
#
# The router subscribes to the empty topic, which stands for everything that is published, and to
# one topic for each queue that somebody listens to. Nothing is published under those: they tell the
# shard which events to make. So the router gets every event that is made, and sees holes.

ALL_QUEUES: Final = "*"
"""Stands for all queues where a listener names one."""
_NUMBER_BYTES: Final = 8


def pack_wish(number: int, queue: str) -> bytes:
    """Return the topic that asks a shard for a queue's events; `number` tells it from earlier ones
    for the same queue."""
    return number.to_bytes(_NUMBER_BYTES, "big") + queue.encode()


def wished_queue(wish: bytes) -> str:
    """Return the queue that a wish is about."""
    return wish[_NUMBER_BYTES:].decode(errors="replace")


def pack_heard(shard: int, wish: bytes) -> tuple[bytes, bytes]:
    """Return what a shard publishes when it has learned of a wish: whoever gets it gets every event
    of that queue after it. No queue has an empty name."""
    return b"", shard.to_bytes(2, "big") + wish


def unpack_heard(frames: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Return the shard that says so, and the wish; None for an event."""
    if frames[0]:
        return None
    return int.from_bytes(frames[1][:2], "big"), frames[1][2:]
