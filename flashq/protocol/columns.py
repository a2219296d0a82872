"""Columns of a batch: what is the same for all of its jobs is said once.

Owns both ways between the values, one for each job, and the column that stands for them.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def column_of(values: list[T]) -> list[T]:
    """Return the column of at least one value: all of them, or one where all are the same."""
    return values[:1] if values.count(values[0]) == len(values) else values


def values_of(column: list[T], count: int) -> list[T]:
    """Return the values that a column stands for.

    Args:
        column: of one value, or of `count`.
        count: how many jobs there are.
    """
    return column * count if len(column) == 1 else column
