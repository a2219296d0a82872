"""What verbs take from the command line: JSON values and durations.

Owns how both are written; knows no verb.
"""

from __future__ import annotations

import re
from typing import Any, Final

import click
import msgspec

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNIT_MS: Final = {None: 1, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class JsonParameter(click.ParamType[Any, Any]):
    """A JSON value."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that a text says."""
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError) as error:
            self.fail(
                f"{value!r} is not JSON ({error}); a text is written with its quotes: '\"text\"'",
                param,
                ctx,
            )


class DurationParameter(click.ParamType[int, Any]):
    """A duration: milliseconds, or a number with ms, s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return milliseconds."""
        if isinstance(value, int):
            return value
        found = _DURATION.fullmatch(value)
        if found is None:
            self.fail(
                f"{value!r} is not a duration: write milliseconds, or as in 1.5s, 10m, 2h, 7d",
                param,
                ctx,
            )
        return round(float(found[1]) * _UNIT_MS[found[2]])


JSON: Final = JsonParameter()
DURATION: Final = DurationParameter()
JOB_ID: Final = click.IntRange(min=1, max=2**53 - 1)
