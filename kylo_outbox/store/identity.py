"""The name of a store, kylo.store: read, checked against the database it lies in, given anew to a copy or a restore.

A copied database brings the name of its origin with it. Two stores with one name would publish different events under
the same ids, so nothing is published before somebody has said which of the two cases it is: `rename` for a copy that
lives beside its origin, `adopt` for a restore that takes its place.

A promoted standby and a recovered backup are the same server on a new timeline: they go on by themselves, as a new
generation. Ids may be drawn there that the lost life had drawn and published, so `kylo.emit` writes the generation into
each row: rows of the former life keep theirs, and what is published of them again is known as a repeat.

A copy of the data directory that is started as it is keeps the timeline; only another store can notice it
(`store/witness.py`).
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kylo_outbox.model.errors import NotReady, Transient

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

log = logging.getLogger(__name__)

_ENTER = """
select s.store_id, s.generation, pg_is_in_recovery(),
       (s.system_identifier, s.database_oid) = (c.system_identifier, d.oid), current_database()
  from pg_control_system() c
  join pg_database d on d.datname = current_database()
  left join kylo.store s on true
"""
# Whichever relay comes first does it; the next one finds the timeline known.
_NEXT_LIFE = """
update kylo.store set generation = generation + 1, timeline = kylo.timeline()
 where timeline <> kylo.timeline()
returning generation, timeline
"""

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
   set store_id = :store_id, generation = :generation, system_identifier = c.system_identifier, database_oid = d.oid,
       timeline = kylo.timeline()
  from pg_control_system() c, pg_database d
 where d.datname = current_database()
"""
# Late rows: their ids are behind the cursor, but no turn of the relay has seen them yet.
_HOLD_LATE = """
insert into kylo.outbox_held
       (id, event_id, created_at, slot, topic, key, type, payload, headers, generation, reason, retry)
select o.id, o.event_id, o.created_at, o.slot, o.topic, o.key, o.type, o.payload, o.headers, o.generation, :reason, true
  from kylo.lanes l
  join kylo.outbox_log o on o.id <= l.high_water and o.slot >= l.slot_from and o.slot < l.slot_to
                       and o.slot <> all (l.except_slots)
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
           and o.slot <> all (l.except_slots)
           and (o.id > l.high_water or not pg_visible_in_snapshot(o.xid, l.snapshot)))
     + (select count(*) from kylo.outbox_held) + (select count(*) from kylo.outbox_delayed)
"""
# What was written since the server was started belongs to the life that begins; all before it was there already.
_NEW_ROWS = """
update kylo.outbox_log set generation = :next where generation = :former and created_at >= pg_postmaster_start_time()
"""
_END_LEASES = "update kylo.lanes set epoch = epoch + 1, holder = null, lease_until = '-infinity'"
# The verifier begins with what is saved under the new name.
_NOT_COMPARED = "update kylo.verify_state set store_id = ''"
# What left the origin was the origin's: no reader of the copy is behind with it.
_FORGET_LEFT = ("delete from kylo.outbox_left_held", "update kylo.outbox_left set published = null")
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
        raise _copy(found.database)
    return found.store


def enter(connection: psycopg.Connection[Any]) -> StoreId:
    """Read the name of the store for whoever publishes from it; on a new timeline a new generation begins.

    Raises:
        NotReady: like `require_own`.
        Transient: the server is a standby now.
    """
    row = connection.execute(_ENTER).fetchone()
    if row is None or row[0] is None:
        raise NotReady("this database has no store yet; run `kylo-outbox migrate`")
    store_id, generation, standby, own, database = row
    if not own:
        raise _copy(database)
    if standby:
        raise Transient(f"{database}: the server is a standby; waiting until it is promoted")
    begun = connection.execute(_NEXT_LIFE).fetchone()
    if begun is not None:
        generation = begun[0]
        log.warning(
            "%s: the server was promoted or recovered (timeline %d): store %s goes on as generation %d; what the "
            "former life stored keeps its own generation, so that nothing counts twice",
            *(database, begun[1], store_id, generation),
        )
    return StoreId(store_id, generation)


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
    """How many stored events nobody has published yet, held and delayed ones included. Counts: not for a hot path."""
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


def begin_anew(connection: sa.Connection, former: int) -> StoreId | None:
    """Begin the next generation in a database that was put back to an earlier time; the caller commits.

    Rows written since the server was started become part of it, because their ids may have been published before for
    other events. None (and nothing done) if the store is not in generation `former` any more. Waits for writers.
    """
    _stop_writers(connection)
    store = identity(connection).store
    if store.generation != former:
        return None
    _run(connection, _NEW_ROWS, {"next": former + 1, "former": former})
    _run(connection, _END_LEASES)
    return _write(connection, StoreId(store.store_id, former + 1))


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
    _run(connection, "delete from kylo.outbox_delayed")
    for statement in _FORGET_LEFT:
        _run(connection, statement)
    _run(connection, _COUNT_ALL_AS_DONE)
    _run(connection, _AGE_LANES)
    _run(connection, _NOT_COMPARED)
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


def _copy(database: str) -> NotReady:
    return NotReady(
        f"{database}: this database is a copy or a restore; run `kylo-outbox store rename` (a copy gets a "
        "new name) or `kylo-outbox store adopt` (a restore continues as a new generation)"
    )


def _nameless(connection: sa.Connection) -> NotReady:
    name = connection.scalar(sa.text("select current_database()"))
    return NotReady(f"{name} has no store yet; run `kylo-outbox migrate`")
