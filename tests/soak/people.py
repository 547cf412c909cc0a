"""The people of a soak: whoever works with the dead letters while everything burns."""

from __future__ import annotations

import threading
from contextlib import suppress

from kylo_outbox.model.errors import Transient
from kylo_outbox.store import desk
from kylo_outbox.store.engine import Database
from tests.soak.projectors import CURABLE, Journal, Ledger

_LOOK_SECONDS = 0.5
_WHO = "soak"
_CURE = "insert into soak_cured (event_id) values (%s) on conflict do nothing"


class People:
    """Cures and releases what can be cured, gives the rest up: one look every half second."""

    def __init__(self, dsn: str, run: str) -> None:
        self.released = self.discarded = 0
        self.failed: list[Exception] = []
        self._database = Database(dsn, name="soak people")
        self._stages = [f"{projector.name.rpartition('-')[0]}-{run}" for projector in (Ledger, Journal)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="people")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Go home."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(30)
        self._database.close()

    def _work(self) -> None:
        try:
            while not self._stop.wait(_LOOK_SECONDS):
                for stage in self._stages:
                    with suppress(Transient):
                        self._look(stage)
        except Exception as failed:  # noqa: BLE001 - told to whoever runs the soak
            self.failed.append(failed)

    def _look(self, stage: str) -> None:
        with self._database.transaction() as tx:
            letters = [letter for letter in desk.find(tx, desk.Filter(stage=stage)) if not letter.released]
            curable = [letter for letter in letters if letter.type == CURABLE]
            for letter in curable:
                tx.execute(_CURE, (letter.event_id,))
            released = desk.release(tx, curable, who=_WHO, reason="cured")
            hopeless = [letter for letter in letters if letter.type != CURABLE]
            discarded = desk.discard(tx, hopeless, who=_WHO, reason="it can never be applied")
        self.released += len(released.ids)
        self.discarded += len(discarded.ids)
