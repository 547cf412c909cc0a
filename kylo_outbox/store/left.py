"""kylo.outbox_left: totals of events that left with their partitions, so that counts stay comparable for ever.

Also, by key, the newest of them that was published. What is stored of a key begins behind it: whoever has not taken it
must not go on with what is stored (see `flows/unread.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import psycopg

    from kylo_outbox.model.delivery import PositionAt

# What was taken out before it was published: discarded, or a dead letter of the relay. It reaches nobody.
TAKEN_OUT: Final = """
select outbox_id as id from kylo.verify_gaps
union all
select outbox_id from kylo.dead_letters where stage = 'relay' and outbox_id is not null
union all
select unnest(ids) from kylo.audit where verb = 'outbox discard'
"""
# `not in`, which is worked out once: a plan made without statistics might compare each with each.
_NOT_TAKEN_OUT = f"g.id not in (select t.id from ({TAKEN_OUT}) t)"  # noqa: S608 - a constant of this file
_AMONG = f"select id from ({TAKEN_OUT}) g where id = any(%s)"  # noqa: S608 - a constant of this file
# The partition is named by PostgreSQL and so already quoted.
_TOTALS = """
select p.topic, convert_from(p.key, 'UTF8') as key, count(*) as events, sum(p.id) as digest,
       max(array[p.generation, p.id]) as newest,
       max(array[p.generation, p.id]) filter (where h.id is null) as published
  from {partition} p
  left join kylo.outbox_left_held h on h.id = p.id
 where not exists (select from ({taken_out}) g where g.id = p.id) and {which}
 group by p.topic, p.key
"""
_HELD = """
insert into kylo.outbox_left_held (topic, key, id, generation)
select h.topic, convert_from(h.key, 'UTF8'), h.id, h.generation
  from kylo.outbox_held h join kylo.outbox_partitions p on h.id >= p.low and h.id < p.high
 where p.partition = %s
on conflict do nothing
"""
_ADD = """
insert into kylo.{table} as t (topic, key, events, digest, generation, outbox_id{more})
select topic, key, events, digest, newest[1], newest[2]{more} from ({totals}) totals order by topic, key
on conflict (topic, key) do update
   set events = t.events + excluded.events, digest = t.digest + excluded.digest,
       (generation, outbox_id) = (select * from (values (t.generation, t.outbox_id),
                                                        (excluded.generation, excluded.outbox_id)) v(g, id)
                                   order by g desc, id desc limit 1){raised}
"""
_RAISED = ", published = greatest(t.published, excluded.published)"
_NOT_SEEN = "not pg_visible_in_snapshot(p.xid, (select snapshot from kylo.verify_state))"
_COUNT = "select count(*) from {partition} p where {which}"
_FOLDED = """
update kylo.verify_state
   set folded_below = greatest(folded_below, (select high from kylo.outbox_partitions where partition = %s)),
       left_unverified = left_unverified + %s, passes = passes + 1
"""
# Of those that left while they were held: what became of them since.
_SETTLE = f"""
with over as (
    delete from kylo.outbox_left_held g where not exists (select from kylo.outbox_held h where h.id = g.id)
    returning topic, key, id, generation
), published as (
    select topic, key, max(array[generation, id]) as newest
      from over g where {_NOT_TAKEN_OUT} group by topic, key
)
update kylo.outbox_left l set published = greatest(l.published, p.newest)
  from published p where p.topic = l.topic and p.key = l.key
"""  # noqa: S608 - the only thing put in is a constant of this file
_PUBLISHED = f"""
select l.topic, l.key, greatest(l.published, (
           select array[g.generation, g.id] from kylo.outbox_left_held g
            where g.topic = l.topic and g.key = l.key and {_NOT_TAKEN_OUT}
              and not exists (select from kylo.outbox_held h where h.id = g.id)
            order by g.generation desc, g.id desc limit 1))
  from kylo.outbox_left l
 where l.topic = any(%s) and (l.topic, l.key) > (%s, %s)
 order by l.topic, l.key limit %s
"""  # noqa: S608 - the only thing put in is a constant of this file
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
    tx.execute(_HELD, (partition,))
    [state] = tx.execute("select snapshot is not null from kylo.verify_state for update").fetchone() or (False,)
    every = _TOTALS.format(partition=partition, taken_out=TAKEN_OUT, which="true")
    tx.execute(_ADD.format(table="outbox_left", more=", published", totals=every, raised=_RAISED))
    missed = 0
    if state:
        unseen = _TOTALS.format(partition=partition, taken_out=TAKEN_OUT, which=_NOT_SEEN)
        tx.execute(_ADD.format(table="verify_keys", more="", totals=unseen, raised=""))
        [missed] = tx.execute(_COUNT.format(partition=partition, which=_NOT_SEEN)).fetchone() or (0,)
    tx.execute(_FOLDED, (partition, missed))


def settle(tx: psycopg.Connection[Any]) -> None:
    """Count as published what left while it was held and was let go since."""
    tx.execute(_SETTLE)


def published(
    tx: psycopg.Connection[Any], topics: Collection[str], after: tuple[str, str], limit: int
) -> Iterator[tuple[tuple[str, str], PositionAt | None]]:
    """By (topic, key) behind `after`, in order: (generation, id) of the newest event that was published and has left.

    None for a key of which no such event is known. What had left before store_0016 while it was held, and what had left
    before anybody counted, is not known.
    """
    for topic, key, newest in tx.execute(_PUBLISHED, (list(topics), *after, limit)):
        yield (topic, key), (newest[0], newest[1]) if newest else None


def taken_out(tx: psycopg.Connection[Any], ids: Collection[int]) -> set[int]:
    """Which of some events were taken out before they were published."""
    return {number for [number] in tx.execute(_AMONG, (list(ids),))}


def take_out(tx: psycopg.Connection[Any], events: Collection[tuple[str, str, int]]) -> None:
    """(topic, key, id) of events that left while they were held and were taken out afterwards: they count no more."""
    if events:
        tx.execute(_TAKE_OUT, [list(column) for column in zip(*sorted(events), strict=True)])
