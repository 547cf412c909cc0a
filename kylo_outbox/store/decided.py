"""What became of a projector's dead letters, for those who go through its history once more.

History itself does not tell: it has every event as it was saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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


def place_of(delivery: Delivery) -> Place:
    """Where an event lies in the history of its key."""
    return delivery.position_key, delivery.position


def not_applied(tx: psycopg.Connection[Any], projector: str) -> set[Place]:
    """The places of NOT_APPLIED."""
    rows = tx.execute(NOT_APPLIED, {"name": projector})
    return {((store_id, topic, key), (generation, number)) for store_id, topic, key, generation, number in rows}
