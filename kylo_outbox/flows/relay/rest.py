"""How long a relay may rest: not at all under load, until the bell rings when there is nothing to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kylo_outbox.runtime import making_way

if TYPE_CHECKING:
    from kylo_outbox.flows.relay.state import Outlet
    from kylo_outbox.store.session import LaneSession

_SHORTEST, _LONGEST = 0.001, 0.1
# Without a bell a commit is found by looking: a compromise between latency and an idle database.
_LONGEST_UNRUNG = 0.02
# Looking without pause is cheaper than so many notifications in a row, and than any where several commits come while
# one look is made: PostgreSQL lets only one commit with a notification through at a time.
_RINGS, _RING_WINDOW = 50, 0.1
_AT_ONCE = 4
_ASLEEP_AFTER = 0.01
_POLL = 0.005
# What a look takes on an idle machine, and the rest beyond that.
_FREE, _TIMES = 0.001, 8


class Rest:
    """Adaptive looking: at once after work, then twice as long each time; where the bell is heard, until it rings."""

    def __init__(self, interval: float | None) -> None:
        self._interval = interval
        self._not_before = self._make_way = 0.0
        self._wait = _SHORTEST
        self._rings = 0
        self._window = 0.0

    def over(self) -> bool:
        """Whether the outbox may be looked at."""
        return time.monotonic() >= self._not_before

    def looked(self, seconds: float) -> None:
        """How long one look at the outbox took."""
        self._make_way = making_way.rest(seconds, times=_TIMES, free=_FREE)

    def read(self, session: LaneSession, found: int, *, full: bool) -> None:
        """Everything was looked at once and so many rows found; unless more is waiting, the next look is due later."""
        if found >= _AT_ONCE:
            session.awake()
        longest = _LONGEST if session.rings else _LONGEST_UNRUNG
        self._wait = _SHORTEST if found else min(self._wait * 2, longest)
        if not full:
            self._not_before = time.monotonic() + max(self._interval or 0.0, self._make_way if found else 0.0)

    def after(self, session: LaneSession, outlet: Outlet, *, in_flight: bool) -> float:
        """Wait as long as makes sense, served by Kafka's answers or the bell; seconds left to wait."""
        if in_flight:
            outlet.poll(min(self._wait, _POLL))
            return 0.0
        if (left := self._not_before - time.monotonic()) > 0:
            return min(left, _LONGEST)
        if self._interval is not None:
            return 0.0
        if not session.rings:
            return self._wait
        if session.sleeps:
            # Every commit rings, but for one whose event was written before we fell asleep.
            self._wait = _LONGEST
        elif self._wait > _ASLEEP_AFTER and session.asleep():
            # A commit that saw us awake may be just behind the last look.
            return 0.0
        if session.wait(self._wait):
            self._heard(session)
        return 0.0

    def _heard(self, session: LaneSession) -> None:
        now = time.monotonic()
        if now - self._window > _RING_WINDOW:
            self._window, self._rings = now, 0
        self._rings += 1
        if self._rings >= _RINGS:
            session.awake()
