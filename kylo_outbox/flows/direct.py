"""The direct path (`ROUTE_VIA_KAFKA=0`): outbox rows handed to the same projectors, in process, in id order.

The positions are the same as on the road over Kafka. When a lane is taken, rows that went to Kafka before and lie
there unread are applied first; they arrive later as duplicates. So the switch may be turned at any moment, both ways.

A key with older events that have left the outbox, and that a projector has not taken, stays on Kafka: they lie unread
there, and what is handed over directly would pass them. That is looked at when a lane is taken.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from kylo_outbox.store.deliveries import stored_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.store.outbox import Row

log = logging.getLogger(__name__)


class Settles(Protocol):
    """What applies deliveries exactly once."""

    @property
    def projector(self) -> Projector: ...  # noqa: D102
    def handle(self, deliveries: Sequence[Delivery]) -> None: ...  # noqa: D102
    def short_of(self, goals: Mapping[PositionKey, PositionAt]) -> set[PositionKey]: ...  # noqa: D102


class DirectDelivery:
    """Hands rows of one store to the projectors of their topics."""

    def __init__(
        self,
        *,
        store_id: str,
        topics: Collection[str],
        is_direct: Callable[[str], bool],
        projections: Sequence[Settles],
        published_rows: Callable[[Collection[str]], Iterator[list[Row]]],
        gone: Callable[[Collection[tuple[str, str]]], Mapping[tuple[str, str], PositionAt]],
    ) -> None:
        self._store_id = store_id
        self._topics = frozenset(topics)
        self._is_direct = is_direct
        self._projections = tuple(projections)
        self._published_rows = published_rows
        self._gone = gone
        self._whole: dict[tuple[str, str], bool] = {}

    def takes(self, topic: str, key: bytes) -> bool:
        """Whether the row belongs to a flow of a company that is routed directly and has all of its history here."""
        return topic in self._topics and self._is_direct(key.decode()) and self._is_whole(topic, key.decode())

    def _is_whole(self, topic: str, key: str) -> bool:
        known = self._whole.get((topic, key))
        if known is None:
            goals = {(self._store_id, *each): at for each, at in self._gone([(topic, key)]).items()}
            reading = [each for each in self._projections if topic in each.projector.topics]
            behind = [each.projector.name for each in reading if each.short_of(goals)] if goals else []
            known = self._whole[topic, key] = not behind
            if behind:
                log.warning(
                    "%s, key %s: stays on Kafka, where %s has older events to read that left the outbox; when its lag "
                    "is 0, start the relays again",
                    *(topic, key, " and ".join(behind)),
                )
        return known

    def catch_up(self) -> Iterator[None]:
        """Apply what went out before, of direct companies, step by step; positions absorb what was applied.

        What the relay has not passed yet, or holds, is not among it: it comes as it would have come.
        """
        self._whole.clear()
        for rows in self._published_rows(self._topics):
            self.deliver([row for row in rows if self.takes(row[1], row[2])])
            yield

    def deliver(self, rows: Sequence[Row]) -> None:
        """Apply rows in order; a row whose topic has no projector here is for other readers and counts as taken.

        Raises:
            Transient: not now; calling again with the same rows is harmless.
        """
        deliveries = [stored_delivery(row, self._store_id) for row in rows]
        for projection in self._projections:
            wanted = set(projection.projector.topics)
            mine = [delivery for delivery in deliveries if delivery.event.topic in wanted]
            if mine:
                projection.handle(mine)
