"""Held events as operators act on them: what is held, trying it again, and letting an event go as a declared gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model.errors import NotReady
from kylo_outbox.store.held import PASSED

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

_HELD = """
select h.topic, convert_from(h.key, 'UTF8') as key, min(h.id), min(h.id) filter (where not h.waits and not h.retry),
       (array_agg(h.reason order by h.waits, h.id))[1], min(h.held_at), min(h.created_at), count(*),
       exists (select from kylo.paused_keys p where p.topic = h.topic and (p.key is null or p.key = h.key))
  from kylo.outbox_held h
 where (%(topic)s::text is null or h.topic = %(topic)s)
   and (%(key)s::text is null or h.key = convert_to(%(key)s, 'UTF8'))
 group by h.topic, h.key
 order by min(h.held_at), 1, 2
"""
_IDS = "select id from kylo.outbox_held where topic = %s and key = convert_to(%s, 'UTF8') order by id"
_RELEASE = "update kylo.outbox_held set retry = true where id = %s and not retry and not waits"
# One audit row an event, with everything that it was.
_DISCARD = f"""
with gone as (
    delete from kylo.outbox_held h
     where topic = %(topic)s and key = convert_to(%(key)s, 'UTF8') and id = any(%(ids)s) and {PASSED}
    returning *
)
insert into kylo.audit (who, verb, store, topic, key, ids, reason, before)
select %(who)s, %(verb)s, s.store_id, g.topic, convert_from(g.key, 'UTF8'), array[g.id], %(reason)s,
       jsonb_build_object('event_id', g.event_id, 'type', g.type, 'created_at', g.created_at, 'held_at', g.held_at,
                          'held_because', g.reason, 'headers', coalesce(g.headers, '{{}}'),
                          'payload_base64', replace(encode(g.payload, 'base64'), E'\\n', ''))
  from gone g, kylo.store s
returning ids[1]
"""  # noqa: S608 - the only thing put in is a constant
# A side lane lives under its parent's epoch.
_RAISE_EPOCH = """
update kylo.lanes l set epoch = l.epoch + 1
  from kylo.lanes own
 where coalesce(l.parent, l.lane) = own.lane and own.parent is null
   and kylo.slot_of(%s, convert_to(%s, 'UTF8')) between own.slot_from and own.slot_to - 1
"""


class HeldKey(NamedTuple):
    """A key whose events wait.

    `blocked_by` is the event that Kafka refused and that waits for a person; None if there is none: then the relay
    tries the oldest one again by itself, unless the key is `paused` by an operator. `since` is when the first one was
    set aside, `emitted_at` when the oldest was emitted.
    """

    topic: str
    key: str
    oldest_id: int
    blocked_by: int | None
    reason: str
    since: datetime
    emitted_at: datetime
    waiting: int
    paused: bool

    @property
    def tried(self) -> bool:
        """Whether the relay tries it again by itself."""
        return self.blocked_by is None and not self.paused


def held(tx: psycopg.Connection[Any], topic: str | None = None, key: str | None = None) -> list[HeldKey]:
    """Keys that are held, longest first."""
    values = {"topic": topic, "key": key}
    return [HeldKey(*row) for row in tx.execute(_HELD, values)]


def ids(tx: psycopg.Connection[Any], topic: str, key: str) -> list[int]:
    """Outbox ids of the key's held events, oldest first."""
    return [row_id for (row_id,) in tx.execute(_IDS, (topic, key))]


def release(tx: psycopg.Connection[Any], row_id: int) -> bool:
    """Let the relay try a refused event again; False if it does so already or the event is gone."""
    return tx.execute(_RELEASE, (row_id,)).rowcount == 1


def discard(
    tx: psycopg.Connection[Any], topic: str, key: str, wanted: list[int], *, who: str, verb: str, reason: str
) -> list[int]:
    """Take held events out for good, each into the audit with its bytes; the next of the key may be tried then.

    The lane's epoch is raised, so that a running relay forgets what it believed of the key and starts over.

    Returns:
        The ids that left; ids that are not held (any more) are left out.

    Raises:
        NotReady: the relay has not passed one of them yet, so the next one would send it after all; nothing is done.
    """
    standing = set(ids(tx, topic, key)) & set(wanted)
    values = {"topic": topic, "key": key, "ids": sorted(standing), "who": who, "verb": verb, "reason": reason}
    gone = sorted(row_id for (row_id,) in tx.execute(_DISCARD, values))
    if len(gone) < len(standing):
        raise not_passed(min(standing - set(gone)))
    if gone:
        start_over(tx, topic, key)
    return gone


def start_over(tx: psycopg.Connection[Any], topic: str, key: str) -> None:
    """Raise the epoch of the key's lane: its relay loses it, forgets what it believed, and takes it anew.

    The lease stays: nobody else leads before the present holder has noticed or is gone.
    """
    tx.execute(_RAISE_EPOCH, (topic, key))


def not_passed(row_id: int) -> NotReady:
    """The error for an event that the relay's stored cursor is still before."""
    return NotReady(
        f"event {row_id}: the relay has set it aside and not stored its cursor behind it yet; make sure that "
        "`kylo-outbox relay` runs, and repeat this in a second"
    )
