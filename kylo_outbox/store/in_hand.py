"""What a process has in hand, written down before it begins: so its successor knows which records it died over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import psycopg

Place = tuple[str, int]
"""(topic, partition)."""

READ = """
select h.topic, h.partition_number, h.first_offset, h.last_offset, h.deaths
  from kylo.in_hand h
  join unnest(%s::text[], %s::integer[]) as g(topic, partition_number) using (topic, partition_number)
 where h.projector = %s
"""
WRITE = """
insert into kylo.in_hand (projector, topic, partition_number, first_offset, last_offset, deaths)
select %s, g.topic, g.partition_number, g.first_offset, g.last_offset, g.deaths
  from unnest(%s::text[], %s::integer[], %s::bigint[], %s::bigint[], %s::integer[])
       as g(topic, partition_number, first_offset, last_offset, deaths)
on conflict (projector, topic, partition_number)
   do update set first_offset = excluded.first_offset, last_offset = excluded.last_offset,
                 deaths = excluded.deaths, since = clock_timestamp()
"""
CLEAR = """
delete from kylo.in_hand h using unnest(%s::text[], %s::integer[]) as g(topic, partition_number)
 where h.projector = %s and h.topic = g.topic and h.partition_number = g.partition_number
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """Offsets `first` to `last` are in hand; with `attempts`, `first` alone is, for that many times."""

    place: Place
    first: int
    last: int
    attempts: int = 0


def read(tx: psycopg.Connection[Any], projector: str, places: Collection[Place]) -> dict[Place, Mark]:
    """The marks that lie at these places."""
    rows = tx.execute(READ, (*_columns(places), projector)).fetchall()
    return {(row[0], row[1]): Mark((row[0], row[1]), *row[2:]) for row in rows}


def write(tx: psycopg.Connection[Any], projector: str, marks: Sequence[Mark]) -> None:
    """Write or replace the marks of their places."""
    figures = [[mark.first for mark in marks], [mark.last for mark in marks], [mark.attempts for mark in marks]]
    topics, numbers = [mark.place[0] for mark in marks], [mark.place[1] for mark in marks]
    tx.execute(WRITE, (projector, topics, numbers, *figures))


def clear(tx: psycopg.Connection[Any], projector: str, places: Collection[Place]) -> None:
    """What was in hand there is settled."""
    tx.execute(CLEAR, (*_columns(places), projector))


def _columns(places: Collection[Place]) -> tuple[list[str], list[int]]:
    listed = sorted(places)
    return [topic for topic, _ in listed], [number for _, number in listed]
