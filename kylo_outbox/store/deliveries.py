"""Events on disk with everything that another attempt needs: how a delivery becomes a row and a row a delivery."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from kylo_outbox.model.delivery import Delivery, clean, from_outbox
from kylo_outbox.model.events import Event, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.store.outbox import Row as OutboxRow

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


def stored_delivery(row: OutboxRow, store_id: str) -> Delivery:
    """A row of the outbox of a store as the log would bring it."""
    number, topic, key, kind, payload, headers, event_id, emitted, generation = row
    return from_outbox(
        origin=Origin(store_id, generation, number, UUID(event_id), kind),
        topic=topic,
        key=key,
        payload=payload,
        headers=json.loads(headers) if headers else {},
        at=datetime.fromtimestamp(emitted, UTC),
    )
