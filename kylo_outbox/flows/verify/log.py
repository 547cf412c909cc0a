"""One store's outbox against the log, in one pass: what is saved and acknowledged is there, once, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kylo_outbox.model.appearances import Appearances, Key, LogRecord, Place
from kylo_outbox.model.delivery import NOWHERE
from kylo_outbox.model.verifying import Finding
from kylo_outbox.store import left, verify_log, verify_state

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from kylo_outbox.model.delivery import PositionAt
    from kylo_outbox.store.engine import Database
    from kylo_outbox.store.verify_state import SavedEvent, State


Directly = Callable[[str, str], Literal["never", "if taken", "always"]]
"""(topic, key): whether events not on the log were handed over in process: no; if a projector took them; yes."""


class Reads(Protocol):
    """Reads stretches of the log."""

    def bounds(self, topics: Collection[str]) -> dict[Place, tuple[int, int]]: ...  # noqa: D102
    def since(self, places: Collection[Place], when: datetime) -> dict[Place, int]: ...  # noqa: D102
    def partition_of(self, topic: str, key: str) -> int | None: ...  # noqa: D102
    def read(  # noqa: D102
        self, stretches: Mapping[Place, tuple[int, int]]
    ) -> Iterator[list[tuple[Place, LogRecord | None, datetime]]]: ...
    def close(self) -> None: ...  # noqa: D102


@dataclass(slots=True)
class LogFigures:
    """What was compared, and what nobody can know.

    Attributes:
        events: Events of the outbox that were new to this look.
        records: Records of this store on the log.
        repeats: Records among them that had appeared before.
        waiting: Events that are not acknowledged yet.
        direct: Events that were handed over in process and never went to Kafka.
        taken_out: Events that were discarded, or became dead letters of the relay.
        unknown: Events whose part of the log, and records whose part of the outbox, had left before the look.
    """

    events: int = 0
    records: int = 0
    repeats: int = 0
    waiting: int = 0
    direct: int = 0
    taken_out: int = 0
    unknown: int = 0


class LogCheck:
    """One store in one pass.

    Args:
        database: The store.
        since: Compare everything that was saved since then anew, whatever former passes saw; None: what is new.
        directly: What is known of events that are handed over in process.
        complete: Whether every database is there that may have taken something.
        taken_up_to: How far any projector is with keys of a store.
        go_on: Called again and again; raises where the pass is to end.
    """

    def __init__(
        self,
        database: Database,
        *,
        since: datetime | None,
        directly: Directly,
        complete: bool,
        taken_up_to: Callable[[str, Collection[Key]], dict[Key, PositionAt]],
        go_on: Callable[[], None],
    ) -> None:
        self._database, self._since = database, since
        self._directly, self._complete = directly, complete
        self._taken_up_to, self._go_on = taken_up_to, go_on
        with database.transaction() as tx:
            state = verify_state.begin(tx)
            self.stored_state = state
            self.state: State = state if since is None else replace(state, snapshot=verify_state.NOTHING)
            self.topics = verify_state.topics(tx, self.state, verify_state.boundary(tx))
            self._offsets = verify_log.offsets(tx) if since is None else {}
            self._waiting = verify_log.waiting(tx) if since is None else {}
            self._unordered = verify_log.unordered(tx)
        self._starts: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._begins: dict[Place, datetime] = {}
        self._unseen_begin: set[Place] = set()
        self._known: dict[Key, PositionAt] = {}
        self._seen = Appearances(self._unordered, self._waiting, self._begins)
        self.figures = LogFigures()
        self.findings: list[Finding] = []

    def stretches(self, bounds: Mapping[Place, tuple[int, int]], reader: Reads) -> dict[Place, tuple[int, int]]:
        """What is to be read for this store."""
        mine = {place: bound for place, bound in bounds.items() if place[0] in self.topics}
        first = reader.since(list(mine), self._since) if self._since else self._offsets
        for place, (low, high) in mine.items():
            wanted = first.get(place, high if self._since else 0)
            # A topic that was made anew begins its offsets anew.
            self._starts[place], self._ends[place] = (low if wanted > high else max(low, wanted)), high
            if self._starts[place] == low > 0 and wanted <= low and (self._since or wanted < low):
                # What lay here before has left: nobody can know what it was. The first record tells until when.
                self._begins[place] = datetime.now(UTC)
                self._unseen_begin.add(place)
            elif self._since:
                self._begins[place] = self._since
        return {place: (start, self._ends[place]) for place, start in self._starts.items()}

    def take(self, batch: Sequence[tuple[Place, LogRecord | None, datetime]]) -> None:
        """Compare records with the rows they name."""
        records = []
        for place, record, at in batch:
            if place in self._unseen_begin:
                self._unseen_begin.discard(place)
                self._begins[place] = at
            if record is None or record.store_id != self.state.store_id:
                continue
            if record.offset >= self._starts.get(place, record.offset + 1):
                records.append(record)
        if not records:
            return
        keys = {(record.topic, record.key) for record in records} - self._known.keys()
        with self._database.transaction() as tx:
            stored, oldest = verify_log.stored(tx, {record.number for record in records})
            found = verify_log.known(tx, keys) if keys and self._since is None else {}
        self._known |= {key: found.get(key, NOWHERE) for key in keys}
        self.findings += self._seen.take(records, stored, self._known, max(oldest, 1))

    def compare(self, tx: Any, new: str, reader: Reads | None) -> None:
        """Go through what was saved and store what came out, in the transaction of the whole pass.

        Args:
            tx: On the store.
            new: Everything that this snapshot shows is compared.
            reader: Where the log can be read; None: it is not compared.
        """
        totals: dict[Key, tuple[int, int, PositionAt]] = {}
        unseen: list[SavedEvent] = []
        for rows in verify_state.saved(tx, self.state, new, self._since):
            self._go_on()
            self.figures.events += len(rows)
            for row in rows:
                key = (row.topic, row.key)
                number, digest, newest = totals.get(key, (0, 0, NOWHERE))
                totals[key] = (number + 1, digest + row.number, max(newest, row.position))
                if row.position not in self._seen.met:
                    unseen.append(row)
                elif row.position in self._seen.again and row.topic not in self._unordered:
                    self.findings.append(_overtaken(row))
        if self._since is None:
            verify_state.add(tx, totals)
        self._compare_unseen(tx, unseen, reader)
        self.figures.records, self.figures.repeats = self._seen.records, self._seen.repeats
        self.figures.unknown += self._seen.unknown

    def _compare_unseen(self, tx: Any, unseen: Sequence[SavedEvent], reader: Reads | None) -> None:
        waited = [row for row in self._waiting.values() if row.position not in self._seen.met]
        rows = [*waited, *unseen]
        verdict = self._judge(tx, rows, reader) if rows else _Verdict()
        self.findings += [_lost(row) for row in verdict.lost]
        done = {row.number for row in (*verdict.direct, *verdict.taken_out, *verdict.unknown, *verdict.not_asked)}
        met = self._waiting.keys() - {row.number for row in waited}
        if self._since is None:
            self._take_out(tx, verdict.taken_out)
            verify_log.replace_waiting(tx, [*met, *done], [row for row in unseen if row.number not in done])
            verify_log.set_offsets(tx, self._ends)
            verify_log.set_known(tx, self._seen.newest)
        else:
            # From here on each pass looks whether they come back.
            verify_log.replace_waiting(tx, [], verdict.lost)
        self.figures.waiting = len(rows) - len(done) - len(verdict.lost)
        self.figures.direct, self.figures.taken_out = len(verdict.direct), len(verdict.taken_out)
        self.figures.unknown += len(verdict.unknown)

    def _judge(self, tx: Any, rows: Sequence[SavedEvent], reader: Reads | None) -> _Verdict:
        """Of events that the log did not have: which of them should be there."""
        verdict = _Verdict()
        read = {topic for topic, _ in self._ends}
        acknowledged = verify_log.acknowledged(tx, [row.number for row in rows])
        taken_out = verify_log.taken_out(tx, acknowledged)
        verdict.taken_out = [row for row in rows if row.number in taken_out]
        missing = [row for row in rows if row.number in acknowledged - taken_out]
        if reader is None:
            verdict.not_asked = missing
            return verdict
        missing = [row for row in missing if row.topic in read]
        ways = {row.number: self._directly(row.topic, row.key) for row in missing}
        asked = {(row.topic, row.key) for row in missing if ways[row.number] == "if taken"}
        taken = self._taken_up_to(self.state.store_id, asked) if asked else {}
        suspects = []
        for row in missing:
            begins = self._left_until(row, reader)
            way = ways[row.number]
            if way == "always" or row.position <= taken.get((row.topic, row.key), NOWHERE):
                verdict.direct.append(row)
            elif way == "if taken" and not self._complete:
                continue  # it may have been taken by the database that is away
            elif begins is not None and row.created_at <= begins:
                verdict.unknown.append(row)
            else:
                suspects.append(row)
        verdict.lost = self._look_again(suspects, reader)
        return verdict

    def _left_until(self, row: SavedEvent, reader: Reads) -> datetime | None:
        partition = reader.partition_of(row.topic, row.key)
        begins = None if partition is None else self._begins.get((row.topic, partition))
        return None if begins == self._since else begins

    def _look_again(self, suspects: Sequence[SavedEvent], reader: Reads) -> list[SavedEvent]:
        """Acknowledged while the log was read? Then it lies behind what was read."""
        if not suspects:
            return []
        bounds = reader.bounds({row.topic for row in suspects})
        late = {
            record.position
            for batch in reader.read({place: (self._ends.get(place, 0), high) for place, (_, high) in bounds.items()})
            for _, record, _ in batch
            if record is not None and record.store_id == self.state.store_id
        }
        return [row for row in suspects if row.position not in late]

    def _take_out(self, tx: Any, rows: Sequence[SavedEvent]) -> None:
        totals: dict[Key, tuple[int, int, PositionAt]] = {}
        for row in rows:
            number, digest, newest = totals.get((row.topic, row.key), (0, 0, NOWHERE))
            totals[row.topic, row.key] = (number - 1, digest - row.number, newest)
        verify_state.add(tx, totals)
        left.take_out(tx, [(row.topic, row.key, row.number) for row in rows if row.number < self.state.folded_below])


@dataclass(slots=True)
class _Verdict:
    lost: list[SavedEvent] = field(default_factory=list)
    direct: list[SavedEvent] = field(default_factory=list)
    taken_out: list[SavedEvent] = field(default_factory=list)
    unknown: list[SavedEvent] = field(default_factory=list)
    not_asked: list[SavedEvent] = field(default_factory=list)


def _lost(row: SavedEvent) -> Finding:
    what = f"saved at {row.created_at:%Y-%m-%d %H:%M:%S} and acknowledged, but not on the log"
    return Finding("log", "lost", row.topic, row.key, row.generation, (row.number,), (row.event_id,), what)


def _overtaken(row: SavedEvent) -> Finding:
    what = "it was committed after a later one of its key was on the log"
    return Finding("log", "reordered", row.topic, row.key, row.generation, (row.number,), (row.event_id,), what)
