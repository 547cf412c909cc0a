"""The lag of groups as metrics, and which partitions nobody reads although records wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.stalls import Progress
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kylo_outbox.kafka.lag import PartitionLag

LAG_EVERY = 5.0
"""Seconds; a partition that stands still is told after three looks."""


class LagWatch:
    """Fed with each measurement. `stuck` is for the heartbeat.

    Args:
        steady: A clock that never jumps.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._progress = Progress()
        self.stuck: list[dict[str, Any]] = []

    def look(self, found: Iterable[PartitionLag], *, judge: bool = True) -> None:
        """Show how far each group is behind and, if it is to be judged, compare with the former look.

        A partition whose first unread record could not be looked at is left out: it may hold marks of transactions
        alone, which nobody ever reads.
        """
        oldest: dict[tuple[str, str], float] = {}
        places: dict[tuple[str, str, int], tuple[int | None, int]] = {}
        for part in found:
            metrics.CONSUMER_LAG_MESSAGES.labels(part.group, part.topic, str(part.partition)).set(part.messages)
            place = (part.group, part.topic)
            oldest[place] = max(oldest.get(place, 0.0), part.seconds or 0.0)
            if part.seconds is not None:
                places[part.group, part.topic, part.partition] = (part.committed, part.messages)
        for place, seconds in oldest.items():
            metrics.CONSUMER_LAG_SECONDS.labels(*place).set(seconds)
        self.stuck = self._progress.look(self._steady(), places if judge else {})
