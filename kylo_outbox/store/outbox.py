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

from kylo_outbox.model.errors import Fatal
from kylo_outbox.store.lanes import Cursor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import psycopg

    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.lanes import Lane

Row = tuple[int, str, bytes, str, bytes, str | None, str, float]
"""(id, topic, key, type, payload, headers as JSON text or None, event id, seconds since 1970 of the emit)."""

_COLUMNS = "id, topic, key, type, payload, headers::text, event_id::text, extract(epoch from created_at)::float8"

# Part 0 is the epoch of the lane, the snapshot of this very statement and the newest id given out; part 1 the late
# rows, part 2 the new ones. Late rows are asked for by their transaction, so that history is never walked: those that
# ran at the last snapshot one by one in the order of ids (a long one may have a million), those that began after it
# together (`id + 0` and `offset 0` keep the planner from walking the ids instead).
_MINE = "slot >= %(slot_from)s and slot < %(slot_to)s and slot <> all(%(without)s::smallint[])"
TURN = f"""
select 0, (select epoch from kylo.lanes where lane = %(lane)s), pg_current_snapshot()::text, null::bytea,
       pg_sequence_last_value('kylo.outbox_log_id_seq'::regclass)::text, null::bytea, null::text, null::text, 0::float8
union all
(select 1, {_COLUMNS} from (
    select o.* from unnest(%(running)s::xid8[]) r
     cross join lateral (
         select * from kylo.outbox_log
          where xid = r and id > %(late_after)s and id <= %(high_water)s and {_MINE}
          order by id limit %(limit)s) o
     where pg_visible_in_snapshot(r, coalesce(%(until)s::pg_snapshot, pg_current_snapshot()))
    union all
    select * from (
        select * from kylo.outbox_log
         where xid >= %(xmax)s::xid8
           and xid < pg_snapshot_xmax(coalesce(%(until)s::pg_snapshot, pg_current_snapshot()))
           and id + 0 > %(late_after)s and id + 0 <= %(high_water)s and {_MINE}
           and pg_visible_in_snapshot(xid, coalesce(%(until)s::pg_snapshot, pg_current_snapshot()))
        offset 0) since) late
  order by id limit %(limit)s)
union all
(select 2, {_COLUMNS} from kylo.outbox_log
  where id > %(high_water)s and id <= %(upto)s and {_MINE}
    and (%(until)s::pg_snapshot is null or pg_visible_in_snapshot(xid, %(until)s::pg_snapshot))
  order by id limit %(limit)s)
"""  # noqa: S608 - the only things put in are constants of this file
_NO_BOUND = 2**63 - 1
# A lane that leaves slots out would read past the rows of others again and again: beyond so many it notes their end.
_FOREIGN = 1000


@dataclass(frozen=True, slots=True)
class Turn:
    """Rows to hand on, in order, and the cursor that holds once all of them (and all before) are acknowledged."""

    rows: list[Row]
    cursor: Cursor
    full: bool


class Reader:
    """Reads one lane turn by turn from its cursor. Not safe to share; uses one autocommit connection."""

    def __init__(self, connection: psycopg.Connection[Any], lane: Lane, cursor: Cursor | None = None) -> None:
        self._cursor = connection.cursor(binary=True)
        self._lane = lane
        self._at = cursor or lane.cursor
        # While late rows need several turns, the old snapshot stays the state and the new one is kept fixed.
        self._until: str | None = None
        self._late_after = 0

    @property
    def cursor(self) -> Cursor:
        """The state after everything read so far."""
        return self._at

    def read(self, limit: int, upto: Cursor | None = None) -> Turn:
        """The next rows, at most `limit` late and `limit` new ones; an empty list when nothing has been committed.

        With `upto`, nothing that `upto` does not cover; a turn that is not full then ends at that very cursor.

        Raises:
            Fatal: the lane was taken over; nothing was read.
        """
        _, xmax, running = self._at.snapshot.split(":")
        slots = self._lane.slots
        values = {
            "lane": self._lane.number,
            "high_water": self._at.high_water,
            "late_after": self._late_after,
            "slot_from": slots.first,
            "slot_to": slots.end,
            "without": list(slots.without),
            "running": running.split(",") if running else [],
            "xmax": xmax,
            "until": self._until or (upto.snapshot if upto else None),
            # Rows beyond the cursor wait until the late ones are done.
            "upto": 0 if self._until else upto.high_water if upto else _NO_BOUND,
            "limit": limit,
        }
        found = self._cursor.execute(TURN, values).fetchall()
        if found[0][1] != self._lane.epoch:
            raise Fatal(f"lane {self._lane.number} was taken over (epoch {self._lane.epoch} is over)")
        snapshot: str = values["until"] or found[0][2]
        late = [row[1:] for row in found if row[0] == 1]
        if len(late) == limit:
            self._until, self._late_after = snapshot, late[-1][0]
            return Turn(late, self._at, full=True)
        new = [row[1:] for row in found[1 + len(late) :]]
        full = len(new) == limit or self._until is not None
        newest = int(found[0][4] or 0)
        self._at = Cursor(self._reached(new, newest, upto, full=full), snapshot)
        self._until, self._late_after = None, 0
        return Turn(late + new, self._at, full)

    def _reached(self, new: list[Row], newest: int, upto: Cursor | None, *, full: bool) -> int:
        last = new[-1][0] if new else self._at.high_water
        if full:
            return last
        if upto is not None:
            return upto.high_water
        # Everything visible was read; whatever of the ids given out is not, belongs to transactions that this
        # snapshot does not show, and so comes as a late row.
        return newest if not self._lane.slots.all and newest > last + _FOREIGN else last


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
