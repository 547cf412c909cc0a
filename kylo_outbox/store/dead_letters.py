"""Records that no attempt can apply: one row with everything, and a record on the dead letter topic (by the outbox)."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from kylo_outbox.model.delivery import clean
from kylo_outbox.model.errors import KyloError, Refused
from kylo_outbox.model.events import HEADER
from kylo_outbox.model.payloads import faults_of_event
from kylo_outbox.store.deliveries import COLUMNS, delivery_of, row_of
from kylo_outbox.store.emit import emit
from kylo_outbox.telemetry.logs import redact

if TYPE_CHECKING:
    import psycopg

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.model.events import Event
    from kylo_outbox.model.topics import OnPoison

BURY = """
insert into kylo.dead_letters (stage, topic, key, store_id, generation, outbox_id, event_id, type, payload, headers,
                               partition_number, partition_offset, reason, error_class, detail, attempts)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s, %s, %s)
on conflict do nothing
returning id
"""
ADD_POLICY = "update kylo.dead_letters set policy = %s, created_at = %s where id = %s"
OPEN = f"select id, {COLUMNS} from kylo.dead_letters where id = %s and settled_at is null for update"  # noqa: S608
LOOK = f"""
select id, {COLUMNS} from kylo.dead_letters
 where id = %s and outcome is distinct from 'applied' and payload is not null
"""  # noqa: S608
TO_RETRY = """
select id from kylo.dead_letters where stage = %s and retry_at is not null order by retry_at limit 100
"""
TRIED = f"""
select id, {COLUMNS} from kylo.dead_letters
 where id = %s and retry_at is not null and outcome is distinct from 'applied' for update skip locked
"""  # noqa: S608
SETTLE = """
update kylo.dead_letters
   set settled_at = clock_timestamp(), outcome = %s, retry_at = null, tried_by = null, deaths = 0
 where id = %s
"""
FAILED_AGAIN = """
update kylo.dead_letters
   set attempts = attempts + 1, releases = releases + 1, reason = %s, error_class = %s, detail = %s, retry_at = null,
       tried_by = null, deaths = 0
 where id = %s
"""
# What history does not tell stays as long as there may be history: that an event was discarded, went another way or was
# applied with another payload than it was saved with. Of those, what is large leaves; `original` still tells "edited".
FORGET_SETTLED = """
delete from kylo.dead_letters
 where settled_at < now() - make_interval(secs => %s)
   and outcome = 'applied' and original is null and stage <> 'relay'
"""
_EDITED = "outcome = 'applied' and original is not null and stage <> 'relay'"
CLEAR_SETTLED = f"""
update kylo.dead_letters
   set headers = '{{}}', detail = null, original = substr(original, 1, 0),
       payload = case when {_EDITED} then payload end
 where settled_at < now() - make_interval(secs => %s) and retry_at is null
   and (headers <> '{{}}' or detail is not null or original <> '' or payload is not null and not ({_EDITED}))
"""  # noqa: S608 - a constant of this file
_EXCERPT = 100_000


def bury(
    tx: psycopg.Connection[Any],
    stage: str,
    delivery: Delivery,
    error: Exception,
    attempts: int,
    dead_letter_topic: str,
    policy: OnPoison = "skip",
) -> int | None:
    """Store the dead letter and emit its record, in the transaction of the decision; its id.

    The record keeps the original bytes, key and headers; `dlq-*` headers tell why, where from, when and how often.
    `policy` says what later events of the key do.

    Returns:
        The id, or None if it lies there already.
    """
    reason, detail = reason_of(error)
    kind = type(error).__name__
    store_id, topic, key, *coordinates, at, partition, offset = row_of(delivery)
    told = (partition, offset, reason, kind, detail, attempts)
    row = tx.execute(BURY, (stage, topic, key, store_id, *coordinates, *told)).fetchone()
    if row is None:
        return None
    tx.execute(ADD_POLICY, (policy, at, row[0]))
    record = _record(stage, delivery, reason, kind, attempts, dead_letter_topic)
    try:
        with tx.transaction():
            emit(tx, **record)
    except Refused:
        # Larger than the topic takes, or odd in a way that only PostgreSQL sees: the row has it all, the record tells
        # why and shows the beginning.
        headers = {name: value for name, value in record["headers"].items() if name.startswith("dlq-")}
        record |= {"key": f"@{delivery.partition}", "type": "unknown", "payload": delivery.event.raw[:_EXCERPT]}
        record["headers"] = {**headers, "dlq-shortened": str(len(delivery.event.raw))}
        emit(tx, **record)
    return int(row[0])


def open_letter(tx: psycopg.Connection[Any], letter_id: int | None) -> Delivery | None:
    """The event of a dead letter that nobody has settled, locked; None if there is none."""
    row = tx.execute(OPEN, (letter_id,)).fetchone()
    return None if row is None else delivery_of(row[1:])


def looked_at(tx: psycopg.Connection[Any], letter_id: int) -> Delivery | None:
    """The event of a dead letter that is not applied, not locked; None if there is none."""
    row = tx.execute(LOOK, (letter_id,)).fetchone()
    return None if row is None else delivery_of(row[1:])


def to_retry(tx: psycopg.Connection[Any], stage: str) -> list[int]:
    """Dead letters that somebody asked to be tried once more, the first ones first."""
    return [number for [number] in tx.execute(TO_RETRY, (stage,))]


def tried(tx: psycopg.Connection[Any], letter_id: int) -> Delivery | None:
    """The event of a dead letter that is to be tried, locked; None if that is done or somebody is at it."""
    row = tx.execute(TRIED, (letter_id,)).fetchone()
    return None if row is None else delivery_of(row[1:])


def settle(tx: psycopg.Connection[Any], letter_id: int, outcome: Literal["applied", "discarded"]) -> None:
    """Close a dead letter."""
    tx.execute(SETTLE, (outcome, letter_id))


def failed_again(tx: psycopg.Connection[Any], letter_id: int, error: Exception) -> str:
    """Another attempt was in vain: the newest reason counts, and so does the attempt; the reason."""
    reason, detail = reason_of(error)
    tx.execute(FAILED_AGAIN, (reason, type(error).__name__, detail, letter_id))
    return reason


def forget_settled(tx: psycopg.Connection[Any], seconds: float) -> int:
    """Delete dead letters that were settled longer ago; how many. What was done about them stays in the audit.

    Where history would tell something else, coordinates and outcome stay, and the payload if an edited one was applied.
    """
    forgotten = tx.execute(FORGET_SETTLED, (seconds,)).rowcount
    tx.execute(CLEAR_SETTLED, (seconds,))
    return forgotten


def reason_of(error: Exception) -> tuple[str, str]:
    """(one line, stack) that are stored and shown; passwords are taken out of both."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not isinstance(error, KyloError):
        line = f"{type(error).__name__}: {line}"
    stack = "".join(traceback.format_exception(error, limit=-20))
    return _storable(redact(line)[:1000]), _storable(redact(stack)[-8000:])


def _storable(text: str) -> str:
    # An error may quote what it could not read: NUL characters, lone surrogates.
    return text.replace("\x00", "").encode("utf-8", "backslashreplace").decode()


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
    key = clean(event.key)
    headers = {name: value.replace("\x00", "") for name, value in event.headers.items() if name not in {"", HEADER}}
    return {
        "topic": topic,
        "key": key if key and not faults_of_event(topic, key, "x", {}) else f"@{delivery.partition}",
        "type": event.type if not faults_of_event(topic, "x", event.type, {}) else "unknown",
        "payload": event.raw,
        "headers": {**({} if faults_of_event(topic, "x", "x", headers) else headers), **told},
    }
