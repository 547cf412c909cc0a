"""The processes of a soak: relays and projectors, in front of the doors."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psycopg

from tests.helpers.look import Look
from tests.helpers.relays import OwnProcess, RelayProcess
from tests.soak.projectors import RUN

if TYPE_CHECKING:
    from pathlib import Path

_CLASSES = [f"tests.soak.projectors:{name}" for name in ("Ledger", "Journal", "Balances")]
_HOLDERS = "select holder from kylo.lanes where parent is null and holder is not null"


class Crew:
    """Two relays and three processes with all projectors each.

    Args:
        folder: Where their logs go.
        settings: Where the doors are.
        run: The name of the run.
        dsn: The back door of the database, to see who leads.
        relay: The fault planted in the relays.
        projector: The fault planted in the projectors.
    """

    def __init__(
        self, folder: Path, settings: dict[str, str], run: str, dsn: str, *, relay: str = "", projector: str = ""
    ) -> None:
        settings = settings | {RUN: run}
        words = ["project", *_CLASSES, "--wait"]
        self.relays = [RelayProcess(folder / f"relay-{n}.log", settings, relay) for n in range(2)]
        self.projectors = [OwnProcess(folder / f"projectors-{n}.log", settings, words, projector) for n in range(3)]
        self._look = Look(dsn)

    @property
    def all(self) -> list[OwnProcess]:
        """Every process."""
        return [*self.relays, *self.projectors]

    def start(self) -> None:
        """Start all; returns at once."""
        for process in self.all:
            process.start()

    def leads(self, relay: OwnProcess) -> bool:
        """Whether a relay holds a lane; False also while nobody can tell."""
        try:
            holders = self._look.ask(_HOLDERS, seconds=0.0)
        except psycopg.OperationalError:
            return False
        return any(holder.endswith(f":{relay.pid}") for (holder,) in holders)

    def died(self) -> list[str]:
        """Processes that ended although nobody ended them."""
        return [process.log_file.name for process in self.all if not process.runs]

    def end(self) -> list[str]:
        """SIGTERM to all; the names of those that did not end well."""
        for process in self.all:
            process.signal(signal.SIGTERM)
        until = time.monotonic() + 60
        return [p.log_file.name for p in self.all if p.wait(max(1.0, until - time.monotonic())) != 0]

    def close(self) -> None:
        """Kill whatever is left."""
        for process in self.all:
            process.kill()
        self._look.close()
