"""How deep a payload nests, without reading it into objects.

Owns the one bound on nesting, which counts at every door and for everything opaque: payloads and
results. Whoever reads a reply reads through what is in it, and a reader gives up somewhere: nothing
that one client pushed may make a list unreadable for all. Most payloads are too short, or have too
few containers, to be too deep, which one look at their bytes tells.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

import msgspec
from msgspec import Raw

from flashq.errors import BadMessage, InvalidRequest
from flashq.protocol.limits import MIB

PAYLOAD_DEPTH_MAX: Final = 100
"""So many arrays and maps stand in one another at most."""
LOOKS_BYTES_MAX: Final = 16 * MIB
"""So many bytes are looked at, one level after the other, for one payload in MessagePack: what is
large and deep throughout is refused, too."""

_OPENING: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
"""How an array or a map begins in MessagePack."""
_OPENS: Final = frozenset(_OPENING)
_elements: Final = msgspec.msgpack.Decoder(list[Raw]).decode
_BRACKETS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_depth(data: bytes, *, json: bool) -> None:
    """Refuse what nests too deep.

    Args:
        data: a whole value.
        json: its encoding.

    Raises:
        InvalidRequest: it does.
    """
    if len(data) <= PAYLOAD_DEPTH_MAX or not (json or data[0] in _OPENS):
        return
    is_too_deep = _is_json_too_deep(data) if json else _is_msgpack_too_deep(data)
    if is_too_deep:
        raise InvalidRequest(
            detail=f"data of {len(data)} bytes nests deeper than {PAYLOAD_DEPTH_MAX} levels"
        )


def is_one_too_deep(datas: Iterable[bytes], *, json: bool) -> bool:
    """Tell whether one of many values nests too deep."""
    if json:
        return any(_is_json_too_deep(data) for data in datas)
    most = PAYLOAD_DEPTH_MAX
    doubtful = [  # spelled out, as calls would cost more than all else
        data
        for data in datas
        if len(data) > most
        and data[0] in _OPENS
        and len(data) - len(data.translate(None, _OPENING)) > most
    ]
    return any(map(_is_msgpack_too_deep, doubtful))


def _is_json_too_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= PAYLOAD_DEPTH_MAX:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(data.split(b'"')[::2])
    steps = outside.translate(_BRACKETS, _NO_BRACKETS)
    return max(accumulate(array("b", steps)), default=0) > PAYLOAD_DEPTH_MAX


def _is_msgpack_too_deep(data: bytes) -> bool:
    level, looked = [data], 0
    for left in range(PAYLOAD_DEPTH_MAX, -1, -1):
        # Each of these containers may have `left` levels, itself among them: one that has no more
        # than so many beginnings of containers in it can have no more.
        level = [each for each in level if len(each) - len(each.translate(None, _OPENING)) > left]
        if not level:
            return False
        level = [
            part
            for each in level
            for part in map(bytes, _parts(each, left))
            if len(part) >= left and part[0] in _OPENS
        ]
        looked += sum(map(len, level))
        if looked > LOOKS_BYTES_MAX:
            return True
    return True


def _parts(data: bytes, size_min: int) -> list[Raw]:
    """Return what stands in an array or a map, keys and values alike; nothing for others, and where
    none of it can have `size_min` bytes beside the rest, which has one byte each."""
    head = data[0]
    if head >> 4 == 0x9:
        count, start = head & 15, 1
    elif head >> 4 == 0x8:
        count, start = (head & 15) * 2, 1
    elif head in (0xDC, 0xDE):
        count, start = int.from_bytes(data[1:3], "big") * (1 + (head == 0xDE)), 3
    elif head in (0xDD, 0xDF):
        count, start = int.from_bytes(data[1:5], "big") * (1 + (head == 0xDF)), 5
    else:
        return []
    if len(data) - start - count + 1 < size_min:
        return []
    data = b"\xdd" + count.to_bytes(4, "big") + data[start:]
    try:
        return _elements(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadMessage(detail=str(error)) from None
