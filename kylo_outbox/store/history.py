"""What an outbox still has of what was saved, for those who apply it or send it once more.

Never among it: what was taken out before it was published, by an operator or as a dead letter of the relay. Nobody is
to get it any more; a dead letter that is sent after all is saved anew. Each reading is as of its beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model.errors import Transient
from kylo_outbox.store import left
from kylo_outbox.store.outbox import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime

    import psycopg

    from kylo_outbox.model.delivery import PositionAt
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.outbox import Row

_NEWEST = "select coalesce(max(id), 0) from kylo.outbox_log"
STORED = f"""
select {COLUMNS} from kylo.outbox_log o
 where o.id > %(after)s and o.id <= %(newest)s and o.topic = any(%(topics)s)
 order by o.id limit %(limit)s
"""  # noqa: S608 - the only thing put in is a constant of this file
# A partition that is half detached is listed until it is gone, but read no more.
_BEGINNING = "select coalesce(min(low), 0) from kylo.outbox_partitions where not leaving"
# One statement, so that an event that is let go meanwhile is in one of the two.
_NOW = f"""
select ({_BEGINNING}),
       (select json_agg(json_build_object('slot_from', slot_from, 'slot_to', slot_to, 'except_slots', except_slots,
                                          'high_water', high_water, 'snapshot', snapshot::text))::text
          from kylo.lanes),
       (select array_agg(id) from kylo.outbox_held where topic = any(%s))
"""  # noqa: S608 - the only thing put in is a constant of this file
# Behind the cursor and seen by it: what the relay has not published yet comes by itself.
PUBLISHED = f"""
select {COLUMNS} from kylo.outbox_log o
 where o.id > %(after)s and o.topic = any(%(topics)s)
   and (%(key)s::bytea is null or o.key = %(key)s) and (%(since)s::timestamptz is null or o.created_at >= %(since)s)
   and exists (select from json_to_recordset(%(lanes)s::json)
                        as l(slot_from int, slot_to int, except_slots smallint[], high_water bigint, snapshot text)
                where o.slot >= l.slot_from and o.slot < l.slot_to and o.slot <> all (l.except_slots)
                  and o.id <= l.high_water and pg_visible_in_snapshot(o.xid, l.snapshot::pg_snapshot))
 order by o.id limit %(limit)s
"""  # noqa: S608 - the only thing put in is a constant of this file


class Moment(NamedTuple):
    """How an outbox stood at a moment: the lowest id that was stored, the lanes' cursors (JSON), what was held."""

    begins: int
    lanes: str
    held: frozenset[int]


def stored_rows(database: Database, topics: Collection[str], chunk: int = 1000) -> Iterator[list[Row]]:
    """Committed rows of some topics, published or not, in id order, up to the newest one at the beginning.

    For those who know from elsewhere which of them were applied. Rows that commit meanwhile are not promised.
    """
    with database.transaction() as tx:
        [newest] = tx.execute(_NEWEST).fetchone() or (0,)
    return _in_batches(database, STORED, {"topics": list(topics), "newest": newest, "limit": chunk}, frozenset())


def moment(database: Database, topics: Collection[str]) -> Moment:
    """How the outbox stands now; of what is held, only these topics."""
    with database.transaction() as tx:
        begins, lanes, held = tx.execute(_NOW, (list(topics),)).fetchone() or (0, None, None)
    return Moment(begins, lanes or "[]", frozenset(held or ()))


def published_and_left(
    database: Database, topics: Collection[str], chunk: int = 1000
) -> Iterator[dict[tuple[str, str], PositionAt]]:
    """By (topic, key), in batches: (generation, id) of the newest event that was published and is stored no more.

    Everything of the key up to there has left, or was never published.
    """
    after = ("", "")
    while True:
        with database.transaction() as tx:
            found = dict(left.published(tx, topics, after, chunk))
        if not found:
            return
        *_, after = found
        yield {each: at for each, at in found.items() if at is not None}


def published_rows(
    database: Database,
    topics: Collection[str],
    key: str | None = None,
    since: datetime | None = None,
    chunk: int = 1000,
    at: Moment | None = None,
) -> Iterator[list[Row]]:
    """Rows of some topics that had gone out when this began, in id order; `key` and `since` (time of the emit) narrow.

    Of each key a stretch without holes: what goes out meanwhile, or is let go, is not among it, however long it
    takes. Otherwise a position could pass an event that was held when its turn came.

    Args:
        database: Of the store.
        topics: Which.
        key: Only this one.
        since: Only what was saved then or later.
        chunk: At most so many at once.
        at: What had gone out by an earlier moment instead, all of it.

    Raises:
        Transient: some rows have left since `at` and may be missing. What was given until then is without holes.
    """
    asked = at or moment(database, topics)
    values: dict[str, object] = {
        "topics": list(topics),
        "key": None if key is None else key.encode(),
        "since": since,
        "lanes": asked.lanes,
        "limit": chunk,
    }
    return _in_batches(database, PUBLISHED, values, asked.held, at.begins if at else None)


def _beginning(tx: psycopg.Connection[Any]) -> int:
    [low] = tx.execute(_BEGINNING).fetchone() or (0,)
    return int(low)


def _in_batches(
    database: Database, query: str, values: dict[str, object], held: frozenset[int], begins: int | None = None
) -> Iterator[list[Row]]:
    after = 0
    while True:
        with database.transaction() as tx:
            rows: list[Row] = tx.execute(query, {**values, "after": after}).fetchall()
            # Asked afterwards: a partition that is there now was there when the rows were read.
            if begins is not None and _beginning(tx) > max(begins, after + 1):
                raise Transient(f"{database.name}: a partition of the outbox left while it was read")
            if not rows:
                return
            nobodys = held | left.taken_out(tx, [row[0] for row in rows])
        after = rows[-1][0]
        if wanted := [row for row in rows if row[0] not in nobodys]:
            yield wanted
