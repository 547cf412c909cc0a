"""Releasing delayed events in every store when their time has come."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Transient
from kylo_outbox.store.delayed import Releaser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)
# A store that is away costs the others a connection attempt every few seconds, not one a round.
_LEAVE_OUT = 5.0


class DelayedEvents:
    """A scheduled job; any number of processes may run it. Keeps one connection for each store in use."""

    def __init__(self, stores: Callable[[], Iterable[Database]]) -> None:
        self._stores = stores
        self._releasers: dict[str, Releaser] = {}
        self._again_at: dict[str, float] = {}

    def run_once(self) -> int:
        """Release what is due in every store; how many. A store that is away is left to the next round."""
        count = 0
        stores = {store.dsn: store for store in self._stores()}
        for gone in self._releasers.keys() - stores.keys():
            self._releasers.pop(gone).close()
        for dsn, store in stores.items():
            if time.monotonic() < self._again_at.get(dsn, 0.0):
                continue
            releaser = self._releasers.setdefault(dsn, Releaser(dsn, store.name))
            try:
                count += releaser.release()
            except Transient as away:
                log.warning("delayed events of %s wait: %s", store.name, away)
                self._again_at[dsn] = time.monotonic() + _LEAVE_OUT
        return count

    def close(self) -> None:
        """Close every connection."""
        for releaser in self._releasers.values():
            releaser.close()
        self._releasers.clear()
