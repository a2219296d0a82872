"""Sessions of PostgreSQL: how a connection is made, what each session sets, and what errors mean.

A role, a database or a balancer can give every session other settings than those that are usual: a
time-out that ends a long commit, another encoding, quotes that mean something else. So each session
sets what it relies on, and reads it back; nothing is taken as it comes. Within a transaction alone
(`local`) that leaves nothing behind in a session that a balancer gives to others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import errors as postgres_errors
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import PoolClosed, PoolTimeout

from flashq.errors import ConfigError, StorageDamaged, StorageRefused, StorageUnavailable
from flashq.storage.pooling import check_words
from flashq.storage.rows import Row

SCHEMA: Final = "flashq"

CONNECT_TIMEOUT_S: Final = 5
SILENCE_MS: Final = 10_000
"""A server that does not acknowledge what was sent is given up after so long."""
IDLE_S: Final = 5

CONNECTED: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": IDLE_S,
    "keepalives_interval": IDLE_S,
    "tcp_user_timeout": SILENCE_MS,
    # Of a database in SQL_ASCII too: there it means that nothing is converted.
    "client_encoding": "UTF8",
}
"""How every connection is."""

SETTINGS: Final = {
    "client_encoding": "UTF8",
    # A table of somebody's that is temporary is not taken for ours.
    "search_path": f"{SCHEMA}, pg_temp",
    # A commit may take as long as it takes: how long is bounded by its size.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # Rows that a policy hides are an error then, and not just missing.
    "row_security": "off",
    # A commit that is not safe comes with a warning.
    "client_min_messages": "warning",
    # Indexes that fit are better than what the planner guesses from an empty table.
    "enable_seqscan": "off",
}
"""What a session relies on. A server that is older than a setting does without it."""

SAFE_SYNCHRONOUS: Final = ("on", "remote_apply")
"""What makes a commit durable; a session that has something else gets `on`."""

_PASSING_ADVICE: Final = "; this does not pass by itself"
_PERMANENT_CLASSES: Final = ("0A", "28", "3D", "3F", "42")
"""SQLSTATEs of what a repeat does not cure: no feature, role, database, schema, right or table."""
_REFUSED_CLASSES: Final = ("22", "23", "44", "54", "P0")
"""And of what a statement has in it: data, constraints, checks, limits, what a trigger raises."""


def check_url(url: str) -> None:
    """Refuse a URL that PostgreSQL's library does not take apart as it was meant.

    The library's own words would show it, with the password.

    Raises:
        ConfigError: it is none.
    """
    try:
        host = conninfo_to_dict(url).get("host") or ""
    except psycopg.ProgrammingError:
        host = "@"
    if "@" in str(host):
        raise ConfigError(
            "the storage's URL cannot be read: in user and password, characters such as @ : / % [ "
            "have to be percent-encoded, and parameters need the names that PostgreSQL knows"
        )


def connect(url: str, *, program: str, writes: bool = False) -> psycopg.Connection[Row]:
    """Open a connection whose statements are transactions by themselves.

    Args:
        url: a connection URI of libpq.
        program: what it is said to be.
        writes: of several hosts only one that takes writes will do, unless the URL says otherwise.

    Raises:
        ConfigError: the URL is none.
        psycopg.Error: it cannot be reached, or does not let us in.
    """
    check_url(url)
    more = dict(CONNECTED)
    if writes and "target_session_attrs" not in conninfo_to_dict(url):
        more["target_session_attrs"] = "read-write"
    return psycopg.connect(url, autocommit=True, application_name=program, **more)


_SETTLE: Final = """
SELECT name, set_config(name, value, %(local)s) FROM (
    SELECT * FROM unnest(%(names)s::text[], %(values)s::text[])
    UNION ALL SELECT 'synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END
) AS wanted (name, value)
WHERE EXISTS (SELECT FROM pg_settings WHERE pg_settings.name = wanted.name)
"""
_READ_BACK: Final = "SELECT name, setting FROM pg_settings WHERE name = ANY (%(names)s)"


def settle(connection: psycopg.Connection[Row], *, local: bool = False) -> None:
    """Set what the session relies on, and see that it is so.

    Args:
        connection: in a transaction if it is local.
        local: only for the transaction.

    Raises:
        ConfigError: something is not as it was set.
        psycopg.Error: it cannot be set.
    """
    names, values = list(SETTINGS), list(SETTINGS.values())
    connection.execute(
        _SETTLE.encode(), {"names": names, "values": values, "local": local}
    ).fetchall()
    found: dict[str, str] = dict(
        connection.execute(
            _READ_BACK.encode(), {"names": [*names, "synchronous_commit"]}
        ).fetchall()
    )
    for name, value in SETTINGS.items():
        if name in found and found[name] != value:
            raise ConfigError(
                f"PostgreSQL gives this session {name} {found[name]}, which must be {value}; if "
                "the storage's URL leads to a balancer, let it pass on what a session sets"
            )
    if found["synchronous_commit"] not in SAFE_SYNCHRONOUS:
        raise ConfigError(
            "PostgreSQL cannot be written safely: synchronous_commit is "
            f"{found['synchronous_commit']}"
        )


@contextmanager
def translated() -> Iterator[None]:
    """Turn PostgreSQL's errors into the port's."""
    try:
        yield
    except (PoolClosed, PoolTimeout):
        raise  # only who owns the pool knows what they mean
    except UnicodeError as error:
        raise StorageRefused(detail=f"PostgreSQL: {error}") from error
    except (postgres_errors.DataCorrupted, postgres_errors.IndexCorrupted) as error:
        raise StorageDamaged(detail=f"PostgreSQL: {sentence_of(error)}") from error
    except psycopg.Error as error:
        check_words(sentence_of(error))
        kind = (error.sqlstate or "")[:2]
        text = f"PostgreSQL: {sentence_of(error)}"
        if kind in _REFUSED_CLASSES or isinstance(error, psycopg.DataError):
            raise StorageRefused(detail=text) from error
        if kind in _PERMANENT_CLASSES:
            text += _PASSING_ADVICE
        raise StorageUnavailable(detail=text) from error


def sentence_of(error: psycopg.Error) -> str:
    """Return an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
