"""Events that may not go yet, and those of the same key behind them: copied out, in order, so that they pin nothing.

A row is blocked (the broker refused it: a person decides), or may be tried again (`retry`), or only `waits` behind an
earlier one of its key. Writing here asks for the lane's epoch, so a relay that was taken over holds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.store.lanes import one

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import psycopg

    from kylo_outbox.store.lanes import Lane
    from kylo_outbox.store.outbox import Row

PAUSED: Final = "its company, topic or key is paused; `kylo-outbox company resume` or `outbox resume` lets it go on"
"""Reason of what people hold on purpose."""
# Whether the stored cursor is behind a held event: its id is passed, and a late one's transaction is known, too.
PASSED = """
exists (select from kylo.lanes l
         where h.slot >= l.slot_from and h.slot < l.slot_to and h.slot <> all (l.except_slots)
           and h.id <= l.high_water
           and not exists (select from kylo.outbox_log o
                            where o.id = h.id and not pg_visible_in_snapshot(o.xid, l.snapshot)))
"""
_MINE = "select from kylo.lanes where lane = %(lane)s and epoch = %(epoch)s for update"
HOLD = f"""
with mine as materialized ({_MINE}), held as (
    insert into kylo.outbox_held
           (id, event_id, created_at, slot, topic, key, type, payload, headers, generation, reason, retry, waits)
    select id, event_id, created_at, slot, topic, key, type, payload, headers, generation, %(reason)s, %(retry)s,
           %(waits)s
      from kylo.outbox_log where id = any(%(ids)s) and exists (select from mine)
    on conflict (id) do nothing
)
select count(*) from mine
"""  # noqa: S608 - the only thing put in is a constant of this file
# One step in the index for each key, however many events it has.
HELD_KEYS = """
with recursive found as (
    (select topic, key, slot from kylo.outbox_held order by topic, key limit 1)
    union all
    select n.topic, n.key, n.slot
      from found f
     cross join lateral (select topic, key, slot from kylo.outbox_held h
                          where (h.topic, h.key) > (f.topic, f.key) order by h.topic, h.key limit 1) n
)
select topic, key from found where slot >= %s and slot < %s
"""
_ROW = (
    "h.id, h.topic, h.key, h.type, h.payload, h.headers::text, h.event_id::text, "
    "date_part('epoch', h.created_at), h.generation"
)
# What may be tried of some keys: from the oldest event of each up to the first that waits for a person. What the cursor
# has not passed stays: an earlier event of its key may still be on its way, or be read again first.
READY = f"""
select {_ROW}
  from unnest(%(topics)s::text[], %(keys)s::bytea[]) k(topic, key)
 cross join lateral (
     select min(id) as id from kylo.outbox_held b
      where b.topic = k.topic and b.key = k.key and not b.waits and not b.retry) blocked
 cross join lateral (
     select * from kylo.outbox_held n
      where n.topic = k.topic and n.key = k.key and (blocked.id is null or n.id < blocked.id)
      order by n.id limit %(limit)s) h
 where {PASSED}
 order by h.id limit %(limit)s
"""  # noqa: S608 - the only things put in are constants of this file
BLOCK = f"""
with mine as materialized ({_MINE}), blocked as (
    update kylo.outbox_held set retry = false, waits = false, reason = %(reason)s
     where id = %(id)s and exists (select from mine)
)
select count(*) from mine
"""  # noqa: S608 - the only thing put in is a constant of this file
LET_GO = f"""
with mine as materialized ({_MINE}), gone as (
    delete from kylo.outbox_held where id = any(%(ids)s) and exists (select from mine)
)
select count(*) from mine
"""  # noqa: S608 - the only thing put in is a constant of this file


def hold(
    connection: psycopg.Connection[Any], lane: Lane, rows: Sequence[Row], reason: str, *, retry: bool, waits: bool
) -> bool:
    """Copy `rows` out of the log; a row held already stays as it is. False (and nothing) if the lane is not ours."""
    values = {"ids": [row[0] for row in rows], "reason": reason, "retry": retry, "waits": waits}
    [ours] = one(connection, HOLD, values | _of(lane))
    return bool(ours)


def held_keys(connection: psycopg.Connection[Any], lane: Lane) -> set[tuple[str, bytes]]:
    """(topic, key) of everything of the lane that is held."""
    return set(connection.execute(HELD_KEYS, (lane.slots.first, lane.slots.end)).fetchall())


def ready(connection: psycopg.Connection[Any], keys: Collection[tuple[str, bytes]], limit: int) -> list[Row]:
    """The held events of `keys` that may be tried now, in order, at most `limit`; the stored cursor has passed them."""
    values = {"topics": [topic for topic, _ in keys], "keys": [key for _, key in keys], "limit": limit}
    return connection.execute(READY, values).fetchall()


def block(connection: psycopg.Connection[Any], lane: Lane, row: Row, reason: str) -> bool:
    """Note that the broker refused a held event: it waits for a person, and its key behind it."""
    [ours] = one(connection, BLOCK, {"id": row[0], "reason": reason} | _of(lane))
    return bool(ours)


def let_go(connection: psycopg.Connection[Any], lane: Lane, rows: Sequence[Row]) -> bool:
    """Forget held events that are acknowledged after all."""
    [ours] = one(connection, LET_GO, {"ids": [row[0] for row in rows]} | _of(lane))
    return bool(ours)


def _of(lane: Lane) -> dict[str, int]:
    return {"lane": lane.number, "epoch": lane.epoch}
