"""Positions as the verifier reads them, in the database of the effect, and what it compares them with, in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.model.verifying import NONE, Standing, Totals
from kylo_outbox.store.left import TAKEN_OUT
from kylo_outbox.store.verify_state import at_once

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import psycopg

    from kylo_outbox.model.delivery import PositionAt
    from kylo_outbox.store.verify_state import State

LOOK_BACK: Final = 200_000
"""A position further behind than so many ids is compared once it has come nearer."""
_COLUMNS = "p.projector, p.topic, p.key, p.generation, p.outbox_id, p.applied, p.digest"
# What was written since a snapshot, whoever wrote it: by the age of the row itself.
_CHANGED = f"""
select {_COLUMNS} from kylo.positions p
 where p.store_id = %(store)s
   and (%(since)s::pg_snapshot is null
        or pg_snapshot_xmin(%(since)s::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot())
        or age(p.xmin) <= age(pg_snapshot_xmin(%(since)s::pg_snapshot)::xid))
"""  # noqa: S608 - names of columns
_OF_KEYS = f"""
select {_COLUMNS} from kylo.positions p
  join unnest(%s::text[], %s::text[], %s::text[]) as g(projector, topic, key) using (projector, topic, key)
 where p.store_id = %s
"""  # noqa: S608 - names of columns
_BEYOND = """
select p.n, count(*), sum(o.id)
  from unnest(%(topics)s::text[], %(keys)s::text[], %(generations)s::int[], %(ids)s::bigint[])
       with ordinality as p(topic, key, generation, id, n)
  join kylo.outbox_log o on o.topic = p.topic and o.key = convert_to(p.key, 'UTF8')
                        and (o.generation, o.id) > (p.generation, p.id)
 where o.id >= %(lowest)s and o.id >= %(folded_below)s and pg_visible_in_snapshot(o.xid, %(new)s::pg_snapshot)
   and not exists (select from ({gaps}) g where g.id = o.id)
 group by p.n
"""
# Those that the totals leave out.
_GAPS = "select outbox_id as id from kylo.verify_gaps"
# One look-up in the index a position (`offset 0`), whatever the planner knows of the tables' sizes.
_BASES = """
select g.projector, g.topic, g.key, b.era, b.events, b.digest
  from unnest(%s::text[], %s::text[], %s::text[]) as g(projector, topic, key)
 cross join lateral (
     select era, events, digest from kylo.verify_bases
      where projector = g.projector and topic = g.topic and key = g.key offset 0) b
"""
_SET_BASES = """
insert into kylo.verify_bases (projector, topic, key, era, events, digest)
select * from unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[], %s::numeric[])
on conflict (projector, topic, key) do update
   set era = excluded.era, events = excluded.events, digest = excluded.digest
"""
_READ = "select snapshot::text from kylo.verify_reads where reader = %s"
_SET_READ = """
insert into kylo.verify_reads (reader, snapshot) values (%s, %s::pg_snapshot)
on conflict (reader) do update set snapshot = excluded.snapshot, at = now()
"""

Name = tuple[str, str, str]
"""(projector, topic, key)."""


def name_of(standing: Standing) -> Name:
    """Which position it is."""
    return standing.projector, standing.topic, standing.key


def changed(tx: psycopg.Connection[Any], store_id: str, since: str | None) -> tuple[list[Standing], str]:
    """Positions over events of a store that were written since a snapshot (None: all), and the snapshot of now."""
    [now] = tx.execute("select pg_current_snapshot()::text").fetchone() or ("",)
    rows = tx.execute(_CHANGED, {"store": store_id, "since": since})
    return [_standing(row) for row in rows], str(now)


def of_keys(tx: psycopg.Connection[Any], store_id: str, names: Collection[Name]) -> list[Standing]:
    """Some positions, changed or not."""
    return [_standing(row) for row in tx.execute(_OF_KEYS, (*_columns(names), store_id))] if names else []


def beyond(
    tx: psycopg.Connection[Any],
    state: State,
    new: str,
    lagging: Sequence[Standing],
    lowest: int,
    *,
    all_gaps: bool,
) -> dict[Name, Totals]:
    """What lies behind some positions in the outbox.

    Args:
        tx: On the store.
        state: Where its comparison stands.
        new: As this snapshot shows it.
        lagging: The positions.
        lowest: No id below is asked for.
        all_gaps: Leave out everything that was taken out, not only what the verifier's totals leave out.
    """
    if not lagging:
        return {}
    values = {
        "topics": [each.topic for each in lagging],
        "keys": [each.key for each in lagging],
        "generations": [each.at[0] for each in lagging],
        "ids": [each.at[1] for each in lagging],
        "lowest": lowest,
        "folded_below": state.folded_below,
        "new": new,
    }
    found = {name_of(each): NONE for each in lagging}
    with at_once(tx):
        rows = tx.execute(_BEYOND.format(gaps=TAKEN_OUT if all_gaps else _GAPS), values).fetchall()
    for n, events, digest in rows:
        found[name_of(lagging[n - 1])] = Totals(events, int(digest))
    return found


def newest_id(tx: psycopg.Connection[Any]) -> int:
    """The newest id drawn in the store."""
    [newest] = tx.execute("select kylo.newest_outbox_id()").fetchone() or (0,)
    return int(newest)


def bases(tx: psycopg.Connection[Any], names: Collection[Name]) -> dict[Name, tuple[int, Totals]]:
    """(era, base) of positions that have one."""
    return {
        (projector, topic, key): (era, Totals(events, int(digest)))
        for projector, topic, key, era, events, digest in tx.execute(_BASES, _columns(names))
    }


def set_bases(tx: psycopg.Connection[Any], era: int, found: Mapping[Name, Totals]) -> None:
    """Remember what is forgiven from now on."""
    if found:
        rows = [(*name, era, *totals) for name, totals in sorted(found.items())]
        tx.execute(_SET_BASES, [list(column) for column in zip(*rows, strict=True)])


def read_up_to(tx: psycopg.Connection[Any], reader: str) -> str | None:
    """The snapshot up to which a reader has looked; None before its first look."""
    row = tx.execute(_READ, (reader,)).fetchone()
    return None if row is None else str(row[0])


def set_read(tx: psycopg.Connection[Any], reader: str, snapshot: str) -> None:
    """Remember how far a reader has looked."""
    tx.execute(_SET_READ, (reader, snapshot))


def _columns(names: Iterable[Name]) -> list[list[str]]:
    listed = sorted(names)
    return [[name[column] for name in listed] for column in range(3)]


def _standing(row: Sequence[Any]) -> Standing:
    projector, topic, key, generation, number, applied, digest = row
    at: PositionAt = (generation, number)
    return Standing(projector, topic, key, at, Totals(applied, int(digest)))
