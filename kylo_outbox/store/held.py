"""Events that Kafka refused, and those of the same key behind them: copied out, in order, so that they pin nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from kylo_outbox.store.outbox import Row

HOLD = """
insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, headers, reason, retry)
select id, event_id, created_at, slot, topic, key, type, payload, headers, %(reason)s, %(retry)s
  from kylo.outbox_log where id = any(%(ids)s)
on conflict (id) do nothing
"""
HELD_KEYS = "select distinct topic, key from kylo.outbox_held where slot >= %s and slot < %s"
# The oldest held event of each key is the only one that may be tried; one that the broker refused waits for a person.
HEADS = """
select id, topic, key, type, payload, headers::text, event_id::text, extract(epoch from created_at)::float8
  from (select distinct on (topic, key) * from kylo.outbox_held
         where slot >= %s and slot < %s order by topic, key, id) oldest
 where retry
 order by id
"""
# What comes next of the key may be tried as well: it waited for its predecessor alone.
LET_GO = """
with gone as (delete from kylo.outbox_held where id = %s returning topic, key)
update kylo.outbox_held h set retry = true
  from gone
 where h.id = (select min(id) from kylo.outbox_held n where n.topic = gone.topic and n.key = gone.key and n.id > %s)
"""


def hold(connection: psycopg.Connection[Any], rows: Sequence[Row], reason: str, *, retry: bool) -> None:
    """Copy `rows` out of the log; a row held already stays as it is. `retry`: the relay may try again by itself."""
    connection.execute(HOLD, {"ids": [row[0] for row in rows], "reason": reason, "retry": retry})


def held_keys(connection: psycopg.Connection[Any], slots: tuple[int, int]) -> set[tuple[str, bytes]]:
    """(topic, key) of everything that is held."""
    return set(connection.execute(HELD_KEYS, slots).fetchall())


def heads(connection: psycopg.Connection[Any], slots: tuple[int, int]) -> list[Row]:
    """The oldest held event of each key, where it may be tried again."""
    return connection.execute(HEADS, slots).fetchall()


def let_go(connection: psycopg.Connection[Any], row: Row) -> None:
    """Forget a held event that Kafka has acknowledged after all."""
    connection.execute(LET_GO, (row[0], row[0]))
