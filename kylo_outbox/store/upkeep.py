"""Keeping the outbox small and its partitions ahead of the writers; nothing here locks for more than a moment.

Partitions are bounded by ids. Behind the bounded ones lies one without an end, so that a writer never misses one; if
writers get into it, it is given an end and a new last one is put behind it. A store so quiet that it never fills a
partition starts the next one after a seventh of the retention: the sequence skips to it, so that what is old can leave.

A partition leaves whole: detached concurrently (writers and relays go on), then dropped. Each step may be interrupted;
the next round goes on from there. Everything here needs a connection in autocommit mode.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import errors as pg

if TYPE_CHECKING:
    from collections.abc import Callable

AHEAD: Final = 4_000_000
# The end given to a last partition that is in use: nobody may reach it while the constraint is made.
_ROOM = 1_000_000_000
_ONE_AT_A_TIME = (1802068084, 0)
_LOCK_TIMEOUT = "set lock_timeout = '100ms'"
_SOON = 1.0
_LEAVING = "kylo: published and older than the retention; it is detached and dropped"
_CHUNK = 10_000
_CHUNKS = 100

# Who uses the outbox now. A prepared transaction is in the list as well.
_USERS = """
select distinct virtualtransaction from pg_locks
 where locktype = 'relation' and relation = 'kylo.outbox_log'::regclass and granted
   and database = (select oid from pg_database where datname = current_database())
   and pid is distinct from pg_backend_pid()
"""
_NEEDS_MORE = """
select coalesce(max(high), 1) <= kylo.newest_outbox_id() + %s or bool_and(high is not null) from kylo.outbox_partitions
"""
# No id of such a partition can be drawn any more.
_PASSED = """
select partition from kylo.outbox_partitions
 where high <= kylo.newest_outbox_id() and not leaving order by high
"""
_IS_YOUNG = """
select coalesce((select created_at from {partition} order by id desc limit 1) > now() - %(retention)s * interval '1 s',
                false)
"""
# The partition is named by PostgreSQL and so already quoted.
_NEEDED = """
select exists (select from {partition} where created_at > now() - %(retention)s * interval '1 s')
    or exists (select from {partition} o
                 join kylo.lanes l on o.slot >= l.slot_from and o.slot < l.slot_to and o.slot <> all (l.except_slots)
                where o.id > l.high_water or not pg_visible_in_snapshot(o.xid, l.snapshot))
"""
_MARKED = "select obj_description(%s::regclass, 'pg_class') = %s"
_PENDING = "select partition from kylo.outbox_partitions where leaving"
_DETACHED = """
select format('kylo.%%I', c.relname) from pg_class c
 where c.relnamespace = 'kylo'::regnamespace and c.relkind = 'r' and not c.relispartition
   and obj_description(c.oid, 'pg_class') = %s
"""
_ROLL = """
select next.low
  from kylo.outbox_partitions now
  join kylo.outbox_partitions next on next.low = now.high and next.high is not null
 where now.low <= kylo.newest_outbox_id() and kylo.newest_outbox_id() < now.high
   and (select created_at from kylo.outbox_log where id >= now.low and id < now.high order by id limit 1)
       < now() - %s * interval '1 s'
"""
TRIM_EVENT_IDS = f"""
delete from kylo.event_ids where (topic, event_id) in (
    select topic, event_id from kylo.event_ids i where created_at < now() - %s * interval '1 s'
       and not exists (select from kylo.outbox_delayed d where d.topic = i.topic and d.event_id = i.event_id)
     order by created_at limit {_CHUNK})
"""  # noqa: S608 - the only thing put in is a constant of this file
TRIM_MARKS = "delete from kylo.marks m where m.high < (select coalesce(min(id), 0) from kylo.outbox_log)"
_ROOM_AHEAD = "select coalesce(max(high), 1) - 1 - kylo.newest_outbox_id() from kylo.outbox_partitions"


def ahead(tx: psycopg.Connection[Any]) -> int:
    """How many ids there are bounded partitions for beyond the newest one; 0 or less: the last one is in use."""
    [found] = tx.execute(_ROOM_AHEAD).fetchone() or (0,)
    return int(found)


def alone(connection: psycopg.Connection[Any]) -> bool:
    """Whether nobody else keeps this store in shape now; holds until the connection is closed."""
    [got] = connection.execute("select pg_try_advisory_lock(%s, %s)", _ONE_AT_A_TIME).fetchone() or (False,)
    return bool(got)


def extend(connection: psycopg.Connection[Any], ahead: int = AHEAD, width: int = 1_000_000) -> int:
    """Make partitions for the ids to come; how many. A busy moment is left to the next round."""
    [needed] = connection.execute(_NEEDS_MORE, (ahead,)).fetchone() or (False,)
    if not needed or not _users_gone(connection):
        return 0
    try:
        connection.execute(_LOCK_TIMEOUT)
        if _value(connection, "select kylo.bound_last_partition(%s)", _ROOM):
            connection.execute("alter table kylo.outbox_log_last validate constraint outbox_log_bound")
        return int(_value(connection, "select kylo.extend_outbox(%s, %s)", ahead, width))
    except pg.LockNotAvailable:
        return 0


def roll(connection: psycopg.Connection[Any], retention: float) -> bool:
    """Start the next partition if the one in use holds rows older than a seventh of `retention` seconds."""
    next_low = _value(connection, _ROLL, retention / 7)
    if next_low is None or not _users_gone(connection):
        return False
    try:
        connection.execute(_LOCK_TIMEOUT)
        with connection.transaction():
            # Nobody draws an id from here to the commit; the one drawn here makes the new number count as used.
            connection.execute("alter sequence kylo.outbox_log_id_seq as bigint")
            if _value(connection, "select kylo.newest_outbox_id()") < next_low:
                connection.execute(f"alter sequence kylo.outbox_log_id_seq restart with {int(next_low)}")
                connection.execute("select nextval('kylo.outbox_log_id_seq')")
    except pg.LockNotAvailable:
        return False
    return True


def drop_published(
    connection: psycopg.Connection[Any],
    retention: float,
    before: Callable[[psycopg.Connection[Any], str], None] | None = None,
) -> list[str]:
    """Drop partitions whose rows are all published and older than `retention` seconds; their names.

    Args:
        connection: In autocommit mode.
        retention: Seconds.
        before: Called once for each partition that is about to leave, with its name, in the transaction that decides
            it: the place to keep totals of what goes. All its rows are still readable in the outbox.
    """
    connection.execute(_LOCK_TIMEOUT)
    dropped = []
    try:
        dropped += _finish(connection)
        for [partition] in connection.execute(_PASSED).fetchall():
            if not _decided(connection, partition, retention, before) or not _users_gone(connection):
                break
            connection.execute(f"alter table kylo.outbox_log detach partition {partition} concurrently")
            connection.execute(f"drop table {partition}")
            dropped.append(str(partition))
    except pg.LockNotAvailable:
        pass  # somebody reads for long; a half finished step is finished by the next round
    return dropped


def trim(connection: psycopg.Connection[Any], retention: float) -> None:
    """Forget event ids and marks older than what is kept, a bounded number at a time."""
    for _ in range(_CHUNKS):
        if connection.execute(TRIM_EVENT_IDS, (retention,)).rowcount < _CHUNK:
            break
    connection.execute(TRIM_MARKS)


def _decided(
    connection: psycopg.Connection[Any],
    partition: str,
    retention: float,
    before: Callable[[psycopg.Connection[Any], str], None] | None,
) -> bool:
    """Whether the partition may go. Once marked it may: what was true then stays true."""
    if _value(connection, _MARKED, partition, _LEAVING):
        return True
    values = {"retention": retention}
    if _value(connection, _IS_YOUNG.format(partition=partition), values):
        return False
    # Whoever drew an id of it is still at work with the outbox: once all of them are gone, every row is committed or
    # never will be. Without this a row that commits between the question and the drop would be lost.
    if not _users_gone(connection) or _value(connection, _NEEDED.format(partition=partition), values):
        return False
    with connection.transaction():
        if before is not None:
            before(connection, partition)
        connection.execute(f"comment on table {partition} is '{_LEAVING}'")
    return True


def _finish(connection: psycopg.Connection[Any]) -> list[str]:
    """What an interrupted round left: detached half way, or detached and not dropped."""
    for [partition] in connection.execute(_PENDING).fetchall():
        connection.execute(f"alter table kylo.outbox_log detach partition {partition} finalize")
    dropped = []
    for [table] in connection.execute(_DETACHED, (_LEAVING,)).fetchall():
        connection.execute(f"drop table {table}")
        dropped.append(str(table))
    return dropped


def _users_gone(connection: psycopg.Connection[Any]) -> bool:
    """Whether everybody who uses the outbox now has ended the transaction soon; newcomers do not count.

    Asked before each lock as well: a lock request that waits behind a long transaction would hold up every writer.
    """
    until = time.monotonic() + _SOON
    users = set(connection.execute(_USERS).fetchall())
    while users:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
        users &= set(connection.execute(_USERS).fetchall())
    return True


def _value(connection: psycopg.Connection[Any], sql: str, *values: Any) -> Any:
    """The one value of a statement's one row, or None."""
    row = connection.execute(sql, values[0] if values and isinstance(values[0], dict) else values).fetchone()
    return row[0] if row else None
