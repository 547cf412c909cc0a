"""The product with one mechanism taken out: `python -m tests.helpers.planted NAME relay` is the real command with it.

Each function here is a mistake that a relay may be written with; those of projectors are in `planted_projector`. They
live in processes of tests only.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from kylo_outbox.cli import main
from kylo_outbox.flows.relay.holding import Holding
from kylo_outbox.flows.relay.state import RelayTurn
from kylo_outbox.flows.relay.track import Batch
from kylo_outbox.flows.relay.worker import Relay
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.store import lanes, outbox
from kylo_outbox.store.session import LaneSession
from tests.helpers import planted_projector
from tests.helpers.without import without

if TYPE_CHECKING:
    from collections.abc import Callable


_SOURCE = "select pg_get_functiondef(oid) from pg_proc where proname = %s and pronamespace = 'kylo'::regnamespace"


def by_id() -> None:
    """`id > last`: rows that commit late, below what was read, are never asked for."""
    outbox.LATE = outbox.LATE.replace(") late\n", ") late where false\n")
    assert "where false" in outbox.LATE


def above_xmax() -> None:
    """Late rows are those of the transactions that the snapshot lists; those running above its xmax are forgotten."""
    outbox.LATE = without(outbox.LATE, r"union all.*since")


def late_last() -> None:
    """New rows go before late ones."""
    read = outbox.Reader.read

    def planted(self: outbox.Reader, limit: int, upto: Any = None) -> outbox.Turn:
        before = self._at.high_water
        turn = read(self, limit, upto)
        return replace(turn, rows=sorted(turn.rows, key=lambda row: row[0] <= before))

    outbox.Reader.read = planted


def skip_locked() -> None:
    """The textbook relay: every process takes rows that nobody has locked, publishes them and marks them."""
    take = f"""
        select {outbox._COLUMNS} from kylo.outbox_log o
         where not exists (select from planted_marks m where m.marked = o.id)
         order by id limit 20 for update skip locked
    """

    def planted(self: Relay) -> RelayTurn:
        session, outlet = self._opened()
        connection = session._connection
        with connection.transaction():
            connection.execute("create table if not exists planted_marks (marked bigint primary key)")
            # Who holds it is of no interest to such a relay; the tests wait for a name.
            connection.execute("update kylo.lanes set holder = %s where holder is null", (self._holder,))
        with connection.transaction():
            rows: list[outbox.Row] = connection.execute(take).fetchall()
            ticket = outlet.send(rows)
            while not ticket.done:
                outlet.drain(1.0)
            connection.execute("insert into planted_marks select unnest(%s::bigint[])", ([row[0] for row in rows],))
        return RelayTurn(leading=True, read=len(rows), pause=0.0 if rows else 0.01)

    Relay.run_once = planted


def cursor_first() -> None:
    """The cursor moves over what was handed to the client, acknowledged or not."""
    Batch.done = property(lambda _: True)  # type: ignore[assignment]


def no_epoch() -> None:
    """The lease is a time only: nobody asks whether the lane was taken over meanwhile."""
    lanes.RENEW = without(lanes.RENEW, r" and epoch = %\(epoch\)s")
    lanes.ADVANCE = without(lanes.ADVANCE, r" and epoch = %\(epoch\)s")
    outbox.AHEAD = without(outbox.AHEAD, r" and epoch = %\(epoch\)s")
    outbox.Reader._require_own = lambda *_: None


def flush_is_success() -> None:
    """Nothing is left in the client after a flush, so all of it must have arrived."""
    send = Publisher.send

    def planted(self: Publisher, rows: Any, *, tracked: bool = False) -> Any:
        ticket = send(self, rows, tracked=tracked)
        if self.drain(10.0) == 0:
            ticket.acknowledged, ticket.failure = ticket.expected, None
        return ticket

    Publisher.send = planted


def held_key_passed() -> None:
    """A held event is remembered, its key is not."""
    hold, sift = Holding.hold, Holding.sift
    held_ids: set[int] = set()

    def planted_hold(self: Holding, session: Any, rows: Any, *args: Any, **more: Any) -> None:
        held_ids.update(row[0] for row in rows)
        hold(self, session, rows, *args, **more)

    def planted_sift(self: Holding, session: Any, outlet: Any, rows: Any, **more: Any) -> Any:
        held, self._state.held_keys = self._state.held_keys, set()
        try:
            return sift(self, session, outlet, [row for row in rows if row[0] not in held_ids], **more)
        finally:
            self._state.held_keys |= held

    Holding.hold, Holding.sift = planted_hold, planted_sift


def rewind_forgotten() -> None:
    """After a refusal the client is built anew, and reading goes on where it was."""
    rewind = LaneSession.rewind

    def planted(self: LaneSession) -> None:
        if not self._readers:
            rewind(self)

    LaneSession.rewind = planted


def no_slot_lock(dsn: str) -> None:
    """`kylo.emit` without the lock of the slot; planted in the database, because that is where it lives."""
    with psycopg.connect(dsn) as connection:
        for name in ("emit_raw", "emit_many"):
            [(text,)] = connection.execute(_SOURCE, (name,)).fetchall()
            assert "pg_advisory_xact_lock(1802068079," in text
            # The same call without its effect.
            connection.execute(text.replace("pg_advisory_xact_lock(1802068079,", "format('%s %s', 1802068079,"))


PLANTED: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        by_id,
        above_xmax,
        late_last,
        skip_locked,
        cursor_first,
        no_epoch,
        flush_is_success,
        held_key_passed,
        rewind_forgotten,
    )
} | planted_projector.PLANTED

if __name__ == "__main__":
    PLANTED[sys.argv.pop(1)]()
    main()
