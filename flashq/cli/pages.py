"""Lists that the server gives in pages, read to their end: a verb that lists shows all there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flashq.client.results import Page

T = TypeVar("T")


def all_pages(ask: Callable[[str | None], Page[T]]) -> Page[T]:
    """Return all entries of a list, as one page.

    Args:
        ask: gives the page behind a name; called with None for the first.
    """
    found = ask(None)
    after, missing = found.next, set(found.missing_shards)
    while after is not None:
        more = ask(after)
        found.extend(more)
        missing.update(more.missing_shards)
        after = more.next
    return Page(found, total=found.total, missing_shards=sorted(missing))
