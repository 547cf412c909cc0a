"""Records that a projector will never get from the log, noticed before anything behind them is applied.

Two causes: retention removed records before the group read them, or a topic got more partitions, so that a key's newer
events lie in another partition than its older ones. Both would let a position pass events that were never applied.
So the stored rows of the topic are applied from the outboxes first, in order; positions absorb those that were applied
before. What has left the outboxes and lies unread on the log comes before them. Whether outboxes and log still had
everything nobody can prove: the notice stays until a person accepts it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from kylo_outbox.flows.project.beside import Beside
    from kylo_outbox.model.delivery import Delivery, Lost

log = logging.getLogger(__name__)


class Reader(Protocol):
    """What a member of a group knows."""

    @property
    def assigned(self) -> Collection[tuple[str, int]]: ...  # noqa: D102
    def lost(self) -> Sequence[Lost]: ...  # noqa: D102


class Gaps:
    """Looks after one projector's topics.

    Args:
        projector: Its name.
        partitions: How many partitions each topic had when it was first read.
        stored: The events of a topic that outboxes and log still have, each key in order, in batches, some of which may
            be empty; from every outbox that can be reached.
        tell: (kind, subject, text) for people.
        learn: (topic, partitions) to be remembered.
        away: Why outboxes cannot be asked now; what they alone still have is passed over, and people are told.
        beside: Finds what kills the process; without it nobody looks.
    """

    def __init__(
        self,
        projector: str,
        partitions: dict[str, int],
        stored: Callable[[str], Iterable[Sequence[Delivery]]],
        tell: Callable[[str, str, str], object],
        learn: Callable[[str, int], None],
        away: Callable[[], Sequence[str]] = tuple,
        beside: Beside | None = None,
    ) -> None:
        self._projector = projector
        self._partitions = partitions
        self._stored = stored
        self._tell = tell
        self._learn = learn
        self._away = away
        self._beside = beside
        self._open: list[Lost] = []
        self._filling: Iterator[bool] | None = None
        self.noticed: list[str] = []

    def close_before(self, source: Reader, handle: Callable[[Sequence[Delivery]], None]) -> bool:
        """One step towards filling whatever gap `source` has met; whether its records may be applied now.

        A step is one batch: however much there is to fill in, the loop comes round and its member stays in its group.

        Raises:
            Transient: not now; the gap is filled from its beginning by later calls.
        """
        self._open += source.lost()
        if self._filling is None:
            grown = self._grown(source.assigned)
            if not self._open and not grown:
                return True
            self._filling = self._steps(grown, handle)
        done = True
        try:
            done = next(self._filling, True)
        finally:
            if done:
                self._filling = None
        return False

    def close(self) -> None:
        """Give back what a filling that was begun has open."""
        self._filling = None

    def _grown(self, assigned: Collection[tuple[str, int]]) -> dict[str, int]:
        """Topics that have more partitions than was known, with how many at least."""
        grown: dict[str, int] = {}
        for topic, number in assigned:
            if number >= self._partitions.get(topic, number + 1):
                grown[topic] = max(number + 1, grown.get(topic, 0))
        return grown

    def _steps(self, grown: Mapping[str, int], handle: Callable[[Sequence[Delivery]], None]) -> Iterator[bool]:
        while self._open:
            lost = self._open[0]
            number = lost.end - lost.first
            what = f"up to {number} records of {lost.topic}/{lost.partition} left the log before they were read"
            take = self._watched(lost.partition, handle)
            yield from self._fill("lost", lost.topic, f"{lost.topic}/{lost.partition}", what, take)
            metrics.CONSUMER_LOST.labels(self._projector, lost.topic).inc(number)
            del self._open[0]
        for topic, number in sorted(grown.items()):
            what = f"{topic} has {number} or more partitions, it had {self._partitions[topic]}: keys have moved"
            yield from self._fill("partitions", topic, topic, what, self._watched(number - 1, handle))
            self._learn(topic, number)
            self._partitions[topic] = number

    def _watched(
        self, partition: int, handle: Callable[[Sequence[Delivery]], None]
    ) -> Callable[[Sequence[Delivery]], None]:
        """`handle`, with marks that belong to a partition of ours."""
        return partial(self._beside.handle, partition, handle=handle) if self._beside else handle

    def _fill(
        self, kind: str, topic: str, subject: str, what: str, handle: Callable[[Sequence[Delivery]], None]
    ) -> Iterator[bool]:
        log.error("%s: %s; applying what outboxes and log still have", self._projector, what)
        self._tell(kind, subject, f"{what}; they are being filled in from outboxes and log")
        number, oldest, away = 0, None, self._away()
        for batch in self._stored(topic):
            if batch:
                handle(batch)
            number += len(batch)
            oldest = oldest or (batch[0].event.created_at if batch else None)
            yield False
        since = f", the oldest of {oldest:%Y-%m-%d %H:%M}" if oldest else ""
        text = f"{what}; {number} events were applied or known{since}; what is older is for people to judge"
        if away:
            text += f"; an outbox could not be asked ({'; '.join(away)}): when it can, `kylo-outbox rebuild --dry-run`"
        self._tell(kind, subject, text)
        self.noticed.append(text)
