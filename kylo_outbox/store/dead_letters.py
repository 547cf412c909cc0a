"""Records that no attempt can apply: one row with everything, and a record on the dead letter topic (by the outbox)."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import KyloError
from kylo_outbox.model.events import HEADER
from kylo_outbox.model.payloads import faults_of_event
from kylo_outbox.store.emit import emit
from kylo_outbox.telemetry.logs import redact

if TYPE_CHECKING:
    import psycopg

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.model.events import Event

BURY = """
insert into kylo.dead_letters (stage, topic, key, store_id, generation, outbox_id, event_id, type, payload, headers,
                               partition_number, partition_offset, reason, error_class, detail, attempts)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s, %s, %s)
on conflict do nothing
returning id
"""


def bury(
    tx: psycopg.Connection[Any], stage: str, delivery: Delivery, error: Exception, attempts: int, dead_letter_topic: str
) -> bool:
    """Store the dead letter and emit its record, in the transaction of the decision; False if it lies there already.

    The record keeps the original bytes, key and headers; `dlq-*` headers tell why, where from, when and how often.
    """
    event = delivery.event
    reason, detail = reason_of(error)
    row = tx.execute(
        BURY,
        (
            stage,
            event.topic,
            event.key.replace("\x00", "\\x00"),
            delivery.store_id,
            delivery.position[0],
            event.outbox_id,
            event.event_id,
            event.type,
            event.raw,
            json.dumps(event.headers).replace("\\u0000", "\\\\u0000"),
            delivery.partition,
            delivery.offset,
            reason,
            type(error).__name__,
            detail,
            attempts,
        ),
    ).fetchone()
    if row is None:
        return False
    emit(tx, **_record(stage, delivery, reason, type(error).__name__, attempts, dead_letter_topic))
    return True


def reason_of(error: Exception) -> tuple[str, str]:
    """(one line, stack) that are stored and shown; passwords are taken out of both."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not isinstance(error, KyloError):
        line = f"{type(error).__name__}: {line}"
    stack = "".join(traceback.format_exception(error, limit=-20))
    return redact(line)[:1000].replace("\x00", ""), redact(stack)[-8000:].replace("\x00", "")


def _record(stage: str, delivery: Delivery, reason: str, error_class: str, attempts: int, topic: str) -> dict[str, Any]:
    event: Event = delivery.event
    told = {
        "dlq-reason": reason,
        "dlq-error-class": error_class,
        "dlq-attempts": str(attempts),
        "dlq-topic": event.topic,
        "dlq-partition": "" if delivery.partition is None else str(delivery.partition),
        "dlq-offset": "" if delivery.offset is None else str(delivery.offset),
        "dlq-stage": stage,
        "dlq-at": datetime.now(UTC).isoformat(),
    }
    # Whatever another producer wrote must not keep its dead letter from being saved: what `emit` would refuse is
    # replaced here; the row has it all. A record without a key gets the partition it came from.
    key = event.key.replace("\x00", "\\x00")
    headers = {name: value.replace("\x00", "") for name, value in event.headers.items() if name not in {"", HEADER}}
    return {
        "topic": topic,
        "key": key if key and not faults_of_event(topic, key, "x", {}) else f"@{delivery.partition}",
        "type": event.type if not faults_of_event(topic, "x", event.type, {}) else "unknown",
        "payload": event.raw,
        "headers": {**({} if faults_of_event(topic, "x", "x", headers) else headers), **told},
    }
