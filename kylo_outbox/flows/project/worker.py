"""The loop of a projector: takes a batch from its source, has it settled, commits the offsets."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kylo_outbox.flows.project.ahead import Ahead
from kylo_outbox.flows.project.deaths import DEATHS, killer
from kylo_outbox.model.errors import CircuitOpen, Transient
from kylo_outbox.runtime import making_way

if TYPE_CHECKING:
    from kylo_outbox.flows.project.ahead import Source
    from kylo_outbox.flows.project.deaths import Deaths
    from kylo_outbox.flows.project.gaps import Gaps
    from kylo_outbox.flows.project.settle import Projection
    from kylo_outbox.model.delivery import Delivery

log = logging.getLogger(__name__)
# After few records for the size of a batch: what its transaction takes on an idle machine, and the rest beyond that.
_FEW, _FREE, _TIMES = 8, 0.004, 2


@dataclass(frozen=True, slots=True)
class ProjectTurn:
    """What one turn settled."""

    settled: int
    pause: float = 0.0


class Project:
    """The worker.

    Args:
        projection: Settles what is taken.
        source: Gives records and takes offsets.
        batch: At most so many records at once; the projector's own figure without it.
        patience: Seconds to wait for the first record.
        deaths: Finds records that kill the process; without it nobody looks.
        gaps: Fills in what left the log unread; without it nobody looks.
    """

    def __init__(
        self,
        projection: Projection,
        source: Source,
        *,
        batch: int | None = None,
        patience: float = 0.2,
        deaths: Deaths | None = None,
        gaps: Gaps | None = None,
    ) -> None:
        self._projection, self._source = projection, Ahead(source)
        self._batch, self._patience = batch or projection.projector.batch, patience
        self._deaths, self._gaps = deaths, gaps
        self._in_hand: list[Delivery] = []
        self.settled = 0

    @property
    def name(self) -> str:
        """For log lines."""
        return f"project {self._projection.projector.name}"

    def run_once(self) -> ProjectTurn:
        """One batch. `Transient` keeps it in hand with the partitions paused; the next call tries it again."""
        self._projection.tend()
        limit = max(0, self._batch - len(self._in_hand))
        behind = bool(self._in_hand)
        self._in_hand += self._source.take(limit, 0.0 if behind else self._patience, in_hand=behind)
        if not self._in_hand:
            return ProjectTurn(0)
        began = time.monotonic()
        try:
            if self._gaps and not self._gaps.close_before(self._source, self._projection.handle):
                # Nothing more is fetched meanwhile.
                self._source.pause()
                return ProjectTurn(0)
            if len(self._in_hand) >= self._batch // 2:
                self._source.begin(self._batch)
            settled = self._settle()
        except Transient as not_now:
            # An open circuit needs to see what else arrives before it can tell that it was a few records after all.
            if not isinstance(not_now, CircuitOpen) or len(self._in_hand) >= self._batch:
                self._source.pause()
            raise
        self._source.resume()
        self._source.commit(settled)
        self.settled += len(settled)
        few = not self._in_hand and len(settled) < self._batch // _FEW
        took = time.monotonic() - began
        return ProjectTurn(len(settled), making_way.rest(took, times=_TIMES, free=_FREE) if few else 0.0)

    def close(self) -> None:
        """Leave the group; what was not settled is read again by whoever gets the partitions."""
        try:
            if self._gaps:
                self._gaps.close()
            if self._deaths:
                self._deaths.close()
        finally:
            self._source.close()

    def _settle(self) -> list[Delivery]:
        number = self._deaths.begin(self._in_hand, self._source.assigned) if self._deaths else len(self._in_hand)
        portion = self._in_hand[: max(1, number)]
        if number:
            self._projection.handle(portion)
        else:
            self._projection.bury(portion[0], killer(), DEATHS)
        if self._deaths:
            self._deaths.done(portion)
        del self._in_hand[: len(portion)]
        return portion
