"""Published rows that are still in the outbox, for putting them on the log again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.outbox import Row

# Behind the cursor, seen by it, and not held: what the relay has not published yet comes by itself.
PUBLISHED = """
select o.id, o.topic, o.key, o.type, o.payload, o.headers::text, o.event_id::text,
       date_part('epoch', o.created_at), o.generation
  from kylo.outbox_log o
  join kylo.lanes l on o.slot >= l.slot_from and o.slot < l.slot_to
 where o.id > %(after)s and o.topic = %(topic)s
   and (%(key)s::bytea is null or o.key = %(key)s) and (%(since)s::timestamptz is null or o.created_at >= %(since)s)
   and o.id <= l.high_water and pg_visible_in_snapshot(o.xid, l.snapshot)
   and not exists (select from kylo.outbox_held h where h.id = o.id)
 order by o.id limit %(limit)s
"""


def published_rows(
    database: Database, topic: str, key: str | None, since: datetime | None, chunk: int = 1000
) -> Iterator[list[Row]]:
    """Rows of a topic in id order, in batches; `key` and `since` (time of the emit) narrow them."""
    values = {"topic": topic, "key": None if key is None else key.encode(), "since": since, "limit": chunk}
    after = 0
    while True:
        with database.transaction() as tx:
            rows: list[Row] = tx.execute(PUBLISHED, {**values, "after": after}).fetchall()
        if not rows:
            return
        yield rows
        after = rows[-1][0]
