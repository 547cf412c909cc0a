"""A projector with one mechanism taken out; see `tests.helpers.planted`, which runs them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kylo_outbox.flows.project.settle import Projection
from kylo_outbox.flows.project.worker import Project
from kylo_outbox.kafka import consumer
from kylo_outbox.store import engine, keyholds, positions
from tests.helpers.without import without

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.model.delivery import Delivery


def no_position() -> None:
    """Nobody remembers what was applied: a repeat is applied again."""
    split = positions.split

    def planted(tx: Any, projector: str, deliveries: Sequence[Delivery]) -> positions.Split:
        held = split(tx, projector, deliveries).held
        waiting = {id(delivery) for delivery in held}
        return positions.Split([each for each in deliveries if id(each) not in waiting], held, [])

    positions.split = planted


def offsets() -> None:
    """A repeat is known by its offset: what a relay has sent twice lies in the log twice."""
    read = consumer.from_record

    def planted(**record: Any) -> Delivery:
        delivery = read(**record)
        place = ("", record["topic"], f"@{record['partition']}")
        return delivery._replace(position_key=place, position=(0, record["offset"]))

    consumer.from_record = planted


def position_first() -> None:
    """The position is written in a transaction of its own, before the effect."""

    def planted(self: Projection, database: Any, part: Sequence[Delivery]) -> positions.Split:
        name = self.projector.name
        with self.transaction(database) as tx:
            split = positions.split(tx, name, part)
            keyholds.queue(tx, name, "dead", split.held)
            positions.move(tx, name, split.taken, split.seen)
        with self.transaction(database) as tx:
            if split.fresh:
                self.projector.apply(tx, self.events(split.fresh))
        return split

    Projection._apply = planted


def commit_first() -> None:
    """The offsets are committed to Kafka, each time, before the batch is settled; a kill has time to fall between."""
    settle = Project._settle
    consumer._COMMIT_EVERY = 0.0

    def planted(self: Project) -> list[Delivery]:
        self._source.commit(self._in_hand)
        time.sleep(0.05)
        return settle(self)

    Project._settle = planted


def no_hold() -> None:
    """A dead letter is set aside, and the later events of its key pass it."""
    keyholds.hold = lambda *_: None


def no_fence() -> None:
    """Positions are read without a lock, and a transaction may be idle for ever: a zombie goes on where it was."""
    positions.LOCK = without(positions.LOCK, "for update of p")
    engine._OPTIONS = without(engine._OPTIONS, " -c idle_in_transaction_session_timeout=[0-9]+")


PLANTED: dict[str, Callable[[], None]] = {
    plant.__name__: plant for plant in (no_position, offsets, position_first, commit_first, no_hold, no_fence)
}
