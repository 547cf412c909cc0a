"""Events whose effects are to be looked for, and what a projector's database says about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.store import left
from kylo_outbox.store.outbox import COLUMNS
from kylo_outbox.store.verify_state import NEW, by_index

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    import psycopg

    from kylo_outbox.model.appearances import Key
    from kylo_outbox.model.delivery import PositionAt
    from kylo_outbox.store.outbox import Row
    from kylo_outbox.store.verify_state import State

# What is new, and what was new before and not taken yet.
_TO_LOOK_AT = f"""
select {COLUMNS} from (
    select o.* from kylo.outbox_log o
     where o.topic = any(%(topics)s) and {NEW} and (%(since)s::timestamptz is null or o.created_at >= %(since)s)
    union all
    select o.* from kylo.outbox_log o
     where o.topic = any(%(topics)s) and pg_visible_in_snapshot(o.xid, %(old)s::pg_snapshot)
       and o.id >= (select min(outbox_id) from kylo.verify_behind where projector = %(projector)s)
       and exists (select from kylo.verify_behind b
                    where b.projector = %(projector)s and b.topic = o.topic and b.key = convert_from(o.key, 'UTF8')
                      and (o.generation, o.id) >= (b.generation, b.outbox_id))) wanted
 order by generation, id
"""  # noqa: S608 - constants of the store
_BY_ID = f"select {COLUMNS} from kylo.outbox_log where id = any(%s) order by generation, id"  # noqa: S608 - a constant
_FORGET_BEHIND = "delete from kylo.verify_behind where projector = %s"
_SET_BEHIND = """
insert into kylo.verify_behind (projector, topic, key, generation, outbox_id)
select %s, * from unnest(%s::text[], %s::text[], %s::int[], %s::bigint[])
"""
# One look-up in the index a key (`offset 0`): a plan made for keys of unknown number may compare each with each.
_TAKEN = """
select g.topic, g.key, p.generation, p.outbox_id
  from unnest(%s::text[], %s::text[]) as g(topic, key)
 cross join lateral (
     select generation, outbox_id from kylo.positions
      where projector = %s and store_id = %s and topic = g.topic and key = g.key offset 0) p
"""
# Every dead letter, and what of them was not applied; what waits behind one was not applied either.
_SET_ASIDE = """
select outbox_id, outcome is distinct from 'applied' from kylo.dead_letters
 where stage = %(projector)s and store_id = %(store)s and outbox_id = any(%(ids)s)
union all
select outbox_id, true from kylo.held_events
 where projector = %(projector)s and kind = 'dead' and store_id = %(store)s and outbox_id = any(%(ids)s)
"""


def to_look_at(
    tx: psycopg.Connection[Any],
    projector: str,
    topics: Sequence[str],
    state: State,
    new: str,
    since: datetime | None,
    chunk: int = 1000,
) -> Iterator[list[Row]]:
    """Events of the store that the last look of this projector left out, by generation and id, in batches.

    Nobody gets what was taken out before it was published: that is left out.
    """
    values: dict[str, Any] = {"projector": projector, "topics": list(topics), "since": since, "new": new}
    values |= {"old": state.snapshot, "folded_below": state.folded_below}
    with tx.cursor(name="kylo_verify_effects") as cursor:
        by_index(tx, state)
        cursor.itersize = chunk
        cursor.execute(_TO_LOOK_AT, values)
        while rows := cursor.fetchmany(chunk):
            nobodys = left.taken_out(tx, [row[0] for row in rows])
            yield [row for row in rows if row[0] not in nobodys]


def by_id(tx: psycopg.Connection[Any], ids: Collection[int]) -> list[Row]:
    """Some events that are still stored, by generation and id."""
    return tx.execute(_BY_ID, (list(ids),)).fetchall() if ids else []


def set_behind(tx: psycopg.Connection[Any], projector: str, behind: Mapping[Key, PositionAt]) -> None:
    """Remember from which event on each key has to be looked at again; all other keys are done."""
    tx.execute(_FORGET_BEHIND, (projector,))
    if behind:
        rows = [(*key, *at) for key, at in sorted(behind.items())]
        tx.execute(_SET_BEHIND, (projector, *(list(column) for column in zip(*rows, strict=True))))


def taken(tx: psycopg.Connection[Any], projector: str, store_id: str, keys: Collection[Key]) -> dict[Key, PositionAt]:
    """How far the projector is with each key."""
    columns = [topic for topic, _ in keys], [key for _, key in keys]
    rows = tx.execute(_TAKEN, (*columns, projector, store_id))
    return {(topic, key): (generation, number) for topic, key, generation, number in rows}


def set_aside(
    tx: psycopg.Connection[Any], projector: str, store_id: str, ids: Collection[int]
) -> tuple[set[int], set[int]]:
    """(events that were ever set aside, those among them that were not applied)."""
    rows = tx.execute(_SET_ASIDE, {"projector": projector, "store": store_id, "ids": list(ids)}).fetchall()
    return {number for number, _ in rows}, {number for number, without in rows if without}
