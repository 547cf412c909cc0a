"""The direct path (`ROUTE_VIA_KAFKA=0`): outbox rows handed to the same projectors, in process, in id order.

The positions are the same as on the road over Kafka. When a lane is taken, rows that went to Kafka before and lie
there unread are applied first; they arrive later as duplicates. So the switch may be turned at any moment, both ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kylo_outbox.store.deliveries import stored_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.store.outbox import Row


class Settles(Protocol):
    """What applies deliveries exactly once."""

    @property
    def projector(self) -> Projector: ...  # noqa: D102
    def handle(self, deliveries: Sequence[Delivery]) -> None: ...  # noqa: D102


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
    ) -> None:
        self._store_id = store_id
        self._topics = frozenset(topics)
        self._is_direct = is_direct
        self._projections = tuple(projections)
        self._published_rows = published_rows

    def takes(self, topic: str, key: bytes) -> bool:
        """Whether the row belongs to a flow of a company that is routed directly."""
        return topic in self._topics and self._is_direct(key.decode())

    def catch_up(self) -> Iterator[None]:
        """Apply what went out before, of direct companies, step by step; positions absorb what was applied.

        What the relay has not passed yet, or holds, is not among it: it comes as it would have come.
        """
        for rows in self._published_rows(self._topics):
            self.deliver([row for row in rows if self._is_direct(row[2].decode())])
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
