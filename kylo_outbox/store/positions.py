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
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.store.keyholds import HELD, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import psycopg

    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey

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
_COLUMNS = ("store_id", "topic", "key", "generation", "outbox_id", "applied", "digest", "duplicates")
_UNMOVED = (-1, -1, 0, 0, 0)
_TAKEN_FROM = """
select topic from unnest(%s::text[]) as asked(topic)
 where exists (select from kylo.positions p where p.projector = %s and p.topic = asked.topic)
"""
REACHED = """
select g.store_id, g.topic, g.key
  from json_to_recordset(%s::json) as g(store_id text, topic text, key text, generation int, outbox_id bigint)
  join kylo.positions p using (store_id, topic, key)
 where p.projector = %s and (p.generation, p.outbox_id) >= (g.generation, g.outbox_id)
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
    keys = {delivery.position_key for delivery in deliveries}
    at, holds = _lock(tx, projector, keys)
    fresh, held, seen = found = Split([], [], [])
    if not holds:
        # Nearly always: no call for a record.
        for delivery in deliveries:
            _, key, position, _, _ = delivery
            if position > at[key]:
                at[key] = position
                fresh.append(delivery)
            else:
                seen.append(delivery)
        return found
    behind = listed({waits for delivery in deliveries if (waits := delivery.hold_key)})
    held_keys = set(tx.execute(HELD, (behind, projector, "dead")).fetchall())
    for delivery in deliveries:
        key, position = delivery.position_key, delivery.position
        if position <= at[key]:
            seen.append(delivery)
            continue
        at[key] = position
        (held if delivery.hold_key in held_keys else fresh).append(delivery)
    return found


def _lock(
    tx: psycopg.Connection[Any], projector: str, keys: Collection[PositionKey]
) -> tuple[dict[PositionKey, PositionAt], bool]:
    """The locked positions of all keys, and whether anything waits behind a dead letter.

    Nearly always every position exists, and this is one round trip together with the transaction's beginning.
    """
    at: dict[PositionKey, PositionAt] = {}
    asked = listed(keys)
    for make in (False, True):
        with tx.pipeline():
            if make:
                tx.execute(MAKE, (projector, asked, projector))
            locked = tx.execute(LOCK, (asked, projector))
            # A statement of its own: it must see what was committed while the one before waited for its locks. Whoever
            # begins a hold has the position of its event locked, so none of these keys gets one after that.
            holding = tx.execute(HOLDS, (projector,))
            rows, [holds] = locked.fetchall(), holding.fetchone() or (False,)
        at = {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}
        if len(at) == len(keys):
            break
    return at, holds


def move(tx: psycopg.Connection[Any], projector: str, taken: Iterable[Delivery], seen: Iterable[Delivery] = ()) -> None:
    """Write the positions behind `taken`, with how many, the sum of their ids, and the repeats absorbed."""
    positions: dict[PositionKey, list[PositionAt]] = {}
    for _, key, position, _, _ in taken:
        if key in positions:
            positions[key].append(position)
        else:
            positions[key] = [position]
    moves = {
        key: (*max(passed), len(passed), sum([number for _, number in passed]), 0) for key, passed in positions.items()
    }
    for key, repeats in Counter(delivery.position_key for delivery in seen).items():
        moves[key] = (*moves.get(key, _UNMOVED)[:4], repeats)
    if moves:
        rows = [dict(zip(_COLUMNS, (*key, *figures), strict=True)) for key, figures in moves.items()]
        tx.execute(MOVE, (json.dumps(rows), projector))


def taken_from(tx: psycopg.Connection[Any], projector: str, topics: Sequence[str]) -> set[str]:
    """Which of `topics` the projector has ever taken an event from, in this database."""
    return {topic for [topic] in tx.execute(_TAKEN_FROM, (list(topics), projector))}


def reached(tx: psycopg.Connection[Any], projector: str, goals: Mapping[PositionKey, PositionAt]) -> set[PositionKey]:
    """Keys whose position in this database has come to its goal."""
    asked = [dict(zip(_COLUMNS, (*key, *at), strict=False)) for key, at in goals.items()]
    return set(tx.execute(REACHED, (json.dumps(asked), projector)).fetchall())
