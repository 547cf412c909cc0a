"""Effects that are gone, applied once more in place: for projectors whose tables others write, too.

`rebuild` builds tables anew and swaps them, which would undo what people and other projectors have written into them.
Here only events whose effect is not whole any more are applied again, and only for a projector that declares that this
adds what is missing and nothing else (`Projector.repeatable`). Positions are not touched, nothing is emitted again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.appearances import Met
from kylo_outbox.model.delivery import NOWHERE
from kylo_outbox.model.errors import Refused, Transient
from kylo_outbox.model.upcast import lift
from kylo_outbox.store import decided, shadow
from kylo_outbox.store.changes import changed_rows, counts, trial
from kylo_outbox.store.emit import muted
from kylo_outbox.store.engine import may_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey
    from kylo_outbox.model.events import Event
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.store.engine import Database

_LONG = 600.0


@dataclass(slots=True)
class Mended:
    """What came out.

    Attributes:
        events: Events whose effects were looked for.
        lacking: Those whose effect was not whole.
        failed: Those among them that cannot be applied, each with the reason.
        changes: Rows by table: {table: {"inserted": n, "updated": n, "deleted": n}}.
    """

    events: int = 0
    lacking: list[Event] = field(default_factory=list)
    failed: list[tuple[Event, str]] = field(default_factory=list)
    changes: dict[str, dict[str, int]] = field(default_factory=dict)


class Mend:
    """One projector in one database, or one key of it.

    Args:
        projector: It tells its effects and is repeatable.
        database: Where its effect lies.
        histories: Each gives events of the projector's topics, in any order; the same event may come twice.
        key: Only events of this key; None: all that have their effect here.
        note: Gets the transaction and the events that were applied again in it, for the audit.

    Raises:
        Refused: the projector is not repeatable.
    """

    def __init__(
        self,
        projector: Projector,
        database: Database,
        histories: Sequence[Callable[[], Iterable[Sequence[Delivery]]]],
        key: str | None = None,
        note: Callable[[Any, Sequence[Event]], None] = lambda _tx, _events: None,
    ) -> None:
        if not (projector.repeatable and projector.tells_effects):
            raise Refused([f"{projector.name}: applying an event again may do more than mend its effect"])
        self._projector, self._database, self._histories, self._key = projector, database, histories, key
        self._note = note
        self._met: defaultdict[str, Met] = defaultdict(Met)

    def run(self, *, keep: bool) -> Mended:
        """Look for every event that was applied here, and apply those again whose effect is not whole.

        Without `keep` nothing is stored: what would be done is tried and taken back.

        Raises:
            Transient: not now; what was mended so far stays mended.
        """
        with self._database.transaction() as tx:
            may_idle(tx, _LONG)
            taken = {key: each.at for key, each in shadow.live_positions(tx, self._projector.name).items()}
            known = decided.read(tx, self._projector.name)
        found = Mended()
        for history in self._histories:
            for batch in history():
                mine = [each for each in known.as_decided(batch) if self._was_taken_here(each, taken)]
                for start in range(0, len(mine), self._projector.batch):
                    self._look(mine[start : start + self._projector.batch], found, keep=keep)
        return found

    def _was_taken_here(self, delivery: Delivery, taken: dict[PositionKey, PositionAt]) -> bool:
        if self._key not in {None, delivery.event.key} or not delivery.store_id:
            return False  # records of other producers have no event id by which an effect could be told
        if delivery.position > taken.get(delivery.position_key, NOWHERE):
            return False
        return self._met[delivery.store_id].add(delivery.position)

    def _look(self, deliveries: Sequence[Delivery], found: Mended, *, keep: bool) -> None:
        events = [lift(each.event, self._projector.upcasters) for each in deliveries]
        with trial(self._database.transaction(), keep=keep) as tx, muted():
            may_idle(tx, _LONG)
            whole = {each.event_id for each in self._projector.effects(tx, events) if not each.fault}
            lacking = [event for event in events if event.event_id not in whole]
            found.events += len(events)
            found.lacking += lacking
            if lacking:
                self._note(tx, self._apply(tx, lacking, found))

    def _apply(self, tx: Any, lacking: Sequence[Event], found: Mended) -> list[Event]:
        """Apply all at once; if that fails one by one, so that one that cannot be applied stops no other."""
        before = counts(tx)
        try:
            with tx.transaction():
                self._projector.apply(tx, lacking)
            _add(found.changes, changed_rows(tx, before))
        except Transient:
            raise
        except Exception as failed:  # noqa: BLE001 - whatever a projector raises is told with its event
            if len(lacking) == 1:
                found.failed.append((lacking[0], str(failed)))
                return []
            return [mended for event in lacking for mended in self._apply(tx, [event], found)]
        return list(lacking)


def _add(total: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    for table, rows in more.items():
        former = total.setdefault(table, dict.fromkeys(rows, 0))
        for kind, number in rows.items():
            former[kind] += number
