"""kylo.topics: the declared topics as each store knows them: `kylo.emit` checks sizes without asking Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from kylo_outbox.model.topics import Topic
from kylo_outbox.store.tables import topics as table

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLUMNS = {
    "name": table.c.topic,
    "partitions": table.c.partitions,
    "retention_ms": table.c.retention_ms,
    "max_bytes": table.c.max_bytes,
    "ordered": table.c.ordered,
    "on_poison": table.c.on_poison,
    "dead_letter": table.c.dead_letter_topic,
}
_LOCK = 1802068083


def sync(connection: sa.Connection, declared: Iterable[Topic]) -> bool:
    """Make the table say what is declared, no more and no less; True if something had to be written.

    Every row is ours: the table is written here alone. Events of a topic that leaves it keep flowing with defaults.
    """
    wanted = {topic.name: topic for topic in declared}
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    stored = {topic.name: topic for topic in registered(connection)}
    if stored == wanted:
        return False
    gone = stored.keys() - wanted.keys()
    if gone:
        connection.execute(sa.delete(table).where(table.c.topic.in_(sorted(gone))))
    rows = [
        {column.name: getattr(topic, name) for name, column in _COLUMNS.items()}
        for topic in wanted.values()
        if stored.get(topic.name) != topic
    ]
    if rows:
        statement = insert(table)
        changed = {column.name: statement.excluded[column.name] for column in _COLUMNS.values()}
        connection.execute(statement.on_conflict_do_update(index_elements=[table.c.topic], set_=changed), rows)
    return True


def registered(connection: sa.Connection) -> list[Topic]:
    """The topics as the store knows them, by name."""
    columns = (column.label(name) for name, column in _COLUMNS.items())
    return [
        Topic(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
        for row in connection.execute(sa.select(*columns).order_by(table.c.topic))
    ]
