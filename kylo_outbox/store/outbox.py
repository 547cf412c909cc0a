"""Reading the outbox: every committed event once, in commit order per key, without a mark on any row.

State between two turns is a cursor: the highest id read and the snapshot of that read. A turn asks, in one statement
and so under one new snapshot, first for late rows (id not above the cursor, invisible to the old snapshot, visible to
the new one) and then for rows above it in id order. The lock of `kylo.emit` makes id order commit order for a key, so
a late row belongs to a key of which nothing later was visible: late first, then new, keeps every key in order.

A snapshot's xmax is the last *completed* transaction + 1: transactions running above it are not in its list, so the
whole range xmax(old) <= xid < xmax(new) is asked for beside the listed ones.

The cost is the transactions open at the time, never history; an idle or prepared transaction anywhere is one array
element and stops nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.store.lanes import Cursor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import psycopg

    from kylo_outbox.store.engine import Database

Row = tuple[int, str, bytes, str, bytes, str | None, str, float]
"""(id, topic, key, type, payload, headers as JSON text or None, event id, seconds since 1970 of the emit)."""

_COLUMNS = "id, topic, key, type, payload, headers::text, event_id::text, extract(epoch from created_at)::float8"

# `id + 0` and `offset 0` keep the planner from walking history in the order of ids: late rows are found by their xid.
# Part 0 is the snapshot of this very statement, part 1 the late rows, part 2 the new ones.
TURN = f"""
select 0, 0::bigint, pg_current_snapshot()::text, null::bytea, null::text, null::bytea, null::text, null::text,
       0::float8
union all
(select 1, {_COLUMNS} from (
     select * from kylo.outbox_log
  where id + 0 <= %(high_water)s and id + 0 > %(late_after)s and slot >= %(slot_from)s and slot < %(slot_to)s
    and (xid = any(%(running)s::xid8[])
         or (xid >= %(xmax)s::xid8 and xid < pg_snapshot_xmax(coalesce(%(until)s::pg_snapshot, pg_current_snapshot()))))
    and pg_visible_in_snapshot(xid, coalesce(%(until)s::pg_snapshot, pg_current_snapshot()))
    and not pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
  offset 0) late
  order by id limit %(limit)s)
union all
(select 2, {_COLUMNS} from kylo.outbox_log
  where id > %(high_water)s and slot >= %(slot_from)s and slot < %(slot_to)s and %(until)s::pg_snapshot is null
  order by id limit %(limit)s)
"""  # noqa: S608 - the only thing put in is a constant of this file


@dataclass(frozen=True, slots=True)
class Turn:
    """Rows to hand on, in order, and the cursor that holds once all of them (and all before) are acknowledged."""

    rows: list[Row]
    cursor: Cursor
    full: bool


class Reader:
    """Reads one lane turn by turn from a cursor. Not safe to share; uses one autocommit connection."""

    def __init__(self, connection: psycopg.Connection[Any], slots: tuple[int, int], cursor: Cursor) -> None:
        self._cursor = connection.cursor(binary=True)
        self._slots = slots
        self._at = cursor
        # While late rows need several turns, the old snapshot stays the state and the new one is kept fixed.
        self._until: str | None = None
        self._late_after = 0

    @property
    def cursor(self) -> Cursor:
        """The state after everything read so far."""
        return self._at

    def read(self, limit: int) -> Turn:
        """The next rows, at most `limit` late and `limit` new ones; an empty list when nothing has been committed."""
        _, xmax, running = self._at.snapshot.split(":")
        values = {
            "high_water": self._at.high_water,
            "late_after": self._late_after,
            "slot_from": self._slots[0],
            "slot_to": self._slots[1],
            "running": running.split(",") if running else [],
            "xmax": xmax,
            "snapshot": self._at.snapshot,
            "until": self._until,
            "limit": limit,
        }
        found = self._cursor.execute(TURN, values).fetchall()
        snapshot: str = self._until or found[0][2]
        late = [row[1:] for row in found if row[0] == 1]
        if len(late) == limit:
            self._until, self._late_after = snapshot, late[-1][0]
            return Turn(late, self._at, full=True)
        new = [row[1:] for row in found[1 + len(late) :]]
        self._at = Cursor(new[-1][0] if new else self._at.high_water, snapshot)
        full = len(new) == limit or self._until is not None
        self._until, self._late_after = None, 0
        return Turn(late + new, self._at, full)


STORED = f"""
select {_COLUMNS} from kylo.outbox_log
 where id > %s and id <= %s and topic = any(%s) order by id limit %s
"""  # noqa: S608 - the only thing put in is a constant of this file


def stored_rows(database: Database, topics: Collection[str], chunk: int = 1000) -> Iterator[list[Row]]:
    """Committed rows of some topics that are still stored, in id order, up to the newest one at the beginning.

    Rows that commit meanwhile are not promised; whoever needs those reads the lane.
    """
    with database.transaction() as tx:
        [newest] = tx.execute("select coalesce(max(id), 0) from kylo.outbox_log").fetchone() or (0,)
    after = 0
    while True:
        with database.transaction() as tx:
            rows: list[Row] = tx.execute(STORED, (after, newest, list(topics), chunk)).fetchall()
        if not rows:
            return
        yield rows
        after = rows[-1][0]
