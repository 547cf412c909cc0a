"""How far each projector is, per store, topic and key: read under a lock, written with the effect, in one transaction.

The lock is what fences a zombie: a stalled owner that wakes up waits for the row, finds the newer position and
changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.model.delivery import NOWHERE, Delivery, PositionAt, PositionKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

# Keys in one order everywhere, so that two transactions never wait for each other crosswise.
MAKE = """
insert into kylo.positions (projector, store_id, topic, key, generation, outbox_id)
select %s, g.store_id, g.topic, g.key, -1, -1
  from unnest(%s::text[], %s::text[], %s::text[]) as g(store_id, topic, key)
 order by g.store_id, g.topic, g.key
on conflict do nothing
"""
LOCK = """
select p.store_id, p.topic, p.key, p.generation, p.outbox_id
  from kylo.positions p
  join unnest(%s::text[], %s::text[], %s::text[]) as g(store_id, topic, key) using (store_id, topic, key)
 where p.projector = %s
 order by p.store_id, p.topic, p.key
   for update of p
"""
MOVE = """
update kylo.positions p
   set generation = greatest(p.generation, m.generation),
       outbox_id = case when (m.generation, m.outbox_id) > (p.generation, p.outbox_id)
                        then m.outbox_id else p.outbox_id end,
       applied = p.applied + m.applied, digest = p.digest + m.digest, duplicates = p.duplicates + m.duplicates,
       moved_at = now()
  from unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::numeric[], %s::bigint[])
       as m(store_id, topic, key, generation, outbox_id, applied, digest, duplicates)
 where p.projector = %s and p.store_id = m.store_id and p.topic = m.topic and p.key = m.key
"""


def split(
    tx: psycopg.Connection[Any], projector: str, deliveries: Sequence[Delivery]
) -> tuple[list[Delivery], list[Delivery]]:
    """Lock the positions of all keys and tell (fresh, seen before), both in the order given.

    A repeat inside `deliveries` itself counts as seen.
    """
    keys = sorted({delivery.position_key for delivery in deliveries})
    stores, topics, names = (list(column) for column in zip(*keys, strict=True))
    with tx.pipeline():
        tx.execute(MAKE, (projector, stores, topics, names))
        rows = tx.execute(LOCK, (stores, topics, names, projector)).fetchall()
    at: dict[PositionKey, PositionAt] = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
    fresh: list[Delivery] = []
    seen: list[Delivery] = []
    for delivery in deliveries:
        if delivery.position > at.get(delivery.position_key, NOWHERE):
            at[delivery.position_key] = delivery.position
            fresh.append(delivery)
        else:
            seen.append(delivery)
    return fresh, seen


def move(tx: psycopg.Connection[Any], projector: str, fresh: Iterable[Delivery], seen: Iterable[Delivery] = ()) -> None:
    """Write the positions behind `fresh`, with how many, the sum of their ids, and the repeats absorbed."""
    moves: dict[PositionKey, list[int]] = {}
    for delivery in fresh:
        generation, number = delivery.position
        entry = moves.setdefault(delivery.position_key, [generation, number, 0, 0, 0])
        entry[:2] = max((entry[0], entry[1]), delivery.position)
        entry[2] += 1
        entry[3] += number
    for delivery in seen:
        moves.setdefault(delivery.position_key, [-1, -1, 0, 0, 0])[4] += 1
    if not moves:
        return
    keys = sorted(moves)
    names = [list(column) for column in zip(*keys, strict=True)]
    figures = [list(column) for column in zip(*(moves[key] for key in keys), strict=True)]
    tx.execute(MOVE, (*names, *figures, projector))
