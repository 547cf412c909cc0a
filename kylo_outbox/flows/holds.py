"""What operators do with held events: each act on one store, in one transaction with its audit row.

Every act is harmless when repeated: what is done already changes nothing and writes no audit row. `tx` is a psycopg
transaction on the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.payloads import faults_of_event
from kylo_outbox.store import audit, holds, pauses, relay_dead


@dataclass(frozen=True, slots=True)
class Done:
    """What an act on one store changed, or would change: events by outbox id, or a topic or key as a whole."""

    changed: bool
    ids: tuple[int, ...] = ()


NOTHING = Done(changed=False)


def release(tx: Any, topic: str, key: str, *, who: str, dry_run: bool = False) -> Done:
    """Let the relay try the refused event of a key again; what waits behind it follows once Kafka has taken it."""
    found = holds.held(tx, topic, key)
    if not found or found[0].blocked_by is None:
        return NOTHING
    [held] = found
    blocked = found[0].blocked_by
    if not dry_run and holds.release(tx, blocked):
        before = {"held_because": held.reason, "since": held.since.isoformat(), "waiting": held.waiting}
        audit.write(tx, who=who, verb="outbox release", topic=topic, key=key, ids=[blocked], before=before)
    return Done(changed=True, ids=(blocked,))


def discard(
    tx: Any,
    topic: str,
    key: str,
    *,
    reason: str,
    who: str,
    row_id: int | None = None,
    every: bool = False,
    dry_run: bool = False,
) -> Done:
    """Declare a gap: the event that blocks the key, or `row_id`, or every one leaves, whole, into the audit.

    Raises:
        NotReady: the relay has not passed the event yet; nothing is done.
    """
    wanted = _chosen(tx, topic, key, row_id, every=every)
    if dry_run or not wanted:
        return Done(bool(wanted), tuple(wanted))
    gone = holds.discard(tx, topic, key, wanted, who=who, verb="outbox discard", reason=reason)
    return Done(bool(gone), tuple(gone))


def dead_letter(
    tx: Any,
    topic: str,
    key: str,
    *,
    reason: str,
    who: str,
    row_id: int | None = None,
    every: bool = False,
    dry_run: bool = False,
) -> Done:
    """Make held events dead letters (stage `relay`): by default the one that blocks the key.

    Raises:
        NotReady: the relay has not passed the event yet; nothing is done.
    """
    wanted = _chosen(tx, topic, key, row_id, every=every)
    if dry_run or not wanted:
        return Done(bool(wanted), tuple(wanted))
    for each in wanted:
        if relay_dead.bury(tx, each, reason=reason, error_class="Operator") is None:
            raise holds.not_passed(each)
    holds.start_over(tx, topic, key)
    audit.write(tx, who=who, verb="outbox dead-letter", topic=topic, key=key, ids=wanted, reason=reason)
    return Done(changed=True, ids=tuple(wanted))


def pause(tx: Any, topic: str, key: str | None, *, reason: str, who: str, dry_run: bool = False) -> Done:
    """Hold a topic or one key of it: the relay sets its events aside, in order, until it is resumed.

    Raises:
        Refused: the topic or the key could never have an event.
    """
    if faults := faults_of_event(topic, "any" if key is None else key, "any", {}):
        raise Refused(faults)
    if _is_paused(tx, topic, key):
        return NOTHING
    if not dry_run:
        pauses.pause(tx, topic, key, reason=reason, who=who)
        audit.write(tx, who=who, verb="outbox pause", topic=topic, key=key, reason=reason)
    return Done(changed=True)


def resume(tx: Any, topic: str, key: str | None, *, who: str, dry_run: bool = False) -> Done:
    """Let a topic or a key go on; a key stays held while its topic is paused as a whole."""
    if not _is_paused(tx, topic, key):
        return NOTHING
    if not dry_run:
        was = pauses.resume(tx, topic, key)
        before = {"reason": was.reason, "paused_by": was.paused_by, "since": was.paused_at.isoformat()} if was else {}
        audit.write(tx, who=who, verb="outbox resume", topic=topic, key=key, before=before)
    return Done(changed=True)


def set_policy(tx: Any, topic: str, on_poison: str, *, who: str, dry_run: bool = False) -> Done:
    """Choose what becomes of refused events of a topic: `hold` the key, or `skip` (a dead letter).

    Raises:
        Refused: the topic's name could never be one.
    """
    if faults := faults_of_event(topic, "any", "any", {}):
        raise Refused(faults)
    former = relay_dead.policy(tx, topic)
    if former.on_poison == on_poison:
        return NOTHING
    if not dry_run:
        relay_dead.set_policy(tx, topic, on_poison, who)
        audit.write(
            tx, who=who, verb="outbox policy", topic=topic, reason=on_poison, before={"on_poison": former.on_poison}
        )
    return Done(changed=True)


def _is_paused(tx: Any, topic: str, key: str | None) -> bool:
    return any((each.topic, each.key) == (topic, key) for each in pauses.paused(tx))


def _chosen(tx: Any, topic: str, key: str, row_id: int | None, *, every: bool) -> list[int]:
    standing = holds.ids(tx, topic, key)
    if every or not standing:
        return standing
    if row_id is None:
        [held] = holds.held(tx, topic, key)
        return [held.oldest_id if held.blocked_by is None else held.blocked_by]
    return [row_id] if row_id in standing else []
