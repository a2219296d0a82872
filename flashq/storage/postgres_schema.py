"""The schema of a database: whose it is, in which version, how it is made, and who may use it.

The schema may be there already, empty, made by somebody who may do that. Its owner and the
server's role may be two: the owner migrates (`flashq migrate --grant ROLE`), and the server's role,
which has no right to make or change a table, reads and writes rows.
"""

from __future__ import annotations

from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors as postgres_errors
from psycopg import sql

from flashq.errors import ConfigError
from flashq.storage.postgres_sessions import SCHEMA, sentence_of
from flashq.storage.queries import migrations
from flashq.storage.rows import Row

NEEDED: Final = {
    "meta": ("SELECT", "UPDATE"),
    "shards": ("SELECT", "INSERT", "UPDATE"),
    "log": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "pages": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "coordinator": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""What the server's role has to be allowed with each table."""

GRANT_ADVICE: Final = (
    "let the owner of the schema run `flashq migrate --grant ROLE` with the storage's URL as the "
    "owner has it"
)


def one(connection: psycopg.Connection[Row], query: LiteralString, **values: Any) -> Row:
    """Return the one row of a query."""
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row


def schema_version(connection: psycopg.Connection[Row]) -> int | None:
    """Return the version of the schema; None when there is none, or an empty one.

    Raises:
        ConfigError: it is another program's, of a newer version of this one, or may not be used.
    """
    [is_there, may_use, role] = one(
        connection,
        "SELECT oid IS NOT NULL, has_schema_privilege(oid, 'USAGE'), current_user "
        "FROM (SELECT to_regnamespace(%(schema)s)::oid AS oid) AS found",
        schema=SCHEMA,
    )
    if not is_there:
        return None
    if not may_use:
        raise ConfigError(f"PostgreSQL: role {role} may not use schema {SCHEMA}; {GRANT_ADVICE}")
    [is_ours, has_something] = one(
        connection,
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(%(schema)s || "
        "'.meta') AND attname = 'schema_version'), "
        "EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace(%(schema)s))",
        schema=SCHEMA,
    )
    if not is_ours and has_something:
        raise ConfigError(
            f"the database has a schema {SCHEMA} that another program made; use another database"
        )
    if not is_ours:
        return None
    try:
        [version] = one(connection, "SELECT schema_version FROM flashq.meta")
    except postgres_errors.InsufficientPrivilege as error:
        raise ConfigError(f"PostgreSQL: {sentence_of(error)}; {GRANT_ADVICE}") from error
    known = len(migrations("postgres"))
    if version > known:
        raise ConfigError(
            f"the database was written by a newer flashq: its schema is version {version}, "
            f"and this one knows {known}"
        )
    return int(version)


def migrate(connection: psycopg.Connection[Row], version: int | None) -> list[str]:
    """Bring the schema up to date, and return the names of the steps that were needed.

    Args:
        connection: as a role that may make tables, if any step is needed.
        version: of the schema; None when it has no tables.

    Raises:
        ConfigError: the role may not do that.
    """
    steps = migrations("postgres")[version or 0 :]
    if not steps:
        return []
    try:
        with connection.transaction():
            if version is None:
                _make_schema(connection)
            for step in steps:
                connection.execute(step.sql.encode())
            connection.execute("UPDATE flashq.meta SET schema_version = %s", [steps[-1].version])
    except postgres_errors.InsufficientPrivilege as error:
        [role] = one(connection, "SELECT current_user")
        raise ConfigError(
            f"PostgreSQL: role {role} may not make the tables ({sentence_of(error)}); "
            f"{GRANT_ADVICE}"
        ) from error
    return [step.name for step in steps]


def _make_schema(connection: psycopg.Connection[Row]) -> None:
    [is_there] = one(connection, "SELECT to_regnamespace(%(schema)s) IS NOT NULL", schema=SCHEMA)
    if not is_there:
        connection.execute("CREATE SCHEMA flashq")
    connection.execute(
        "CREATE TABLE flashq.meta (one integer PRIMARY KEY CHECK (one = 1), "
        "schema_version integer NOT NULL)"
    )
    connection.execute("INSERT INTO flashq.meta VALUES (1, 0)")


def check_rights(connection: psycopg.Connection[Row]) -> None:
    """See that the role may read and write all that a server has to.

    Raises:
        ConfigError: it may not; what it lacks is named.
    """
    [role] = one(connection, "SELECT current_user")
    lacks = []
    for table, rights in NEEDED.items():
        for right in rights:
            [is_allowed] = one(
                connection,
                "SELECT has_table_privilege(%(table)s, %(right)s)",
                table=f"{SCHEMA}.{table}",
                right=right,
            )
            if not is_allowed:
                lacks.append(f"{right} on {SCHEMA}.{table}")
    if lacks:
        raise ConfigError(f"PostgreSQL: role {role} lacks {', '.join(lacks)}; {GRANT_ADVICE}")


def grant(connection: psycopg.Connection[Row], role: str) -> None:
    """Let a role read and write all that a server has to.

    Args:
        connection: as the owner of schema and tables, which are there.
        role: its name.

    Raises:
        ConfigError: there is no such role, or it may not be given that.
    """
    name = sql.Identifier(role)
    try:
        with connection.transaction():
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA flashq TO {}").format(name))
            for table, rights in NEEDED.items():
                connection.execute(
                    sql.SQL("GRANT {} ON {} TO {}").format(
                        sql.SQL(", ").join(sql.SQL(right) for right in rights),
                        sql.Identifier(SCHEMA, table),
                        name,
                    )
                )
    except (postgres_errors.InsufficientPrivilege, postgres_errors.UndefinedObject) as error:
        raise ConfigError(f"PostgreSQL: {sentence_of(error)}") from error
