"""One poster at a workbook: a lock of a connection, so that it falls the moment its process dies.

A process that is stopped and not dead keeps its connection; PostgreSQL closes that one after `IDLE_SECONDS` without a
word, and the poster, woken up, finds it closed before it sends anything.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from kylo_outbox.model.errors import Transient
from kylo_outbox.store.engine import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from kylo_outbox.store.engine import Database

IDLE_SECONDS = 240
"""More than the longest call to Google takes: connecting, sending and waiting a minute each."""

LOCK = "select pg_try_advisory_lock(hashtextextended('kylo workbook ' || %s, 0))"


class Held:
    """A lock that is held as long as its connection lives."""

    def __init__(self, connection: psycopg.Connection[Any], spreadsheet_id: str) -> None:
        self._connection, self._spreadsheet_id = connection, spreadsheet_id

    def require(self) -> None:
        """Make sure that the lock is still ours.

        Raises:
            Transient: it is not; somebody else may be at the workbook.
        """
        try:
            self._connection.execute("select 1")
        except psycopg.Error:
            raise Transient(f"workbook {self._spreadsheet_id}: the lock on it is lost") from None


@contextmanager
def held(control: Database, spreadsheet_id: str) -> Iterator[Held]:
    """Hold the workbook while the block runs.

    Raises:
        Transient: another poster holds it, or PostgreSQL is away.
    """
    with connect(control.dsn, f"workbook {control.name}", autocommit=True) as connection:
        try:
            connection.execute(f"set idle_session_timeout = '{IDLE_SECONDS}s'")
            row: Any = connection.execute(LOCK, (spreadsheet_id,)).fetchone()
        except psycopg.Error as lost:
            raise Transient(f"workbook {spreadsheet_id}: PostgreSQL is away") from lost
        if not row[0]:
            raise Transient(f"workbook {spreadsheet_id}: another poster is at it")
        yield Held(connection, spreadsheet_id)
