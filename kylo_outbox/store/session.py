"""One relay's connection to one store: the lane it holds, its readers and its holds, with errors turned into ours."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from kylo_outbox.model.errors import Fatal
from kylo_outbox.store import held, lanes, relay_dead, sides
from kylo_outbox.store.bell import Bell
from kylo_outbox.store.engine import as_ours, connect
from kylo_outbox.store.identity import enter
from kylo_outbox.store.outbox import BOUNDED, PLANS, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from kylo_outbox.store.identity import StoreId
    from kylo_outbox.store.lanes import Cursor, Lane
    from kylo_outbox.store.outbox import Row, Turn
    from kylo_outbox.store.relay_dead import Buried


class LaneSession:
    """Holds at most one lane of one store. Every method may raise `Transient`; then the session must be closed.

    The connection is direct and stays open while the lane is held: the lease follows it. Whatever writes raises
    `Fatal`, with nothing written, once the lane is somebody else's.
    """

    def __init__(self, dsn: str, name: str) -> None:
        self._name = name
        with as_ours(name):
            # Only the cursor is written here; a cursor write lost in a crash means repeats, never loss.
            self._connection = connect(dsn, f"relay {name}", autocommit=True, durable=False)
            self._connection.execute(PLANS)
            self._connection.execute(BOUNDED)
        self._lane: Lane | None = None
        # The lane itself and its side lanes, by number, each with what is stored of it.
        self._parts: dict[int, Lane] = {}
        self._stored: dict[int, Cursor] = {}
        self._readers: dict[int, Reader] = {}
        # Events that are read again and must not go again.
        self._left_out: frozenset[int] = frozenset()
        self._bell: Bell | None = None
        # The reader that was asked ahead: its answer is taken before any other statement.
        self._asked: Reader | None = None

    @property
    def lane(self) -> Lane | None:
        """The lane that is ours, if any."""
        return self._lane

    @property
    def parts(self) -> list[int]:
        """Numbers of the lane and its side lanes, the lane first."""
        return list(self._parts)

    @property
    def broken(self) -> bool:
        """Whether the connection is gone, and the lane with it."""
        return self._connection.closed

    def identity(self) -> StoreId:
        """The name of the store, checked on this very connection; raises `NotReady` for a copy."""
        with self._errors():
            return enter(self._connection)

    def take(self, lane: int, holder: str) -> bool:
        """Try to take `lane`; True if it is ours now, with the readers at the stored cursors."""
        with self._errors():
            taken = lanes.take(self._connection, lane, holder)
            if taken is None:
                return False
            self._left_out = sides.left_out(self._connection, lane)
            self._bell = self._bell or Bell(self._connection, taken.slots)
        self._lane = taken
        self._parts = {part.number: part for part in (taken, *taken.sides)}
        self._stored = {part.number: part.cursor for part in self._parts.values()}
        self.rewind()
        return True

    def read(self, part: int, limit: int, upto: Cursor | None = None) -> Turn:
        """The next rows of the lane or of one of its side lanes, without what was taken out; its cursor passes that."""
        self._held()
        with self._errors():
            turn = self._readers[part].read(limit, upto)
        if self._left_out:
            return replace(turn, rows=[row for row in turn.rows if row[0] not in self._left_out])
        return turn

    def read_ahead(self, limit: int) -> None:
        """Let the server look for the lane's next rows while the caller does other things."""
        reader = self._readers[self._held().number]
        with self._errors():
            self._asked = reader
            self._in_pipeline(lambda: reader.ask(limit))

    def rewind(self) -> None:
        """Read again from the stored cursors: what is not acknowledged is sent again under the same ids."""
        with self._errors():
            self._readers = {
                number: Reader(self._connection, part, self._stored[number]) for number, part in self._parts.items()
            }

    def together(self, side: int) -> bool:
        """Whether the lane and a side of it are stored at one cursor."""
        return self._stored[side] == self._stored[self._held().number]

    def advance(self, part: int, cursor: Cursor, count: int) -> None:
        """Store the cursor over acknowledged rows."""
        self._held()
        with self._errors():
            self._ours(lanes.advance(self._connection, self._parts[part], self._stored[part].high_water, cursor, count))
        self._stored[part] = cursor

    def renew(self) -> None:
        """Lengthen the lease."""
        with self._errors():
            self._ours(lanes.renew(self._connection, self._held()))

    def split(self, topic: str, key: bytes) -> int | None:
        """Give the slot of a key a side lane, from the stored cursor on; its number, or None if it has one.

        Nothing may be in flight, and everything read must be stored.
        """
        lane = self._held()
        with self._errors():
            slot = sides.slot_of(self._connection, topic, key)
            if slot in lane.slots.without or sides.FIRST_SIDE + slot in self._parts:
                return None
            side = sides.split(self._connection, lane, slot)
            self._ours(side is not None)
        if side is not None:
            self._recut(lanes.Slots(lane.slots.first, lane.slots.end, (*lane.slots.without, slot)))
            self._parts[side.number], self._stored[side.number] = side, side.cursor
            self._readers[side.number] = Reader(self._connection, side)
        return sides.FIRST_SIDE + slot

    def join(self, side: int) -> None:
        """Let the lane serve a side's slot again; both must be stored at one cursor, with nothing in flight."""
        lane = self._held()
        if not self.together(side):
            raise RuntimeError("a side lane can only be joined where its lane stands")
        with self._errors():
            self._ours(sides.join(self._connection, lane, side))
        slot = self._parts.pop(side).slots.first
        del self._stored[side], self._readers[side]
        without = tuple(each for each in lane.slots.without if each != slot)
        self._recut(lanes.Slots(lane.slots.first, lane.slots.end, without))

    def hold(self, rows: Sequence[Row], reason: str, *, retry: bool, waits: bool = False) -> None:
        """Copy rows out of the way, with the reason people will read; `retry`: the relay tries again by itself."""
        with self._errors():
            self._ours(held.hold(self._connection, self._held(), rows, reason, retry=retry, waits=waits))

    def held_keys(self) -> set[tuple[str, bytes]]:
        """(topic, key) that must wait behind a held event."""
        with self._errors():
            return held.held_keys(self._connection, self._held())

    def held_ready(self, keys: Collection[tuple[str, bytes]], limit: int) -> list[Row]:
        """Held events of `keys` that may be tried now, in order."""
        with self._errors():
            return held.ready(self._connection, keys, limit)

    def block(self, row: Row, reason: str) -> None:
        """Note that a held event was refused: it waits for a person."""
        with self._errors():
            self._ours(held.block(self._connection, self._held(), row, reason))

    def let_go(self, rows: Sequence[Row]) -> None:
        """Forget held events that were acknowledged after all."""
        with self._errors():
            self._ours(held.let_go(self._connection, self._held(), rows))

    def bury_refused(self) -> list[Buried]:
        """Make dead letters of refused events whose topic says so."""
        lane = self._held()
        with self._errors():
            return relay_dead.bury_refused(self._connection, (lane.slots.first, lane.slots.end))

    def awake(self) -> None:
        """Tell writers that they need not ring."""
        if self._bell is not None:
            with self._errors():
                self._bell.awake()

    def asleep(self) -> bool:
        """Ask writers to ring from now on; whether all will. One more look is due before waiting."""
        if self._bell is not None:
            with self._errors():
                self._bell.asleep()
        return self.sleeps

    @property
    def sleeps(self) -> bool:
        """Whether every writer knows that it has to ring."""
        return self._bell is not None and self._bell.sleeps

    def wait(self, seconds: float) -> bool:
        """Wait for the bell, at most so long; whether it rang."""
        if self._bell is None:
            return False
        with self._errors():
            return self._bell.wait(seconds)

    @property
    def rings(self) -> bool:
        """Whether writers of this store ring at all."""
        return self._bell is not None and self._bell.works

    def close(self) -> None:
        """Give the lane up at once if the connection still works, and close it."""
        lane, self._lane = self._lane, None
        with suppress(psycopg.Error):
            self._collect()
        try:
            if lane is not None and not self._connection.closed:
                lanes.release(self._connection, lane)
        except psycopg.Error:
            pass  # the lease ends by itself; the connection is closed below in any case
        finally:
            self._connection.close()

    def _collect(self) -> None:
        reader, self._asked = self._asked, None
        if reader is not None:
            self._in_pipeline(reader.collect)

    def _in_pipeline(self, do: Callable[[], None]) -> None:
        try:
            do()
        except psycopg.Error:
            # Nobody knows what such a connection answers next; the next one begins at the stored cursor.
            self._connection.close()
            raise

    def _recut(self, slots: lanes.Slots) -> None:
        lane = self._held()
        number = lane.number
        self._lane = self._parts[number] = lanes.Lane(number, slots, lane.epoch, lane.cursor)
        self._readers[number] = Reader(self._connection, self._lane, self._stored[number])

    def _held(self) -> Lane:
        if self._lane is None:
            raise Fatal(f"{self._name}: no lane is held")
        return self._lane

    def _ours(self, ours: bool) -> None:
        if not ours and self._lane is not None:
            raise Fatal(f"{self._name}: lane {self._lane.number} was taken over (epoch {self._lane.epoch} is over)")

    @contextmanager
    def _errors(self) -> Iterator[Any]:
        with as_ours(self._name):
            self._collect()
            yield
