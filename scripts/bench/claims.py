"""The relay's own session taken by the hand: one read and one write of the cursor at a time, without the relay."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kylo_outbox.store.session import LaneSession
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kylo_outbox.store.outbox import Row, Turn

_LANE = 0


class Claims:
    """Holds the first lane of a store."""

    def __init__(self, session: LaneSession) -> None:
        self._session = session

    @property
    def store_id(self) -> str:
        """What the records of this store carry."""
        return self._session.identity().store_id

    def read(self, limit: int) -> Turn:
        """The next rows."""
        return self._session.read(_LANE, limit)

    def store(self, turn: Turn) -> list[Row]:
        """Store the cursor of a turn; its rows."""
        self._session.advance(_LANE, turn.cursor, len(turn.rows))
        return turn.rows


@contextmanager
def claiming(dsn: str) -> Iterator[Claims]:
    """Take the lane for the block.

    Raises:
        BenchFailed: a relay holds it.
    """
    session = LaneSession(dsn, "bench")
    try:
        if not session.take(_LANE, "bench"):
            raise BenchFailed("another relay holds the lane")
        yield Claims(session)
    finally:
        session.close()
