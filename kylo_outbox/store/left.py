"""kylo.outbox_left: totals of events that left with their partitions, so that counts stay comparable for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    import psycopg

# What was taken out before it was published: discarded, or a dead letter of the relay. It reaches nobody.
TAKEN_OUT: Final = """
select outbox_id as id from kylo.verify_gaps
union all
select outbox_id from kylo.dead_letters where stage = 'relay' and outbox_id is not null
union all
select unnest(ids) from kylo.audit where verb = 'outbox discard'
"""
_AMONG = f"select id from ({TAKEN_OUT}) g where id = any(%s)"  # noqa: S608 - a constant of this file
# The partition is named by PostgreSQL and so already quoted.
_TOTALS = """
select topic, convert_from(key, 'UTF8') as key, count(*) as events, sum(id) as digest,
       max(array[generation, id]) as newest
  from {partition} p
 where not exists (select from ({taken_out}) g where g.id = p.id) and {which}
 group by topic, key
"""
_ADD = """
insert into kylo.{table} as t (topic, key, events, digest, generation, outbox_id)
select topic, key, events, digest, newest[1], newest[2] from ({totals}) totals order by topic, key
on conflict (topic, key) do update
   set events = t.events + excluded.events, digest = t.digest + excluded.digest,
       (generation, outbox_id) = (select * from (values (t.generation, t.outbox_id),
                                                        (excluded.generation, excluded.outbox_id)) v(g, id)
                                   order by g desc, id desc limit 1)
"""
_NOT_SEEN = "not pg_visible_in_snapshot(p.xid, (select snapshot from kylo.verify_state))"
_COUNT = "select count(*) from {partition} p where {which}"
_FOLDED = """
update kylo.verify_state
   set folded_below = greatest(folded_below, (select high from kylo.outbox_partitions where partition = %s)),
       left_unverified = left_unverified + %s, passes = passes + 1
"""
_TAKE_OUT = """
update kylo.outbox_left l set events = l.events - g.events, digest = l.digest - g.digest
  from (select topic, key, count(*) as events, sum(id) as digest
          from unnest(%s::text[], %s::text[], %s::bigint[]) as given(topic, key, id) group by topic, key) g
 where l.topic = g.topic and l.key = g.key
"""


def fold(tx: psycopg.Connection[Any], partition: str) -> None:
    """Add the events of a partition that is about to leave to the totals, in the transaction that decides it.

    Those that the verifier has not compared are counted as such, and are in its own totals from here on.
    """
    [state] = tx.execute("select snapshot is not null from kylo.verify_state for update").fetchone() or (False,)
    every = _TOTALS.format(partition=partition, taken_out=TAKEN_OUT, which="true")
    tx.execute(_ADD.format(table="outbox_left", totals=every))
    missed = 0
    if state:
        unseen = _TOTALS.format(partition=partition, taken_out=TAKEN_OUT, which=_NOT_SEEN)
        tx.execute(_ADD.format(table="verify_keys", totals=unseen))
        [missed] = tx.execute(_COUNT.format(partition=partition, which=_NOT_SEEN)).fetchone() or (0,)
    tx.execute(_FOLDED, (partition, missed))


def taken_out(tx: psycopg.Connection[Any], ids: Collection[int]) -> set[int]:
    """Which of some events were taken out before they were published."""
    return {number for [number] in tx.execute(_AMONG, (list(ids),))}


def take_out(tx: psycopg.Connection[Any], events: Collection[tuple[str, str, int]]) -> None:
    """(topic, key, id) of events that left while they were held and were taken out afterwards: they count no more."""
    if events:
        tx.execute(_TAKE_OUT, [list(column) for column in zip(*sorted(events), strict=True)])
