"""The processes of a soak: relays and projectors, in front of the doors."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

import psycopg

from tests.helpers.look import Look
from tests.helpers.relays import OwnProcess, RelayProcess
from tests.soak.projectors import RUN

if TYPE_CHECKING:
    from pathlib import Path

_CLASSES = [f"tests.soak.projectors:{name}" for name in ("Ledger", "Journal", "Balances")]
# Whatever is in hand when the word comes is done long before.
END_SECONDS = 30.0
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
        # With the fault handler a process that gets SIGABRT tells in its log what its threads are doing.
        settings = settings | {RUN: run, "PYTHONFAULTHANDLER": "1"}
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
        """SIGTERM to all; what did not end well. Who is late tells in its log where each of its threads stood."""
        for process in self.all:
            process.signal(signal.SIGTERM)
        until = time.monotonic() + END_SECONDS
        return [f"{p.log_file.name} {wrong}" for p in self.all if (wrong := _wrong(p, until - time.monotonic()))]

    def close(self) -> None:
        """Kill whatever is left."""
        for process in self.all:
            process.kill()
        self._look.close()


def _wrong(process: OwnProcess, seconds: float) -> str:
    """What is wrong with the end of a process that was asked for it; nothing if it ended well."""
    try:
        code = process.wait(max(0.1, seconds))
    except subprocess.TimeoutExpired:
        process.signal(signal.SIGABRT)
        process.wait()
        return f"did not end within {END_SECONDS:g} s"
    # Who is just being started (only then does the signal itself end it) has nothing in hand yet.
    return f"ended with {code}" if code not in {0, -signal.SIGTERM} else ""
