"""How much waits in one store, counted so that the cost does not grow with what is behind the cursor.

Counts stop at `BOUND` rows; beyond it they are estimated from the newest id (and say so), because a scrape must stay
cheap also while a relay has been off for a day. `select count(*) from outbox where processed_at is null` is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from psycopg import errors as pg

from kylo_outbox.model.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

BOUND: Final = 50_000
_PATIENCE = "select set_config('statement_timeout', '2s', true), set_config('jit', 'off', true)"
# Where statistics are missing or old the planner expects a third of a partition above the cursor and reads all of it;
# the limits must stop an ordered index scan.
_BY_INDEX = """
select set_config('enable_seqscan', %(plan)s, true), set_config('enable_hashjoin', %(plan)s, true),
       set_config('enable_mergejoin', %(plan)s, true), set_config('enable_bitmapscan', %(plan)s, true),
       set_config('enable_sort', %(plan)s, true)
"""

# The same three kinds of open rows as the view outbox: above the cursor, late ones at or under it, held ones.
_WAITING = """
with ahead as materialized (
    select l.lane, o.id, o.topic, o.created_at
      from kylo.lanes l
      cross join lateral (
          select id, topic, created_at from kylo.outbox_log
           where id > l.high_water and slot >= l.slot_from and slot < l.slot_to
           order by id limit %(bound)s) o
), late as (
    select o.id, o.topic, o.created_at
      from kylo.lanes l
      join kylo.outbox_log o on o.xid >= pg_snapshot_xmax(l.snapshot)
                            and o.id + 0 <= l.high_water and o.slot >= l.slot_from and o.slot < l.slot_to
    union all
    select o.id, o.topic, o.created_at
      from kylo.lanes l
      join kylo.outbox_log o on o.xid = any (array(select pg_snapshot_xip(l.snapshot)))
                            and o.id + 0 <= l.high_water and o.slot >= l.slot_from and o.slot < l.slot_to
), unsent as (
    select id, topic, created_at from ahead union all (select * from late limit %(bound)s)
), waiting as (
    select topic, created_at from unsent u where not exists (select from kylo.outbox_held h where h.id = u.id)
    union all (select topic, created_at from kylo.outbox_held limit %(bound)s)
), beyond as (
    select sum((pg_sequence_last_value(pg_get_serial_sequence('kylo.outbox_log', 'id')::regclass) - a.last)
               * (l.slot_to - l.slot_from) / 1024) as rows
      from (select lane, max(id) as last from ahead group by lane having count(*) >= %(bound)s) a
      join kylo.lanes l using (lane)
)
select topic, count(*), extract(epoch from clock_timestamp() - min(created_at))::float8,
       coalesce((select rows from beyond), 0)::bigint
  from waiting
 group by topic
 order by topic
"""
_DECLARED = "select topic from kylo.topics order by topic"
# Keys that the relay holds, and keys that wait behind a dead letter of a projector or for their database.
_HELD = """
select topic, count(distinct key)
  from (select topic, key from kylo.outbox_held limit %(bound)s) held
 group by topic
 union all
select topic, count(*) from kylo.holds group by topic
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
select c.company_id, coalesce(max(p.upto), 0)
  from control.company_config c
  left join control.sheet_posts p on p.company_id = c.company_id and p.tab_name = c.tab_pending and p.state = 'posted'
 group by c.company_id
"""


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
    values = {"bound": bound, "companies": list(posted_upto), "posted": list(posted_upto.values())}
    try:
        conn.execute(_PATIENCE)
        conn.execute(_BY_INDEX, {"plan": "off"})
        waiting = conn.execute(_WAITING, values).fetchall()
        conn.execute(_BY_INDEX, {"plan": "on"})
        declared = conn.execute(_DECLARED).fetchall()
        counted = sum(count for _, count, _, _ in waiting)
        beyond = waiting[0][3] if waiting else 0
        held = conn.execute(_HELD, values).fetchall()
        dead = conn.execute(_DEAD).fetchall()
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
        dead_letters=dict(dead),
        open_pending=pending,
        unposted=unposted,
        oldest_transaction_age=transaction,
    )


def read_posted_upto(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """For each company of the control store: the newest `pending_txns.seq` up to which its tab is complete."""
    return {company_id: int(upto) for company_id, upto in conn.execute(_POSTED_UPTO)}
