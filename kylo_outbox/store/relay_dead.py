"""Refused events that become dead letters at the relay: out of the held ones, a row and a record, the key goes on.

Only what the relay's stored cursor has passed may leave `kylo.outbox_held`: an earlier event would be read and sent
again by the next relay, behind its own dead letter.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg import errors as pg

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store.dead_letters import BURY
from kylo_outbox.store.emit import emit
from kylo_outbox.store.held import PASSED
from kylo_outbox.telemetry.logs import redact

if TYPE_CHECKING:
    import psycopg

STAGE: Final = "relay"
_TAKE = f"""
delete from kylo.outbox_held h where id = %s and {PASSED}
returning id, event_id, created_at, topic, convert_from(key, 'UTF8'), type, payload, headers, generation
"""  # noqa: S608 - the only thing put in is a constant of this file
_ON_POISON = "coalesce(p.on_poison, t.on_poison, 'hold')"
_POLICIES = f"""
select topic, {_ON_POISON}, t.dead_letter_topic, p.on_poison is not null
  from kylo.topics t full join kylo.relay_policies p using (topic)
 order by topic
"""  # noqa: S608 - the only thing put in is a constant of this file
# The oldest of each key, the keys in any order: whoever is free has its turn, however many before it are not.
_REFUSED = f"""
select id, reason from (
    select distinct on (h.topic, h.key) h.id, h.reason
      from kylo.outbox_held h
     where not h.waits and not h.retry and h.slot >= %s and h.slot < %s and {PASSED}
       and h.topic in (select topic from kylo.topics t full join kylo.relay_policies p using (topic)
                        where {_ON_POISON} = 'skip')
     order by h.topic, h.key, h.id) oldest
 order by random()
"""  # noqa: S608 - constants of this file
# The record waits for the writers of its key and of all that share its slot. The whole lane would wait with it, so a
# writer that sleeps with its transaction open costs this, and a round meets so many of them at most.
_PATIENCE = "set local lock_timeout = '100ms'"
_MET = 3
_LETTER = "select topic, key, type, payload, headers, event_id from kylo.dead_letters where id = %s and stage = %s"
_FORGET_ID = "delete from kylo.event_ids where topic = %s and event_id = %s"
_SET_POLICY = """
insert into kylo.relay_policies (topic, on_poison, set_by) values (%s, %s, %s)
on conflict (topic) do update set on_poison = excluded.on_poison, set_by = excluded.set_by, set_at = now()
"""


class Buried(NamedTuple):
    """An event that became a dead letter; `recorded` is False where its dead letter topic could not take it."""

    outbox_id: int
    topic: str
    key: str
    recorded: bool
    error_class: str


class Policy(NamedTuple):
    """What a refused event of a topic becomes: `hold` (its key waits) or `skip` (a dead letter; the key goes on)."""

    topic: str
    on_poison: str
    dead_letter_topic: str
    chosen: bool


def bury(
    connection: psycopg.Connection[Any],
    row_id: int,
    *,
    reason: str,
    error_class: str,
    dead_letter_topic: str | None = None,
    attempts: int = 1,
) -> Buried | None:
    """Make a held event a dead letter: the held row leaves, the letter and its record come, in one transaction.

    What waited behind it may be tried then. A second call finds nothing and changes nothing.

    Args:
        connection: To the event's store, also with autocommit.
        row_id: Its outbox id.
        reason: One line for people.
        error_class: What kind of refusal, such as `MSG_SIZE_TOO_LARGE`.
        dead_letter_topic: Where the record goes; None asks the topic's declaration.
        attempts: How often it was tried.

    Returns:
        What was buried; None if it is not held, or the relay's cursor has not passed it yet.
    """
    with connection.transaction():
        row = connection.execute(_TAKE, (row_id,)).fetchone()
        if row is None:
            return None
        outbox_id, event_id, _, topic, key, kind, payload, headers, generation = row
        [store_id] = _one(connection, "select store_id from kylo.store")
        told = redact(reason.splitlines()[0] if reason else error_class)[:1000]
        connection.execute(
            BURY,
            (
                *(STAGE, topic, key, store_id, generation, outbox_id, event_id, kind, payload),
                *(json.dumps(headers or {}), None, None, told, error_class, None, attempts),
            ),
        )
        where = dead_letter_topic or policy(connection, topic).dead_letter_topic
        # A dead letter topic is its own: its refused records would come back to it for ever.
        recorded = where != topic and _record(connection, row, where, told, error_class, attempts)
    return Buried(outbox_id, topic, key, recorded, error_class)


def bury_refused(connection: psycopg.Connection[Any], slots: tuple[int, int]) -> list[Buried]:
    """Bury what Kafka refused in topics whose policy is `skip`, as far as the stored cursor is behind it.

    One event a key. What has to wait for an open transaction stays for the next call; the calls wait 0.3 s at most.
    Safe to repeat, and after a crash: what is to be buried is read from the tables alone.

    Args:
        connection: With autocommit, outside a transaction.
        slots: The first slot, and the one behind the last.
    """
    buried, met = [], 0
    for row_id, reason in connection.execute(_REFUSED, slots).fetchall():
        try:
            with connection.transaction():
                connection.execute(_PATIENCE)
                done = bury(connection, row_id, reason=reason, error_class=error_class_of(reason))
        except pg.LockNotAvailable:
            met += 1
            if met == _MET:
                break
            continue
        if done is not None:
            buried.append(done)
    return buried


def send_again(connection: psycopg.Connection[Any], letter_id: int) -> None:
    """Save the event of a dead letter of this stage anew: with its bytes, headers and event id, but a new place.

    It is published behind everything of its key that is saved by now: the relay has gone on with the key since. In
    the caller's transaction, who has the letter locked and settles it.

    Raises:
        Refused: the outbox does not take it; nothing of it is saved.
    """
    topic, key, kind, payload, headers, event_id = _one(connection, _LETTER, letter_id, STAGE)
    with connection.transaction():
        # A chosen id is remembered, so that a repeat adds nothing. This is no repeat: the first one never left.
        connection.execute(_FORGET_ID, (topic, event_id))
        emit(connection, topic=topic, key=key, type=kind, payload=payload, headers=headers, event_id=event_id)


def error_class_of(reason: str) -> str:
    """The code that a refusal begins with (`MSG_SIZE_TOO_LARGE: ...`); `Refused` if it begins otherwise."""
    code = reason.partition(":")[0]
    return code if code and code.replace("_", "").isalnum() and code.isupper() else "Refused"


def policies(connection: psycopg.Connection[Any]) -> list[Policy]:
    """The policy of every topic that is declared or was given one."""
    return [
        Policy(topic, on_poison, dead or dead_letter_name(topic), chosen)
        for topic, on_poison, dead, chosen in connection.execute(_POLICIES)
    ]


def policy(connection: psycopg.Connection[Any], topic: str) -> Policy:
    """The policy of one topic; an undeclared one holds."""
    found = (each for each in policies(connection) if each.topic == topic)
    return next(found, Policy(topic, "hold", dead_letter_name(topic), chosen=False))


def set_policy(connection: psycopg.Connection[Any], topic: str, on_poison: str, who: str) -> None:
    """Choose what a refused event of `topic` becomes, `hold` or `skip`; it holds until it is chosen anew."""
    connection.execute(_SET_POLICY, (topic, on_poison, who))


def _record(
    connection: psycopg.Connection[Any], row: tuple[Any, ...], where: str, reason: str, error_class: str, attempts: int
) -> bool:
    """Emit the record; False where it cannot be taken (too large with its reasons): the row has it all."""
    _, event_id, created_at, topic, key, kind, payload, headers, _ = row
    told = {
        "dlq-reason": reason,
        "dlq-error-class": error_class,
        "dlq-attempts": str(attempts),
        "dlq-topic": topic,
        "dlq-partition": "",
        "dlq-offset": "",
        "dlq-stage": STAGE,
        "dlq-at": datetime.now(UTC).isoformat(),
        "dlq-event-id": str(event_id),
        "dlq-emitted-at": created_at.isoformat(),
    }
    try:
        with connection.transaction():
            emit(connection, topic=where, key=key, type=kind, payload=payload, headers={**(headers or {}), **told})
    except Refused:
        return False
    return True


def _one(connection: psycopg.Connection[Any], sql: str, *values: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(sql, values).fetchone()
    if row is None:
        raise RuntimeError("a statement that always answers did not")
    return row
