"""One relay's connection to one store: the lane it holds, its reader and its holds, with errors turned into ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from kylo_outbox.model.errors import Fatal, NotReady
from kylo_outbox.store import held, lanes
from kylo_outbox.store.engine import as_ours, connect
from kylo_outbox.store.outbox import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kylo_outbox.store.lanes import Cursor, Lane
    from kylo_outbox.store.outbox import Row, Turn


class LaneSession:
    """Holds at most one lane of one store. Every method may raise `Transient`; then the session must be closed.

    The connection is direct and stays open while the lane is held: the lease follows it.
    """

    def __init__(self, dsn: str, name: str) -> None:
        self._name = name
        with as_ours(name):
            # Only the cursor is written here; a cursor write lost in a crash means repeats, never loss.
            self._connection = connect(dsn, f"relay {name}", autocommit=True, durable=False)
            self._connection.execute("set max_parallel_workers_per_gather = 0")
        self._lane: Lane | None = None
        self._reader: Reader | None = None
        self._stored: Cursor | None = None

    @property
    def lane(self) -> Lane | None:
        """The lane that is ours, if any."""
        return self._lane

    @property
    def broken(self) -> bool:
        """Whether the connection is gone, and the lane with it."""
        return self._connection.closed

    def identity(self) -> tuple[str, int]:
        """(store id, generation) that every record of this store carries."""
        with self._errors():
            row = self._connection.execute("select store_id, generation from kylo.store").fetchone()
        if row is None:
            raise NotReady(f"{self._name}: the store has no name; run `kylo-outbox migrate`")
        return row[0], row[1]

    def take(self, lane: int, holder: str) -> bool:
        """Try to take `lane`; True if it is ours now, with the reader at its stored cursor."""
        with self._errors():
            self._lane = lanes.take(self._connection, lane, holder)
        if self._lane is not None:
            self._stored = self._lane.cursor
            self.rewind()
        return self._lane is not None

    def read(self, limit: int) -> Turn:
        """The next rows of the lane."""
        if self._reader is None:
            raise Fatal(f"{self._name}: reading without a lane")
        with self._errors():
            return self._reader.read(limit)

    def rewind(self) -> None:
        """Read again from the stored cursor: what is not acknowledged is sent again under the same ids."""
        lane, stored = self._held()
        self._reader = Reader(self._connection, (lane.slot_from, lane.slot_to), stored)

    def advance(self, cursor: Cursor, count: int) -> None:
        """Store the cursor over acknowledged rows.

        Raises:
            Fatal: if the lane is somebody else's by now; nothing was stored.
        """
        lane, stored = self._held()
        with self._errors():
            if not lanes.advance(self._connection, lane, stored.high_water, cursor, count):
                raise Fatal(f"{self._name}: lane {lane.number} was taken over (epoch {lane.epoch} is over)")
        self._stored = cursor

    def renew(self) -> None:
        """Lengthen the lease; raises like `advance`."""
        lane, _ = self._held()
        with self._errors():
            if not lanes.renew(self._connection, lane):
                raise Fatal(f"{self._name}: lane {lane.number} was taken over (epoch {lane.epoch} is over)")

    def hold(self, rows: Sequence[Row], reason: str, *, retry: bool) -> None:
        """Copy rows out of the way, with the reason people will read; `retry`: the relay tries again by itself."""
        with self._errors():
            held.hold(self._connection, rows, reason, retry=retry)

    def held_keys(self) -> set[tuple[str, bytes]]:
        """(topic, key) that must wait behind a held event."""
        lane, _ = self._held()
        with self._errors():
            return held.held_keys(self._connection, (lane.slot_from, lane.slot_to))

    def held_heads(self) -> list[Row]:
        """The oldest held event of each key, where it may be tried again."""
        lane, _ = self._held()
        with self._errors():
            return held.heads(self._connection, (lane.slot_from, lane.slot_to))

    def let_go(self, row: Row) -> None:
        """Forget a held event that was acknowledged after all."""
        with self._errors():
            held.let_go(self._connection, row)

    def close(self) -> None:
        """Give the lane up at once if the connection still works, and close it."""
        lane, self._lane = self._lane, None
        try:
            if lane is not None and not self._connection.closed:
                lanes.release(self._connection, lane)
        except psycopg.Error:
            pass  # the lease ends by itself; the connection is closed below in any case
        finally:
            self._connection.close()

    def _held(self) -> tuple[Lane, Cursor]:
        if self._lane is None or self._stored is None:
            raise Fatal(f"{self._name}: no lane is held")
        return self._lane, self._stored

    @contextmanager
    def _errors(self) -> Iterator[Any]:
        with as_ours(self._name):
            yield
