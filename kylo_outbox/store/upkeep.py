"""Keeping the outbox small and its partitions ahead of the writers; nothing here locks for long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import errors as pg

if TYPE_CHECKING:
    import psycopg

AHEAD = 4_000_000
_PATIENCE = "select set_config('lock_timeout', '200ms', true)"

# A partition may go when the cursor of every lane is behind it, no transaction that a cursor still waits for has a
# row in it, and its newest row is older than the retention.
LEAVING = """
select c.oid::regclass::text, bounds.high
  from pg_inherits i
  join pg_class c on c.oid = i.inhrelid
  cross join lateral (
      select (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''?(\\d+)'))[1]::bigint as high) bounds
 where i.inhparent = 'kylo.outbox_log'::regclass and bounds.high is not null
   and bounds.high <= (select min(high_water) from kylo.lanes)
 order by bounds.high
"""
# "Needed" asks the partition itself; it is named by PostgreSQL and so already quoted.
NEEDED = """
select exists (select from {partition} where created_at > now() - make_interval(secs => %(retention)s))
    or exists (select from {partition} o, kylo.lanes l
                where o.slot >= l.slot_from and o.slot < l.slot_to and not pg_visible_in_snapshot(o.xid, l.snapshot))
"""
BOUNDED = """
select (regexp_match(pg_get_expr(relpartbound, oid), 'FROM \\(''?(\\d+)'))[1]::bigint - 1
       - coalesce(pg_sequence_last_value(pg_get_serial_sequence('kylo.outbox_log', 'id')::regclass), 0)
  from pg_class where oid = to_regclass('kylo.outbox_log_last')
"""
TRIM_EVENT_IDS = "delete from kylo.event_ids where created_at < now() - make_interval(secs => %s)"
TRIM_MARKS = "delete from kylo.marks m where m.high < (select coalesce(min(id), 0) from kylo.outbox_log)"


def ahead(tx: psycopg.Connection[Any]) -> int:
    """How many ids there are bounded partitions for beyond the newest one; 0 or less: the last one is in use."""
    row = tx.execute(BOUNDED).fetchone()
    return int(row[0]) if row else 0


def extend(tx: psycopg.Connection[Any]) -> int:
    """Make partitions for the ids to come; how many. A busy moment is left to the next run."""
    try:
        with tx.transaction():
            tx.execute(_PATIENCE)
            row = tx.execute("select kylo.extend_outbox(%s)", (AHEAD,)).fetchone()
            return int(row[0]) if row else 0
    except pg.LockNotAvailable:
        return 0


def drop_published(tx: psycopg.Connection[Any], retention: float) -> list[str]:
    """Drop partitions whose rows are all published and older than `retention` seconds; their names."""
    dropped = []
    for partition, _ in tx.execute(LEAVING).fetchall():
        [needed] = tx.execute(NEEDED.format(partition=partition), {"retention": retention}).fetchone() or (True,)
        if needed:
            break
        try:
            with tx.transaction():
                tx.execute(_PATIENCE)
                tx.execute(f"alter table kylo.outbox_log detach partition {partition}")
                tx.execute(f"drop table {partition}")
        except pg.LockNotAvailable:
            break
        dropped.append(str(partition))
    return dropped


def trim(tx: psycopg.Connection[Any], retention: float) -> None:
    """Forget event ids and marks older than what is kept."""
    tx.execute(TRIM_EVENT_IDS, (retention,))
    tx.execute(TRIM_MARKS)
