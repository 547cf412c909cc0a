"""The bell: how a relay that sleeps hears of a commit at once, and how writers know that it sleeps.

A relay that sleeps holds an advisory lock on each of the buckets (64 slots) that it serves; `kylo.emit` finds the lock
taken and sends a notification with the commit. While the relay is awake, and where no relay runs, the locks are free
and emit says nothing. So notifications, which PostgreSQL sends one commit at a time, are paid for only where somebody
waits for them.

It is a hint and carries no work: a missed one costs the time until the next look.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.store.lanes import one

if TYPE_CHECKING:
    import psycopg

    from kylo_outbox.store.lanes import Slots

_CHANNEL: Final = "kylo_outbox"
_LOCK_CLASS: Final = 1802068091
_BUCKET: Final = 64

TAKE = "select b from unnest(%s::integer[]) b where pg_try_advisory_lock(%s, b)"
GIVE = "select pg_advisory_unlock(%s, b) from unnest(%s::integer[]) b"


class Bell:
    """Listens on the relay's own connection. Not safe to share between threads."""

    def __init__(self, connection: psycopg.Connection[Any], slots: Slots) -> None:
        self._connection = connection
        self._rung = False
        self._buckets = list(range(slots.first // _BUCKET, -(-slots.end // _BUCKET)))
        self._taken: list[int] = []
        connection.add_notify_handler(self._ring)
        connection.execute(f"listen {_CHANNEL}")
        [prepared] = one(connection, "select current_setting('max_prepared_transactions')::integer", ())
        # Where transactions can be prepared nobody rings: PostgreSQL refuses to prepare one that has notified.
        self.works = not prepared

    def asleep(self) -> None:
        """Ask writers to ring; one more look is due then. A bucket in which one is busy is silent until asked again."""
        missing = [bucket for bucket in self._buckets if bucket not in self._taken]
        if missing:
            self._taken += [bucket for (bucket,) in self._connection.execute(TAKE, (missing, _LOCK_CLASS))]

    def awake(self) -> None:
        """Tell writers that somebody is looking."""
        if self._taken:
            self._connection.execute(GIVE, (_LOCK_CLASS, self._taken))
            self._taken = []

    @property
    def sleeps(self) -> bool:
        """Whether every writer rings."""
        return len(self._taken) == len(self._buckets)

    def wait(self, seconds: float) -> bool:
        """Wait until it rings, at most so long; whether it rang."""
        if not self._rung:
            with selectors.DefaultSelector() as ready:
                ready.register(self._connection.fileno(), selectors.EVENT_READ)
                if ready.select(seconds):
                    self._listen()
        rung, self._rung = self._rung, False
        return rung

    def _listen(self) -> None:
        """Take what has come by itself; a statement would do that as well, for a round trip more."""
        server = self._connection.pgconn
        server.consume_input()
        while notification := server.notifies():
            self._heard(notification.extra.decode())

    def _ring(self, notification: psycopg.Notify) -> None:
        self._heard(notification.payload)

    def _heard(self, payload: str) -> None:
        if int(payload or -1) in self._buckets:
            self._rung = True
