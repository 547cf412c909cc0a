"""A look into a database that may be killed at any moment."""

from __future__ import annotations

import time
from typing import Any

import psycopg


class Look:
    """One connection that is made anew when it is lost. Not safe to share between threads."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None

    def ask(self, sql: str, *values: Any, seconds: float = 60.0) -> list[tuple[Any, ...]]:
        """The answer of one query, for which a server that is away is waited for."""
        until = time.monotonic() + seconds
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=5)
                return self._connection.execute(sql, values).fetchall()
            except psycopg.OperationalError:
                self.close()
                if time.monotonic() >= until:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """Let go of the connection; the next look makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
