"""Both dialects have the same queries, and migrations are numbered."""

from __future__ import annotations

from flashq.storage.queries import migrations, named_queries

ONLY_POSTGRES = {"confirm", "copy_log", "place", "probe"}


def test_both_dialects_know_the_same_queries() -> None:
    """The code above them names each query once."""
    sqlite, postgres = named_queries("sqlite"), named_queries("postgres")
    assert set(postgres) - ONLY_POSTGRES == set(sqlite)
    assert all(sqlite.values())
    assert all(postgres.values())


def test_migrations_are_numbered_without_a_hole() -> None:
    """The number of the last one is the version of the schema."""
    for dialect in ("sqlite", "postgres"):
        steps = migrations(dialect)
        assert [step.version for step in steps] == list(range(1, len(steps) + 1))
        assert all(step.name and step.sql for step in steps)
