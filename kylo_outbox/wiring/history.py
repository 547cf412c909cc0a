"""What a projector may go through beside the log: what the outboxes store, behind what only the log still has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kylo_outbox.flows.unread import Unread
from kylo_outbox.kafka.unread import unread
from kylo_outbox.store import notices
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.history import Moment, moment, published_and_left, published_rows, stored_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.wiring.parts import kafka_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kylo_outbox.flows.direct import Settles
    from kylo_outbox.model.delivery import Delivery, PositionAt, PositionKey
    from kylo_outbox.store.engine import Database
    from kylo_outbox.wiring.parts import Parts


class Outbox(NamedTuple):
    """A store that can be reached, with its name in events, and how it stood when somebody began to go through it."""

    database: Database
    store_id: str
    at: Moment


def stored_events(parts: Parts, topic: str) -> Iterator[list[Delivery]]:
    """What the outboxes of all stores that can be reached still have of a topic, store by store in order."""
    for database, store_id in _outboxes(parts):
        for rows in stored_rows(database, [topic]):
            yield [stored_delivery(row, store_id) for row in rows]


def missing(
    parts: Parts,
    applies: Settles,
    topic: str,
    outboxes: Sequence[Outbox],
    wanted: Callable[[str], bool] = lambda _key: True,
) -> Unread:
    """What a projector has to take of a topic from the log, before it goes on with what these outboxes store."""
    projector = applies.projector
    with parts.control.transaction() as tx:
        before = notices.known_partitions(tx, projector.name).get(topic)

    def left() -> Iterator[dict[PositionKey, PositionAt]]:
        for database, store_id, at in outboxes:
            for batch in published_and_left(database, [topic]):
                # A partition counts as left as soon as that is decided; its rows may be stored for long after that.
                yield {
                    (store_id, *key): (generation, min(number, at.begins - 1))
                    for key, (generation, number) in batch.items()
                    if wanted(key[1])
                }

    address, group = kafka_address(parts.settings), projector.group or projector.name
    return Unread(left, applies.short_of, lambda keys: unread(address, group, topic, keys, before))


def published_events(parts: Parts, applies: Settles, topic: str) -> Iterator[list[Delivery]]:
    """What had gone out at the beginning: of each key first what the log alone has, then what is stored."""
    # Before anything is asked: what is held now stays out of the rows, though it be let go meanwhile; what leaves
    # from now on is noticed.
    outboxes = [Outbox(*each, moment(each[0], [topic])) for each in _outboxes(parts)]
    before = missing(parts, applies, topic, outboxes)
    for _ in before.look():
        yield []
    yield from before.batches()
    for database, store_id, at in outboxes:
        for rows in published_rows(database, [topic], at=at):
            yield [stored_delivery(row, store_id) for row in rows]


def _outboxes(parts: Parts) -> list[tuple[Database, str]]:
    """Every store that can be reached, with its name in events."""
    found = []
    for store in parts.directory.stores():
        if not store.problem:
            with store.database.begin() as connection:
                found.append((store.database, require_own(connection).store_id))
    return found
