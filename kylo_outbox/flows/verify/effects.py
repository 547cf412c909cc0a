"""A projector's effects against the events that it took: each is there once, and in the order of its key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import Transient
from kylo_outbox.model.upcast import lift
from kylo_outbox.model.verifying import Effects, Finding, Taken
from kylo_outbox.store import decided, findings, verify_effects, verify_positions, verify_state
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.engine import may_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from kylo_outbox.model.appearances import Key
    from kylo_outbox.model.delivery import Delivery, PositionAt
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.outbox import Row
    from kylo_outbox.store.verify_state import State

_LONG = 600.0


@dataclass(slots=True)
class EffectFigures:
    """What was compared.

    Attributes:
        events: Events whose effects were looked for.
        set_aside: Events without an effect because they are dead letters, discarded, or wait behind one.
        behind: Keys with events that the projector has not taken yet.
    """

    events: int = 0
    set_aside: int = 0
    behind: int = 0


class EffectCheck:
    """One projector over the events of one store.

    Args:
        projector: It tells its effects.
        database_of: Where the effect of a key's events lives; may raise `Transient`.
        go_on: Called again and again; raises where the pass is to end.
    """

    def __init__(self, projector: Projector, database_of: Callable[[str], Database], go_on: Callable[[], None]) -> None:
        self._projector, self._database_of, self._go_on = projector, database_of, go_on
        self._behind: dict[Key, PositionAt] = {}
        self.figures = EffectFigures()

    def run(self, store: Database, state: State, since: datetime | None) -> list[Finding]:
        """Look at what is new and store how far this look went; with `since`, at everything saved since then.

        Returns:
            Differences that were not known.

        Raises:
            Transient: the store is away; nothing is stored.
        """
        name, reader = self._projector.name, f"effects of {self._projector.name}"
        with store.transaction() as tx:
            may_idle(tx, _LONG)
            if not verify_state.alone(tx, reader):
                raise Transient(f"{name}: somebody else looks for its effects at the moment")
            old = verify_positions.read_up_to(tx, reader) if since is None else None
            from_there = replace(state, snapshot=old or verify_state.NOTHING)
            new = verify_state.boundary(tx)
            effects, found = Effects(name), []
            for rows in verify_effects.to_look_at(tx, name, self._projector.topics, from_there, new, since):
                self._go_on()
                found += self._look(rows, state, effects)
            findings.over(tx, self._gone(tx, state))
            new_ones = findings.save(tx, found)
            if since is None:
                verify_effects.set_behind(tx, name, self._behind)
                verify_positions.set_read(tx, reader, new)
        self.figures.behind = len(self._behind)
        return new_ones

    def _gone(self, tx: Any, state: State) -> list[int]:
        """Differences that were found before: those that are gone."""
        name = self._projector.name
        before = [
            each
            for each in findings.still_open(tx)
            if each.finding.part == "effects" and each.finding.projector == name
        ]
        wanted = {number for each in before for number in each.finding.outbox_ids}
        rows = verify_effects.by_id(tx, wanted)
        stored = {row[0] for row in rows}
        figures, behind, self.figures, self._behind = self.figures, self._behind, EffectFigures(), {}
        again = {found.name for found in self._look(rows, state, Effects(name))}
        waits = set(self._behind)
        self.figures, self._behind = figures, behind
        return [
            each.id
            for each in before
            if each.finding.name not in again
            and stored.issuperset(each.finding.outbox_ids)
            and (each.finding.topic, each.finding.key) not in waits
        ]

    def _look(self, rows: Sequence[Row], state: State, effects: Effects) -> list[Finding]:
        homes: dict[int, tuple[Database, list[Delivery]]] = {}
        for row in rows:
            delivery = stored_delivery(row, state.store_id)
            try:
                home = self._database_of(delivery.event.key)
            except Transient:
                self._wait_for(delivery)
            else:
                homes.setdefault(id(home), (home, []))[1].append(delivery)
        found: list[Finding] = []
        for home, deliveries in homes.values():
            try:
                found += self._look_in(home, deliveries, effects)
            except Transient:
                for delivery in deliveries:
                    self._wait_for(delivery)
        return found

    def _look_in(self, home: Database, deliveries: Sequence[Delivery], effects: Effects) -> list[Finding]:
        name, store_id = self._projector.name, deliveries[0].store_id
        keys = {(delivery.event.topic, delivery.event.key) for delivery in deliveries}
        ids = [delivery.position[1] for delivery in deliveries]
        with home.transaction() as tx:
            may_idle(tx, _LONG)
            taken_up_to = verify_effects.taken(tx, name, store_id, keys)
            taken = [
                each
                for each in deliveries
                if each.position <= taken_up_to.get((each.event.topic, each.event.key), (-1, -1))
            ]
            # In this order: a dead letter that is released between the two statements has its effect by the second.
            ever, without = verify_effects.set_aside(tx, name, store_id, ids)
            edited = decided.edited(tx, name, ever - without) if ever - without else {}
            whole = decided.as_edited([each for each in taken if each.position[1] not in without], edited)
            upcasters = self._projector.upcasters
            marks = list(self._projector.effects(tx, [lift(each.event, upcasters) for each in whole])) if whole else []
        for each in deliveries:
            if each.position > taken_up_to.get((each.event.topic, each.event.key), (-1, -1)):
                self._wait_for(each)
        self.figures.events += len(whole)
        self.figures.set_aside += len(taken) - len(whole)
        return effects.compare([_taken(each, each.position[1] not in ever) for each in whole], marks)

    def _wait_for(self, delivery: Delivery) -> None:
        key = (delivery.event.topic, delivery.event.key)
        self._behind[key] = min(self._behind.get(key, delivery.position), delivery.position)


def _taken(delivery: Delivery, ordered: bool) -> Taken:
    event = delivery.event
    if event.event_id is None:
        raise RuntimeError(f"{event}: an event of an outbox has an id")
    return Taken(event.topic, event.key, delivery.position, event.event_id, ordered)
