"""What became of a projector's dead letters, for those who go through its history once more.

History itself does not tell: it has every event as it was saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import psycopg

    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey

    Place = tuple[PositionKey, PositionAt]

# A place as `Delivery` has it: records of other producers count by partition and offset.
_PLACE = """
store_id, topic, case when store_id = '' then '@' || partition_number else key end as key,
case when store_id = '' then 0 else generation end as generation,
case when store_id = '' then partition_offset else outbox_id end as outbox_id
"""
NOT_APPLIED: Final = f"""
select {_PLACE} from kylo.dead_letters where stage = %(name)s and outcome is distinct from 'applied'
union all
select {_PLACE} from kylo.held_events where projector = %(name)s and kind = 'dead'
"""  # noqa: S608 - names of columns
"""Events that were taken but not applied: dead letters, discarded ones, and what waits behind them."""
_EDITED = f"""
select {_PLACE}, payload from kylo.dead_letters
 where stage = %(name)s and original is not null and outcome = 'applied'
   and (%(ids)s::bigint[] is null or outbox_id = any(%(ids)s))
"""  # noqa: S608 - names of columns


@dataclass(frozen=True, slots=True)
class Decided:
    """Events that were taken but not applied, and payloads that were applied in the place of those saved."""

    left_out: set[Place]
    edited: Mapping[Place, bytes]

    def as_decided(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Those that were applied, as they were applied."""
        return as_edited([each for each in deliveries if place_of(each) not in self.left_out], self.edited)


def place_of(delivery: Delivery) -> Place:
    """Where an event lies in the history of its key."""
    return delivery.position_key, delivery.position


def read(tx: psycopg.Connection[Any], projector: str) -> Decided:
    """Everything that was decided about a projector's dead letters so far."""
    rows = tx.execute(NOT_APPLIED, {"name": projector})
    return Decided({_place(*row) for row in rows}, edited(tx, projector))


def edited(tx: psycopg.Connection[Any], projector: str, ids: Collection[int] | None = None) -> dict[Place, bytes]:
    """The payloads of dead letters that were edited and applied; with `ids` of these outbox ids only."""
    rows = tx.execute(_EDITED, {"name": projector, "ids": None if ids is None else list(ids)})
    return {_place(*place): bytes(payload) for *place, payload in rows}


def as_edited(deliveries: Iterable[Delivery], edits: Mapping[Place, bytes]) -> list[Delivery]:
    """The same with the payloads that took the place of theirs."""
    return [
        each._replace(event=each.event.with_content(edits[place])) if (place := place_of(each)) in edits else each
        for each in deliveries
    ]


def _place(store_id: str, topic: str, key: str, generation: int, number: int) -> Place:
    return (store_id, topic, key), (generation, number)
