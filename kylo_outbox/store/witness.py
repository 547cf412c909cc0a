"""Stores watch each other: one whose log is shorter than it was has been put back to an earlier time.

A copy of the data directory (or of its disk) that is started as it is keeps its server's identity and timeline, so it
cannot tell by itself that it lived on elsewhere. Another store can: it remembers how far the first one's log was on
disk, which never shrinks within one life.

Not seen: a server put back that has written more since than it had lost when somebody looks, and a store without
another one beside it. `kylo-outbox store adopt` says it by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    from kylo_outbox.store.engine import Database

_NAME = "select store_id from kylo.store"
_STATE = """
select generation, kylo.timeline(), (pg_current_wal_flush_lsn() - '0/0')::bigint from kylo.store
 where not pg_is_in_recovery()
"""
# Locked, so that of two lookers the one with the older answer cannot come second.
_RECALL = "select timeline, flushed from kylo.witnesses where store_id = %s for update"
_REMEMBER = """
insert into kylo.witnesses (store_id, timeline, flushed) values (%s, %s, %s)
on conflict (store_id) do update set timeline = excluded.timeline, flushed = excluded.flushed, at = now()
"""


@dataclass(frozen=True, slots=True)
class State:
    """A store, the generation it is in, and how far the log of its server is on disk, in bytes."""

    store_id: str
    generation: int
    timeline: int
    flushed: int


def look(database: Database, witness: Database) -> State | None:
    """Look at a store and let another one remember where it stands.

    Returns:
        The store's state if it was put back since the last look; then it is not remembered, see `accept`.

    Raises:
        Transient: one of the two is away.
    """
    with database.transaction() as tx:
        [name] = tx.execute(_NAME).fetchone() or (None,)
    with witness.transaction() as memory:
        remembered = memory.execute(_RECALL, (name,)).fetchone()
        with database.transaction() as tx:
            row = tx.execute(_STATE).fetchone()
        if name is None or row is None:
            return None  # a standby
        seen = State(name, *row)
        if remembered is not None and remembered[0] == seen.timeline and remembered[1] > seen.flushed:
            return seen
        _remember(memory, seen)
    return None


def accept(witness: Database, seen: State) -> None:
    """Remember a state that goes back, once its store has begun a new generation."""
    with witness.transaction() as memory:
        _remember(memory, seen)


def _remember(memory: psycopg.Connection[Any], seen: State) -> None:
    memory.execute(_REMEMBER, (seen.store_id, seen.timeline, seen.flushed))
