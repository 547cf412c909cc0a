"""Stores that watch each other, so that one that was put back to an earlier time goes on as a new generation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Transient
from kylo_outbox.store.identity import begin_anew
from kylo_outbox.store.witness import accept, look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)


class Witnesses:
    """A scheduled job, and the question asked before a store is published from. The first store is the control one.

    The control database watches all others and each of them watches it. A witness that is away is not heard: nobody
    waits for it.
    """

    def __init__(self, stores: Callable[[], Sequence[Database]]) -> None:
        self._stores = stores

    def run_once(self) -> None:
        """Look at every store and remember how far it is."""
        for store, witness in self._pairs():
            self._look(store, witness)

    def check(self, store: Database) -> None:
        """Ask the witnesses of one store before anything is published from it."""
        for each, witness in self._pairs():
            if each.dsn == store.dsn:
                self._look(each, witness)

    def _pairs(self) -> list[tuple[Database, Database]]:
        stores = self._stores()
        return [pair for other in stores[1:] for pair in ((other, stores[0]), (stores[0], other))]

    def _look(self, store: Database, witness: Database) -> None:
        try:
            put_back = look(store, witness)
            if put_back is None:
                return
            with store.begin() as connection:
                begun = begin_anew(connection, put_back.generation)
            accept(witness, put_back)
        except Transient as away:
            log.debug("%s is not watched by %s now: %s", store.name, witness.name, away)
            return
        if begun is not None:
            log.warning(
                "%s was put back to an earlier time: it goes on as generation %d. What it lost is lost; what it writes "
                "from now on is new, whatever ids it draws",
                *(store.name, begun.generation),
            )
