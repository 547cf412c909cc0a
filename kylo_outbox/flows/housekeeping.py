"""Keeping every store's outbox in shape: partitions ahead of the writers, published ones dropped behind the cursors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Transient
from kylo_outbox.store import dead_letters, upkeep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)
_SETTLED = 30 * 86_400.0
"""Seconds that a settled dead letter is kept; open ones stay."""


class Housekeeping:
    """A scheduled job. `retention` is in seconds: no row younger than that is dropped."""

    def __init__(self, stores: Callable[[], Iterable[Database]], retention: float) -> None:
        self._stores, self._retention = stores, retention

    def run_once(self) -> None:
        """One round over all stores; a store that is away is left to the next round."""
        for store in self._stores():
            try:
                with store.transaction() as tx:
                    made = upkeep.extend(tx)
                with store.transaction() as tx:
                    dropped = upkeep.drop_published(tx, self._retention)
                    upkeep.trim(tx, self._retention)
                    dead_letters.forget_settled(tx, _SETTLED)
            except Transient as away:
                log.warning("housekeeping leaves out %s: %s", store.name, away)
                continue
            if made or dropped:
                log.info("%s: %d partitions made, dropped %s", store.name, made, ", ".join(dropped) or "none")
