"""Waiting for the database of a company without holding up the others: its records lie in the control store.

They lie there in order, each key behind a hold of its own, and are handed over by the running projector as soon as the
database answers; positions in that database absorb what was applied before it went away. While the control database
itself is away everything waits in place.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from kylo_outbox.flows.project.deaths import DEATHS
from kylo_outbox.flows.project.retries import BATCH
from kylo_outbox.model.errors import Stopping, Transient
from kylo_outbox.store import keyholds
from kylo_outbox.store.engine import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.flows.project.retries import Retries, Retry
    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)


class Aside:
    """Records of one projector that wait for their database.

    Args:
        control: The control database.
        projector: Name of the projector.
        patience: Seconds that a database may be away before its records are set aside; shorter outages wait in place.
        every: Seconds between two looks whether it is back.
    """

    def __init__(self, control: Database, projector: str, *, patience: float = 2.0, every: float = 2.0) -> None:
        self._control, self._projector = control, projector
        self._patience, self._every = patience, every
        self._away_since: dict[int, float] = {}
        self._looked_at = 0.0

    def behind(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Queue what comes behind records that wait already; the rest."""
        with self._control.transaction() as tx:
            keys = {delivery.position_key for delivery in deliveries}
            held = keyholds.held_keys(tx, self._projector, "away", keys)
            if not held:
                return deliveries
            keyholds.queue(tx, self._projector, "away", [each for each in deliveries if each.position_key in held])
        return [delivery for delivery in deliveries if delivery.position_key not in held]

    def takes(self, database: Database | None, part: Sequence[Delivery]) -> bool:
        """Whether to set `part` aside now: its database is really away, and has been for a while.

        Records of other producers are ordered by partition, whatever databases they are for: they wait in place.
        """
        if database is self._control or not all(delivery.store_id for delivery in part):
            return False
        if database is None:
            return True  # the directory knows of no database that can be used
        if answers(database):
            self._away_since.pop(id(database), None)
            return False
        since = self._away_since.setdefault(id(database), time.monotonic())
        return time.monotonic() - since >= self._patience

    def put(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """Set records aside."""
        keys = {delivery.position_key for delivery in deliveries}
        with self._control.transaction() as tx:
            for key in sorted(keys):
                keyholds.hold(tx, keyholds.Hold(self._projector, "away", key, reason))
            keyholds.queue(tx, self._projector, "away", deliveries)
        log.warning("%s: %d records set aside: %s", self._projector, len(deliveries), reason)

    def drain(
        self,
        database_of: Callable[[Delivery], Database],
        settle: Callable[[Database, Sequence[Delivery]], None],
        bury: Callable[[Delivery, Exception, int], None],
        retries: Retries,
    ) -> None:
        """Hand over what waits for databases that are back, key by key in order."""
        if time.monotonic() - self._looked_at < self._every:
            return
        self._looked_at = time.monotonic()
        with self._control.transaction() as tx:
            holds = keyholds.away(tx, self._projector)
        back: dict[int, bool] = {}
        for hold in holds:
            try:
                if not self._is_back(hold, database_of, back):
                    continue
                with retries.of(self._control, hold) as retry:
                    if retry is not None:
                        self._drain(hold, database_of, settle, bury, retry)
            except Stopping:
                raise
            except Transient as still_away:
                log.debug("%s: key %s waits: %s", self._projector, hold.key[2], still_away)

    def _is_back(self, hold: keyholds.Hold, database_of: Callable[[Delivery], Database], back: dict[int, bool]) -> bool:
        """Whether the database of a key answers; each is asked once a round."""
        with self._control.transaction() as tx:
            waiting = keyholds.waiting(tx, hold, 1)
        if not waiting:
            return True
        database = database_of(waiting[0][1])
        if id(database) not in back:
            back[id(database)] = answers(database)
        if back[id(database)]:
            self._away_since.pop(id(database), None)
        return back[id(database)]

    def _drain(
        self,
        hold: keyholds.Hold,
        database_of: Callable[[Delivery], Database],
        settle: Callable[[Database, Sequence[Delivery]], None],
        bury: Callable[[Delivery, Exception, int], None],
        retry: Retry,
    ) -> None:
        over = False
        while not over:
            killer = retry.killer
            with self._control.transaction() as tx:
                waiting = keyholds.waiting(tx, hold, retry.most(BATCH))
            if waiting and killer:
                bury(waiting[0][1], killer, DEATHS)
            elif waiting:
                settle(database_of(waiting[0][1]), [delivery for _, delivery in waiting])
            with self._control.transaction() as tx:
                # Locked first, so that nothing is queued between the look and the end of the hold.
                keyholds.lock(tx, hold)
                keyholds.forget(tx, [place for place, _ in waiting])
                retry.passed(tx)
                over = not keyholds.waiting(tx, hold, 1)
                if over:
                    keyholds.let_go(tx, hold)
        log.info("%s: key %s goes on", self._projector, hold.key[2])
