"""Patterns of queue names, as of file names: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`.

Owns their reading, their bounds and their matching. All patterns of a set are matched at once, by
one pass over the name that keeps every place where a pattern can stand as a bit of one number
(Shift-And of Baeza-Yates and Gonnet, with `*` as a place that one can stay at). The time is
proportional to the length of the name, whatever the patterns are: nothing is tried twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta

from flashq.errors import FieldTooLarge

PATTERN_CHARS_MAX: Final = 256
PATTERNS_MAX: Final = 100
PATTERNS_CHARS_MAX: Final = 4096
"""The longest set of patterns, all together."""
NAME_CHARS_MAX: Final = 4096
"""A longer name is that of no queue, whatever the settings say, and fits nothing."""
_SETS_KEPT: Final = 256
_CODE_POINTS: Final = 0x110000

Pattern = Annotated[str, Meta(min_length=1, max_length=PATTERN_CHARS_MAX)]

_Ranges = list[tuple[int, int]]
"""First and last code point of each range of characters."""


def _class_at(pattern: str, start: int) -> tuple[_Ranges, bool, int] | None:
    """Read the class whose bracket stands before `start`.

    Returns:
        Its ranges, whether they are those that do not fit, and where it ends; None when nothing
        closes it: then the bracket stands for itself.
    """
    at = start
    negated = pattern[at : at + 1] == "!"
    at += negated
    end = pattern.find("]", at + 1)  # one at the very beginning belongs to the class
    if end < 0:
        return None
    ranges: _Ranges = []
    while at < end:
        first = last = ord(pattern[at])
        if at + 2 < end and pattern[at + 1] == "-":
            last = ord(pattern[at + 2])
            at += 2
        at += 1
        if first <= last:
            ranges.append((first, last))
    return ranges, negated, end + 1


def _steps_of(pattern: str) -> Iterator[_Ranges | None]:
    """Yield what each place of a pattern takes: characters, or None for a `*`."""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            yield None
            continue
        if char == "?":
            yield [(0, _CODE_POINTS - 1)]
            continue
        found = _class_at(pattern, at) if char == "[" else None
        if found is None:
            yield [(ord(char), ord(char))]
            continue
        ranges, negated, at = found
        yield _others(ranges) if negated else ranges


def _others(ranges: _Ranges) -> _Ranges:
    """Return the characters that are in none of the ranges."""
    others: _Ranges = []
    free = 0
    for first, last in sorted(ranges):
        if first > free:
            others.append((free, first - 1))
        free = max(free, last + 1)
    if free < _CODE_POINTS:
        others.append((free, _CODE_POINTS - 1))
    return others


class PatternSet:
    """Patterns that have been read.

    Args:
        patterns: each at least one character.

    Raises:
        FieldTooLarge: they are too many, or too long.
    """

    __slots__ = ("_bounds", "_ends", "_masks", "_start", "_stays")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        size = sum(map(len, patterns))
        if len(patterns) > PATTERNS_MAX or size > PATTERNS_CHARS_MAX:
            told = f"{len(patterns)} patterns of {size} characters"
            limit = f"{PATTERNS_MAX} patterns, {PATTERNS_CHARS_MAX} characters"
            raise FieldTooLarge(field="within", size=told, limit=limit)
        place, start, stays, ends = 0, 0, 0, 0
        toggles: dict[int, int] = {0: 0}
        for pattern in patterns:
            # The bit of a place is set where all before it has been matched.
            start |= 1 << place
            for ranges in _steps_of(pattern):
                if ranges is None:
                    stays |= 1 << place
                    continue  # further characters may come here, and the next step too
                for first, last in _merged(ranges):
                    toggles[first] = toggles.get(first, 0) ^ (1 << place)
                    toggles[last + 1] = toggles.get(last + 1, 0) ^ (1 << place)
                place += 1
            ends |= 1 << place
            place += 1
        self._start: Final = start
        #: places with a `*`, which any character leaves as they are
        self._stays: Final = stays
        #: places at which a pattern is done
        self._ends: Final = ends
        #: which places a character leads on from, by ranges of characters
        self._bounds: Final = sorted(toggles)
        self._masks: Final[list[int]] = []
        mask = 0
        for bound in self._bounds:
            mask ^= toggles[bound]
            self._masks.append(mask)

    def fits(self, name: str) -> bool:
        """Tell whether a name fits one of the patterns, from its first character to its last."""
        if len(name) > NAME_CHARS_MAX:
            return False
        places, stays = self._start, self._stays
        bounds, masks = self._bounds, self._masks
        for char in name:
            mask = masks[bisect_right(bounds, ord(char)) - 1]
            places = ((places & mask) << 1) | (places & stays)
            if not places:
                return False
        return bool(places & self._ends)


def _merged(ranges: _Ranges) -> _Ranges:
    """Return the same characters in ranges of which no two have one in common."""
    merged: _Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


@lru_cache(_SETS_KEPT)
def _read(patterns: tuple[str, ...]) -> PatternSet:
    return PatternSet(patterns)


def pattern_set(patterns: Iterable[str]) -> PatternSet:
    """Return the set of patterns, read once for all who name the same.

    Raises:
        FieldTooLarge: they are too many, or too long.
    """
    return _read(tuple(patterns))
