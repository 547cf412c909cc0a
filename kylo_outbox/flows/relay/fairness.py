"""Fair share: one key's long backlog does not keep the other keys of its lane waiting.

A lane is read in the order of ids, so a million rows of one company would all go before the next company's single one.
When most of a standing backlog is one key's, its slot is cut off into a side lane, read in turns beside the lane; the
lane goes on without it. When the side has caught up, both are brought to one cursor and joined again.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kylo_outbox.flows.relay.state import RelayState
    from kylo_outbox.flows.relay.track import Track
    from kylo_outbox.store.outbox import Row, Turn
    from kylo_outbox.store.session import LaneSession

log = logging.getLogger(__name__)

# So many full turns in a row are a standing backlog (16,000 rows of an ordinary turn).
_STANDING = 16
_MOST_SIDES = 4
_ENOUGH = 100


class Fairness:
    """Decides when a slot is cut off and when it comes back; both wait until nothing of the lane is in flight."""

    def __init__(self, state: RelayState) -> None:
        self._state = state
        self._cut: tuple[str, bytes] | None = None
        self._join: int | None = None

    @property
    def waits(self) -> bool:
        """Whether nothing more may be read until what is in flight is acknowledged and stored."""
        return self._cut is not None or self._join is not None

    def forget(self) -> None:
        """The relay starts over: nothing is under way."""
        self._cut = self._join = None

    def saw(self, lane: Track, rows: list[Row]) -> None:
        """Look at a turn of the lane; a key that fills most of a standing backlog is to be cut off."""
        if lane.full_turns < _STANDING or lane.full_turns % _STANDING or self._state.side_lanes >= _MOST_SIDES:
            return
        [(key, number)] = Counter((row[1], row[2]) for row in rows).most_common(1)
        if len(rows) >= _ENOUGH and number * 2 > len(rows):
            self._cut = key

    def caught_up(self, session: LaneSession, lane: Turn, side: Track, limit: int) -> Turn:
        """Bring a side that has nothing left to the cursor of the lane's last turn, which was not full."""
        turn = session.read(side.part, limit, upto=lane.cursor)
        if not turn.full:
            self._join = side.part
        return turn

    def step(self, session: LaneSession, tracks: list[Track]) -> bool:
        """Cut or join once everything is stored; whether the tracks have changed."""
        if not self.waits or not all(track.quiet for track in tracks):
            return False
        key, side = self._cut, self._join
        self.forget()
        if side is not None:
            if not session.together(side):
                return False  # the lane has moved on meanwhile: another time
            session.join(side)
            log.info("%s: side lane %d has caught up", self._state.name, side)
        elif key is not None and (made := session.split(*key)) is not None:
            log.info("%s: %s of %s has a long backlog: side lane %d", self._state.name, key[1].decode(), key[0], made)
        self._state.side_lanes = len(session.parts) - 1
        return True
