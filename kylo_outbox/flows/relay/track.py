"""One cursor on its way: what was read, what is in flight, and how far all of it is acknowledged."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

from kylo_outbox.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kylo_outbox.kafka.producer import Ticket
    from kylo_outbox.store.lanes import Cursor
    from kylo_outbox.store.outbox import Row, Turn

_TOPIC = itemgetter(1)


@dataclass(slots=True)
class Batch:
    """What one turn read: in flight to Kafka, still to be handed over directly, and the cursor once all is done."""

    ticket: Ticket | None
    published: list[Row]
    direct: list[Row]
    cursor: Cursor
    count: int
    delivered: bool
    # Bytes of its payloads.
    size: int
    sent_at: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> bool:
        """Whether everything of it is acknowledged and handed over."""
        return self.delivered and (self.ticket is None or self.ticket.done)

    @property
    def in_flight(self) -> bool:
        """Whether Kafka still owes an answer."""
        return self.ticket is not None and not self.ticket.done

    @property
    def silent(self) -> float:
        """Seconds since it was sent."""
        return time.monotonic() - self.sent_at


@dataclass(slots=True)
class Track:
    """The lane itself or one of its side lanes. The cursor moves over a prefix of finished batches only."""

    part: int
    batches: deque[Batch] = field(default_factory=deque)
    # The cursor behind everything finished that is not stored yet, and how many events that is.
    ready: tuple[Cursor, int] | None = None
    # A turn that was read and could not be sent.
    turn: Turn | None = None
    # Turns in a row that were full: how long there has been a backlog.
    full_turns: int = 0

    @property
    def waiting(self) -> int:
        """Batches that are not finished."""
        return sum(1 for batch in self.batches if not batch.done)

    @property
    def in_flight(self) -> bool:
        """Whether Kafka still owes an answer."""
        return any(batch.in_flight for batch in self.batches)

    @property
    def quiet(self) -> bool:
        """Whether nothing is in flight, unsent or to be stored."""
        return not self.batches and self.ready is None and self.turn is None

    def add(self, batch: Batch) -> None:
        """A turn that is on its way."""
        self.batches.append(batch)

    def pop_finished(self) -> list[Batch]:
        """Finished batches from the front; the cursor behind them is ready to be stored."""
        finished = []
        while self.batches and self.batches[0].done:
            batch = self.batches.popleft()
            self.ready = (batch.cursor, batch.count + (self.ready[1] if self.ready else 0))
            finished.append(batch)
        return finished

    def forget(self) -> None:
        """Everything that is not acknowledged will be read again."""
        self.batches.clear()
        self.turn = None


def oldest_in_flight(tracks: Iterable[Track]) -> Batch | None:
    """The batch that Kafka has owed an answer for the longest time, if there is one."""
    in_flight = (batch for track in tracks for batch in track.batches if batch.in_flight)
    return min(in_flight, key=lambda batch: batch.sent_at, default=None)


def count(batch: Batch) -> None:
    """Add a finished batch to the metrics."""
    count_published(batch.published)
    for topic, number in Counter(map(_TOPIC, batch.direct)).items():
        metrics.OUTBOX_DELIVERED_DIRECTLY.labels(topic=topic).inc(number)


def count_published(rows: list[Row]) -> None:
    """Add acknowledged rows to the metrics; the oldest one's delay stands for all."""
    for topic, number in Counter(map(_TOPIC, rows)).items():
        metrics.OUTBOX_PUBLISHED.labels(topic=topic).inc(number)
    if rows:
        metrics.OUTBOX_PUBLISH_DELAY.observe(max(0.0, time.time() - rows[0][7]))
