"""What a projector may go through beside the log: what the outboxes store, behind what only the log still has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kylo_outbox.flows.unread import Unread
from kylo_outbox.kafka.unread import unread
from kylo_outbox.store import notices
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.history import beginning, published_and_left, published_rows, stored_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.wiring.parts import kafka_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kylo_outbox.flows.direct import Settles
    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey
    from kylo_outbox.store.engine import Database
    from kylo_outbox.wiring.parts import Parts


def stored_events(parts: Parts, topic: str) -> Iterator[list[Delivery]]:
    """What the outboxes of all stores that can be reached still have of a topic, store by store in order."""
    for database, store_id in _outboxes(parts):
        for rows in stored_rows(database, [topic]):
            yield [stored_delivery(row, store_id) for row in rows]


def missing(
    parts: Parts,
    applies: Settles,
    topic: str,
    outboxes: Sequence[tuple[Database, str]],
    wanted: Callable[[str], bool] = lambda _key: True,
) -> Unread:
    """What a projector has to take of a topic from the log, before it goes on with what these outboxes store."""
    projector = applies.projector
    with parts.control.transaction() as tx:
        before = notices.first_partitions(tx, projector.name, {}).get(topic)

    def left() -> Iterator[dict[PositionKey, PositionAt]]:
        for database, store_id in outboxes:
            for batch in published_and_left(database, [topic]):
                yield {(store_id, *key): at for key, at in batch.items() if wanted(key[1])}

    address, group = kafka_address(parts.settings), projector.group or projector.name
    return Unread(left, applies.short_of, lambda keys: unread(address, group, topic, keys, before))


def published_events(parts: Parts, applies: Settles, topic: str) -> Iterator[list[Delivery]]:
    """What had gone out at the beginning: of each key first what the log alone has, then what is stored."""
    outboxes = [(*each, beginning(each[0])) for each in _outboxes(parts)]
    before = missing(parts, applies, topic, [each[:2] for each in outboxes])
    for _ in before.look():
        yield []
    yield from before.batches()
    for database, store_id, begins in outboxes:
        for rows in published_rows(database, [topic], begins=begins):
            yield [stored_delivery(row, store_id) for row in rows]


def _outboxes(parts: Parts) -> list[tuple[Database, str]]:
    """Every store that can be reached, with its name in events."""
    found = []
    for store in parts.directory.stores():
        if not store.problem:
            with store.database.begin() as connection:
                found.append((store.database, require_own(connection).store_id))
    return found
