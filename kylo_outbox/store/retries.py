"""Who goes on with a released key, or tries a dead letter again: written down before, so that a death is noticed.

The mark stands in the row of the hold or the dead letter and leaves with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kylo_outbox.store.keyholds import THIS, Hold

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

LEFT_ALONE = 10.0
"""Seconds after which a mark that nobody renewed is that of a dead process."""

_BEGIN = """
update {table}
   set deaths = deaths + (tried_by is not null and tried_by <> %(process)s)::int,
       tried_by = %(process)s, tried_at = clock_timestamp()
 where {this} and (tried_by is null or tried_by = %(process)s
                   or tried_at < clock_timestamp() - make_interval(secs => %(left_alone)s))
returning deaths
"""
# Not while the row is locked: then its own work is at it.
_RENEW = """
update {table} set tried_at = clock_timestamp()
 where ctid = any (array(select ctid from {table} where {this} and tried_by = %(process)s for update skip locked))
"""
_COUNT = "update {table} set deaths = %(deaths)s, tried_at = clock_timestamp() where {this} and tried_by = %(process)s"
_REST = "update {table} set tried_by = null where {this} and tried_by = %(process)s"
_LETTER = {"table": "kylo.dead_letters", "this": "id = %(letter)s and retry_at is not null"}
_HOLD = {"table": "kylo.holds", "this": THIS}

Subject = Hold | int
"""A key that waits, or a dead letter by its number."""


def begin(tx: psycopg.Connection[Any], subject: Subject, process: UUID) -> int | None:
    """Write down that `process` tries now; how many died over it, None while another one is at it or it is gone."""
    found = tx.execute(*_of(_BEGIN, subject, process, left_alone=LEFT_ALONE)).fetchone()
    return None if found is None else int(found[0])


def renew(tx: psycopg.Connection[Any], subject: Subject, process: UUID) -> None:
    """The process is still at it."""
    tx.execute(*_of(_RENEW, subject, process))


def count(tx: psycopg.Connection[Any], subject: Subject, process: UUID, deaths: int) -> None:
    """So many deaths count from now on."""
    tx.execute(*_of(_COUNT, subject, process, deaths=deaths))


def rest(tx: psycopg.Connection[Any], subject: Subject, process: UUID) -> None:
    """The process lives and tries no more; deaths before it stay."""
    tx.execute(*_of(_REST, subject, process))


def _of(sql: str, subject: Subject, process: UUID, **more: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(subject, Hold):
        return sql.format(**_HOLD), {**subject.values, "process": process, **more}
    return sql.format(**_LETTER), {"letter": subject, "process": process, **more}
