"""How much waits in one store, counted so that the cost does not grow with what is behind the cursor.

Counts stop at `BOUND` rows; beyond it they are estimated from the newest id (and say so), because a scrape must stay
cheap also while a relay has been off for a day. `select count(*) from outbox where processed_at is null` is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg import errors as pg

from kylo_outbox.model.errors import NotReady
from kylo_outbox.store.held import PAUSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

BOUND: Final = 50_000
_WINDOW: Final = 4
_PATIENCE = "select set_config('statement_timeout', '2s', true), set_config('jit', 'off', true)"
# Where statistics are missing or old the planner expects a third of a partition above the cursor and reads all of it;
# the limits must stop an ordered index scan.
_BY_INDEX = """
select set_config('enable_seqscan', %(plan)s, true), set_config('enable_hashjoin', %(plan)s, true),
       set_config('enable_mergejoin', %(plan)s, true), set_config('enable_bitmapscan', %(plan)s, true),
       set_config('enable_sort', %(plan)s, true)
"""

# The same three kinds of open rows as the view outbox: above the cursor, late ones at or under it, held ones, and
# delayed ones whose time has come. Above the cursor no more than a window of ids is looked at; what lies
# beyond is taken to be as dense as what was seen.
_MINE = "o.slot >= l.slot_from and o.slot < l.slot_to and o.slot <> all (l.except_slots)"
_WAITING = f"""
with newest as materialized (
    select pg_sequence_last_value(pg_get_serial_sequence('kylo.outbox_log', 'id')::regclass) as id
), ahead as materialized (
    select l.lane, o.id, o.topic, o.created_at
      from kylo.lanes l
      cross join lateral (
          select id, topic, created_at from kylo.outbox_log o
           where id > l.high_water and id <= l.high_water + %(window)s and {_MINE}
           order by id limit %(bound)s) o
), late as (
    select o.id, o.topic, o.created_at
      from kylo.lanes l
      join kylo.outbox_log o on o.xid >= pg_snapshot_xmax(l.snapshot) and o.id + 0 <= l.high_water and {_MINE}
    union all
    select o.id, o.topic, o.created_at
      from kylo.lanes l
      join kylo.outbox_log o on o.xid = any (array(select pg_snapshot_xip(l.snapshot)))
                            and o.id + 0 <= l.high_water and {_MINE}
), unsent as (
    select id, topic, created_at from ahead union all (select * from late limit %(bound)s)
), waiting as (
    select topic, created_at from unsent u where not exists (select from kylo.outbox_held h where h.id = u.id)
    union all (select topic, created_at from kylo.outbox_held limit %(bound)s)
    union all (select topic, available_at from kylo.outbox_delayed
                where available_at <= now() order by available_at limit %(bound)s)
), beyond as (
    select sum((newest.id - seen.upto) * seen.found / greatest(1, seen.upto - seen.high_water)) as rows
      from newest, (select l.high_water, count(a.id) as found,
                           case when count(a.id) >= %(bound)s then max(a.id)
                                else l.high_water + %(window)s end as upto
                      from kylo.lanes l left join ahead a using (lane)
                     group by l.lane, l.high_water) seen
     where seen.upto < newest.id
)
select topic, count(*), extract(epoch from clock_timestamp() - min(created_at))::float8,
       coalesce((select rows from beyond), 0)::bigint
  from waiting
 group by topic
 order by topic
"""  # noqa: S608 - the only thing put in is a constant of this file
_OLDEST = f"""
select extract(epoch from clock_timestamp() - min(created_at))::float8
  from (select o.created_at
          from kylo.lanes l
         cross join lateral (
             select created_at from kylo.outbox_log o
              where o.id > l.high_water and o.id <= l.high_water + %(window)s and {_MINE} order by o.id limit 1) o
        union all
        (select created_at from kylo.outbox_held order by id limit 1)) oldest
"""  # noqa: S608 - the only thing put in is a constant of this file
_DECLARED = "select topic from kylo.topics order by topic"
# Keys that the relay holds, and keys that wait behind a dead letter of a projector or for their database.
_HELD = """
select topic, count(distinct key)
  from (select topic, key from kylo.outbox_held limit %(bound)s) held
 group by topic
 union all
select topic, count(*) from kylo.holds group by topic
"""
# What waits for something to be mended: not for a person who paused it, nor for a projector that was just asked.
_STUCK_KEYS = """
select 'relay' as stage, topic, count(distinct key),
       extract(epoch from clock_timestamp() - min(held_at))::float8
  from (select topic, key, held_at, waits, reason from kylo.outbox_held limit %(bound)s) held
 where not waits and reason <> %(paused)s
 group by topic
 union all
select projector, topic, count(*), extract(epoch from clock_timestamp() - min(since))::float8
  from kylo.holds
 where released_at is null or released_at < clock_timestamp() - interval '30 seconds'
 group by projector, topic
 order by 1, 2
"""
_DEAD = "select topic, count(*) from kylo.dead_letters where settled_at is null group by topic"
_PENDING = """
select count(*), count(*) filter (where p.seq > posted.upto)
  from (select company_id, seq from kylo.pending_txns where status = 'open' limit %(bound)s) p
  left join unnest(%(companies)s::text[], %(posted)s::bigint[]) as posted(company_id, upto) using (company_id)
"""
_PENDING_ESTIMATE = "select greatest(reltuples, 0)::bigint from pg_class where oid = 'kylo.pending_txns_open'::regclass"
_OLDEST_TRANSACTION = """
select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""
_POSTED_UPTO = """
select c.company_id, coalesce(t.upto, 0)
  from control.company_config c
  left join control.sheet_tabs t
    on (t.company_id, t.kind, t.spreadsheet_id, t.title) = (c.company_id, 'pending', c.spreadsheet_id, c.tab_pending)
"""


class StuckKeys(NamedTuple):
    """Keys of a topic that a relay or a projector holds until something is mended; `seconds`: since the first."""

    stage: str
    topic: str
    keys: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one store; ages in seconds.

    `unprocessed` counts by topic what Kafka has not acknowledged: held events too, declared topics also at 0. `exact`
    is False when that or `open_pending` is an estimate. `unposted` are open rows that their company's tab does not
    hold yet.
    """

    unprocessed: dict[str, int] = field(default_factory=dict)
    oldest_age: float = 0.0
    exact: bool = True
    held_keys: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    open_pending: int = 0
    unposted: int = 0
    oldest_transaction_age: float = 0.0
    stuck_keys: tuple[StuckKeys, ...] = ()


def read_backlog(conn: psycopg.Connection[Any], posted_upto: Mapping[str, int], bound: int = BOUND) -> Backlog:
    """Count what waits in the store of `conn`, in a transaction of its own (whose settings this changes).

    Args:
        conn: A connection to any store.
        posted_upto: From `read_posted_upto`; companies that are missing there count as posted.
        bound: Rows of one kind that are counted before the rest is estimated.

    Raises:
        NotReady: the schema of this store is missing or closed to us.
        psycopg.errors.QueryCanceled: a count took over two seconds (`Database` makes it `Transient`).
    """
    values = {
        "bound": bound,
        "window": _WINDOW * bound,
        "companies": list(posted_upto),
        "posted": list(posted_upto.values()),
    }
    try:
        conn.execute(_PATIENCE)
        conn.execute(_BY_INDEX, {"plan": "off"})
        waiting = conn.execute(_WAITING, values).fetchall()
        conn.execute(_BY_INDEX, {"plan": "on"})
        declared = conn.execute(_DECLARED).fetchall()
        counted = sum(count for _, count, _, _ in waiting)
        beyond = waiting[0][3] if waiting else 0
        held = conn.execute(_HELD, values).fetchall()
        stuck = conn.execute(_STUCK_KEYS, values | {"paused": PAUSED}).fetchall()
        dead = read_dead_letters(conn)
        [pending, unposted] = conn.execute(_PENDING, values).fetchall()[0]
        if pending >= bound:
            pending = max(pending, conn.execute(_PENDING_ESTIMATE).fetchall()[0][0])
        [[transaction]] = conn.execute(_OLDEST_TRANSACTION).fetchall()
    except (pg.UndefinedTable, pg.UndefinedFunction, pg.InvalidSchemaName, pg.InsufficientPrivilege) as missing:
        raise NotReady(
            f"its schema is missing or closed to this user ({missing.sqlstate}); `kylo-outbox migrate`"
        ) from None
    return Backlog(
        unprocessed=dict.fromkeys((topic for [topic] in declared), 0)
        | {topic: count + beyond * count // counted for topic, count, _, _ in waiting},
        oldest_age=max((age for _, _, age, _ in waiting), default=0.0),
        exact=not beyond and pending < bound,
        held_keys={topic: sum(number for name, number in held if name == topic) for topic, _ in held},
        dead_letters=dead,
        open_pending=pending,
        unposted=unposted,
        oldest_transaction_age=transaction,
        stuck_keys=tuple(StuckKeys(*row) for row in stuck),
    )


def oldest_age(conn: psycopg.Connection[Any]) -> float | None:
    """Age of the oldest event that waits, in seconds; None if none does. Cheaper than `read_backlog`; no late rows."""
    row = conn.execute(_OLDEST, {"window": _WINDOW * BOUND}).fetchone()
    return None if row is None or row[0] is None else max(0.0, row[0])


def read_dead_letters(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Dead letters that nobody has settled, by topic."""
    return dict(conn.execute(_DEAD).fetchall())


def read_posted_upto(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """For each company of the control store: the newest `pending_txns.seq` up to which its tab is complete."""
    return {company_id: int(upto) for company_id, upto in conn.execute(_POSTED_UPTO)}
