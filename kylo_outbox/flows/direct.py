"""The direct path (`ROUTE_VIA_KAFKA=0`): outbox rows handed to the same projectors, in process, in id order.

The positions are the same as on the road over Kafka. When a lane is taken, rows that went to Kafka before and lie
there unread are applied first; they arrive later as duplicates. So the switch may be turned at any moment, both ways.

What lies unread in Kafka and is stored no more comes from there, before what is stored. A key of which it cannot be
read stays on Kafka for as long as the lane is led: whatever was handed over directly would pass it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from kylo_outbox.model.errors import Transient
from kylo_outbox.store.deliveries import stored_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.store.outbox import Row

log = logging.getLogger(__name__)
_NAMED = 5


class Settles(Protocol):
    """What applies deliveries exactly once."""

    @property
    def projector(self) -> Projector: ...  # noqa: D102
    def handle(self, deliveries: Sequence[Delivery]) -> None: ...  # noqa: D102
    def short_of(self, goals: Mapping[PositionKey, PositionAt]) -> set[PositionKey]: ...  # noqa: D102


class Missing(Protocol):
    """What a projector has to take from the log first."""

    @property
    def keys(self) -> Collection[str]: ...  # noqa: D102
    def look(self) -> Iterator[None]: ...  # noqa: D102
    def batches(self) -> Iterator[list[Delivery]]: ...  # noqa: D102


class DirectDelivery:
    """Hands rows of one store to the projectors of their topics.

    Args:
        store_id: The store's name.
        topics: Whose keys are companies.
        is_direct: Whether a company is routed directly.
        projections: Apply what is handed over.
        beginning: The lowest id that is stored.
        published_rows: Rows of some topics that went out, given that beginning.
        missing: What a projector has to take of a topic from the log first; None where there is no Kafka.
    """

    def __init__(
        self,
        *,
        store_id: str,
        topics: Collection[str],
        is_direct: Callable[[str], bool],
        projections: Sequence[Settles],
        beginning: Callable[[], int],
        published_rows: Callable[[Collection[str], int], Iterator[list[Row]]],
        missing: Callable[[Settles, str], Missing] | None = None,
    ) -> None:
        self._store_id = store_id
        self._topics = frozenset(topics)
        self._is_direct = is_direct
        self._projections = tuple(projections)
        self._beginning, self._published_rows = beginning, published_rows
        self._missing = missing
        self._on_kafka: set[tuple[str, str]] = set()

    def takes(self, topic: str, key: bytes) -> bool:
        """Whether the row is for a flow of a company that is routed directly, and that Kafka has nothing of alone."""
        company = key.decode()
        return topic in self._topics and self._is_direct(company) and (topic, company) not in self._on_kafka

    def catch_up(self) -> Iterator[None]:
        """Apply what went out before, of direct companies, step by step; positions absorb what was applied.

        What the relay has not passed yet, or holds, is not among it: it comes as it would have come.

        Raises:
            Transient: not now; another call begins from the start.
        """
        self._on_kafka.clear()
        begins = self._beginning()
        if self._missing is not None:
            for projection in self._projections:
                for topic in sorted(self._topics.intersection(projection.projector.topics)):
                    yield from self._take_from_log(projection, topic, self._missing(projection, topic))
        for rows in self._published_rows(self._topics, begins):
            self.deliver([row for row in rows if self.takes(row[1], row[2])])
            yield

    def _take_from_log(self, projection: Settles, topic: str, missing: Missing) -> Iterator[None]:
        yield from missing.look()
        batches = missing.batches()
        while True:
            try:
                batch = next(batches, None)
            except Transient as away:
                self._on_kafka |= {(topic, key) for key in missing.keys}
                log.warning(
                    "%s: %d keys of %s (%s) stay on Kafka, which alone has older events of theirs, until the relays "
                    "are started again: %s",
                    *(projection.projector.name, len(missing.keys), topic),
                    *(", ".join(sorted(missing.keys)[:_NAMED]), away),
                )
                return
            if batch is None:
                return
            if batch:
                projection.handle(batch)
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
