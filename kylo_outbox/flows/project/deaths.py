"""Finding the record that kills the process (out of memory, a crash in C) and setting it aside.

Before the first records of a partition after a start or a rebalance, their range is written down, and removed when
they are settled: two small writes, not one a batch. Whoever finds a range that was never removed takes its records
alone, each attempt written down before it begins. A record that was alone in hand at three deaths becomes a dead
letter. A process that was killed for another reason leaves a range too; its records are only slower for once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Poison
from kylo_outbox.store import in_hand
from kylo_outbox.store.in_hand import Mark, Place

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.store.engine import Database

DEATHS = 3
_FIRST = 200


def killer() -> Poison:
    """What is said about a record that was alone in hand too often."""
    return Poison(f"the process died {DEATHS} times with this record alone in hand")


class Deaths:
    """The marks of one projector's process, in the control store."""

    def __init__(self, control: Database, projector: str) -> None:
        self._control, self._projector = control, projector
        self._known: set[Place] = set()
        self._ours: set[Place] = set()
        self._suspect: dict[Place, Mark] = {}
        self._all_known = False

    def begin(self, deliveries: Sequence[Delivery], assigned: Collection[Place]) -> int:
        """How many of `deliveries` may be worked on together; whatever must be written down before is.

        Returns:
            0 if the first of them has killed too often.
        """
        self._known.intersection_update(assigned)
        self._all_known = not self._suspect and not self._ours and self._known.issuperset(assigned) and bool(assigned)
        if self._all_known:
            return len(deliveries)
        new = _places(deliveries) - self._known
        if not new and not self._suspect:
            return len(deliveries)
        if (ahead := self._before_new(deliveries)) >= _FIRST:
            # A backlog comes partition by partition: a new one does not slow down the others.
            return ahead
        self._learn(new)
        portion = self._portion(deliveries[:_FIRST])
        first = _place(portion[0])
        mark = self._suspect.get(first) if first else None
        if mark is not None and portion[0].offset is not None and portion[0].offset <= mark.last:
            attempts = mark.attempts if mark.first == portion[0].offset else 0
            if attempts >= DEATHS:
                return 0
            self._write([Mark(mark.place, portion[0].offset, mark.last, attempts + 1)])
        else:
            self._write(_ranges(portion, self._known))
        return len(portion)

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """They are settled: what was written down before them is removed."""
        over: set[Place] = set()
        if self._all_known or not _places(deliveries) - self._known:
            return
        for delivery in deliveries:
            place = _place(delivery)
            if place is None or place in self._known:
                continue
            mark = self._suspect.get(place)
            if mark is not None and delivery.offset is not None and delivery.offset < mark.last:
                continue
            self._suspect.pop(place, None)
            over.add(place)
        if over:
            self._clear(over)
            self._known |= over

    def close(self) -> None:
        """Nothing died: what is left in hand is repeated by the successor."""
        if self._ours:
            self._clear(set(self._ours))

    def _before_new(self, deliveries: Sequence[Delivery]) -> int:
        """How many come before the first one of a partition of which nothing was settled yet."""
        for number, delivery in enumerate(deliveries):
            place = _place(delivery)
            if place and place not in self._known:
                return number
        return len(deliveries)

    def _learn(self, new: Collection[Place]) -> None:
        unread = {place for place in new if place not in self._suspect and place not in self._ours}
        if unread:
            with self._control.transaction() as tx:
                self._suspect |= in_hand.read(tx, self._projector, unread)

    def _portion(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """A suspect alone, or everything before the first one."""
        for number, delivery in enumerate(deliveries):
            place = _place(delivery)
            mark = self._suspect.get(place) if place else None
            if mark is not None and delivery.offset is not None and delivery.offset <= mark.last:
                return deliveries[: max(1, number)]
        return deliveries

    def _write(self, marks: Sequence[Mark]) -> None:
        if marks:
            with self._control.transaction() as tx:
                in_hand.write(tx, self._projector, marks)
            self._ours.update(mark.place for mark in marks)

    def _clear(self, places: Collection[Place]) -> None:
        with self._control.transaction() as tx:
            in_hand.clear(tx, self._projector, places)
        self._ours.difference_update(places)


def _ranges(deliveries: Sequence[Delivery], known: Collection[Place]) -> list[Mark]:
    found: dict[Place, list[int]] = {}
    for delivery in deliveries:
        place = _place(delivery)
        if place and place not in known and delivery.offset is not None:
            found.setdefault(place, []).append(delivery.offset)
    return [Mark(place, min(offsets), max(offsets)) for place, offsets in sorted(found.items())]


def _places(deliveries: Sequence[Delivery]) -> set[Place]:
    found = {(delivery.event.topic, delivery.partition) for delivery in deliveries}
    return {(topic, number) for topic, number in found if number is not None}


def _place(delivery: Delivery) -> Place | None:
    return None if delivery.partition is None else (delivery.event.topic, delivery.partition)
