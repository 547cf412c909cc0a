"""Putting stored events on the log again, under the same ids, for readers that lost them.

Projectors of ours take them for repeats. Order: each key's events come once more in their order, without holes; a
reader that goes by first appearances keeps its order.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from kylo_outbox.model.errors import Refused, Transient
from kylo_outbox.store.history import published_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from kylo_outbox.store.engine import Database

_PATIENCE = 60.0


class Ticket(Protocol):
    """One batch on its way."""

    @property
    def done(self) -> bool: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102


class Publishes(Protocol):
    """A producer for one store."""

    def exists(self, topic: str) -> bool: ...  # noqa: D102
    def send(self, rows: Sequence[tuple[Any, ...]]) -> Ticket: ...  # noqa: D102
    def poll(self, seconds: float = 0.0) -> None: ...  # noqa: D102


class Republish:
    """One store's events."""

    def __init__(self, database: Database, publisher: Publishes, tell: Callable[[int], None] | None = None) -> None:
        self._database, self._publisher = database, publisher
        self._tell = tell or (lambda _number: None)

    def run(self, topic: str, *, key: str | None = None, since: datetime | None = None) -> int:
        """Send every published row that is still stored; how many were acknowledged.

        Raises:
            Refused: the topic is missing, or Kafka refuses a record.
            Transient: Kafka does not answer for a minute; what was sent stays sent, and once more is harmless.
        """
        if not self._publisher.exists(topic):
            raise Refused([f"{topic}: there is no such topic"])
        number = 0
        for rows in published_rows(self._database, [topic], key, since):
            ticket = self._publisher.send(rows)
            until = time.monotonic() + _PATIENCE
            while not ticket.done and not ticket.reason and time.monotonic() < until:
                self._publisher.poll(0.05)
            if ticket.reason:
                raise Refused([f"{topic}: {ticket.reason}"])
            if not ticket.done:
                raise Transient(f"{topic}: Kafka did not answer; {number} events are on the log again")
            number += len(rows)
            self._tell(number)
        return number
