"""Pages of lists: bounded, one behind the other, and nothing twice or left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq.protocol.paging import (
    LISTED_BYTES_MAX,
    LISTED_DEFAULT,
    Listed,
    bounded,
    fullest,
    page,
)


def itself(name: str) -> str:
    """Return a name's name."""
    return name


@given(st.sets(st.text(min_size=1, max_size=3)), st.integers(1, 4), st.integers(1, 5))
def test_pages_of_parts_give_everything_once_and_in_order(
    names: set[str], parts_count: int, limit: int
) -> None:
    """As a router puts them together of shards' pages, each of which may go on."""
    parts = [{name for name in names if hash(name) % parts_count == n} for n in range(parts_count)]
    found: list[str] = []
    after = None
    for _ in range(len(names) + 1):
        pages = [page(part, itself, limit=limit, after=after) for part in parts]
        together = [name for one in pages for name in one.entries]
        is_cut = any(one.next is not None for one in pages)
        listed = page(together, itself, limit=limit, after=after, is_cut=is_cut)
        assert len(listed.entries) <= limit
        found += listed.entries
        after = listed.next
        if after is None:
            break
    assert found == sorted(names)


def test_a_page_is_bounded_also_when_it_does_not_say_so() -> None:
    """A list of a hundred thousand queues was sent whole, every second."""
    names = [f"{n:06}" for n in range(5 * LISTED_DEFAULT)]
    listed = page(names, itself, limit=None, after=None)
    assert listed == Listed(names[:LISTED_DEFAULT], names[LISTED_DEFAULT - 1])
    assert len(fullest(names, itself, len, limit=None)) == LISTED_DEFAULT


def test_a_page_of_nothing_goes_on_where_it_was() -> None:
    """Who asks for none is not told that there are none."""
    assert page(["a"], itself, limit=0, after=None) == Listed([], "")
    assert page(["a"], itself, limit=0, after="") == Listed([], "")
    assert page(["a"], itself, limit=0, after="a") == Listed([], None)


def test_the_fullest_come_first_and_as_full_ones_by_name() -> None:
    """So that two dashboards show the same."""
    jobs = {"a": 1, "b": 9, "c": 9, "d": 0}
    assert fullest(jobs, itself, jobs.__getitem__, limit=3) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([1, 1, 1], 3),
        ([LISTED_BYTES_MAX, 1, 1], 1),
        ([LISTED_BYTES_MAX - 1, 1, 1], 2),
        ([1, 1, LISTED_BYTES_MAX], 3),
        ([2 * LISTED_BYTES_MAX], 1),
    ],
)
def test_entries_with_payloads_are_bounded_in_bytes(sizes: list[int], kept: int) -> None:
    """One alone is given whatever it has."""
    names = ["a", "b", "c"][: len(sizes)]
    listed = bounded(Listed(names, None), itself, sizes)
    assert listed.entries == names[:kept]
    assert listed.next == (None if kept == len(sizes) else names[kept - 1])
