"""What is kept of an exception: what it says, what caused it, and where, within a bound.

Owns the text that a failed attempt carries. The reader of a dead letter needs the head of a long
message and its tail, each cause of a chain, and the innermost calls of each traceback; a long part
is cut in its middle, so that none pushes the others out.
"""

from __future__ import annotations

import traceback
from typing import Final

ERROR_CHARS_MAX: Final = 4000
MESSAGE_CHARS_MAX: Final = 1000
"""What the last exception's own message may take of that."""
CAUSE_CHARS_MAX: Final = 300
"""What the message of each of its causes may take."""
CAUSES_MAX: Final = 5
"""Causes shown; those nearest to the exception."""
FRAMES_MAX: Final = 30
"""Innermost calls shown of a traceback."""


def error_text(error: BaseException) -> str:
    """Return what the server keeps about an exception: what it says, then where, then its causes.

    It never raises, whatever the exception is made of. Half a surrogate pair, as in names of files
    that are not UTF-8, is shown as its number: nothing could carry it.
    """
    try:
        return _text(error).encode("utf-8", "backslashreplace").decode()[:ERROR_CHARS_MAX]
    except Exception:  # noqa: BLE001 - an exception's own code may do anything when it is shown
        return f"{type(error).__name__} (it cannot be shown)"


def _text(error: BaseException) -> str:
    heads = [shortened(_head(error), MESSAGE_CHARS_MAX)]
    traces = [_trace(error)]
    for word, cause in _causes(error):
        heads.append(shortened(f"{word} {_head(cause)}", CAUSE_CHARS_MAX))
        traces.append(_trace(cause))
    room = ERROR_CHARS_MAX - sum(len(head) + 2 for head in heads)
    parts: list[str] = []
    for position, (head, trace) in enumerate(zip(heads, traces, strict=True)):
        share = room // (len(heads) - position)  # what one leaves over is for those after it
        shown = shortened(trace, share)
        room -= len(shown)
        parts += [head, shown] if shown else [head]
    return "\n".join(parts)


def _head(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_tb(error.__traceback__, -FRAMES_MAX)).rstrip()


def _causes(error: BaseException) -> list[tuple[str, BaseException]]:
    """Return what led to an exception, nearest first, each with a word for how."""
    found: list[tuple[str, BaseException]] = []
    seen = {id(error)}
    waiting = _next_causes(error)
    while waiting and len(found) < CAUSES_MAX:
        word, cause = waiting.pop(0)
        if id(cause) not in seen:
            seen.add(id(cause))
            found.append((word, cause))
            waiting += _next_causes(cause)
    return found


def _next_causes(error: BaseException) -> list[tuple[str, BaseException]]:
    if error.__cause__ is not None:
        causes = [("caused by", error.__cause__)]
    elif error.__context__ is not None and not error.__suppress_context__:
        causes = [("raised while handling", error.__context__)]
    else:
        causes = []
    if isinstance(error, BaseExceptionGroup):
        causes += [("one of the group:", each) for each in error.exceptions]
    return causes


def shortened(text: str, chars_max: int) -> str:
    """Return a text of at most so many characters: head and tail, and how much is missing."""
    if len(text) <= chars_max:
        return text
    mark = f"\n... {len(text) - chars_max:,} characters and more left out ...\n"
    room = chars_max - len(mark)
    if room <= 0:
        return text[: max(0, chars_max)]
    head = room // 3 if room > 3 else room
    return f"{text[:head]}{mark}{text[len(text) - (room - head) :]}"
