"""The outbox as operators look at it: what waits, what is held and why, one event whole. Exact, not for a hot path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from datetime import datetime

_EVENTS = """
select o.id, o.topic, o.key, o.type, o.event_id, o.created_at,
       extract(epoch from clock_timestamp() - o.created_at)::float8 as age, h.reason as held
  from public.outbox o
  left join kylo.outbox_held h on h.id = o.id
 where o.processed_at is null
   and (cast(:topic as text) is null or o.topic = :topic) and (cast(:key as text) is null or o.key = :key)
   and (h.id is not null or not :held_only)
 order by o.id limit :limit
"""
_BACKLOG = """
select topic, count(*), extract(epoch from clock_timestamp() - min(created_at))::float8 as age
  from public.outbox
 where processed_at is null
   and (cast(:topic as text) is null or topic = :topic) and (cast(:key as text) is null or key = :key)
 group by topic order by topic
"""
_EVENT = """
select o.id, o.topic, o.key, o.type, o.event_id, o.created_at,
       extract(epoch from clock_timestamp() - o.created_at)::float8 as age, h.reason as held,
       o.payload, o.headers, o.processed_at
  from public.outbox o
  left join kylo.outbox_held h on h.id = o.id
 where {which}
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that Kafka has not acknowledged; `age` in seconds, `held` is the reason it is set aside, or None."""

    id: int
    topic: str
    key: str
    type: str
    event_id: str
    created_at: datetime
    age: float
    held: str | None


@dataclass(frozen=True, slots=True)
class Stored(Waiting):
    """One event whole, published (`processed_at`) or not; bytes that are no UTF-8 are shown as `base64:...`."""

    payload: str
    headers: dict[str, str]
    processed_at: datetime | None


@dataclass(frozen=True, slots=True)
class TopicBacklog:
    """How many events of a topic wait, and the age of the oldest in seconds."""

    topic: str
    messages: int
    oldest_age: float


def events(
    connection: sa.Connection,
    *,
    topic: str | None = None,
    key: str | None = None,
    held_only: bool = False,
    limit: int = 20,
) -> list[Waiting]:
    """Events that wait, oldest first, at most `limit`."""
    values = {"topic": topic, "key": key, "held_only": held_only, "limit": limit}
    return [Waiting(**_named(row)) for row in connection.execute(sa.text(_EVENTS), values)]


def backlog(connection: sa.Connection, *, topic: str | None = None, key: str | None = None) -> list[TopicBacklog]:
    """What waits, by topic; exact counts, whose cost grows with what waits."""
    rows = connection.execute(sa.text(_BACKLOG), {"topic": topic, "key": key})
    return [TopicBacklog(name, count, max(0.0, age)) for name, count, age in rows]


def event(connection: sa.Connection, wanted: str) -> Stored | None:
    """One event by its outbox id (digits) or its event id (a UUID); None if it is not stored here (any more)."""
    which = "o.id = cast(:wanted as bigint)" if wanted.isdigit() else "o.event_id = cast(:wanted as uuid)"
    row = connection.execute(sa.text(_EVENT.format(which=which)), {"wanted": wanted}).first()
    return Stored(**_named(row)) if row is not None else None


def _named(row: sa.Row[Any]) -> dict[str, Any]:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    return {**values, "event_id": str(values["event_id"]), "age": max(0.0, values["age"])}
