"""Building a projector's tables anew from history, beside the live ones, and putting the result in their place.

History comes from the log and from the outboxes, whichever reaches back further first. What was emitted is not emitted
again. Exactly the events that the live projector took are applied, and as operators decided about its dead letters:
count and sum of ids of every key must agree with its positions, or history is incomplete and nothing is swapped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.delivery import NOWHERE, Delivery, PositionAt, PositionKey
from kylo_outbox.model.errors import Refused, Transient
from kylo_outbox.model.projector import EffectProjector, Projector
from kylo_outbox.model.upcast import lift
from kylo_outbox.store import decided, shadow
from kylo_outbox.store.changes import changed_rows, counts
from kylo_outbox.store.emit import muted
from kylo_outbox.store.engine import may_idle
from kylo_outbox.store.shadow import Difference, Shadow, Table, Taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kylo_outbox.store.decided import Decided, Place
    from kylo_outbox.store.engine import Database

_LONG = 3600.0
_PASSES = 3


@dataclass(slots=True)
class Rebuilt:
    """What came out: events applied, each table compared, and whether the rows changed places."""

    events: int = 0
    tables: list[Difference] = field(default_factory=list)
    swapped: bool = False


class Rebuild:
    """One projector in one database.

    Args:
        projector: Names its tables.
        database: Where its effect lies.
        histories: Each gives the events of the projector's topics in order per key, as far back as it reaches.
        tell: Gets the number of events applied so far.

    Raises:
        Refused: the projector cannot be rebuilt, and why.
    """

    def __init__(
        self,
        projector: Projector,
        database: Database,
        histories: Sequence[Callable[[], Iterable[Sequence[Delivery]]]],
        tell: Callable[[int], None] = lambda _number: None,
    ) -> None:
        if isinstance(projector, EffectProjector):
            raise Refused([f"{projector.name}: its effect lies outside the database and cannot be built beside itself"])
        if not projector.tables:
            raise Refused(
                [f'{projector.name}: names no tables; `tables = ("balances",)` on the projector makes it rebuildable']
            )
        self._projector, self._database, self._histories, self._tell = projector, database, histories, tell
        self._shadow = Shadow(projector.name, projector.tables)

    def run(self, *, swap: bool) -> Rebuilt:
        """Build, compare and, with `swap`, change places; without it the live tables are not touched.

        Raises:
            Refused: history is incomplete, an event fails that the live projector applied, the projector writes
                tables that it does not name, or another rebuild of it runs.
            Transient: not now; nothing was changed.
        """
        with self._shadow.alone(self._database):
            return self._run(swap=swap)

    def undo(self) -> None:
        """Bring back the rows from before the last swap.

        Raises:
            Refused: that would lose something, or a rebuild runs.
            Transient: not now; nothing was changed.
        """
        with self._shadow.alone(self._database), self._database.transaction() as tx:
            may_idle(tx, _LONG)
            self._shadow.undo(tx)

    def _run(self, *, swap: bool) -> Rebuilt:
        for order in (self._histories, list(reversed(self._histories))):
            missing, done = self._once(order, swap=swap)
            if done:
                return done
        with self._database.transaction() as tx:
            self._shadow.require_own(tx)
            self._shadow.drop(tx)
        _, topic, key = missing[0]
        keys = f"{len(missing)} keys, such as {topic} {key}"
        fault = (
            f"history is incomplete for {keys}: neither log nor outbox has all that was applied; nothing was changed"
        )
        raise Refused([fault])

    def _once(
        self, order: Sequence[Callable[[], Iterable[Sequence[Delivery]]]], *, swap: bool
    ) -> tuple[list[PositionKey], Rebuilt | None]:
        """(keys of which history does not have all, or what came out)."""
        for _ in range(_PASSES):
            pass_ = self._pass(order)
            with self._database.transaction() as tx:
                may_idle(tx, _LONG)
                tables = self._shadow.tables(tx)
                self._shadow.lock(tx, tables)
                # From here on the live projector waits, so what it has taken stands still: the rest is caught up.
                live = shadow.live_positions(tx, self._projector.name)
                known = decided.read(tx, self._projector.name)
                if not pass_.skipped <= known.left_out:
                    continue  # released meanwhile: put behind what was built since they would lie out of their order
                pass_.catch_up(order, live, known)
                missing = pass_.missing(live)
                return missing, None if missing else self._finish(tx, tables, pass_.events, swap=swap)
        raise Transient(f"{self._projector.name}: dead letters were released again and again meanwhile")

    def _pass(self, order: Sequence[Callable[[], Iterable[Sequence[Delivery]]]]) -> _Pass:
        with self._database.transaction() as tx:
            self._shadow.make(tx)
            live = shadow.live_positions(tx, self._projector.name)
            known = decided.read(tx, self._projector.name)
        made = _Pass(self._projector, self._database, self._shadow, self._tell)
        made.catch_up(order, live, known)
        return made

    def _finish(self, tx: Any, tables: Sequence[Table], events: int, *, swap: bool) -> Rebuilt:
        self._shadow.require_own(tx)
        found = Rebuilt(events, self._shadow.compare(tx, tables), swap)
        if swap:
            self._shadow.swap(tx, tables)
        else:
            self._shadow.drop(tx)
        return found


class _Pass:
    """One run over history into the shadow."""

    def __init__(
        self, projector: Projector, database: Database, shadow_of: Shadow, tell: Callable[[int], None]
    ) -> None:
        self._projector, self._database, self._shadow, self._tell = projector, database, shadow_of, tell
        self._at: dict[PositionKey, PositionAt] = {}
        self._taken: dict[PositionKey, tuple[int, int]] = {}
        self.events = 0
        self.skipped: set[Place] = set()

    def catch_up(
        self,
        order: Sequence[Callable[[], Iterable[Sequence[Delivery]]]],
        live: dict[PositionKey, Taken],
        known: Decided,
    ) -> None:
        """Apply what the live projector has taken and this run has not; what was not applied is skipped."""
        if not self.missing(live):
            return
        for history in order:
            for batch in history():
                fresh = [delivery for delivery in batch if self._take(delivery, live)]
                self.skipped |= known.left_out.intersection(map(decided.place_of, fresh))
                self._apply(known.as_decided(fresh))

    def missing(self, live: dict[PositionKey, Taken]) -> list[PositionKey]:
        """Keys of which other events were taken than by the live projector."""
        return [
            key for key, taken in sorted(live.items()) if self._taken.get(key, (0, 0)) != (taken.number, taken.digest)
        ]

    def _take(self, delivery: Delivery, live: dict[PositionKey, Taken]) -> bool:
        key, at = delivery.position_key, delivery.position
        if key not in live or at > live[key].at or at <= self._at.get(key, NOWHERE):
            return False
        self._at[key] = at
        number, digest = self._taken.get(key, (0, 0))
        self._taken[key] = number + 1, digest + at[1]
        return True

    def _apply(self, deliveries: Sequence[Delivery]) -> None:
        size = self._projector.batch
        for start in range(0, len(deliveries), size):
            events = [lift(each.event, self._projector.upcasters) for each in deliveries[start : start + size]]
            try:
                with self._database.transaction() as tx, muted():
                    may_idle(tx, _LONG)
                    self._shadow.enter(tx)
                    before = counts(tx)
                    self._projector.apply(tx, events)
                    self._refuse_others(changed_rows(tx, before))
            except (Transient, Refused):
                raise
            except Exception as failed:
                first = events[0]
                raise Refused(
                    [f"{first.topic} from #{first.outbox_id} on fails ({failed}); live it was applied: nothing changed"]
                ) from failed
            self.events += len(events)
            self._tell(self.events)

    def _refuse_others(self, changed: Iterable[str]) -> None:
        others = sorted(table for table in changed if not table.startswith(f"{self._shadow.schema}."))
        if others:
            raise Refused(
                [f"{self._projector.name}: writes {', '.join(others)}; name its tables in `tables`, without a schema"]
            )
