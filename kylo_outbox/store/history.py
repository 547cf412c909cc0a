"""What an outbox still has of what was saved, for those who apply it or send it once more.

Never among it: what was taken out before it was published, by an operator or as a dead letter of the relay. Nobody is
to get it any more; a dead letter that is sent after all is saved anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.store import left
from kylo_outbox.store.outbox import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime

    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.outbox import Row

_NEWEST = "select coalesce(max(id), 0) from kylo.outbox_log"
# Behind a held event everything of its key waits, also what the relay has not read yet.
STORED = f"""
select {COLUMNS} from kylo.outbox_log o
 where o.id > %(after)s and o.id <= %(newest)s and o.topic = any(%(topics)s)
   and not exists (select from kylo.outbox_held h where h.topic = o.topic and h.key = o.key and h.id <= o.id)
 order by o.id limit %(limit)s
"""  # noqa: S608 - the only thing put in is a constant of this file
# Behind the cursor, seen by it, and not held: what the relay has not published yet comes by itself.
PUBLISHED = f"""
select {COLUMNS} from kylo.outbox_log o
 where o.id > %(after)s and o.topic = any(%(topics)s)
   and (%(key)s::bytea is null or o.key = %(key)s) and (%(since)s::timestamptz is null or o.created_at >= %(since)s)
   and exists (select from kylo.lanes l
                where o.slot >= l.slot_from and o.slot < l.slot_to and o.slot <> all (l.except_slots)
                  and o.id <= l.high_water and pg_visible_in_snapshot(o.xid, l.snapshot))
   and not exists (select from kylo.outbox_held h where h.id = o.id)
 order by o.id limit %(limit)s
"""  # noqa: S608 - the only thing put in is a constant of this file


def stored_rows(database: Database, topics: Collection[str], chunk: int = 1000) -> Iterator[list[Row]]:
    """Committed rows of some topics, published or not, in id order, up to the newest one at the beginning.

    Keys that are held end before their first held event. Rows that commit meanwhile are not promised; whoever needs
    those reads the lane.
    """
    with database.transaction() as tx:
        [newest] = tx.execute(_NEWEST).fetchone() or (0,)
    return _in_batches(database, STORED, {"topics": list(topics), "newest": newest, "limit": chunk})


def published_rows(
    database: Database,
    topics: Collection[str],
    key: str | None = None,
    since: datetime | None = None,
    chunk: int = 1000,
) -> Iterator[list[Row]]:
    """Rows of some topics that went out, in id order, in batches; `key` and `since` (time of the emit) narrow them."""
    named = None if key is None else key.encode()
    return _in_batches(database, PUBLISHED, {"topics": list(topics), "key": named, "since": since, "limit": chunk})


def _in_batches(database: Database, query: str, values: dict[str, object]) -> Iterator[list[Row]]:
    after = 0
    while True:
        with database.transaction() as tx:
            rows: list[Row] = tx.execute(query, {**values, "after": after}).fetchall()
            if not rows:
                return
            nobodys = left.taken_out(tx, [row[0] for row in rows])
        after = rows[-1][0]
        if wanted := [row for row in rows if row[0] not in nobodys]:
            yield wanted
