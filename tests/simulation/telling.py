"""A message in words, for the trace of a run that is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from flashq.errors import FlashQError
from flashq.protocol.framing import BOUNCED, DELIVERY, INTERNAL, NOTICE, REPLY, unpack_header
from flashq.protocol.internal import decode_internal

TEXT_CHARS_MAX: Final = 300


def in_words(frames: Sequence[bytes]) -> str:
    """Return what a message says, pair by pair."""
    if len(frames) % 2:
        return repr(frames)[:TEXT_CHARS_MAX]
    return " | ".join(
        _pair_in_words(head, body) for head, body in zip(frames[::2], frames[1::2], strict=True)
    )


def _pair_in_words(head: bytes, body: bytes) -> str:
    try:
        header = unpack_header(head)
        if header.flags & INTERNAL:
            return repr(decode_internal(body))[:TEXT_CHARS_MAX]
    except FlashQError:
        return repr((head, body))[:TEXT_CHARS_MAX]
    names = {REPLY: "reply", NOTICE: "notice", DELIVERY: "delivery", BOUNCED: "bounced"}
    said = [name for flag, name in names.items() if header.flags & flag] or ["request"]
    content = repr(msgspec.msgpack.decode(body))[:TEXT_CHARS_MAX]
    return f"{' '.join(said)} {header.corr} {content}"
