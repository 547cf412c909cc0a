"""Finding the refused record among innocent ones, and the limit that refuses whole batches.

The broker refuses a batch as a whole. So turns become half as long after each refusal, until the refused record stands
alone, and twice as long after each success. When every row of a refused batch passes in the end, no record was at
fault: the topic takes smaller batches than the client makes, and the client is told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kylo_outbox.store.outbox import Row


class Caution:
    """How many rows a turn may have, `most` while nothing is wrong."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = most
        self._doubted: set[int] = set()
        self._guilty = False

    @property
    def active(self) -> bool:
        """Whether one batch at a time is sent, to see what becomes of it."""
        return self.rows < self._most

    def doubt(self) -> None:
        """Something was refused, and nobody knows what: one batch at a time for a while."""
        self.rows = max(1, min(self.rows, self._most // 2))

    def refused(self, rows: Sequence[Row]) -> bool:
        """A batch was refused; True if it was a single record, which is therefore the one."""
        if len(rows) == 1:
            self._guilty = True
            self._doubted.discard(rows[0][0])
            return True
        if not self._doubted:
            self._guilty = False
        self._doubted |= {row[0] for row in rows}
        self.rows = max(1, len(rows) // 2)
        return False

    def passed(self, rows: Iterable[Row]) -> bool:
        """Rows were acknowledged; True if that was the last of a refused batch and no record was at fault."""
        if not self.active and not self._doubted:
            return False
        passed = {row[0] for row in rows}
        # Late rows are read again from the first one after each refusal. Those before the doubted ones have passed
        # before and say nothing: with turns that grow over them the refused record would never stand alone.
        if not self._doubted or max(passed, default=-1) >= min(self._doubted):
            self.rows = min(self._most, self.rows * 2)
        doubted = bool(self._doubted)
        self._doubted -= passed
        return doubted and not self._doubted and not self._guilty

    def kept_back(self, rows: Sequence[Row], sent: Sequence[Row]) -> None:
        """Of some rows only those `sent` went to the broker: nothing more will be learned of the others."""
        if self._doubted and len(sent) < len(rows):
            self._doubted -= {row[0] for row in rows} - {row[0] for row in sent}

    def reset(self) -> None:
        """Begin without doubts."""
        self.rows = self._most
        self._doubted.clear()
        self._guilty = False
