"""Keys that wait: behind a dead letter, or for a database that is away. Their events lie here in order, on disk.

No event is stranded: whoever queues behind a hold has locked its row FOR SHARE in the same transaction, whoever lets
the key go has locked it FOR UPDATE and only then looks whether the queue is empty. So either the event is queued
before that look, or the hold is gone before the event is judged, and it is applied in its turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kylo_outbox.store.deliveries import COLUMNS, delivery_of, row_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import psycopg

    from kylo_outbox.model.delivery import Delivery, PositionKey

Kind = Literal["dead", "away"]

HELD = """
select h.store_id, h.topic, h.key
  from kylo.holds h
  join json_to_recordset(%s::json) as g(store_id text, topic text, key text) using (store_id, topic, key)
 where h.projector = %s and h.kind = %s
 order by h.store_id, h.topic, h.key
   for share of h
"""
HOLD = """
insert into kylo.holds (projector, kind, store_id, topic, key, reason, dead_letter_id)
values (%s, %s, %s, %s, %s, %s, %s)
on conflict (projector, kind, store_id, topic, key) do update set reason = excluded.reason
"""
QUEUE = f"""
insert into kylo.held_events (projector, kind, {COLUMNS})
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %b, %s::jsonb, %s, %s, %s)
on conflict do nothing
"""  # noqa: S608
THIS = (
    "projector = %(projector)s and kind = %(kind)s and store_id = %(store_id)s and topic = %(topic)s and key = %(key)s"
)
RELEASED = """
select kind, store_id, topic, key, reason, dead_letter_id from kylo.holds
 where projector = %s and released_at is not null
 order by released_at limit %s
"""
AWAY = """
select kind, store_id, topic, key, reason, dead_letter_id from kylo.holds
 where projector = %s and kind = 'away'
 order by since, store_id, topic, key
"""
LOCK = f"select dead_letter_id, released_at is not null from kylo.holds where {THIS} for update"  # noqa: S608
WAITING = f"select n, {COLUMNS} from kylo.held_events where {THIS} order by n limit %(limit)s"  # noqa: S608
COUNT = f"select count(*) from kylo.held_events where {THIS}"  # noqa: S608
FORGET = "delete from kylo.held_events where n = any(%s)"
LET_GO = f"delete from kylo.holds where {THIS}"  # noqa: S608
AGAIN = f"""
update kylo.holds
   set released_at = null, dead_letter_id = %(dead_letter_id)s, reason = %(reason)s, deaths = 0
 where {THIS}
"""  # noqa: S608
RELEASE = f"update kylo.holds set released_at = clock_timestamp() where {THIS} and released_at is null"  # noqa: S608
CLEAR_DEATHS = f"update kylo.holds set deaths = 0 where {THIS}"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Hold:
    """One key of one projector that waits; `head` is the dead letter it waits behind, if there is one."""

    projector: str
    kind: Kind
    key: PositionKey
    reason: str = ""
    head: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        """For the statements of this file."""
        store_id, topic, key = self.key
        return {"projector": self.projector, "kind": self.kind, "store_id": store_id, "topic": topic, "key": key}


def listed(keys: Iterable[PositionKey]) -> str:
    """The keys as one JSON text for `json_to_recordset`: an array costs the client ten times as much."""
    return json.dumps([{"store_id": store_id, "topic": topic, "key": key} for store_id, topic, key in keys])


def held_keys(
    tx: psycopg.Connection[Any], projector: str, kind: Kind, keys: Collection[PositionKey]
) -> set[PositionKey]:
    """Which of `keys` wait; their rows stay locked for share until the transaction ends."""
    if not keys:
        return set()
    return set(tx.execute(HELD, (listed(keys), projector, kind)).fetchall())


def hold(tx: psycopg.Connection[Any], hold: Hold) -> None:
    """Let the later events of a key wait from now on; a hold that is there already stays."""
    tx.execute(HOLD, (hold.projector, hold.kind, *hold.key, hold.reason, hold.head))


def queue(tx: psycopg.Connection[Any], projector: str, kind: Kind, deliveries: Sequence[Delivery]) -> None:
    """Put events behind the holds of their keys, in the order given; one that lies there already stays as it is."""
    if deliveries:
        rows = []
        for delivery in deliveries:
            store_id, topic, _, *rest = row_of(delivery)
            key = (delivery.hold_key or delivery.position_key)[2]
            rows.append((projector, kind, store_id, topic, key, *rest))
        with tx.cursor() as cursor:
            cursor.executemany(QUEUE, rows)


def released(tx: psycopg.Connection[Any], projector: str, limit: int = 100) -> list[Hold]:
    """Keys that a person has let go and that still wait, the first ones first."""
    return [_hold(projector, *row) for row in tx.execute(RELEASED, (projector, limit))]


def away(tx: psycopg.Connection[Any], projector: str) -> list[Hold]:
    """Keys that wait for the database of their company."""
    return [_hold(projector, *row) for row in tx.execute(AWAY, (projector,))]


def lock(tx: psycopg.Connection[Any], hold: Hold) -> tuple[int | None, bool] | None:
    """Lock the hold against everybody who queues; (its dead letter, whether it is released), None if it is gone."""
    return tx.execute(LOCK, hold.values).fetchone()


def waiting(tx: psycopg.Connection[Any], hold: Hold, limit: int) -> list[tuple[int, Delivery]]:
    """The first events behind a hold, in order, each with its place in the queue."""
    rows = tx.execute(WAITING, {**hold.values, "limit": limit}).fetchall()
    return [(row[0], delivery_of(row[1:])) for row in rows]


def count(tx: psycopg.Connection[Any], hold: Hold) -> int:
    """How many events wait behind a hold."""
    [number] = tx.execute(COUNT, hold.values).fetchone() or (0,)
    return int(number)


def forget(tx: psycopg.Connection[Any], places: Sequence[int]) -> None:
    """Take events out of the queue."""
    if places:
        tx.execute(FORGET, (list(places),))


def let_go(tx: psycopg.Connection[Any], hold: Hold) -> None:
    """End a hold whose queue is empty; the caller has it locked."""
    tx.execute(LET_GO, hold.values)


def release(tx: psycopg.Connection[Any], hold: Hold) -> bool:
    """Ask the projector to go on with a key; False if nothing waits, or somebody asked already."""
    return tx.execute(RELEASE, hold.values).rowcount == 1


def clear_deaths(tx: psycopg.Connection[Any], hold: Hold) -> None:
    """Another event is in front of the line now, or the same one with other content."""
    tx.execute(CLEAR_DEATHS, hold.values)


def hold_again(tx: psycopg.Connection[Any], hold: Hold, dead_letter_id: int | None, reason: str) -> None:
    """The key waits behind another dead letter now."""
    tx.execute(AGAIN, {**hold.values, "dead_letter_id": dead_letter_id, "reason": reason})


def _hold(projector: str, kind: Kind, store_id: str, topic: str, key: str, reason: str, head: int | None) -> Hold:
    return Hold(projector, kind, (store_id, topic, key), reason, head)
