"""Events that Kafka refused, and those of the same key behind them: copied out, in order, so that they pin nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from kylo_outbox.store.outbox import Row

HOLD = """
insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, headers, reason)
select id, event_id, created_at, slot, topic, key, type, payload, headers, %(reason)s
  from kylo.outbox_log where id = any(%(ids)s)
on conflict (id) do nothing
"""
HELD_KEYS = "select distinct topic, key from kylo.outbox_held where slot >= %s and slot < %s"
# The oldest held event of each key: the only one that may be tried.
HEADS = """
select distinct on (topic, key) id, topic, key, type, payload, headers::text, event_id::text,
       extract(epoch from created_at)::float8
  from kylo.outbox_held where slot >= %s and slot < %s
 order by topic, key, id
"""
LET_GO = "delete from kylo.outbox_held where id = %s"


def hold(connection: psycopg.Connection[Any], rows: Sequence[Row], reason: str) -> None:
    """Copy `rows` out of the log; a row held already stays as it is."""
    connection.execute(HOLD, {"ids": [row[0] for row in rows], "reason": reason})


def held_keys(connection: psycopg.Connection[Any], slots: tuple[int, int]) -> set[tuple[str, bytes]]:
    """(topic, key) of everything that is held."""
    return set(connection.execute(HELD_KEYS, slots).fetchall())


def heads(connection: psycopg.Connection[Any], slots: tuple[int, int]) -> list[Row]:
    """The oldest held event of each key."""
    return connection.execute(HEADS, slots).fetchall()


def let_go(connection: psycopg.Connection[Any], row: Row) -> None:
    """Forget a held event that Kafka has acknowledged after all."""
    connection.execute(LET_GO, (row[0],))
