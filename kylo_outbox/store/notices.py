"""What a projector wants people to know and, where it needs one, their answer. In the control store.

Kinds: `circuit` (most of what arrives fails, nothing is set aside), `lost` (records left the log before they were
read), `partitions` (a topic's partition count was changed).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import psycopg

# A circuit that is open is told again and again, and the answer goes on to count; whatever else is told is new.
TELL = """
insert into kylo.notices as n (projector, kind, subject, detail, figures) values (%s, %s, %s, %s, %s::jsonb)
on conflict (projector, kind, subject)
   do update set detail = excluded.detail, figures = excluded.figures, seen_at = clock_timestamp(),
                 accepted_at = case n.kind when 'circuit' then n.accepted_at end
returning accepted_at is not null
"""
END = "delete from kylo.notices where projector = %s and kind = %s and subject = %s"
ACCEPT = """
update kylo.notices set accepted_at = clock_timestamp()
 where projector = %s and (%s::text is null or kind = %s) and accepted_at is null
returning kind, subject, detail
"""
READ = """
select projector, kind, subject, detail, figures, since, seen_at, accepted_at from kylo.notices
 order by since, projector, kind, subject
"""
FIRST_READ = "insert into kylo.read_topics (projector, topic, partitions) values (%s, %s, %s) on conflict do nothing"
READ_TOPICS = "select topic, partitions from kylo.read_topics where projector = %s"
MORE_PARTITIONS = """
update kylo.read_topics set partitions = greatest(partitions, %s) where projector = %s and topic = %s
"""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to know; open until it has ended by itself or `accepted_at`."""

    projector: str
    kind: str
    subject: str
    detail: str
    figures: dict[str, Any]
    since: datetime
    seen_at: datetime
    accepted_at: datetime | None


def tell(
    tx: psycopg.Connection[Any],
    projector: str,
    kind: str,
    subject: str,
    detail: str,
    figures: Mapping[str, Any] | None = None,
) -> bool:
    """Write it down or refresh it; whether a person has accepted it."""
    row = tx.execute(TELL, (projector, kind, subject, detail, json.dumps(dict(figures or {})))).fetchone()
    return bool(row and row[0])


def end(tx: psycopg.Connection[Any], projector: str, kind: str, subject: str) -> None:
    """It is over."""
    tx.execute(END, (projector, kind, subject))


def accept(tx: psycopg.Connection[Any], projector: str, kind: str | None = None) -> list[tuple[str, str, str]]:
    """A person says that it is known: (kind, subject, detail) of each."""
    return tx.execute(ACCEPT, (projector, kind, kind)).fetchall()


def read(tx: psycopg.Connection[Any]) -> list[Notice]:
    """Everything that is there to know."""
    return [Notice(*row) for row in tx.execute(READ)]


def first_partitions(tx: psycopg.Connection[Any], projector: str, now: Mapping[str, int]) -> dict[str, int]:
    """How many partitions each topic had when the projector first read it; a topic it never read is remembered."""
    for topic, number in sorted(now.items()):
        tx.execute(FIRST_READ, (projector, topic, number))
    return known_partitions(tx, projector)


def known_partitions(tx: psycopg.Connection[Any], projector: str) -> dict[str, int]:
    """How many partitions each topic had when the projector first read it, or when more of them were dealt with."""
    return dict(tx.execute(READ_TOPICS, (projector,)).fetchall())


def set_partitions(tx: psycopg.Connection[Any], projector: str, topic: str, number: int) -> None:
    """The topic has more by now, and that has been dealt with."""
    tx.execute(MORE_PARTITIONS, (number, projector, topic))
