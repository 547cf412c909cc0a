"""A database and its transactions; what PostgreSQL raises becomes "wait" or "stop" here and nowhere else."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg
from sqlalchemy import exc as sa_exc

from kylo_outbox.model.errors import Transient, Unreachable
from kylo_outbox.store.dsn import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

# What every connection of ours says of itself: it notices a dead peer in seconds, never trades durability for speed,
# and a process stopped inside a transaction (SIGSTOP, swap) holds its row locks no longer than its group session.
SESSION_TIMEOUT: Final = 6.0
"""Seconds that a transaction of ours may be idle; also the session time of our consumer groups."""
_OPTIONS = "-c synchronous_commit=on -c idle_in_transaction_session_timeout=6000 -c timezone=UTC"
_LIVENESS: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10000,
}

_AGAIN = (
    pg.SerializationFailure,
    pg.DeadlockDetected,
    pg.LockNotAvailable,
    pg.QueryCanceled,
    pg.InsufficientResources,
    pg.ReadOnlySqlTransaction,
)


# How long a connection that worked is taken to work; seconds.
_BELIEVED: Final = 0.5
_RESTS: Final = "kylo_rests_since"


class Database:
    """One PostgreSQL database: a small pool, transactions, and its name for people.

    Safe to share between threads. Connecting happens at the first use, not in the constructor.
    """

    def __init__(self, dsn: str, *, name: str, pool_size: int = 5) -> None:
        self.dsn = dsn
        self.name = name
        self._engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(dsn, name),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=5,
            hide_parameters=True,
        )
        sa.event.listen(self._engine, "checkin", _rests)
        sa.event.listen(self._engine, "checkout", _still_there)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            Transient: PostgreSQL is away, or asks to try again (deadlock, serialization, lock timeout).
        """
        with as_ours(self.name):
            try:
                with self._engine.begin() as connection:
                    yield connection
            except psycopg.OperationalError:
                # The pool's other connections are as old as this one: let them be made anew.
                self._engine.dispose()
                raise

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """The same as `begin`, handing out the psycopg connection for the hot paths."""
        with self.begin() as connection:
            yield psycopg_of(connection)

    def close(self) -> None:
        """Close the pooled connections; the next use opens new ones."""
        self._engine.dispose()

    def __repr__(self) -> str:
        return f"Database({self.name}: {shown(self.dsn)})"


def _rests(_connection: Any, record: Any) -> None:
    record.info[_RESTS] = time.monotonic()


def _still_there(connection: Any, record: Any, _proxy: Any) -> None:
    """Ask a connection that has rested whether the server is still there; the pool opens another one if not.

    Asked each time it would be a round trip of every transaction. One that breaks between two transactions in quick
    succession costs what one costs that breaks within: `Transient`.
    """
    if time.monotonic() - record.info.get(_RESTS, time.monotonic()) < _BELIEVED:
        return
    try:
        connection.execute("select 1")
        connection.rollback()
    except psycopg.Error as gone:
        raise sa_exc.InvalidatePoolError from gone


def psycopg_of(connection: sa.Connection) -> psycopg.Connection[Any]:
    """The psycopg connection under a SQLAlchemy one, in the same transaction."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError(f"expected a psycopg connection, got {type(raw).__name__}")
    return raw


def connect(dsn: str, name: str, *, autocommit: bool = False, durable: bool = True) -> psycopg.Connection[Any]:
    """Open one connection of ours.

    Args:
        dsn: A connection string (already resolved and checked).
        name: Who asks, for `pg_stat_activity` and for errors.
        autocommit: Whether each statement is its own transaction.
        durable: Whether commits wait for the disk; the relay's cursor may lag behind, nothing else may.

    Raises:
        Unreachable: naming the address and the remedy, never the password.
    """
    options = _OPTIONS if durable else _OPTIONS.replace("synchronous_commit=on", "synchronous_commit=off")
    try:
        return psycopg.connect(
            dsn, autocommit=autocommit, application_name=f"kylo-outbox {name}", options=options, **_LIVENESS
        )
    except psycopg.OperationalError as failed:
        raise unreachable(dsn, failed) from None


def may_idle(tx: psycopg.Connection[Any], seconds: float) -> None:
    """Let this one transaction be idle for longer (or less long) than `SESSION_TIMEOUT`."""
    tx.execute("select set_config('idle_in_transaction_session_timeout', %s, true)", (str(int(seconds * 1000)),))


def answers(database: Database) -> bool:
    """Whether the database takes transactions just now."""
    try:
        with database.transaction() as tx:
            tx.execute("select 1")
    except Transient:
        return False
    return True


def unreachable(dsn: str, failed: psycopg.Error) -> Unreachable:
    """The error people see when PostgreSQL does not answer or does not let us in."""
    text = str(failed).lower()
    if "password" in text or "authentication" in text or "no password supplied" in text:
        why, remedy = "it refuses the user or the password", "Check the credentials in PG_DSN_RW (or the company's DSN)"
    elif "does not exist" in text:
        why, remedy = "the database or the user does not exist", "Create it, or correct PG_DSN_RW"
    elif "starting up" in text or "shutting down" in text or "recovery" in text:
        why, remedy = "it is starting or stopping", "Wait a moment, or pass --wait"
    else:
        why, remedy = "no answer", "Is the server running, and are host and port of PG_DSN_RW right?"
    return Unreachable("PostgreSQL", f"{shown(dsn)}: {why}", remedy)


@contextmanager
def as_ours(name: str) -> Iterator[None]:
    """Turn PostgreSQL's "try again" and "gone" into `Transient`; everything else passes unchanged."""
    try:
        yield
    except sa_exc.DBAPIError as wrapped:
        if isinstance(wrapped.orig, psycopg.Error):
            _raise_if_transient(wrapped.orig, name)
            raise wrapped.orig from None
        raise
    except sa_exc.TimeoutError:
        raise Transient(f"{name}: every connection of the pool is busy") from None
    except psycopg.Error as error:
        _raise_if_transient(error, name)
        raise


def _raise_if_transient(error: psycopg.Error, name: str) -> None:
    # What is met last is the lost connection; what came before it tells why.
    if any(isinstance(each, pg.IdleInTransactionSessionTimeout) for each in (error, error.__context__)):
        raise Transient(
            f"{name}: the transaction was idle for too long and was ended; a projector that computes for long "
            "between two statements sets `session_timeout`"
        ) from error
    if isinstance(error, _AGAIN) or (isinstance(error, psycopg.OperationalError) and not _is_refusal(error)):
        raise Transient(f"{name}: PostgreSQL asks to wait ({error.sqlstate or 'connection lost'})") from error
    if isinstance(error, psycopg.InterfaceError) and error.sqlstate is None:
        raise Transient(f"{name}: the connection to PostgreSQL is lost") from error


def _is_refusal(error: psycopg.Error) -> bool:
    # Limits that the same data meets again (54: program limit exceeded) are no outage.
    return bool(error.sqlstate) and str(error.sqlstate).startswith("54")
