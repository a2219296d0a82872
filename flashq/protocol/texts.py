"""Texts for people that are longer than is kept of them: their middle is left out, and they say so.

Used for log entries, errors and messages of progress, whose beginning says what it is about, and
whose end what came of it.
"""

from __future__ import annotations

from typing import Final

TEXT_CHARS_MAX: Final = 10_000
"""So much is kept of a log entry, an error, or a message of progress."""


def shortened(text: str, chars_max: int = TEXT_CHARS_MAX) -> tuple[str, int]:
    """Return a text of at most `chars_max` characters, and how many were left out.

    Args:
        text: the whole text.
        chars_max: room enough for the sentence in the place of what is missing (100 is).
    """
    if len(text) <= chars_max:
        return text, 0
    room = chars_max - len(_said(len(text)))
    head = room // 2
    tail = room - head
    left_out = len(text) - room
    return f"{text[:head]}{_said(left_out)}{text[-tail:]}", left_out


def _said(left_out: int) -> str:
    return f"\n... {left_out} characters left out ...\n"
