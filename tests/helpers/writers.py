"""Writers that behave badly: they sleep with their transaction open, roll back, and commit in any order."""

from __future__ import annotations

import hashlib
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kylo_outbox import emit
from kylo_outbox.store.engine import connect

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator


class Writers:
    """Threads that emit on a few keys until told to stop; `committed` is what the log must hold in the end."""

    def __init__(self, dsn: str, topic: str, *, writers: int = 8, keys: int = 20, seed: int = 1) -> None:
        self.committed: set[uuid.UUID] = set()
        self._dsn, self._topic, self._keys, self._seed = dsn, topic, keys, seed
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(writers)]
        self.failed: list[Exception] = []

    @contextmanager
    def running(self) -> Iterator[Writers]:
        """Start them; stop and wait at the end of the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30)

    def _write(self, number: int) -> None:
        dice = random.Random(self._seed * 1000 + number)
        try:
            with connect(self._dsn, f"writer {number}") as connection:
                while not self._stop.is_set():
                    # Locks are taken by slot, so keys in the order of slots never deadlock.
                    keys = sorted(dice.sample(range(self._keys), dice.randint(1, 3)), key=self._slot)
                    mine = [self._emit(connection, key, dice) for key in keys]
                    if dice.random() < 0.2:
                        connection.rollback()
                    else:
                        connection.commit()
                        self.committed.update(mine)
        except Exception as failed:  # noqa: BLE001 - told to the test, which fails
            self.failed.append(failed)

    def _slot(self, key: int) -> int:
        digest = hashlib.sha256(f"{self._topic}\x1fkey-{key}".encode()).digest()
        return digest[0] << 2 | digest[1] >> 6

    def _emit(self, connection, key: int, dice: random.Random) -> uuid.UUID:
        event = emit(connection, topic=self._topic, key=f"key-{key}", type="WRITTEN", payload={"n": dice.random()})
        # The transaction stays open for a while: late commits are what this is about.
        self._stop.wait(dice.random() * 0.01)
        assert event.event_id is not None
        return event.event_id
