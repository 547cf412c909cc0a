"""Reading the outbox: every committed event once, in commit order per key, without a mark on any row.

State between two turns is a cursor: the highest id read and the snapshot of that read. A turn takes a new snapshot and
asks, as seen by it, first for late rows (id not above the cursor, invisible to the old snapshot, visible to the new
one) and then for rows above it in id order. The lock of `kylo.emit` makes id order commit order for a key, so
a late row belongs to a key of which nothing later was visible: late first, then new, keeps every key in order.

A snapshot's xmax is the last *completed* transaction + 1: transactions running above it are not in its list, so the
whole range xmax(old) <= xid < xmax(new) is asked for beside the listed ones.

The cost is the transactions open at the time, never history; an idle or prepared transaction anywhere is one array
element and stops nothing.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import Fatal
from kylo_outbox.store.lanes import Cursor

if TYPE_CHECKING:
    import psycopg

    from kylo_outbox.store.lanes import Lane

Row = tuple[int, str, bytes, str, bytes, str | None, str, float, int]
"""(id, topic, key, type, payload, headers as JSON text or None, event id, seconds since 1970, generation)."""

_COLUMNS = (
    # date_part, because extract answers with a numeric, which costs as much as half of the other columns.
    "id, topic, key, type, payload, headers::text, event_id::text, date_part('epoch', created_at), generation"
)

# The long way of a turn: it looks at the clock of transactions first, and what follows is asked for "as that snapshot
# saw it", in statements of their own. A lane with all slots asks for none: the planner guesses slots badly.
LOOK = """
select pg_current_snapshot()::text, epoch, pg_sequence_last_value('kylo.outbox_log_id_seq'::regclass)
  from kylo.lanes where lane = %s
"""
_SLOTS = "and slot >= %(slot_from)s and slot < %(slot_to)s and slot <> all(%(without)s::smallint[])"
# Late rows are asked for by their transaction, so that history is never walked: those that ran at the last snapshot
# one by one in the order of ids (a long one may have a million), those that began after it together. Pairs are
# compared, because only the index that begins with the transaction can do that: where one of them wrote nearly
# everything, the planner would walk all ids and hope to meet the asked one soon.
LATE = f"""
select {_COLUMNS} from (
    select o.* from unnest(%(running)s::xid8[]) r
     cross join lateral (
         select * from kylo.outbox_log
          where (xid, id) > (r, %(late_after)s::bigint) and (xid, id) <= (r, %(high_water)s::bigint)
            and id > %(late_after)s and id <= %(high_water)s {{slots}}
          order by xid, id limit %(limit)s) o
     where pg_visible_in_snapshot(r, {{until}})
    union all
    select * from (
        select * from kylo.outbox_log
         where xid >= %(xmax)s::xid8 and xid < pg_snapshot_xmax({{until}})
           and id + 0 > %(late_after)s and id + 0 <= %(high_water)s {{slots}}
           and pg_visible_in_snapshot(xid, {{until}})
        offset 0) since) late
 order by id limit %(limit)s
"""  # noqa: S608 - the only things put in are constants of this file
NEW = f"""
select {_COLUMNS} from kylo.outbox_log
 where id > %(high_water)s and id <= %(upto)s and pg_visible_in_snapshot(xid, %(until)s::pg_snapshot) {{slots}}
 order by id limit %(limit)s
"""  # noqa: S608 - the only things put in are constants of this file
# The short way: all of it in one statement, whose own snapshot is the new one; so what it sees needs no further test.
# The first row has the newest id, the snapshot and the epoch in the places of id, topic and generation.
_TURN = f"""
select pg_sequence_last_value('kylo.outbox_log_id_seq'::regclass), pg_current_snapshot()::text, null::bytea, null,
       null::bytea, null, null, null::float8, epoch
  from kylo.lanes where lane = %(lane)s
union all
({{late}})
union all
(select {_COLUMNS} from kylo.outbox_log where id > %(high_water)s {{slots}} order by id limit %(limit)s)
"""  # noqa: S608 - the only things put in are constants of this file
_GIVEN = "%(until)s::pg_snapshot"
# While a backlog is read, the next rows are asked for as the same snapshot saw them. Nobody looks at the lane then, so
# the statement itself finds nothing once the lane is somebody else's.
AHEAD = f"""
select {_COLUMNS} from kylo.outbox_log
 where id > %(high_water)s and pg_visible_in_snapshot(xid, %(until)s::pg_snapshot) {{slots}}
   and exists (select from kylo.lanes where lane = %(lane)s and epoch = %(epoch)s)
 order by id limit %(limit)s
"""  # noqa: S608 - the only things put in are constants of this file
# Plans made once that walk an index in its order, whatever the statistics of a young partition are.
PLANS = """
select set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false), set_config('enable_sort', 'off', false),
       set_config('max_parallel_workers_per_gather', '0', false), set_config('jit', 'off', false)
"""
# A process that is stopped while the server reads ahead for it must not hold a snapshot for ever (PostgreSQL 17+).
BOUNDED = """
select set_config('transaction_timeout', '10s', false)
 where current_setting('server_version_num')::int >= 170000
"""
_NO_BOUND = 2**63 - 1
# Many late rows at once (a long transaction) are sorted once for so many turns.
_LATE_TURNS = 20
# What commits meanwhile below the cursor waits so long at most, seconds.
_SAME_SNAPSHOT = 0.2


@dataclass(frozen=True, slots=True)
class Turn:
    """Rows to hand on, in order, and the cursor that holds once all of them (and all before) are acknowledged."""

    rows: list[Row]
    cursor: Cursor
    full: bool


class Reader:
    """Reads one lane turn by turn from its cursor. Not safe to share; uses one autocommit connection with `PLANS`."""

    def __init__(self, connection: psycopg.Connection[Any], lane: Lane, cursor: Cursor | None = None) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        self._lane = lane
        self._at = cursor or lane.cursor
        slots = "" if lane.slots.all else _SLOTS
        self._late_sql, self._new_sql = LATE.format(slots=slots, until=_GIVEN), NEW.format(slots=slots)
        self._turn_sql = _TURN.format(slots=slots, late=LATE.format(slots=slots, until="pg_current_snapshot()"))
        self._ahead_sql = AHEAD.format(slots=slots)
        self._pipeline: ExitStack | None = None
        self._ahead: list[Row] = []
        # Until when the next rows may be read as the snapshot of the last turn saw them.
        self._same_until = 0.0
        # While late rows need several turns, the old snapshot stays the state and the new one is kept fixed.
        self._until: str | None = None
        self._late: list[Row] = []
        self._late_after = 0
        # Whether the last turn read everything that its snapshot showed.
        self._at_end = False

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
        self.collect()
        if self._ahead:
            rows, self._ahead = self._ahead, []
            self._at = Cursor(rows[-1][0], self._at.snapshot)
            return Turn(rows, self._at, full=True)
        if upto is None and self._until is None and (turn := self._read_at_once(limit)) is not None:
            return turn
        return self._read_step_by_step(limit, upto)

    def _read_at_once(self, limit: int) -> Turn | None:
        """The next rows with one statement; None where so many are late that they need several turns."""
        values = self._values(limit, "") | {"lane": self._lane.number}
        look, *rows = self._cursor.execute(self._turn_sql, values).fetchall() or [None]
        newest, now, *_, epoch = look or (0, "", None)
        self._require_own(epoch)
        last = self._at.high_water
        new = len(rows) - sum(1 for row in rows if row[0] <= last)
        if len(rows) - new >= limit:
            return None
        full = new == limit
        reached = rows[-1][0] if new else last
        self._at = Cursor(reached if full else self._end(reached, newest or 0, None), now)
        self._at_end = not full
        self._same_until = time.monotonic() + _SAME_SNAPSHOT if full else 0.0
        return Turn(rows, self._at, full)

    def _read_step_by_step(self, limit: int, upto: Cursor | None) -> Turn:
        now, newest = self._look()
        if upto is not None and upto.high_water < self._at.high_water:
            upto = None
        until = self._until or (upto.snapshot if upto else now)
        late = self._read_late(limit, until)
        if len(late) == limit:
            self._until = until
            return Turn(late, self._at, full=True)
        again, self._until, self._late_after = self._until is not None, None, 0
        if again or (self._at_end and upto is None and until == self._at.snapshot):
            # After late rows of several turns their snapshot is old: the next turn takes a new one. And where all was
            # read and no transaction has ended since, there is nothing new.
            self._at_end = not again
            self._at = Cursor(self._at.high_water, until)
            return Turn(late, self._at, full=again)
        last = upto.high_water if upto else _NO_BOUND
        new = self._cursor.execute(self._new_sql, self._values(limit, until) | {"upto": last}).fetchall()
        full = len(new) == limit
        self._at_end = not full
        reached = new[-1][0] if new else self._at.high_water
        if not full:
            reached = self._end(reached, newest, upto)
        self._at = Cursor(reached, until)
        self._same_until = time.monotonic() + _SAME_SNAPSHOT if full and upto is None else 0.0
        return Turn(late + new if late else new, self._at, full)

    def ask(self, limit: int) -> None:
        """Let the server look for the next rows while the caller does other things; the next `read` returns them.

        Nothing happens except behind a full turn. No other statement may be sent before `collect`.
        """
        if self._pipeline is not None or self._ahead or time.monotonic() >= self._same_until:
            return
        self._pipeline = ExitStack()
        self._pipeline.enter_context(self._connection.pipeline())
        lane = {"lane": self._lane.number, "epoch": self._lane.epoch}
        self._cursor.execute(self._ahead_sql, self._values(limit, self._at.snapshot) | lane)

    def collect(self) -> None:
        """Take what was asked for; from here on the connection is free for other statements."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with pipeline:
                self._ahead = self._cursor.fetchall()

    def _look(self) -> tuple[str, int]:
        now, epoch, newest = self._cursor.execute(LOOK, (self._lane.number,)).fetchone() or ("", None, None)
        self._require_own(epoch)
        return now, newest or 0

    def _require_own(self, epoch: int | None) -> None:
        if epoch != self._lane.epoch:
            raise Fatal(f"lane {self._lane.number} was taken over (epoch {self._lane.epoch} is over)")

    def _read_late(self, limit: int, until: str) -> list[Row]:
        if not self._late and until != self._at.snapshot:
            values = self._values(limit * _LATE_TURNS, until)
            self._late = self._cursor.execute(self._late_sql, values).fetchall()
        rows, self._late = self._late[:limit], self._late[limit:]
        if rows:
            self._late_after = rows[-1][0]
        return rows

    def _end(self, last: int, newest: int, upto: Cursor | None) -> int:
        """The id up to which everything visible was read; whatever below it is not visible comes as a late row."""
        if upto is not None:
            return upto.high_water
        # A lane that leaves slots out would read past the rows of others again and again.
        return last if self._lane.slots.all else max(last, newest)

    def _values(self, limit: int, until: str) -> dict[str, Any]:
        _, xmax, running = self._at.snapshot.split(":")
        slots = self._lane.slots
        return {
            "high_water": self._at.high_water,
            "late_after": self._late_after,
            "slot_from": slots.first,
            "slot_to": slots.end,
            "without": list(slots.without),
            "running": running.split(",") if running else [],
            "xmax": xmax,
            "until": until,
            "limit": limit,
        }


COLUMNS = _COLUMNS
"""What a `Row` has, in its order."""
