"""How far a store has been compared with what became of its events, and its totals by key.

The state is a snapshot: every event that it shows has been compared. The next pass takes the events that a newer
snapshot shows and the old one does not, whatever their ids: late commits are among them, and the cost is that of what
is new.

Two passes at a time do no harm: whoever began with a state that is no longer the stored one stores nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kylo_outbox.model.errors import Transient
from kylo_outbox.model.verifying import NONE, Source, Totals
from kylo_outbox.store.left import TAKEN_OUT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from datetime import datetime
    from uuid import UUID

    import psycopg

    from kylo_outbox.model.appearances import Key
    from kylo_outbox.model.delivery import PositionAt

NOTHING: Final = "3:3:"
"""The snapshot of a store of which nothing has been compared."""
_READ = """
select s.store_id, s.generation, v.store_id, v.generation, v.era, v.passes, v.snapshot::text, v.counted_from,
       v.folded_below, v.left_unverified, extract(epoch from clock_timestamp() - v.at)::float8
  from kylo.verify_state v, kylo.store s for update of v
"""
_FORGET = (
    "delete from kylo.verify_keys",
    "delete from kylo.verify_open",
    "delete from kylo.verify_offsets",
    "delete from kylo.verify_reads",
    "delete from kylo.verify_behind",
)
_TOTALS_OF_LEFT = """
insert into kylo.verify_keys (topic, key, events, digest, generation, outbox_id)
select topic, key, events, digest, generation, outbox_id from kylo.outbox_left where events > 0
"""
_BEGIN_ANEW = """
update kylo.verify_state
   set store_id = %s, generation = %s, era = era + %s, passes = passes + 1, snapshot = %s::pg_snapshot,
       folded_below = greatest(folded_below, %s)
"""
_FINISH = """
update kylo.verify_state
   set snapshot = %s::pg_snapshot, passes = passes + 1, repeats = repeats + %s, at = clock_timestamp()
 where passes = %s
"""
# Which events: those that one snapshot shows and another does not, that are not among the totals of what left.
NEW = """
o.xid >= pg_snapshot_xmin(%(old)s::pg_snapshot) and not pg_visible_in_snapshot(o.xid, %(old)s::pg_snapshot)
   and pg_visible_in_snapshot(o.xid, %(new)s::pg_snapshot) and o.id >= %(folded_below)s
"""
_ROWS = f"""
select o.generation, o.id, o.topic, convert_from(o.key, 'UTF8'), o.event_id, o.created_at
  from kylo.outbox_log o
 where {NEW} and (%(since)s::timestamptz is null or o.created_at >= %(since)s)
 order by o.generation, o.id
"""  # noqa: S608 - the only thing put in is a constant of this file
_TOPICS = f"""
select distinct topic from kylo.outbox_log o where {NEW}
union
select topic from kylo.verify_offsets
union
select topic from kylo.verify_open
"""  # noqa: S608 - the only thing put in is a constant of this file
_ADD = """
insert into kylo.verify_keys as t (topic, key, events, digest, generation, outbox_id)
select * from unnest(%s::text[], %s::text[], %s::bigint[], %s::numeric[], %s::int[], %s::bigint[])
on conflict (topic, key) do update
   set events = t.events + excluded.events, digest = t.digest + excluded.digest,
       generation = case when (excluded.generation, excluded.outbox_id) > (t.generation, t.outbox_id)
                         then excluded.generation else t.generation end,
       outbox_id = case when (excluded.generation, excluded.outbox_id) > (t.generation, t.outbox_id)
                        then excluded.outbox_id else t.outbox_id end
"""
# One look-up in the index a key (`offset 0`), whatever the planner knows of the tables' sizes.
_SOURCES = """
select g.topic, g.key, k.events, k.digest, k.generation, k.outbox_id, coalesce(l.events, 0)
  from unnest(%s::text[], %s::text[]) as g(topic, key)
 cross join lateral (
     select events, digest, generation, outbox_id from kylo.verify_keys
      where topic = g.topic and key = g.key offset 0) k
  left join lateral (select events from kylo.outbox_left where topic = g.topic and key = g.key offset 0) l on true
"""
# The same from what is stored, without the verifier's own totals: for a look that trusts nothing.
_STORED_SOURCES = f"""
with asked as (select * from unnest(%(topics)s::text[], %(keys)s::text[]) as g(topic, key)), stored as (
    select a.topic, a.key, count(*) as events, sum(o.id) as digest, max(array[o.generation, o.id]) as newest
      from asked a
      join kylo.outbox_log o on o.topic = a.topic and o.key = convert_to(a.key, 'UTF8')
     where o.id >= %(folded_below)s and pg_visible_in_snapshot(o.xid, %(new)s::pg_snapshot)
       and not exists (select from ({TAKEN_OUT}) g where g.id = o.id)
     group by a.topic, a.key
)
select a.topic, a.key, coalesce(s.events, 0) + coalesce(l.events, 0), coalesce(s.digest, 0) + coalesce(l.digest, 0),
       coalesce(s.newest[1], l.generation), coalesce(s.newest[2], l.outbox_id), coalesce(l.events, 0)
  from asked a
  left join stored s using (topic, key)
  left join kylo.outbox_left l using (topic, key)
 where s.events is not null or l.events is not null
"""  # noqa: S608 - constants of the store
# What is new is found by its transactions; a young partition has no statistics to tell that this is little.
_BY_INDEX = "select set_config('enable_seqscan', 'off', true)"
# Each event is compared with each key otherwise, where the planner takes both for few.
_NESTED = "select set_config('enable_nestloop', %s, true)"
_ALONE = "select pg_try_advisory_xact_lock(1802068085, hashtext(%s))"


@dataclass(frozen=True, slots=True)
class State:
    """Where the comparison of a store stands.

    `uncounted`: some events left before anybody counted them, or in another life of the store; `age` is the seconds
    since the last pass, None before the first.
    """

    store_id: str
    generation: int
    era: int
    passes: int
    snapshot: str
    counted_from: int
    folded_below: int
    left_unverified: int
    age: float | None

    @property
    def uncounted(self) -> bool:
        """Whether counts cannot be compared from the beginning."""
        return self.counted_from > 1 or self.era > 0


class SavedEvent(NamedTuple):
    """An event of the outbox, without its content."""

    generation: int
    number: int
    topic: str
    key: str
    event_id: UUID
    created_at: datetime

    @property
    def position(self) -> PositionAt:
        """What positions compare."""
        return self.generation, self.number


def begin(tx: psycopg.Connection[Any]) -> State:
    """Read the state; a store in another life than the state's, or a copy, begins anew."""
    row: Any = tx.execute(_READ).fetchone()
    store_id, generation, named, former, *rest = row
    if (named, former) == (store_id, generation):
        era, passes, snapshot, *more = rest
        return State(store_id, generation, era, passes, snapshot or NOTHING, *more)
    _begin_anew(tx, store_id, generation, first=named is None, copy=named not in {None, store_id})
    return begin(tx)


def _begin_anew(tx: psycopg.Connection[Any], store_id: str, generation: int, *, first: bool, copy: bool) -> None:
    for statement in _FORGET:
        tx.execute(statement)
    now, below = None, 0
    if copy:
        # What a copy brought along belongs to its origin: only what is saved from now on is compared.
        [now, below] = tx.execute("select pg_current_snapshot()::text, kylo.newest_outbox_id() + 1").fetchone() or (
            None,
            0,
        )
        tx.execute("update kylo.outbox_left set events = 0, digest = 0")
        tx.execute("delete from kylo.verify_findings")
    tx.execute(_TOTALS_OF_LEFT)
    tx.execute(_BEGIN_ANEW, (store_id, generation, 0 if first or copy else 1, now, below))


def alone(tx: psycopg.Connection[Any], what: str) -> bool:
    """Whether nobody else is at `what` in this store; holds until the transaction ends."""
    [got] = tx.execute(_ALONE, (what,)).fetchone() or (False,)
    return bool(got)


def boundary(tx: psycopg.Connection[Any]) -> str:
    """A snapshot of now: what it shows is to be compared."""
    [now] = tx.execute("select pg_current_snapshot()::text").fetchone() or (NOTHING,)
    return str(now)


def by_index(tx: psycopg.Connection[Any], state: State) -> None:
    """From here on the transaction finds what is new by index, unless everything is new."""
    if state.snapshot != NOTHING:
        tx.execute(_BY_INDEX)


@contextmanager
def at_once(tx: psycopg.Connection[Any]) -> Iterator[None]:
    """Statements that go through many events once and not once for each key."""
    tx.execute(_NESTED, ("off",))
    yield
    tx.execute(_NESTED, ("on",))


def topics(tx: psycopg.Connection[Any], state: State, new: str) -> set[str]:
    """Topics of events that were not compared yet, and of those met before."""
    by_index(tx, state)
    return {topic for [topic] in tx.execute(_TOPICS, _between(state, new))}


def saved(
    tx: psycopg.Connection[Any], state: State, new: str, since: datetime | None = None, chunk: int = 5000
) -> Iterator[list[SavedEvent]]:
    """Events that were not compared yet (and not older than `since`), by generation and id, in batches."""
    by_index(tx, state)
    with tx.cursor(name="kylo_verify") as cursor:
        cursor.itersize = chunk
        cursor.execute(_ROWS, {**_between(state, new), "since": since})
        while rows := cursor.fetchmany(chunk):
            yield [SavedEvent(*row) for row in rows]


def add(tx: psycopg.Connection[Any], totals: Mapping[Key, tuple[int, int, PositionAt]]) -> None:
    """Add (events, sum of ids, newest) by key; where events are taken out again the newest one may be (-1, -1)."""
    if totals:
        rows = [(*key, events, digest, *newest) for key, (events, digest, newest) in sorted(totals.items())]
        tx.execute(_ADD, [list(column) for column in zip(*rows, strict=True)])


def finish(tx: psycopg.Connection[Any], state: State, new: str, repeats: int) -> None:
    """Store that everything up to `new` was compared.

    Raises:
        Transient: somebody else did so meanwhile; the caller's transaction must not be committed.
    """
    if tx.execute(_FINISH, (new, repeats, state.passes)).rowcount != 1:
        raise Transient("somebody else verifies this store at the moment")


def sources(tx: psycopg.Connection[Any], keys: Collection[Key]) -> dict[Key, Source]:
    """The totals of some keys as compared; keys of which nothing was saved are left out."""
    return _sources(tx.execute(_SOURCES, ([topic for topic, _ in keys], [key for _, key in keys])))


def stored_sources(tx: psycopg.Connection[Any], state: State, new: str, keys: Collection[Key]) -> dict[Key, Source]:
    """The same counted anew; cost: everything that is stored."""
    values = {"topics": [topic for topic, _ in keys], "keys": [key for _, key in keys], **_between(state, new)}
    with at_once(tx):
        return _sources(tx.execute(_STORED_SOURCES, values).fetchall())


def _sources(rows: Any) -> dict[Key, Source]:
    return {
        (topic, key): Source(Totals(events, int(digest or NONE.digest)), (generation, number), left)
        for topic, key, events, digest, generation, number, left in rows
    }


def _between(state: State, new: str) -> dict[str, Any]:
    return {"old": state.snapshot, "new": new, "folded_below": state.folded_below}
