"""Whether a session of PostgreSQL stays with its connection, which is what the writer's lock needs.

Behind a balancer that pools by transaction a server connection, and every lock that its session
holds, goes to somebody else after each transaction. What the balancer is cannot be asked, only how
it behaves be seen: a second connection, to the same place, and the writer's hold transactions at
the same time, which takes two server connections, and end them in either order. Whichever of the
two a pool gives out next, the one that came back last or the one that came back first, once in two
rounds the writer's connection is given the other's: without the advisory lock that its session
took before. A pool that has only one lets the second connection wait, and gives it the writer's as
soon as that has ended its transaction.

A session that is the connection's own never changes, and is there at once, however long others
have to wait. So a direct connection is never refused, nor is a balancer that pools by session, nor
one that leaves a session alone once it holds a lock. Nothing is written, nor locked but a key that
nobody else knows, so that it works on a copy too.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import Final, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from flashq.errors import ConfigError, StorageUnavailable
from flashq.storage.rows import Row

ROUNDS: Final = 6
"""Two find a pool that gives out what came back last, or first; of those that choose at random six
leave one in 64. Others who use the pool meanwhile can spoil a round, not all of them."""
OTHERS_MAX: Final = 8
"""So many other connections are compared with one that leads to a balancer, one after the other:
it may be several, with a pool each, behind one address."""
RELEASES: Final = 100
"""So often is the session looked for that has the lock when a balancer is refused."""
WAIT_MS: Final = 2000
"""A second connection that has no answer after so long waits for a server connection."""
ANSWER_MS: Final = 10_000
"""The writer's connection, which does not have to wait for one, has an answer until then."""

ADVICE: Final = (
    "let it pool by session (PgBouncer: pool_mode=session), or connect to PostgreSQL directly"
)
_BY_TRANSACTION: Final = (
    "the storage's URL leads to a balancer that pools by transaction, so that somebody else would "
    f"be given the lock that keeps other coordinators from writing; {ADVICE}"
)
_BY_STATEMENT: Final = (
    "the storage's URL leads to a balancer that pools by statement, and takes no transaction of "
    f"several; {ADVICE}"
)
_STATEMENT_WORDS: Final = "statement pooling"
"""What PgBouncer's own words for that have in them."""

UNHURRIED: Final = (
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; "
    "SET LOCAL idle_in_transaction_session_timeout = 0;"
)
"""Time-outs that the role or the database has count for nothing; this leaves nothing in a pool."""

_READY: Final = (TransactionStatus.IDLE, TransactionStatus.INTRANS)
_GOOD: Final = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
Place: TypeAlias = psycopg.ConnectionInfo


def at_place(url: str, place: Place) -> str:
    """Return a URL that leads where a connection is connected to, if there are several hosts."""
    return make_conninfo(url, host=place.host, hostaddr=place.hostaddr, port=place.port)


class _Session:
    """What one connection is given, a transaction at a time; all waits are bounded.

    Args:
        pgconn: of a connection that does nothing else meanwhile.
        key: of the advisory lock that the writer's session holds.
    """

    def __init__(self, pgconn: PGconn, key: int) -> None:
        self._pgconn: Final = pgconn
        held = (
            "FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
            f"AND pid = pg_backend_pid() AND (classid::bigint << 32 | objid::bigint) = {key}"
        )
        self._begin: Final = f"BEGIN; {UNHURRIED} SELECT count(*) {held}".encode()
        self._release: Final = f"SELECT pg_advisory_unlock({key}) {held}".encode()
        #: results of what was sent last, until all of them are there
        self._come: list[PGresult] = []
        self._poll: Final = select.poll()
        self._poll.register(pgconn.socket, select.POLLIN)

    def ask_to_begin(self) -> None:
        """Send what begins a transaction."""
        self._pgconn.send_query(self._begin)

    def holds(self, within_ms: int) -> bool | None:
        """Return whether the session that the transaction was begun in holds the lock; None when
        it has not begun yet.

        Raises:
            ConfigError: such a transaction is refused.
            psycopg.OperationalError: it failed otherwise.
        """
        results = self._results(within_ms)
        return None if results is None else results[-1].get_value(0, 0) != b"0"

    def begin(self) -> bool:
        """Begin a transaction, and return whether its session holds the lock.

        Raises:
            ConfigError, psycopg.OperationalError: as `holds` does.
            StorageUnavailable: it has to be waited for.
        """
        self.ask_to_begin()
        holds = self.holds(ANSWER_MS)
        if holds is None:
            raise StorageUnavailable(
                detail=f"PostgreSQL: a transaction has not begun within {ANSWER_MS // 1000} s; "
                f"if the storage's URL leads to a balancer, {ADVICE}"
            )
        return holds

    def end(self) -> None:
        """End the transaction."""
        self._pgconn.send_query(b"COMMIT")
        if self._results(ANSWER_MS) is None:
            raise psycopg.OperationalError("a transaction has not ended")

    def release(self) -> bool:
        """Let go of the lock if the session that is given now holds it, and return whether so."""
        if self._pgconn.transaction_status not in _READY:
            return False
        self._pgconn.send_query(self._release)
        results = self._results(WAIT_MS)
        return results is not None and results[-1].ntuples == 1

    def _results(self, within_ms: int) -> list[PGresult] | None:
        """Return the results of what was sent; None when they are not all there yet."""
        ends = time.monotonic() + within_ms / 1000
        while True:
            while self._pgconn.is_busy():
                left_ms = (ends - time.monotonic()) * 1000
                if left_ms <= 0:
                    return None
                self._poll.poll(left_ms)
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
            if result is None:
                results, self._come = self._come, []
                return results
            if result.status not in _GOOD:
                self._refuse(result)
            self._come.append(result)

    @staticmethod
    def _refuse(result: PGresult) -> None:
        reason = " ".join(result.get_error_message().split())
        check_words(reason)
        raise psycopg.OperationalError(reason)


def check_words(reason: str) -> None:
    """See that what failed did not fail because a balancer pools by statement.

    Raises:
        ConfigError: it did; the words are quoted.
    """
    if _STATEMENT_WORDS in reason:
        raise ConfigError(f"{_BY_STATEMENT} (it says: {reason})")


def check_session(
    writer: psycopg.Connection[Row], other: psycopg.Connection[Row], key: int
) -> bool:
    """See that a session stays with its connection; see the module. If not it keeps nothing.

    Args:
        writer: its session holds the lock; it is not in a transaction, before and after.
        other: another connection to the same place; it is of no use afterwards.
        key: of the advisory lock.

    Returns:
        Whether the other one is known to be of the same pool: it waits for the writer's session.

    Raises:
        ConfigError: a balancer gives it to others between two transactions.
        StorageUnavailable: the writer's connection has to be waited for.
        psycopg.OperationalError: a connection was lost, or was refused one to the server. The
            writer's may then be in a transaction.
    """
    sessions = _Session(writer.pgconn, key), _Session(other.pgconn, key)
    try:
        return _compare(*sessions)
    except (ConfigError, StorageUnavailable):
        release(key, other, writer)
        raise


def release(key: int, *connections: psycopg.Connection[Row]) -> None:
    """Let go of the lock, whose session may be anywhere in the pool.

    In a busy one it may stay behind until the balancer closes that connection; nobody waits for it.
    """
    sessions = []
    for connection in connections:
        with suppress(psycopg.OperationalError):  # it is lost
            sessions.append(_Session(connection.pgconn, key))
    for _ in range(RELEASES):
        for session in sessions:
            with suppress(ConfigError, psycopg.OperationalError):
                if session.release():
                    return


def _compare(writer: _Session, other: _Session) -> bool:
    """See that the writer's connection, and no other one, always has its session; return whether
    the other one waits for it."""
    waits = False
    for number in range(ROUNDS):
        _expect(writer.begin())
        ending = [writer, other] if number % 2 else [other, writer]
        other.ask_to_begin()
        found = other.holds(WAIT_MS)
        if found is None:
            writer.end()
            ending = [other]
            found = other.holds(WAIT_MS)
            if found is None:
                waits = True  # still, though a pool would serve it before the writer's
                break
        _expect(not found)
        for session in ending:
            session.end()
    _expect(writer.begin())
    writer.end()
    return waits


def _expect(is_kept: bool) -> None:
    if not is_kept:
        raise ConfigError(_BY_TRANSACTION)
