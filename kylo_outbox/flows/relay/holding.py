"""Keys that wait: what holds them, what is copied out behind them, and how they go on in order.

A row that may not go now (refused, its topic missing, its company paused, its partition without a leader) is copied
out of the log, and so is every later one of its key; all other keys go on. What may be tried again by itself is tried
every few seconds, from the oldest event of each key, as a batch of its own beside the lane's.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias

from kylo_outbox.flows.relay.caution import Caution
from kylo_outbox.flows.relay.sizes import Sizes
from kylo_outbox.flows.relay.track import count_published
from kylo_outbox.kafka.producer import names_missing_topic
from kylo_outbox.store.held import PAUSED
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.flows.relay.away import LostPartitions
    from kylo_outbox.flows.relay.state import Direct, Outlet, RelayState
    from kylo_outbox.kafka.producer import Ticket
    from kylo_outbox.store.outbox import Row
    from kylo_outbox.store.session import LaneSession

log = logging.getLogger(__name__)

Keys: TypeAlias = set[tuple[str, bytes]]

RETRY_EVERY = 5.0
_AT_ONCE = 1000
BEHIND = "waits behind an earlier event of its key"


class Holding:
    """The held keys of one lane."""

    def __init__(
        self,
        state: RelayState,
        lost: LostPartitions,
        direct: Direct | None,
        is_paused: Callable[[str, bytes], bool],
    ) -> None:
        self._state, self._lost, self._direct, self._is_paused = state, lost, direct, is_paused
        self._caution = Caution(_AT_ONCE)
        self._sizes = Sizes()
        self._sent: tuple[Ticket, list[Row]] | None = None
        self._tried_at = self._handed_at = 0.0
        # Held events were in flight when something unknown was refused: they go only while nothing else does.
        self.alone = False

    def wants_quiet(self, *, doubt: bool) -> bool:
        """Whether nothing else may be sent until the held events have had their turn.

        `doubt`: the lane looks for a refused record. Both at once would leave open again whose it is, for ever if
        held events go on coming.
        """
        return (self._sent is not None and (doubt or self.alone)) or (self.alone and self._due)

    @property
    def _due(self) -> bool:
        return bool(self._state.held_keys) and time.monotonic() - self._tried_at >= RETRY_EVERY

    @property
    def ticket(self) -> Ticket | None:
        """The batch of held events that is in flight, if one is."""
        return self._sent[0] if self._sent else None

    def load(self, session: LaneSession) -> None:
        """Learn which keys of the lane are held."""
        self._state.held_keys = session.held_keys()

    def forget(self) -> None:
        """What is in flight will be tried again."""
        self._sent = None

    def hold(self, session: LaneSession, rows: Sequence[Row], reason: str, *, retry: bool, waits: bool = False) -> None:
        """Copy rows out; each key is told of once."""
        if not rows:
            return
        session.hold(rows, reason, retry=retry, waits=waits)
        fresh = {(row[1], row[2]) for row in rows} - self._state.held_keys
        self._state.held_keys |= fresh
        for topic, key in sorted(fresh):
            log.warning("%s holds key %s of %s: %s", self._state.name, key.decode(), topic, reason)

    def sift(self, session: LaneSession, outlet: Outlet, rows: list[Row], *, away: bool) -> tuple[list[Row], list[Row]]:
        """(to publish, to hand over directly); what may not go is copied out on the way.

        `away`: there is no Kafka for now, and the direct path must not wait for it.
        """
        keys = {(row[1], row[2]) for row in rows}
        out = {key for key in keys if self._is_paused(*key)}
        self._keep_out(session, rows, out, PAUSED)
        if behind := (keys & self._state.held_keys) - out:
            self.hold(session, [row for row in rows if (row[1], row[2]) in behind], BEHIND, retry=False, waits=True)
        out |= behind
        by_hand = {key for key in keys - out if self._direct is not None and self._direct.takes(*key)}
        left = keys - out - by_hand
        out |= self._cannot_go(session, outlet, rows, left, away=away)
        direct = [row for row in rows if (row[1], row[2]) in by_hand] if by_hand else []
        if out or by_hand:
            rows = [row for row in rows if (key := (row[1], row[2])) not in out and key not in by_hand]
        return self._small_enough(session, rows), direct

    def _small_enough(self, session: LaneSession, rows: list[Row]) -> list[Row]:
        """The rows without what is surely too large for its topic and what follows that in its key."""
        if not self._sizes.known:
            return rows
        small, behind = [], []
        large: dict[str, list[Row]] = {}
        keys: Keys = set()
        for row in rows:
            if (row[1], row[2]) in keys:
                behind.append(row)
            elif reason := self._sizes.reason(row):
                large.setdefault(reason, []).append(row)
                keys.add((row[1], row[2]))
            else:
                small.append(row)
        for reason, those in large.items():
            self.hold(session, those, reason, retry=False)
        self.hold(session, behind, BEHIND, retry=False, waits=True)
        return small

    def _cannot_go(self, session: LaneSession, outlet: Outlet, rows: list[Row], keys: Keys, *, away: bool) -> Keys:
        """Copy out what Kafka cannot take now; the keys of it."""
        if away:
            self._keep_out(session, rows, keys, "Kafka is away")
            return keys
        missing = {topic for topic in {topic for topic, _ in keys} if not outlet.exists(topic)}
        for topic in sorted(missing):
            reason = f"topic {topic} does not exist; create it (`kylo-outbox topics apply`)"
            self._keep_out(session, rows, {key for key in keys if key[0] == topic}, reason)
        lost = {key for key in keys if key[0] not in missing and self._lost.covers(outlet, *key)}
        self._keep_out(session, rows, lost, "its partition has no leader")
        return lost | {key for key in keys if key[0] in missing}

    def refused(self, session: LaneSession, row: Row, reason: str, *, for_size: bool) -> None:
        """A single record was refused by the broker: it waits for a person, or for its topic to appear."""
        if for_size:
            self._sizes.refused(row)
        self.hold(session, [row], reason, retry=names_missing_topic(reason))

    def resend_refused(self, session: LaneSession, reason: str, *, for_size: bool) -> None:
        """The held batch in flight was refused: try half of it next, and block the record that stands alone."""
        if self._sent is None:
            return
        _, rows = self._sent
        self._sent = None
        if self._caution.refused(rows):
            if for_size:
                self._sizes.refused(rows[0])
            if not names_missing_topic(reason):
                session.block(rows[0], reason)
            self._caution.reset()
            self.alone = False
        self._tried_at = 0.0

    def settle(self, session: LaneSession) -> None:
        """Let the held batch in flight go, once it is acknowledged."""
        if self._sent is not None and self._sent[0].done:
            _, rows = self._sent
            count_published(rows)
            self._let_go(session, rows)
            self._caution.passed(rows)
            self._sizes.passed(rows)
            self._sent, self._tried_at, self.alone = None, 0.0, False

    def hand_over(self, session: LaneSession) -> None:
        """Hand over held events of the direct path when it is time, whatever has become of Kafka."""
        if self._direct is None or not self._state.held_keys or time.monotonic() - self._handed_at < RETRY_EVERY:
            return
        self._handed_at = time.monotonic()
        keys = [each for each in self._state.held_keys if not self._is_paused(*each) and self._direct.takes(*each)]
        if keys and (rows := session.held_ready(keys, _AT_ONCE)):
            self._direct.deliver(rows)
            self._let_go(session, rows)
            self._handed_at = 0.0

    def go_on(self, session: LaneSession, outlet: Outlet) -> None:
        """Settle the held batch in flight to Kafka, or try the next one when it is time."""
        if self._sent is not None:
            self.settle(session)
            return
        if not self._due:
            return
        self._tried_at = time.monotonic()
        self._bury(session)
        self._lost.look_again(outlet)
        keys = [each for each in self._state.held_keys if not self._is_paused(*each)]
        if self._direct is not None:
            keys = [each for each in keys if not self._direct.takes(*each)]
        if rows := session.held_ready(self._reachable(outlet, keys), self._caution.rows):
            self._sent = (outlet.send(rows), rows)
            outlet.hurry()

    def _let_go(self, session: LaneSession, rows: list[Row]) -> None:
        session.let_go(rows)
        self._state.published += len(rows)
        self.load(session)

    def _bury(self, session: LaneSession) -> None:
        buried = session.bury_refused()
        for each in buried:
            metrics.DLQ_MESSAGES_TOTAL.labels(reason=each.error_class).inc()
            log.error("%s: dead letter of %s key %s: %s", self._state.name, each.topic, each.key, each.error_class)
        if buried:
            self.load(session)

    def _reachable(self, outlet: Outlet, keys: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        there = {topic for topic in {topic for topic, _ in keys} if outlet.exists(topic)}
        return [(topic, key) for topic, key in keys if topic in there and not self._lost.covers(outlet, topic, key)]

    def _keep_out(self, session: LaneSession, rows: list[Row], keys: Keys, reason: str) -> None:
        if keys:
            self.hold(session, [row for row in rows if (row[1], row[2]) in keys], reason, retry=True)
