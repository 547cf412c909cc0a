"""Rows of the outbox in bulk, of the same form as `kylo.emit` writes them, and looks at what became of them.

Filled by the server itself: a million calls of emit would take minutes. Transaction id, slot and key are the true
ones, so that the relay reads these rows as it reads any others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database

KEYS = 200
PAYLOAD = 500
# One transaction, so that a backlog appears at once; very large ones come in parts.
_CHUNK = 1_000_000

FILL = """
insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload)
select pg_current_xact_id(), gen_random_uuid(), clock_timestamp(), k.slot, %(topic)s, k.key, 'BENCH',
       convert_to(rpad('{"n":' || n || ',"text":"', %(size)s - 2, repeat(md5(n::text), %(size)s / 32 + 1)) || '"}',
                  'UTF8')
  from generate_series(%(first)s::bigint, %(last)s::bigint) n
  join (select number, key, kylo.slot_of(%(topic)s, key) as slot
          from (select i as number, convert_to(%(prefix)s || i, 'UTF8') as key
                  from generate_series(0, %(keys)s - 1) i offset 0) keys offset 0) k on k.number = n %% %(keys)s
 order by n
"""
LOOK = "select coalesce(sum(acknowledged), 0)::bigint, extract(epoch from max(moved_at))::float8 from kylo.lanes"
# As if all that is stored had been published: the cursor of each lane over everything.
PUBLISHED = """
update kylo.lanes set high_water = (select coalesce(max(id), 0) from kylo.outbox_log),
                      snapshot = pg_current_snapshot(), acknowledged = (select count(*) from kylo.outbox_log)
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many rows are acknowledged, and when the cursor last moved (seconds since 1970, the database's clock)."""

    acknowledged: int
    at: float


def connect(database: Database) -> psycopg.Connection[Any]:
    """An autocommit connection for looking and filling."""
    return psycopg.connect(database.dsn, autocommit=True, application_name="bench")


def fill(
    database: Database, topic: str, count: int, *, keys: int = KEYS, size: int = PAYLOAD, prefix: str = "company-"
) -> int:
    """Add `count` committed events of `size` bytes in turn over `keys` keys; the id before the first of them."""
    with connect(database) as connection:
        [before] = _one(connection, "select coalesce(max(id), 0) from kylo.outbox_log")
        for first in range(1, count + 1, _CHUNK):
            last = min(first + _CHUNK - 1, count)
            values = {"topic": topic, "first": first, "last": last, "keys": keys, "size": size, "prefix": prefix}
            connection.execute(FILL, values)
        return int(before)


def mark_published(database: Database) -> None:
    """Put the cursor behind everything that is stored, as if it had been published. No relay may run."""
    with connect(database) as connection:
        connection.execute(PUBLISHED)


def progress(connection: psycopg.Connection[Any]) -> Progress:
    """How far the relays of this database are."""
    acknowledged, at = _one(connection, LOOK)
    return Progress(acknowledged, at)


def _one(connection: psycopg.Connection[Any], sql: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(sql).fetchone()
    if row is None:
        raise RuntimeError("a query that always answers did not")
    return row
