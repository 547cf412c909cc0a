"""What one look at the log met of one store: first appearances, repeats, and what is there and should not be. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from kylo_outbox.model.delivery import NOWHERE
from kylo_outbox.model.verifying import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

    from kylo_outbox.model.delivery import PositionAt
    from kylo_outbox.model.verifying import Anomaly

_PAGE: Final = 1 << 16
Key = tuple[str, str]
"""(topic, key)."""
Place = tuple[str, int]
"""(topic, partition)."""


class LogRecord(NamedTuple):
    """One record of ours on the log, by its header `kylo`; `at` is its time stamp."""

    store_id: str
    topic: str
    key: str
    partition: int
    offset: int
    at: datetime
    generation: int
    number: int
    event_id: UUID

    @property
    def position(self) -> PositionAt:
        """What positions compare."""
        return self.generation, self.number


class StoredEvent(NamedTuple):
    """The row of the outbox that a record names."""

    generation: int
    event_id: UUID
    topic: str
    key: str
    created_at: datetime


class Met:
    """A set of positions: a bit each, because a long log has millions."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, int], bytearray] = {}

    def add(self, position: PositionAt) -> bool:
        """Add one; whether it was not there."""
        generation, number = position
        page, bit = divmod(number, _PAGE)
        byte, mask = bit >> 3, 1 << (bit & 7)
        held = self._pages.setdefault((generation, page), bytearray(_PAGE >> 3))
        if held[byte] & mask:
            return False
        held[byte] |= mask
        return True

    def __contains__(self, position: PositionAt) -> bool:
        generation, number = position
        held = self._pages.get((generation, number // _PAGE))
        return held is not None and bool(held[number % _PAGE >> 3] & 1 << (number & 7))


class Appearances:
    """Takes the records of one store, batch after batch as they lie in their partitions.

    Args:
        unordered: Topics whose events have no order.
        waiting: Events that earlier looks did not meet.
        begins: Where a part of the log is out of sight (it left, or was not asked for): the time at which what is in
            sight begins. Nothing is said of the order of events saved before that: they may have appeared before.

    Attributes:
        met: Every position that appeared.
        again: Those that are taken for repeats because earlier looks met later ones of their keys.
        records: How many records there were.
        repeats: Records that had appeared before.
        unknown: Records whose row has left the outbox.
    """

    def __init__(
        self,
        unordered: Collection[str] = (),
        waiting: Collection[int] = (),
        begins: Mapping[Place, datetime] | None = None,
    ) -> None:
        self._unordered, self._waiting = frozenset(unordered), waiting
        self._begins = begins or {}
        self.met = Met()
        self.again = Met()
        # By partition: where a topic got more of them, a key lies in two, and nobody can tell an order between them.
        self._last: dict[tuple[str, str, int], PositionAt] = {}
        self.records = self.repeats = self.unknown = 0

    @property
    def newest(self) -> dict[Key, PositionAt]:
        """The newest position of each key."""
        found: dict[Key, PositionAt] = {}
        for (topic, key, _), position in self._last.items():
            found[topic, key] = max(position, found.get((topic, key), position))
        return found

    def take(
        self,
        records: Sequence[LogRecord],
        stored: Mapping[int, StoredEvent],
        known: Mapping[Key, PositionAt],
        oldest: int,
    ) -> list[Finding]:
        """Compare records with the rows they name.

        Args:
            records: Of one store, each partition in its order.
            stored: Rows by id.
            known: The newest event that earlier looks met, by key.
            oldest: Ids below have left the outbox: what the log has of them cannot be compared.
        """
        self.records += len(records)
        return [
            finding
            for record in records
            if (finding := self._one(record, stored.get(record.number), known, oldest)) is not None
        ]

    def _one(
        self, record: LogRecord, row: StoredEvent | None, known: Mapping[Key, PositionAt], oldest: int
    ) -> Finding | None:
        if row is None:
            if record.number < oldest:
                self.unknown += 1
                return None
            return _finding(record, "aborted read", "the log has it, the outbox never had it")
        if row.generation != record.generation:
            # Ids of a life of the database that was given up are drawn again.
            self.unknown += record.generation < row.generation
            what = "the log has it in a life of the store that has not begun"
            return None if record.generation < row.generation else _finding(record, "aborted read", what)
        if (row.event_id, row.topic, row.key) != (record.event_id, record.topic, record.key):
            what = f"the outbox has {row.event_id} ({row.topic} {row.key}) under this id"
            return _finding(record, "inconsistent", what)
        if not self.met.add(record.position):
            self.repeats += 1
            return None
        return self._in_turn(record, row, known.get((record.topic, record.key)))

    def _in_turn(self, record: LogRecord, row: StoredEvent, before: PositionAt | None) -> Finding | None:
        here = (record.topic, record.key, record.partition)
        last = max(self._last.get(here, NOWHERE), before or NOWHERE)
        if record.position > last:
            self._last[here] = record.position
            return None
        if before is not None and record.position <= before and record.number not in self._waiting:
            self.repeats += 1
            self.again.add(record.position)
            return None
        begins = self._begins.get((record.topic, record.partition))
        if record.topic in self._unordered or (begins is not None and row.created_at <= begins):
            return None
        what = f"it first appears here, behind #{last[1]} of its key"
        return _finding(record, "reordered", what, last[1])


def _finding(record: LogRecord, anomaly: Anomaly, detail: str, *others: int) -> Finding:
    where = f"{record.topic}/{record.partition}@{record.offset}: {detail}"
    numbers = (record.number, *others)
    return Finding("log", anomaly, record.topic, record.key, record.generation, numbers, (record.event_id,), where)


LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
