"""Projecting: records to effects, each exactly once, in order per key.

The life of one message is `Projection._live`: it ends applied, seen before, to be tried again (`Transient` leaves the
batch as it is), or dead. Effect, position and what the projector emits are one transaction of the database that holds
the effect; offsets are committed to Kafka afterwards.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kylo_outbox.model.errors import Fatal, Transient
from kylo_outbox.model.projector import EffectProjector, Projector
from kylo_outbox.store import dead_letters, positions
from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.store.engine import Database

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where records come from: a member of a consumer group."""

    def take(self, limit: int, seconds: float) -> list[Delivery]: ...  # noqa: D102
    def commit(self, deliveries: Sequence[Delivery]) -> None: ...  # noqa: D102
    def pause(self) -> None: ...  # noqa: D102
    def resume(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ProjectTurn:
    """What one turn settled."""

    settled: int
    pause: float = 0.0


class Projection:
    """Applies deliveries to one projector's effect. Safe to share between threads: it keeps nothing between calls."""

    def __init__(
        self, projector: Projector, database_of: Callable[[Delivery], Database], dead_letter_topic: Callable[[str], str]
    ) -> None:
        self.projector = projector
        self._database_of = database_of
        self._dead_letter_topic = dead_letter_topic

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Settle all of them, database by database, in the order given within each.

        Raises:
            Transient: nothing of the part that failed is stored; calling again with the same is harmless.
        """
        parts: dict[int, tuple[Database, list[Delivery]]] = {}
        for delivery in deliveries:
            database = self._database_of(delivery)
            parts.setdefault(id(database), (database, []))[1].append(delivery)
        for database, part in parts.values():
            started = time.monotonic()
            self._live(database, part, attempts=1)
            metrics.PROJECTOR_APPLY.labels(self.projector.name).observe(time.monotonic() - started)

    def _live(self, database: Database, part: Sequence[Delivery], attempts: int) -> None:
        try:
            fresh, seen = self._apply(database, part)
        except (Transient, Fatal):  # try again
            self._count("retried", len(part))
            raise
        except Exception as failed:  # noqa: BLE001 - a projector may raise anything; it is halved and shown, not lost
            if len(part) > 1:
                middle = len(part) // 2
                self._live(database, part[:middle], attempts + 1)
                self._live(database, part[middle:], attempts + 1)
            else:  # dead
                self._bury(database, part[0], failed, attempts)
        else:
            self._count("applied", fresh)
            self._count("duplicate", seen)  # seen before

    def _apply(self, database: Database, part: Sequence[Delivery]) -> tuple[int, int]:
        if isinstance(self.projector, EffectProjector):
            return self._perform(database, self.projector, part)
        with database.transaction() as tx:
            fresh, seen = positions.split(tx, self.projector.name, part)
            if fresh:
                self.projector.apply(tx, [delivery.event for delivery in fresh])
            positions.move(tx, self.projector.name, fresh, seen)
        self._observe_delay(fresh)
        return len(fresh), len(seen)

    def _perform(self, database: Database, projector: EffectProjector, part: Sequence[Delivery]) -> tuple[int, int]:
        with database.transaction() as tx:
            fresh, seen = positions.split(tx, projector.name, part)
        if fresh:
            projector.perform([delivery.event for delivery in fresh])
        with database.transaction() as tx:
            # Split again: whoever performed the same meanwhile has moved the position already.
            fresh, seen = positions.split(tx, projector.name, part)
            positions.move(tx, projector.name, fresh, seen)
        self._observe_delay(fresh)
        return len(fresh), len(seen)

    def _bury(self, database: Database, delivery: Delivery, failed: Exception, attempts: int) -> None:
        event, name = delivery.event, self.projector.name
        with database.transaction() as tx:
            fresh, seen = positions.split(tx, name, [delivery])
            if fresh:
                dead_letters.bury(tx, name, delivery, failed, attempts, self._dead_letter_topic(event.topic))
            positions.move(tx, name, fresh, seen)
        if fresh:
            reason, _ = dead_letters.reason_of(failed)
            self._count("dead", 1)
            metrics.DLQ_MESSAGES_TOTAL.labels(reason=type(failed).__name__).inc()
            log.error("%s: dead letter %s key %s: %s", name, event.topic, event.key, reason)

    def _count(self, outcome: str, number: int) -> None:
        if number:
            metrics.CONSUMER_RECORDS.labels(self.projector.name, outcome).inc(number)

    def _observe_delay(self, fresh: Sequence[Delivery]) -> None:
        if fresh and fresh[0].event.created_at is not None:
            delay = time.time() - fresh[0].event.created_at.timestamp()
            metrics.PROJECTOR_DELAY.labels(self.projector.name).observe(max(0.0, delay))


class Project:
    """The worker: takes a batch from its source, has it settled, commits the offsets."""

    def __init__(self, projection: Projection, source: Source, *, batch: int = 1000, patience: float = 0.2) -> None:
        self._projection, self._source = projection, source
        self._batch, self._patience = batch, patience
        self._in_hand: list[Delivery] = []
        self.settled = 0

    @property
    def name(self) -> str:
        """For log lines."""
        return f"project {self._projection.projector.name}"

    def run_once(self) -> ProjectTurn:
        """One batch. `Transient` keeps it in hand with the partitions paused; the next call tries it again."""
        limit = max(1, self._batch - len(self._in_hand))
        self._in_hand += self._source.take(limit, 0.0 if self._in_hand else self._patience)
        if not self._in_hand:
            return ProjectTurn(0)
        try:
            self._projection.handle(self._in_hand)
        except Transient:
            self._source.pause()
            raise
        settled, self._in_hand = self._in_hand, []
        self._source.resume()
        self._source.commit(settled)
        self.settled += len(settled)
        return ProjectTurn(len(settled))

    def close(self) -> None:
        """Leave the group; what was not settled is read again by whoever gets the partitions."""
        self._source.close()
