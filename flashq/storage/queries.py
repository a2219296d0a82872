"""SQL as SQL: named queries and numbered migrations, read from the files beside the code.

A query begins at a line `-- name: word`. A migration is a file `NNN_name.sql`; its number is the
version of the schema that it makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

_NAME: Final = "-- name: "


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    sql: str


@cache
def named_queries(dialect: str) -> Mapping[str, str]:
    """Return the queries of a dialect by name.

    Args:
        dialect: sqlite or postgres.
    """
    queries: dict[str, str] = {}
    name = ""
    for line in _read(dialect, "queries.sql").splitlines():
        if line.startswith(_NAME):
            name = line.removeprefix(_NAME).strip()
            assert name not in queries, f"two queries are named {name}"
            queries[name] = ""
        elif name and line.strip():
            queries[name] += line + "\n"
    return {name: text.strip() for name, text in queries.items()}


def migrations(dialect: str) -> list[Migration]:
    """Return the migrations of a dialect in their order."""
    directory = files("flashq.storage") / "sql" / dialect
    found = []
    for file in directory.iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if number.isdigit():
            found.append(Migration(int(number), name, file.read_text()))
    found.sort()
    assert [step.version for step in found] == list(range(1, len(found) + 1)), "numbered from 1"
    return found


def _read(dialect: str, name: str) -> str:
    return (files("flashq.storage") / "sql" / dialect / name).read_text()
