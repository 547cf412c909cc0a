"""How much may be in flight: enough batches that the broker is never idle, so few bytes that memory stays small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.flows.relay.track import Track
    from kylo_outbox.store.outbox import Row

# A sender with a larger queue makes larger batches for each partition, which cost the broker less.
BATCHES: Final = 32
_BYTES: Final = 64 * 1024 * 1024
# One turn may be so large; the next ones are cut by what the last one weighed.
_TURN_BYTES: Final = 8 * 1024 * 1024


class Window:
    """The limits of one lane's tracks.

    Args:
        batches: At most so many turns in flight on one track.
    """

    def __init__(self, batches: int = BATCHES) -> None:
        self._batches = batches
        self._row_bytes = 1

    def weigh(self, rows: Sequence[Row]) -> int:
        """Bytes of the payloads of a turn; remembered for the size of the next ones."""
        size = sum(len(row[4]) for row in rows)
        if rows:
            self._row_bytes = max(1, size // len(rows))
        return size

    def rows(self, most: int) -> int:
        """How many rows the next turn may have: `most`, or fewer while rows are large."""
        return max(1, min(most, _TURN_BYTES // self._row_bytes))

    def has_room(self, track: Track, *, side: bool = False) -> bool:
        """Whether another turn may be read; a side lane gets half of what the lane gets."""
        waiting = [batch.size for batch in track.batches if not batch.done]
        share = 2 if side else 1
        return len(waiting) < self._batches // share and sum(waiting) < _BYTES // share
