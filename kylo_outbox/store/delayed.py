"""Events that wait for their time: moved into the outbox when it has come, and shown to people until then.

What is promised: never before `available_at`; for one topic and key in the order of `available_at`, equal ones in the
order of their emits; the id and the place in the outbox are those of the moment of release. Any number of processes
may release: an advisory lock lets one work, a chunk is one transaction, and what a crash interrupts is as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg

from kylo_outbox.store.engine import as_ours, connect

if TYPE_CHECKING:
    from datetime import datetime

CHUNK = 1000
# Slots that are waited for in one round, each for at most so long: a key that is never free for a moment gets its
# place in the queue of its writers, and a writer that sleeps with its transaction open costs this and no more.
_QUEUED = 8
_PATIENCE = "set lock_timeout = '100ms'"
_DUE = "select exists (select from kylo.outbox_delayed where available_at <= statement_timestamp())"
_RELEASE = "select released, busy from kylo.release_delayed(%s, %s::smallint[])"
_RELEASE_SLOT = "select released, busy from kylo.release_delayed(%s, '{}', %s::smallint)"
_WAITING = """
select id, topic, convert_from(key, 'UTF8') as key, type, event_id::text as event_id, created_at, available_at
  from kylo.outbox_delayed
 where (cast(:topic as text) is null or topic = :topic)
   and (cast(:key as text) is null or key = convert_to(:key, 'UTF8'))
 order by available_at, id limit :limit
"""
_COUNT = """
select count(*) from kylo.outbox_delayed
 where (cast(:topic as text) is null or topic = :topic)
   and (cast(:key as text) is null or key = convert_to(:key, 'UTF8'))
"""


class Releaser:
    """Releases what is due in one store, over a connection of its own that it opens at the first use."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn, self._name = dsn, name
        self._connection: psycopg.Connection[Any] | None = None

    def release(self) -> int:
        """Move everything that is due and whose slot is free; how many. One look into an index when nothing is due.

        Raises:
            Transient: PostgreSQL is away; the next call connects anew.
        """
        with as_ours(self._name):
            try:
                return self._release(self._open())
            except psycopg.OperationalError:
                self.close()
                raise

    def close(self) -> None:
        """Close the connection; the next release opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = connect(self._dsn, f"delayed {self._name}", autocommit=True)
            self._connection.execute(_PATIENCE)
        return self._connection

    def _release(self, connection: psycopg.Connection[Any]) -> int:
        [due] = connection.execute(_DUE).fetchone() or (False,)
        busy: list[int] = []
        count = released = 0
        while due:
            released, met = connection.execute(_RELEASE, (CHUNK, busy)).fetchone() or (0, [])
            count += released
            busy += met
            due = bool(released or met)
        for slot in busy[:_QUEUED]:
            try:
                [released, _] = connection.execute(_RELEASE_SLOT, (CHUNK, slot)).fetchone() or (0, [])
            except pg.LockNotAvailable:
                continue
            count += released
        return count


@dataclass(frozen=True, slots=True)
class Delayed:
    """An event that waits for its time; `id` is its number among the delayed ones, not yet one of the outbox."""

    id: int
    topic: str
    key: str
    type: str
    event_id: str
    created_at: datetime
    available_at: datetime


def events(
    connection: sa.Connection, *, topic: str | None = None, key: str | None = None, limit: int = 20
) -> tuple[int, list[Delayed]]:
    """How many events wait for their time, and the next of them, at most `limit`."""
    values = {"topic": topic, "key": key, "limit": limit}
    listed = [Delayed(*row) for row in connection.execute(sa.text(_WAITING), values)]
    return int(connection.scalar(sa.text(_COUNT), values) or 0), listed
