"""Lanes: who relays which slots, and how far. One row a lane holds the lease and the cursor.

A lease is at most `LEASE` long by the database's clock and carries an epoch; whoever takes a lane over raises the
epoch, and a cursor is moved only under the epoch that moved it last, so a relay that was stopped and wakes up moves
nothing. The row names the holder's connection too, so that a newcomer sees at once when the holder is gone.

A side lane serves one slot of its parent apart, under the parent's lease and epoch (see `store/sides.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

LEASE = timedelta(seconds=1.2)

# Whoever took the lane may be gone before its lease is over; an operator who raises the epoch changes nothing of that.
TAKE = """
with taken as (
    update kylo.lanes
       set epoch = epoch + 1, holder = %(holder)s, session = pg_backend_pid(),
           lease_until = clock_timestamp() + %(lease)s
     where lane = %(lane)s and parent is null
       and (lease_until < clock_timestamp() or not exists (select from pg_stat_get_activity(session)))
    returning *
), sides as (
    update kylo.lanes s set epoch = taken.epoch from taken where s.parent = taken.lane returning s.*
)
select lane, slot_from, slot_to, except_slots, epoch, high_water, snapshot::text
  from (select * from taken union all select * from sides) ours
 order by parent nulls first, lane
"""
RENEW = """
update kylo.lanes set lease_until = clock_timestamp() + %(lease)s
 where lane = %(lane)s and epoch = %(epoch)s
"""
# The cursor and the time it passed, in one statement. A mark is extended for a second, then the next one begins.
ADVANCE = """
with moved as (
    update kylo.lanes
       set high_water = %(high_water)s, snapshot = %(snapshot)s::pg_snapshot, moved_at = clock_timestamp(),
           acknowledged = acknowledged + %(count)s, lease_until = clock_timestamp() + %(lease)s
     where lane = %(lane)s and epoch = %(epoch)s
    returning lane, high_water
), extended as (
    update kylo.marks m set high = moved.high_water, at = clock_timestamp()
      from moved
     where m.lane = moved.lane and m.high = %(former)s and moved.high_water > m.high
       and m.since > clock_timestamp() - interval '1 second'
    returning m.lane
), added as (
    insert into kylo.marks (lane, low, high, since, at)
    select lane, %(former)s + 1, high_water, clock_timestamp(), clock_timestamp() from moved
     where high_water > %(former)s and not exists (select from extended)
)
select count(*) from moved
"""
RELEASE = """
update kylo.lanes set lease_until = '-infinity', holder = null where lane = %(lane)s and epoch = %(epoch)s
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Every event of the lane with id <= `high_water` that `snapshot` shows is acknowledged."""

    high_water: int
    snapshot: str


@dataclass(frozen=True, slots=True)
class Slots:
    """`first` <= slot < `end`, without those in `without`."""

    first: int
    end: int
    without: tuple[int, ...] = ()

    @property
    def all(self) -> bool:
        """Whether these are all slots there are."""
        return (self.first, self.end) == (0, 1024) and not self.without


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane that is ours: its slots, the epoch of our lease, the stored cursor, and its side lanes."""

    number: int
    slots: Slots
    epoch: int
    cursor: Cursor
    sides: tuple[Lane, ...] = ()


def numbers(connection: psycopg.Connection[Any]) -> list[int]:
    """The lanes of a store that can be taken."""
    rows = connection.execute("select lane from kylo.lanes where parent is null order by lane")
    return [lane for (lane,) in rows]


def take(connection: psycopg.Connection[Any], lane: int, holder: str) -> Lane | None:
    """Take the lane if its lease ended or its holder's connection is gone; None while it is somebody else's."""
    values = {"lane": lane, "holder": holder, "lease": LEASE}
    found = [
        Lane(number, Slots(first, end, tuple(without)), epoch, Cursor(high_water, snapshot))
        for number, first, end, without, epoch, high_water, snapshot in connection.execute(TAKE, values)
    ]
    if not found:
        return None
    ours, *sides = found
    return Lane(ours.number, ours.slots, ours.epoch, ours.cursor, tuple(sides))


def renew(connection: psycopg.Connection[Any], lane: Lane) -> bool:
    """Lengthen the lease; False if the lane is no longer ours."""
    return connection.execute(RENEW, {"lane": lane.number, "epoch": lane.epoch, "lease": LEASE}).rowcount == 1


def advance(connection: psycopg.Connection[Any], lane: Lane, former: int, cursor: Cursor, count: int) -> bool:
    """Store `cursor` over `count` acknowledged events; False (and nothing stored) if the lane is no longer ours."""
    values = {
        "lane": lane.number,
        "epoch": lane.epoch,
        "lease": LEASE,
        "former": former,
        "high_water": cursor.high_water,
        "snapshot": cursor.snapshot,
        "count": count,
    }
    [moved] = one(connection, ADVANCE, values)
    return bool(moved)


def release(connection: psycopg.Connection[Any], lane: Lane) -> None:
    """Give the lane up at once, so that a standby need not wait for the lease to end."""
    connection.execute(RELEASE, {"lane": lane.number, "epoch": lane.epoch})


def one(connection: psycopg.Connection[Any], sql: str, values: Any) -> tuple[Any, ...]:
    """The one row of a statement that always answers."""
    row: tuple[Any, ...] | None = connection.execute(sql, values).fetchone()
    if row is None:
        raise RuntimeError("a statement that always answers did not")
    return row
