"""The name of a store, kylo.store: read, checked against the database it lies in, given anew to a copy or a restore.

A copied database brings the name of its origin with it. Two stores with one name would publish different events under
the same ids, so nothing is published before somebody has said which of the two cases it is: `rename` for a copy that
lives beside its origin, `adopt` for a restore that takes its place.

Not seen: a physical copy on another machine (same identifiers) and a promoted standby.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kylo_outbox.model.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Mapping

# The row lock makes two operators wait for each other; the table lock waits for every writer of events, so that what
# is stored then is committed, and nothing is added until the new name is.
_STOP_WRITERS = "lock table kylo.outbox_log in share row exclusive mode"
_READ = """
select s.store_id, s.generation, s.system_identifier, s.database_oid,
       c.system_identifier as now_system, d.oid as now_oid, current_database() as database_name
  from pg_control_system() c
  join pg_database d on d.datname = current_database()
  left join kylo.store s on true
"""
_WRITE = """
update kylo.store s
   set store_id = :store_id, generation = :generation, system_identifier = c.system_identifier, database_oid = d.oid
  from pg_control_system() c, pg_database d
 where d.datname = current_database()
"""
# Late rows: their ids are behind the cursor, but no turn of the relay has seen them yet.
_HOLD_LATE = """
insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, headers, reason, retry)
select o.id, o.event_id, o.created_at, o.slot, o.topic, o.key, o.type, o.payload, o.headers, :reason, true
  from kylo.lanes l
  join kylo.outbox_log o on o.id <= l.high_water and o.slot >= l.slot_from and o.slot < l.slot_to
 where not pg_visible_in_snapshot(o.xid, l.snapshot)
on conflict (id) do nothing
"""
# A dump restored into another server brings transaction ids that this server has not given out yet: they would look
# like transactions of the future. 3 is the first ordinary one and long over everywhere.
_AGE_ROWS = "update kylo.outbox_log set xid = '3'::xid8 where xid >= pg_snapshot_xmin(pg_current_snapshot())"
_AGE_LANES = """
update kylo.lanes set snapshot = pg_current_snapshot(), epoch = epoch + 1, holder = null, lease_until = '-infinity'
"""
_WAITING = """
select (select count(*) from kylo.lanes l
          join kylo.outbox_log o on o.slot >= l.slot_from and o.slot < l.slot_to
           and (o.id > l.high_water or not pg_visible_in_snapshot(o.xid, l.snapshot)))
     + (select count(*) from kylo.outbox_held h)
"""
_COUNT_ALL_AS_DONE = """
with newest as (select coalesce(max(id), 0) as id from kylo.outbox_log), marked as (
    insert into kylo.marks (lane, low, high, since, at)
    select l.lane, l.high_water + 1, n.id, now(), now() from kylo.lanes l, newest n where n.id > l.high_water
)
update kylo.lanes l set high_water = greatest(l.high_water, n.id) from newest n
"""


@dataclass(frozen=True, slots=True)
class StoreId:
    """The name every record of a store carries: twelve hex digits, and which life of the database it comes from."""

    store_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What a database says of itself: its name, its database's name, and whether the one was given to the other."""

    store: StoreId
    database: str
    own: bool


def identity(connection: sa.Connection) -> Identity:
    """Read the name of the store without judging it.

    Raises:
        NotReady: the database has none yet.
    """
    if connection.scalar(sa.text("select to_regclass('kylo.store')")) is None:
        raise _nameless(connection)
    row = connection.execute(sa.text(_READ)).one()
    if row.store_id is None:
        raise _nameless(connection)
    own = (row.system_identifier, row.database_oid) == (row.now_system, row.now_oid)
    return Identity(StoreId(row.store_id, row.generation), row.database_name, own)


def require_own(connection: sa.Connection) -> StoreId:
    """Read the name of the store and make sure that it was given to this very database.

    Raises:
        NotReady: the database has no name yet, or is a copy or a restore; the message has the remedy.
    """
    found = identity(connection)
    if not found.own:
        raise NotReady(
            f"{found.database}: this database is a copy or a restore; run `kylo-outbox store rename` (a copy gets a "
            "new name) or `kylo-outbox store adopt` (a restore continues as a new generation)"
        )
    return found.store


def place(connection: sa.Connection) -> tuple[int, int]:
    """What a database is, name or not: (system identifier of the server, oid of the database)."""
    row = connection.execute(
        sa.text(
            "select c.system_identifier, d.oid::bigint from pg_control_system() c, pg_database d "
            "where d.datname = current_database()"
        )
    ).one()
    return row[0], row[1]


def waiting(connection: sa.Connection) -> int:
    """How many stored events nobody has published yet, held ones included. Counts: not for a hot path."""
    return int(connection.scalar(sa.text(_WAITING)) or 0)


def adopt(connection: sa.Connection) -> StoreId:
    """Let a restored database go on under its name as a new generation; the caller commits.

    Every stored event counts as committed. What was published stays published, what was not will be, in order; late
    events that no turn of the relay had seen are copied to the held ones and go first. A relay that still holds a
    lane loses it. Waits for running writers, and makes them wait.

    Raises:
        NotReady: the database has no name.
    """
    _stop_writers(connection)
    former = identity(connection).store
    _run(connection, _HOLD_LATE, {"reason": "late when the database was restored: sent first"})
    _run(connection, _AGE_ROWS)
    _run(connection, _AGE_LANES)
    return _write(connection, StoreId(former.store_id, former.generation + 1))


def rename(connection: sa.Connection) -> StoreId:
    """Give a copied database a name of its own, generation 1; the caller commits.

    Events that were waiting in it when it was copied belong to the origin, which publishes them: here they count as
    done (`waiting` tells how many). A relay that holds a lane loses it. Waits for running writers.

    Raises:
        NotReady: the database has no name.
    """
    _stop_writers(connection)
    identity(connection)
    _run(connection, _AGE_ROWS)
    _run(connection, "delete from kylo.outbox_held")
    _run(connection, _COUNT_ALL_AS_DONE)
    _run(connection, _AGE_LANES)
    return _write(connection, StoreId(uuid.uuid4().hex[:12], 1))


def _stop_writers(connection: sa.Connection) -> None:
    if connection.scalar(sa.text("select to_regclass('kylo.store')")) is None:
        raise _nameless(connection)
    _run(connection, "select from kylo.store for update")
    _run(connection, _STOP_WRITERS)


def _write(connection: sa.Connection, store: StoreId) -> StoreId:
    _run(connection, _WRITE, {"store_id": store.store_id, "generation": store.generation})
    return store


def _run(connection: sa.Connection, sql: str, values: Mapping[str, Any] | None = None) -> None:
    connection.execute(sa.text(sql), values)


def _nameless(connection: sa.Connection) -> NotReady:
    name = connection.scalar(sa.text("select current_database()"))
    return NotReady(f"{name} has no store yet; run `kylo-outbox migrate`")
