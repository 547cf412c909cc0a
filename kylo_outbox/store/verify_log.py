"""What the verifier remembers of the log: how far it was read for a store, and events that were not met on it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.model.appearances import StoredEvent
from kylo_outbox.store import left
from kylo_outbox.store.verify_state import SavedEvent

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import psycopg

    from kylo_outbox.model.appearances import Key, Place
    from kylo_outbox.model.delivery import PositionAt

_OFFSETS = "select topic, partition_number, next_offset from kylo.verify_offsets"
_SET_OFFSETS = """
insert into kylo.verify_offsets (topic, partition_number, next_offset)
select * from unnest(%s::text[], %s::int[], %s::bigint[])
on conflict (topic, partition_number) do update set next_offset = excluded.next_offset
"""
_STORED = """
select id, generation, event_id, topic, convert_from(key, 'UTF8'), created_at from kylo.outbox_log where id = any(%s)
"""
_OLDEST = "select coalesce(min(low), 0) from kylo.outbox_partitions"
# Here and below one look-up in the index a key (`offset 0`): a plan made for keys of unknown number may compare each
# with each.
_KNOWN = """
select g.topic, g.key, k.log_generation, k.log_outbox_id
  from unnest(%s::text[], %s::text[]) as g(topic, key)
 cross join lateral (
     select log_generation, log_outbox_id from kylo.verify_keys
      where topic = g.topic and key = g.key and log_generation >= 0 offset 0) k
"""
_SET_KNOWN = """
insert into kylo.verify_keys as k
       (topic, key, events, digest, generation, outbox_id, log_generation, log_outbox_id)
select topic, key, 0, 0, -1, -1, generation, number
  from unnest(%s::text[], %s::text[], %s::int[], %s::bigint[]) as g(topic, key, generation, number)
on conflict (topic, key) do update
   set log_generation = excluded.log_generation, log_outbox_id = excluded.log_outbox_id
 where (excluded.log_generation, excluded.log_outbox_id) > (k.log_generation, k.log_outbox_id)
"""
_OPEN = "select generation, outbox_id, topic, key, event_id, created_at from kylo.verify_open order by outbox_id"
_CLOSE = "delete from kylo.verify_open where outbox_id = any(%s)"
_ADD_OPEN = """
insert into kylo.verify_open (generation, outbox_id, topic, key, event_id, created_at)
select * from unnest(%s::int[], %s::bigint[], %s::text[], %s::text[], %s::uuid[], %s::timestamptz[])
on conflict do nothing
"""
# Behind the cursor of its lane, seen by it, and not held: the relay takes it for acknowledged. A row that has left the
# outbox was acknowledged when it left.
_ACKNOWLEDGED = """
select g.id from unnest(%(ids)s::bigint[]) as g(id)
 where not exists (select from kylo.outbox_held h where h.id = g.id)
   and not exists (
       select from kylo.outbox_log o
         join kylo.lanes l on o.slot >= l.slot_from and o.slot < l.slot_to and o.slot <> all (l.except_slots)
        where o.id = g.id and (o.id > l.high_water or not pg_visible_in_snapshot(o.xid, l.snapshot)))
"""
_ADD_GAPS = "insert into kylo.verify_gaps select * from unnest(%s::bigint[]) on conflict do nothing"
_UNORDERED = "select topic from kylo.topics where not ordered"
_TAKEN = """
select p.topic, p.key, max(array[p.generation, p.outbox_id])
  from kylo.positions p join unnest(%s::text[], %s::text[]) as g(topic, key) using (topic, key)
 where p.store_id = %s group by p.topic, p.key
"""


def offsets(tx: psycopg.Connection[Any]) -> dict[Place, int]:
    """The next offset to read, by topic and partition."""
    return {(topic, partition): offset for topic, partition, offset in tx.execute(_OFFSETS)}


def set_offsets(tx: psycopg.Connection[Any], ends: Mapping[Place, int]) -> None:
    """Remember how far the log was read."""
    rows = [(*place, offset) for place, offset in sorted(ends.items())]
    if rows:
        tx.execute(_SET_OFFSETS, [list(column) for column in zip(*rows, strict=True)])


def stored(tx: psycopg.Connection[Any], ids: Collection[int]) -> tuple[dict[int, StoredEvent], int]:
    """(rows by id, the lowest id that is still stored)."""
    found = {row[0]: StoredEvent(*row[1:]) for row in tx.execute(_STORED, (list(ids),))}
    [oldest] = tx.execute(_OLDEST).fetchone() or (0,)
    return found, int(oldest)


def known(tx: psycopg.Connection[Any], keys: Collection[Key]) -> dict[Key, PositionAt]:
    """The newest event of each key that was met on the log."""
    rows = tx.execute(_KNOWN, ([topic for topic, _ in keys], [key for _, key in keys]))
    return {(topic, key): (generation, number) for topic, key, generation, number in rows}


def set_known(tx: psycopg.Connection[Any], newest: Mapping[Key, PositionAt]) -> None:
    """Remember the newest event of each key that was met on the log."""
    rows = [(*key, *at) for key, at in sorted(newest.items())]
    if rows:
        tx.execute(_SET_KNOWN, [list(column) for column in zip(*rows, strict=True)])


def waiting(tx: psycopg.Connection[Any]) -> dict[int, SavedEvent]:
    """Events that the log did not have when it was last read, by id."""
    return {row[1]: SavedEvent(*row) for row in tx.execute(_OPEN)}


def replace_waiting(tx: psycopg.Connection[Any], over: Collection[int], new: Sequence[SavedEvent]) -> None:
    """Some wait no longer, others do from now on."""
    tx.execute(_CLOSE, (list(over),))
    if new:
        tx.execute(_ADD_OPEN, [list(column) for column in zip(*new, strict=True)])


def acknowledged(tx: psycopg.Connection[Any], ids: Collection[int]) -> set[int]:
    """Which of some events the relay takes for acknowledged."""
    return {number for [number] in tx.execute(_ACKNOWLEDGED, {"ids": list(ids)})}


def taken_out(tx: psycopg.Connection[Any], ids: Collection[int]) -> set[int]:
    """Which of some events were taken out before they were published; remembered, because the evidence is not kept."""
    found = left.taken_out(tx, ids)
    if found:
        tx.execute(_ADD_GAPS, (sorted(found),))
    return found


def unordered(tx: psycopg.Connection[Any]) -> set[str]:
    """Topics whose events have no order."""
    return {topic for [topic] in tx.execute(_UNORDERED)}


def taken_up_to(tx: psycopg.Connection[Any], store_id: str, keys: Collection[Key]) -> dict[Key, PositionAt]:
    """How far any projector of this database is with keys of a store."""
    rows = tx.execute(_TAKEN, ([topic for topic, _ in keys], [key for _, key in keys], store_id))
    return {(topic, key): (at[0], at[1]) for topic, key, at in rows}
