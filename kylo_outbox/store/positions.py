"""How far each projector is, per store, topic and key: read under a lock, written with the effect, in one transaction.

The lock is what fences a zombie: a stalled owner that wakes up waits for the row, finds the newer position and
changes nothing.

A position is the newest event that was *taken*: applied, set aside as a dead letter, or queued behind one. `applied`
and `digest` count each taken event once, at that moment. So a repeat of an event that waits is absorbed like a repeat
of an applied one, no event is both in the queue and still to come, and an event that leaves the queue moves no
position: its row in the queue (or its dead letter) is what makes its effect happen once. Up to its position, a key's
events are all accounted for: applied = taken - open and discarded dead letters - waiting.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model.delivery import NOWHERE, Delivery, PositionAt, PositionKey
from kylo_outbox.store.keyholds import HELD, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

# Keys in one order everywhere, so that two transactions never wait for each other crosswise.
MAKE = """
insert into kylo.positions (projector, store_id, topic, key, generation, outbox_id)
select %s, g.store_id, g.topic, g.key, -1, -1
  from json_to_recordset(%s::json) as g(store_id text, topic text, key text)
 where not exists (select from kylo.positions p
                    where p.projector = %s and p.store_id = g.store_id and p.topic = g.topic and p.key = g.key)
 order by g.store_id, g.topic, g.key
on conflict do nothing
"""
LOCK = """
select p.store_id, p.topic, p.key, p.generation, p.outbox_id
  from kylo.positions p
  join json_to_recordset(%s::json) as g(store_id text, topic text, key text) using (store_id, topic, key)
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
  from json_to_recordset(%s::json)
       as m(store_id text, topic text, key text, generation int, outbox_id bigint, applied bigint, digest numeric,
            duplicates bigint)
 where p.projector = %s and p.store_id = m.store_id and p.topic = m.topic and p.key = m.key
"""
HOLDS = "select exists (select from kylo.holds where projector = %s and kind = 'dead')"


class Split(NamedTuple):
    """Deliveries by what is to be done with them, each list in the order given."""

    fresh: list[Delivery]
    held: list[Delivery]
    seen: list[Delivery]

    @property
    def taken(self) -> list[Delivery]:
        """What moves the positions."""
        return self.fresh + self.held


def split(tx: psycopg.Connection[Any], projector: str, deliveries: Sequence[Delivery]) -> Split:
    """Lock the positions of all keys, then the holds among them, and tell fresh, held and seen before.

    A repeat inside `deliveries` itself counts as seen.
    """
    keys = listed({delivery.position_key for delivery in deliveries})
    held_keys: set[PositionKey] = set()
    with tx.pipeline():
        tx.execute(MAKE, (projector, keys, projector))
        locked = tx.execute(LOCK, (keys, projector))
        # A statement of its own: it must see what was committed while the one before waited for its locks. Whoever
        # begins a hold has the position of its event locked, so none of these keys gets one after that.
        holding = tx.execute(HOLDS, (projector,))
        rows, [holds] = locked.fetchall(), holding.fetchone() or (False,)
    if holds:
        behind = listed({key for delivery in deliveries if (key := delivery.hold_key)})
        held_keys = set(tx.execute(HELD, (behind, projector, "dead")).fetchall())
    at: dict[PositionKey, PositionAt] = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
    fresh, held, seen = found = Split([], [], [])
    for delivery in deliveries:
        key, position = delivery.position_key, delivery.position
        if position <= at.get(key, NOWHERE):
            seen.append(delivery)
            continue
        at[key] = position
        (held if held_keys and delivery.hold_key in held_keys else fresh).append(delivery)
    return found


def move(tx: psycopg.Connection[Any], projector: str, taken: Iterable[Delivery], seen: Iterable[Delivery] = ()) -> None:
    """Write the positions behind `taken`, with how many, the sum of their ids, and the repeats absorbed."""
    moves: dict[PositionKey, list[int]] = {}
    for delivery in taken:
        key, (generation, number) = delivery.position_key, delivery.position
        entry = moves.get(key)
        if entry is None:
            moves[key] = [generation, number, 1, number, 0]
            continue
        if (generation, number) > (entry[0], entry[1]):  # noqa: PLR1730 - a call costs more than the rest of it
            entry[0], entry[1] = generation, number
        entry[2] += 1
        entry[3] += number
    for delivery in seen:
        moves.setdefault(delivery.position_key, [-1, -1, 0, 0, 0])[4] += 1
    if not moves:
        return
    columns = ("store_id", "topic", "key", "generation", "outbox_id", "applied", "digest", "duplicates")
    rows = [dict(zip(columns, (*key, *figures), strict=True)) for key, figures in moves.items()]
    tx.execute(MOVE, (json.dumps(rows), projector))
