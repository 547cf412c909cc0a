"""kylo.paused_keys: topics and single keys that an operator holds, and the relay's look at them every two seconds."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kylo_outbox.model.errors import Transient

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

    from kylo_outbox.store.engine import Database

REFRESH: Final = 2.0
_PAUSE = """
insert into kylo.paused_keys (topic, key, reason, paused_by) values (%s, convert_to(%s, 'UTF8'), %s, %s)
on conflict do nothing
"""
_RESUME = """
delete from kylo.paused_keys where topic = %s and key is not distinct from convert_to(%s, 'UTF8')
returning reason, paused_by, paused_at
"""
_ALL = "select topic, convert_from(key, 'UTF8'), reason, paused_by, paused_at from kylo.paused_keys order by 1, 2"
_PAIRS = "select topic, key from kylo.paused_keys"


class Paused(NamedTuple):
    """A topic (`key` None) or one key of it that is held, by whom, why and since when."""

    topic: str
    key: str | None
    reason: str
    paused_by: str
    paused_at: datetime


def pause(tx: psycopg.Connection[Any], topic: str, key: str | None, *, reason: str, who: str) -> bool:
    """Hold a topic, or one key of it; False if it was held already (nothing changes then)."""
    return tx.execute(_PAUSE, (topic, key, reason, who)).rowcount == 1


def resume(tx: psycopg.Connection[Any], topic: str, key: str | None) -> Paused | None:
    """Let it go on; what was held, or None if it was not."""
    row = tx.execute(_RESUME, (topic, key)).fetchone()
    return Paused(topic, key, *row) if row else None


def paused(tx: psycopg.Connection[Any]) -> list[Paused]:
    """Everything that is held in this store, whole topics first."""
    return [Paused(*row) for row in tx.execute(_ALL)]


class Pauses:
    """What is paused in one store, as of at most `REFRESH` seconds ago. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._pairs: frozenset[tuple[str, bytes | None]] = frozenset()

    def covers(self, topic: str, key: bytes) -> bool:
        """Whether the topic, or this key of it, is paused.

        While the store does not answer, what was read last holds.

        Raises:
            Transient: it has never been read yet, so nothing may be published.
        """
        if self._old():
            self._read()
        pairs = self._pairs
        return bool(pairs) and ((topic, None) in pairs or (topic, key) in pairs)

    def _old(self) -> bool:
        return self._read_at is None or time.monotonic() - self._read_at >= REFRESH

    def _read(self) -> None:
        with self._lock:
            if not self._old():
                return
            try:
                with self._database.transaction() as tx:
                    self._pairs = frozenset(tx.execute(_PAIRS).fetchall())
            except Transient:
                if self._read_at is None:
                    raise
            self._read_at = time.monotonic()
