"""Patterns of queue names: what they fit, and what they cost."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from random import Random

import pytest

from flashq.errors import FieldTooLarge
from flashq.protocol.patterns import (
    NAME_CHARS_MAX,
    PATTERN_CHARS_MAX,
    PATTERNS_CHARS_MAX,
    PATTERNS_MAX,
    PatternSet,
    pattern_set,
)

COST_MS_MAX = 50


@pytest.mark.parametrize("seed", range(20))
def test_they_mean_what_those_of_file_names_mean(seed: int) -> None:
    """As the standard library reads them."""
    random = Random(seed)
    for _ in range(1000):
        patterns = tuple(
            "".join(random.choices("ab-]![*?.z", k=random.randint(1, 7)))
            for _ in range(random.randint(1, 3))
        )
        name = "".join(random.choices("ab-]![.z", k=random.randint(0, 6)))
        wanted = any(fnmatchcase(name, pattern) for pattern in patterns)
        assert PatternSet(patterns).fits(name) == wanted, (patterns, name)


def test_none_fit_nothing() -> None:
    """Not even a name without characters."""
    assert not PatternSet(()).fits("")
    assert not PatternSet(()).fits("a")


def test_a_set_is_read_once() -> None:
    """A token asks with the same patterns again and again."""
    assert pattern_set(["a*", "b"]) is pattern_set(("a*", "b"))


@pytest.mark.parametrize("patterns", [["a"] * (PATTERNS_MAX + 1), ["a" * PATTERNS_CHARS_MAX, "b"]])
def test_too_many_are_refused(patterns: list[str]) -> None:
    """Their number and their length are bounded."""
    with pytest.raises(FieldTooLarge, match="within"):
        PatternSet(tuple(patterns))


@pytest.mark.parametrize(
    "piece", ["*a", "?", "[!b]", "*[a-z]*", "[a-cx-z0-9]", "*a*a*b", "*?", "[!a-y]*"]
)
def test_the_worst_of_each_costs_little(piece: str) -> None:
    """Nothing is tried twice, so that no pattern makes a name dear to look at."""
    pattern = piece * (PATTERN_CHARS_MAX // len(piece))
    patterns = (pattern,) * (PATTERNS_CHARS_MAX // len(pattern))
    name = "".join(chr(ord("a") + n % 2) if n % 3 else chr(0x400 + n) for n in range(256))
    names = [name[n:] + name[:n] for n in range(NAME_CHARS_MAX // 256)]
    began = time.process_time()
    found = PatternSet(patterns)
    for each in names:
        found.fits(each)
    assert (time.process_time() - began) * 1000 < COST_MS_MAX
