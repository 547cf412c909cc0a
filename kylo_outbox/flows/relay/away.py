"""Brokers and partitions that do not answer: an outage stops the lane, one partition without a leader its own keys.

An outage costs no attempt and sets nothing aside: what is in flight waits in the client, in order, and nothing more is
read than fits. It ends by itself with the next acknowledgement.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kylo_outbox.flows.relay.state import Outlet, RelayState

log = logging.getLogger(__name__)

# Seconds without an acknowledgement, in a healthy cluster some milliseconds: worth a look at the partitions' leaders;
# surely an outage.
SILENCE, OUTAGE = 1.0, 3.0
_LOOK_EVERY = 1.0


class Breaker:
    """Open while Kafka does not answer. `state.breaker` says why, to people and to metrics."""

    def __init__(self, state: RelayState) -> None:
        self._state = state
        self._since: float | None = None
        # A worker that was started again keeps its state, but knows nothing of an outage yet.
        state.breaker = ""

    @property
    def seconds(self) -> float:
        """How long it has been open; 0 while it is closed."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def open(self, reason: str) -> None:
        """Kafka is away; told once."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning("%s: Kafka is away, everything waits in order: %s", self._state.name, reason)
        self._state.breaker = reason

    def close(self) -> None:
        """Kafka answers again."""
        if self._since is not None:
            log.info("%s: Kafka is back after %.1f s", self._state.name, self.seconds)
            self._since = None
            self._state.breaker = ""


class LostPartitions:
    """Partitions that nobody leads: their keys are held, so that the others need not wait for them."""

    def __init__(self, state: RelayState) -> None:
        self._state = state
        self._lost: dict[str, frozenset[int]] = {}
        self._looked_at = 0.0

    def look_is_due(self) -> bool:
        """Whether a second has passed since the last look; then it counts as looked at."""
        due = time.monotonic() - self._looked_at >= _LOOK_EVERY
        if due:
            self._looked_at = time.monotonic()
        return due

    def look(self, outlet: Outlet, topics: Iterable[str]) -> bool:
        """Ask who leads the partitions of `topics`; whether one more is lost than was known."""
        more = False
        for topic in topics:
            if not outlet.exists(topic):
                continue
            lost, known = outlet.leaderless(topic), self._lost.get(topic, frozenset())
            if lost - known:
                more = True
                numbers = ", ".join(str(number) for number in sorted(lost - known))
                log.warning("%s: %s has no leader for partition %s: its keys wait", self._state.name, topic, numbers)
            if lost:
                self._lost[topic] = lost
            elif known:
                log.info("%s: every partition of %s has a leader again", self._state.name, topic)
                del self._lost[topic]
        return more

    def look_again(self, outlet: Outlet) -> None:
        """Ask again about what is lost."""
        self.look(outlet, list(self._lost))

    def covers(self, outlet: Outlet, topic: str, key: bytes) -> bool:
        """Whether records of this key would go to a lost partition."""
        lost = self._lost.get(topic)
        return bool(lost) and outlet.partition_of(topic, key) in (lost or ())
