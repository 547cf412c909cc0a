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
    from kylo_outbox.store.history import Moment
    from kylo_outbox.store.outbox import Row

log = logging.getLogger(__name__)
_NAMED = 5


class Settles(Protocol):
    """What applies deliveries exactly once."""

    @property
    def projector(self) -> Projector: ...  # noqa: D102
    def handle(self, deliveries: Sequence[Delivery]) -> None: ...  # noqa: D102
    def short_of(self, goals: Mapping[PositionKey, PositionAt]) -> Iterator[set[PositionKey]]: ...  # noqa: D102


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
        moment: How the outbox stands now, for some topics.
        published_rows: Rows of some topics that had gone out at a moment.
        missing: What a projector has to take of a topic from the log first, at a moment; None where there is no Kafka.
    """

    def __init__(
        self,
        *,
        store_id: str,
        topics: Collection[str],
        is_direct: Callable[[str], bool],
        projections: Sequence[Settles],
        moment: Callable[[Collection[str]], Moment],
        published_rows: Callable[[Collection[str], Moment], Iterator[list[Row]]],
        missing: Callable[[Settles, str, Moment], Missing] | None = None,
    ) -> None:
        self._store_id = store_id
        self._topics = frozenset(topics)
        self._is_direct = is_direct
        self._projections = tuple(projections)
        self._moment, self._published_rows = moment, published_rows
        self._missing = missing
        self._on_kafka: set[tuple[str, str]] = set()
        self._unreadable: Transient | None = None

    @property
    def on_kafka(self) -> int:
        """How many (topic, key) stay on Kafka, because their older events could not be read there."""
        return len(self._on_kafka)

    def takes(self, topic: str, key: bytes) -> bool:
        """Whether the row belongs to a flow of a company that is routed directly, and nothing older to Kafka alone."""
        company = key.decode()
        return topic in self._topics and self._is_direct(company) and (topic, company) not in self._on_kafka

    def catch_up(self) -> Iterator[None]:
        """Apply what went out before, of direct companies, step by step; positions absorb what was applied.

        What the relay has not passed yet, or holds, is not among it: it comes as it would have come.

        Raises:
            Transient: not now; another call begins from the start.
        """
        self._on_kafka.clear()
        self._unreadable = None
        # Before anything is asked: what is held now stays out of the rows, though it be let go meanwhile; what leaves
        # from now on is noticed.
        at = self._moment(self._topics)
        if self._missing is not None:
            for projection in self._projections:
                for topic in sorted(self._topics.intersection(projection.projector.topics)):
                    yield from self._take_from_log(projection, topic, self._missing(projection, topic, at))
        for rows in self._published_rows(self._topics, at):
            self.deliver([row for row in rows if self.takes(row[1], row[2])])
            yield

    def _take_from_log(self, projection: Settles, topic: str, missing: Missing) -> Iterator[None]:
        yield from missing.look()
        if not missing.keys:
            return
        batches = missing.batches()
        while self._unreadable is None:
            try:
                batch = next(batches, None)
            except Transient as away:
                # Kept: it would cost its patience for each topic.
                self._unreadable = away
                break
            if batch is None:
                return
            if batch:
                projection.handle(batch)
            yield
        self._leave(projection, topic, missing.keys)

    def _leave(self, projection: Settles, topic: str, keys: Collection[str]) -> None:
        self._on_kafka |= {(topic, key) for key in keys}
        log.warning(
            "%s: %d keys of %s (%s) stay on Kafka, which alone may have older events, until it can be read: %s",
            *(projection.projector.name, len(keys), topic),
            *(", ".join(sorted(keys)[:_NAMED]), self._unreadable),
        )

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
