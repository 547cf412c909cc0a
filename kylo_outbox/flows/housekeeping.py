"""Keeping every store's outbox in shape: partitions ahead of the writers, published ones dropped behind the cursors."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Transient
from kylo_outbox.store import dead_letters, left, upkeep
from kylo_outbox.store.engine import as_ours, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)
_SETTLED = 30 * 86_400.0
"""Seconds that a settled dead letter is kept whole; open ones stay."""


class Housekeeping:
    """A scheduled job; any number of processes may run it. `retention` in seconds: no row younger than that leaves."""

    def __init__(self, stores: Callable[[], Iterable[Database]], retention: float) -> None:
        self._stores, self._retention = stores, retention

    def run_once(self) -> None:
        """One round over all stores; a store that is away is left to the next round."""
        for store in self._stores():
            try:
                with as_ours(store.name):
                    self._keep(store)
            except Transient as away:
                log.warning("housekeeping leaves out %s: %s", store.name, away)

    def _keep(self, store: Database) -> None:
        # A connection of its own: partitions are detached outside any transaction.
        with closing(connect(store.dsn, f"housekeeping {store.name}", autocommit=True)) as connection:
            if not upkeep.alone(connection):
                return
            made = upkeep.extend(connection)
            rolled = upkeep.roll(connection, self._retention)
            dropped = upkeep.drop_published(connection, self._retention, before=left.fold)
            upkeep.trim(connection, self._retention)
            dead_letters.forget_settled(connection, _SETTLED)
            left.settle(connection)
        if made or dropped or rolled:
            log.info(
                "%s: %d partitions made, dropped %s%s",
                store.name,
                made,
                ", ".join(dropped) or "none",
                "; the next one begins" if rolled else "",
            )
