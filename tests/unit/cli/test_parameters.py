"""How JSON values and durations are written on the command line."""

from __future__ import annotations

import click
import pytest

from flashq.cli.parameters import DURATION, JSON


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0", 0), ("250", 250), ("250ms", 250), ("1.5s", 1500), ("10m", 600_000), ("2h", 7_200_000),
     ("7d", 604_800_000)],
)  # fmt: skip
def test_a_duration(text: str, ms: int) -> None:
    """A bare number is milliseconds, as on the wire."""
    assert DURATION.convert(text, None, None) == ms


@pytest.mark.parametrize("text", ["", "-1", "1 s", "s", "1y", "one", "1e3"])
def test_no_duration(text: str) -> None:
    """What could be read in two ways is not read at all."""
    with pytest.raises(click.BadParameter, match="is not a duration"):
        DURATION.convert(text, None, None)


def test_json_values() -> None:
    """Any JSON value is a payload."""
    assert JSON.convert('{"a": [1, null, "x"]}', None, None) == {"a": [1, None, "x"]}


@pytest.mark.parametrize("text", ["hello", "{", "", "NaN", "\udcff"])
def test_no_json(text: str) -> None:
    """A bare word is refused, with the way to write it, and not taken for a text."""
    with pytest.raises(click.BadParameter, match="quotes"):
        JSON.convert(text, None, None)
