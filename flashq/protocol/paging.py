"""Lists that come in pages: how long one is, where the next begins, and how parts become one.

Owns the bounds of all lists that grow with what a server holds. A page is asked for with `limit`,
and with `after` behind the name with which the last one ended; its `next` is that name, and is
absent with the last page. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import Annotated, Any, Final, NamedTuple, TypeVar

from msgspec import Meta

T = TypeVar("T")

LISTED_DEFAULT: Final = 1000
"""How many entries a page has that does not say so."""
LISTED_MAX: Final = 10_000
"""Most that it can ask for."""
LISTED_BYTES_MAX: Final = 4 * 1024 * 1024
"""Where entries have payloads: a page ends behind the entry with which it has so many bytes."""

Limit = Annotated[int, Meta(ge=0, le=LISTED_MAX)]


class Listed(NamedTuple):
    """One page: its entries, and where the next begins; None for the last."""

    entries: list[Any]
    next: str | None


def page(
    entries: Iterable[T],
    name: Callable[[T], str],
    *,
    limit: int | None,
    after: str | None,
    is_cut: bool = False,
) -> Listed:
    """Return a page of entries by name.

    Args:
        entries: all of them, in any order.
        name: gives an entry's name; no two have the same.
        limit: how many; None for the default.
        after: the name behind which the page begins; None for the first.
        is_cut: whether the entries are themselves beginnings of lists that go on.
    """
    count = LISTED_DEFAULT if limit is None else limit
    wanted = entries if after is None else (entry for entry in entries if name(entry) > after)
    found = nsmallest(count + 1, wanted, key=name)
    is_last = len(found) <= count and not is_cut
    found = found[:count]
    if is_last:
        return Listed(found, None)
    return Listed(found, name(found[-1]) if found else after or "")


def fullest(
    entries: Iterable[T], name: Callable[[T], str], jobs: Callable[[T], int], *, limit: int | None
) -> list[T]:
    """Return the entries with most jobs, those with as many by name.

    Args:
        entries: all of them, in any order.
        name: gives an entry's name; no two have the same.
        jobs: counts an entry's jobs.
        limit: how many; None for the default.
    """
    count = LISTED_DEFAULT if limit is None else limit
    return nsmallest(count, entries, key=lambda entry: (-jobs(entry), name(entry)))


def bounded(listed: Listed, name: Callable[[Any], str], sizes: Sequence[int]) -> Listed:
    """Cut a page behind the entry with which it is too large; the first entry always stays.

    Args:
        listed: the page.
        name: gives an entry's name.
        sizes: of its entries, bytes.
    """
    total = 0
    for place, size in enumerate(sizes, 1):
        total += size
        if total >= LISTED_BYTES_MAX and place < len(sizes):
            found = listed.entries[:place]
            return Listed(found, name(found[-1]))
    return listed
