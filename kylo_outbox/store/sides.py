"""Side lanes and the number of lanes: how the slots of a store are cut into cursors.

A key with a long backlog would keep every other key of its lane waiting, because a lane is read in the order of ids.
Its slot gets a side lane: a cursor of its own under the same lease, beside which the others go on. Once both are at
the same place they become one again. Both steps begin at a stored cursor with nothing in flight, so no event is left
out and none changes its order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.store.lanes import Cursor, Lane, Slots, one
from kylo_outbox.store.left import TAKEN_OUT

if TYPE_CHECKING:
    import psycopg

FIRST_SIDE: Final = 1024
MOST_LANES: Final = 16
# The bells of emit (store/bell.py) are rung for 64 slots at a time, so a lane begins where one of those begins.
_GRAIN: Final = 64

SPLIT = """
with mine as (
    update kylo.lanes set except_slots = except_slots || %(slot)s::smallint
     where lane = %(lane)s and epoch = %(epoch)s and %(slot)s <> all (except_slots)
    returning *
)
insert into kylo.lanes (lane, slot_from, slot_to, parent, epoch, high_water, snapshot)
select %(side)s, %(slot)s, %(slot)s + 1, lane, epoch, high_water, snapshot from mine
returning high_water, snapshot::text
"""
# The side's marks go with it: its events then show the time at which the parent's cursor passed them.
JOIN = """
with gone as (
    delete from kylo.lanes where lane = %(side)s and parent = %(lane)s and epoch = %(epoch)s
    returning slot_from, acknowledged
), unmarked as (
    delete from kylo.marks where lane = %(side)s and exists (select from gone)
)
update kylo.lanes l set except_slots = array_remove(l.except_slots, gone.slot_from),
                        acknowledged = l.acknowledged + gone.acknowledged
  from gone where l.lane = %(lane)s and l.epoch = %(epoch)s
"""
# Every new lane begins at the lowest id and the oldest snapshot of all former ones (of two snapshots with one xmax the
# older has more transactions running): what lies before is acknowledged by each of them. What lies behind goes again.
_STOP_RELAYS = "select from kylo.lanes order by lane for update"
_LOWEST = """
select min(high_water), max(epoch), sum(acknowledged),
       (array_agg(snapshot order by pg_snapshot_xmax(snapshot),
                                    (select count(*) from pg_snapshot_xip(snapshot)) desc))[1]::text
  from kylo.lanes
"""
# What the view shows as processed_at: every lane passed the ids below the lowest cursor, at about the slowest's time.
_KEEP_MARKS = """
create temporary table slowest_marks on commit drop as
select low, least(high, %(high_water)s) as high, since, at from kylo.marks
 where low <= %(high_water)s
   and lane = (select lane from kylo.lanes where parent is null order by high_water, lane limit 1)
"""
_GIVE_MARKS = """
insert into kylo.marks (lane, low, high, since, at)
select l.lane, m.low, m.high, m.since, m.at from slowest_marks m cross join kylo.lanes l
"""
# Of what goes again some was taken out: its lane had passed it, as it must have. Each is looked up by its id.
LEFT_OUT = f"""
select g.id from ({TAKEN_OUT}) g
 cross join lateral (select slot, xid from kylo.outbox_log where id = g.id offset 0) o
  join kylo.lanes l on (l.lane = %(lane)s or l.parent = %(lane)s)
                   and o.slot >= l.slot_from and o.slot < l.slot_to and o.slot <> all (l.except_slots)
 where g.id > l.high_water or not pg_visible_in_snapshot(o.xid, l.snapshot)
"""  # noqa: S608 - the only thing put in is a constant of ours
_ADD = """
insert into kylo.lanes (lane, slot_from, slot_to, epoch, high_water, snapshot, acknowledged)
values (%s, %s, %s, %s, %s, %s::pg_snapshot, %s)
"""


def slot_of(connection: psycopg.Connection[Any], topic: str, key: bytes) -> int:
    """The slot that a topic and key belong to."""
    [slot] = one(connection, "select kylo.slot_of(%s, %s)", (topic, key))
    return int(slot)


def split(connection: psycopg.Connection[Any], lane: Lane, slot: int) -> Lane | None:
    """Give `slot` a side lane that begins at the lane's stored cursor; None if the lane is no longer ours."""
    side = FIRST_SIDE + slot
    values = {"lane": lane.number, "epoch": lane.epoch, "slot": slot, "side": side}
    row = connection.execute(SPLIT, values).fetchone()
    if row is None:
        return None
    return Lane(side, Slots(slot, slot + 1), lane.epoch, Cursor(*row))


def join(connection: psycopg.Connection[Any], lane: Lane, side: int) -> bool:
    """Let the lane serve its side's slot again; both must be stored at one cursor. False if no longer ours."""
    values = {"lane": lane.number, "epoch": lane.epoch, "side": side}
    return connection.execute(JOIN, values).rowcount == 1


def left_out(connection: psycopg.Connection[Any], lane: int) -> frozenset[int]:
    """What a lane and its sides must not send though their cursors lie before it: discarded, or a dead letter.

    Only what is behind the cursor is ever taken out, and only `set_lanes` takes cursors back, so it is asked for when
    the lane is taken.
    """
    return frozenset(number for [number] in connection.execute(LEFT_OUT, {"lane": lane}))


def cut(count: int) -> list[tuple[int, int, int]]:
    """How the slots are cut into `count` lanes: (lane, first slot, end).

    Raises:
        Misconfigured: for a number of lanes that cannot be.
    """
    if not 1 <= count <= MOST_LANES:
        raise Misconfigured(f"lanes: must be 1 to {MOST_LANES}, not {count}")
    edges = [round(part * 1024 / _GRAIN / count) * _GRAIN for part in range(count + 1)]
    return [(lane, edges[lane], edges[lane + 1]) for lane in range(count)]


def set_lanes(tx: psycopg.Connection[Any], count: int) -> list[tuple[int, int, int]]:
    """Cut the store into `count` lanes anew, in the caller's transaction: (lane, first slot, end).

    Relays of the former lanes lose them and take the new ones. Events that they had sent beyond the lowest cursor are
    sent again under the same ids, in order; projectors absorb them. What was taken out meanwhile is not (`left_out`).

    Raises:
        Misconfigured: for a number of lanes that cannot be.
    """
    made = cut(count)
    tx.execute(_STOP_RELAYS)
    high_water, epoch, acknowledged, snapshot = one(tx, _LOWEST, ())
    tx.execute(_KEEP_MARKS, {"high_water": high_water})
    tx.execute("delete from kylo.marks")
    tx.execute("delete from kylo.lanes")
    for lane, first, end in made:
        tx.execute(_ADD, (lane, first, end, epoch + 1, high_water, snapshot, 0 if lane else acknowledged))
    tx.execute(_GIVE_MARKS)
    return made
