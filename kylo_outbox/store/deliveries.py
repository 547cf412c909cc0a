"""Events on disk with everything that another attempt needs: how a delivery becomes a row and a row a delivery."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.model.delivery import Delivery, clean
from kylo_outbox.model.events import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS: Final = (
    "store_id, topic, key, generation, outbox_id, event_id, type, payload, headers, created_at, "
    "partition_number, partition_offset"
)
"""The columns of `row_of`, in its order; `kylo.dead_letters` and `kylo.held_events` have them all."""

Row = tuple[Any, ...]


def row_of(delivery: Delivery) -> Row:
    """Values for COLUMNS. What PostgreSQL cannot store (NUL characters in text) is written out."""
    event = delivery.event
    headers = {clean(name): clean(value) for name, value in event.headers.items()}
    return (
        delivery.store_id,
        event.topic,
        clean(event.key),
        delivery.position[0],
        event.outbox_id,
        event.event_id,
        clean(event.type),
        event.raw,
        json.dumps(headers),
        event.created_at,
        delivery.partition,
        delivery.offset,
    )


def delivery_of(row: Sequence[Any]) -> Delivery:
    """The delivery that COLUMNS were written from."""
    store_id, topic, key, generation, outbox_id, event_id, kind, payload, headers, at, partition, offset = row
    event = Event(
        topic=topic,
        key=key,
        type=kind,
        headers=headers,
        event_id=event_id,
        raw=bytes(payload),
        outbox_id=outbox_id,
        created_at=at,
    )
    if store_id:
        return Delivery(event, (store_id, topic, key), (generation, outbox_id), partition, offset)
    return Delivery(event, ("", topic, f"@{partition}"), (0, offset), partition, offset)
