"""How values read: times and durations for people, JSON for programs, tables for both eyes.

Pure; knows no verb and no server.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw, structs

from flashq.protocol.base import Reply
from flashq.protocol.codec import encode_msgpack, transcode

if TYPE_CHECKING:
    from rich.table import Table

_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))
_BYTE_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_KIB: Final = 1024


def json_text(value: Any) -> str:
    """Return a value, or an object of the protocol, as one line of JSON.

    Payloads that JSON has no form for are given as bytes in base64 and times in RFC 3339. A reply
    is given without its `ok`, which the exit status says.
    """
    if isinstance(value, Reply):
        value = {name: field for name, field in structs.asdict(value).items() if name != "ok"}
    return transcode(encode_msgpack(value), to_json=True).decode()


def payload_text(payload: Any) -> str:
    """Return a payload or a result as JSON, raw or decoded."""
    if isinstance(payload, Raw):
        return transcode(bytes(payload), to_json=True).decode()
    return json_text(payload)


def shortened(text: str, columns_max: int) -> str:
    """Return a text that takes at most so many columns."""
    return text if len(text) <= columns_max else text[: columns_max - 1] + "…"


def duration(ms: float) -> str:
    """Return a duration in its two largest units, as in `2 h 5 min`."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.3g} s"
    left, words = int(ms), []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2])


def moment(unix_ms: int, now_ms: int) -> str:
    """Return a time relative to now and in full, or a dash for one that is not set."""
    if not unix_ms:
        return "–"
    return f"{distance(unix_ms, now_ms)} ({local_time(unix_ms):%Y-%m-%d %H:%M:%S})"


def local_time(unix_ms: int) -> datetime:
    """Return a time as the clocks around here show it."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone()


def distance(unix_ms: int, now_ms: int) -> str:
    """Return how far away a time is, as in `3 s ago` or `in 2 h`; a dash for one not set."""
    if not unix_ms:
        return "–"
    away = unix_ms - now_ms
    return f"in {duration(away)}" if away > 0 else f"{duration(-away)} ago"


def size(count: float) -> str:
    """Return a number of bytes in its unit."""
    for unit in _BYTE_UNITS[:-1]:
        if count < _KIB:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} {_BYTE_UNITS[-1]}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, as in `1 job` or `3 jobs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table_of(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Return an empty table.

    Args:
        columns: their headings.
        numbers: those of them that stand at the right.
    """
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        right = column in numbers
        table.add_column(
            column, justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    return table
