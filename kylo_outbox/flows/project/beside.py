"""Finding the record that kills the process among events that come beside the log, while a gap is filled in.

`deaths` watches what is read in its turn, behind the last commit. A filling begins from its beginning each time, so
each portion of it is written down before and removed after. Whoever finds a portion that was never removed takes its
events alone, each attempt written down; one that was alone in hand at three deaths becomes a dead letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.flows.project.deaths import DEATHS, killer
from kylo_outbox.store import in_hand
from kylo_outbox.store.in_hand import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.in_hand import Place


class Beside:
    """The marks of one projector's fillings, in the control store.

    Args:
        control: Where they are.
        projector: Its name.
        bury: Sets one event aside without trying it: (event, reason, attempts).
    """

    def __init__(self, control: Database, projector: str, bury: Callable[[Delivery, Exception, int], object]) -> None:
        self._control, self._projector, self._bury = control, projector, bury

    def handle(
        self, number: int, deliveries: Sequence[Delivery], handle: Callable[[Sequence[Delivery]], object]
    ) -> None:
        """Have `handle` take all of them, each key in its order.

        Args:
            number: Of a partition that is ours: nobody else fills in on account of it.
            deliveries: Stored events, or records of ours.
            handle: Settles some of them; what it raises comes out, and is no death.
        """
        parts: dict[Place, list[Delivery]] = {}
        for delivery in deliveries:
            # Ids mean something within their store, and must not meet the offsets of `deaths`.
            parts.setdefault((f"{delivery.event.topic} of {delivery.store_id}", number), []).append(delivery)
        for place, part in parts.items():
            mark = self._found(place)
            for portion in _portions(part, mark):
                self._take(place, portion, mark, handle)
            last = max(_id(delivery) for delivery in part)
            if mark is None or mark.last <= last:
                self._leave(None, place)
            elif mark.first <= last:
                self._leave(Mark(place, last + 1, mark.last), place)

    def _take(
        self,
        place: Place,
        portion: Sequence[Delivery],
        mark: Mark | None,
        handle: Callable[[Sequence[Delivery]], object],
    ) -> None:
        ids = [_id(delivery) for delivery in portion]
        before = mark
        if mark is not None and _covers(mark, ids[0]):
            before = Mark(place, ids[0], mark.last, mark.attempts if mark.first == ids[0] else 0)
            if before.attempts >= DEATHS:
                self._bury(portion[0], killer(), DEATHS)
                return
            self._leave(Mark(place, ids[0], mark.last, before.attempts + 1), place)
        elif mark is None or min(ids) > mark.last:
            # In front of a suspect nothing is written: the life that left it has passed all this.
            self._leave(Mark(place, min(ids), max(ids)), place)
        try:
            handle(portion)
        except Exception:
            # Whatever it was, the process lives.
            self._leave(before, place)
            raise

    def _found(self, place: Place) -> Mark | None:
        with self._control.transaction() as tx:
            return in_hand.read(tx, self._projector, [place]).get(place)

    def _leave(self, mark: Mark | None, place: Place) -> None:
        with self._control.transaction() as tx:
            if mark is None:
                in_hand.clear(tx, self._projector, [place])
            else:
                in_hand.write(tx, self._projector, [mark])


def _portions(part: Sequence[Delivery], mark: Mark | None) -> Iterator[list[Delivery]]:
    """Suspects alone, everything between them together."""
    portion: list[Delivery] = []
    for delivery in part:
        if mark is not None and _covers(mark, _id(delivery)):
            if portion:
                yield portion
            yield [delivery]
            portion = []
        else:
            portion.append(delivery)
    if portion:
        yield portion


def _covers(mark: Mark, number: int) -> bool:
    return mark.first <= number <= mark.last


def _id(delivery: Delivery) -> int:
    return delivery.position[1]
