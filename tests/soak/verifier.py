"""The verdict over a soak: what the writers noted, against tables and topics as they are in the end.

Nothing here is shared with the product: its own queries, its own consumer.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from tests.helpers.broker import Seen, read_all
from tests.helpers.lane_watch import owned_twice
from tests.soak.load import LARGE, Load, Note
from tests.soak.projectors import BAD, CURABLE, ECHO_EVERY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_STORED = """
select event_id::text, id, topic, convert_from(key, 'UTF8'), convert_from(payload, 'UTF8')
  from kylo.outbox_log where topic = any(%s) order by id
"""
_JOURNAL = "select event_id::text from soak_journal order by n"
_LEDGER = "select event_id::text from ledger_entries where cents < 0 order by entry"
_LEDGER_SUMS = "select ledger || '/' || account, sum(cents)::bigint from ledger_entries group by 1"
_BALANCES = "select account, cents from soak_balances"
_LETTERS = "select stage, topic, event_id::text from kylo.dead_letters order by id"
_ABSORBED = "select projector, sum(duplicates)::bigint from kylo.positions group by 1 order by 1"
_WAITING = {
    "not published": "select count(*) from outbox where processed_at is null",
    "held by the relay": "select count(*) from kylo.outbox_held",
    "held keys": "select count(*) from kylo.holds",
    "waiting behind a dead letter": "select count(*) from kylo.held_events",
}


class Stored(NamedTuple):
    """An event as the outbox has it."""

    id: int
    topic: str
    key: str
    payload: str


@dataclass
class Part:
    """One comparison; each list tells the differences for people. `repeats` are allowed here and only counted."""

    name: str
    expected: int = 0
    seen: int = 0
    repeats: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)


KINDS = ("lost", "doubled", "invented", "reordered", "sums")


@dataclass
class Verdict:
    """All comparisons, and what else must not be."""

    parts: list[Part]
    absorbed: dict[str, int]
    log_repeats: int
    # What still waits although there was time enough.
    stuck: dict[str, int]
    owned_twice: list[str]

    def count(self, kind: str) -> int:
        """How many differences of a kind there are over all parts."""
        return sum(len(getattr(part, kind)) for part in self.parts)

    @property
    def found(self) -> set[str]:
        """The promises that were broken."""
        kinds = {kind for kind in KINDS if self.count(kind)}
        return kinds | ({"stuck"} if self.stuck else set()) | ({"owned twice"} if self.owned_twice else set())


def judge(dsn: str, bootstrap: str, load: Load, topics: Mapping[str, str]) -> tuple[Verdict, list[Seen]]:
    """Read everything and compare; also the log of the topic `events` with the broker's times."""
    with psycopg.connect(dsn) as tx:
        stored = {row[0]: Stored(*row[1:]) for row in tx.execute(_STORED, (list(topics.values()),))}
        tables = {sql: tx.execute(sql).fetchall() for sql in (_JOURNAL, _LEDGER, _LEDGER_SUMS, _BALANCES, _LETTERS)}
        absorbed: dict[str, int] = dict(tx.execute(_ABSORBED).fetchall())
        waiting = {name: tx.execute(sql).fetchall()[0][0] for name, sql in _WAITING.items()}
    log = {name: read_all(bootstrap, topic) for name, topic in topics.items()}
    dead = [record for topic in topics.values() for record in read_all(bootstrap, f"{topic}.dlq")]
    written = load.committed | {event: note for event, note in load.unknown.items() if event in stored}
    judged = _Judge(written, stored, topics)
    log_parts = [judged.log(name, records) for name, records in log.items()]
    parts = [
        judged.outbox(),
        *log_parts,
        judged.journal([event for (event,) in tables[_JOURNAL]]),
        judged.ledger([event for (event,) in tables[_LEDGER]], dict(tables[_LEDGER_SUMS])),
        judged.balances(dict(tables[_BALANCES])),
        judged.echoes(),
        judged.letters(tables[_LETTERS]),
        judged.letter_topics(tables[_LETTERS], dead, [record for records in log.values() for record in records]),
    ]
    stuck = {name: count for name, count in waiting.items() if count}
    repeats = sum(part.repeats for part in log_parts)
    return Verdict(parts, absorbed, repeats, stuck, owned_twice(dsn)), log["events"]


class _Judge:
    """The writers' notes and the outbox beside one another."""

    def __init__(self, written: Mapping[str, Note], stored: Mapping[str, Stored], topics: Mapping[str, str]) -> None:
        self._written, self._stored, self._topics = written, stored, topics
        self._echoes = [event for event, row in stored.items() if row.topic == topics["echoes"]]

    def outbox(self) -> Part:
        """Every acknowledged commit is there, and the ids of a counted key rise with its business row."""
        seen = [event for event, row in self._stored.items() if row.topic != self._topics["echoes"]]
        order = {event: note.number for event, note in self._written.items() if note.number is not None}
        return self._compare("outbox", self._written, seen, order=order)

    def log(self, name: str, records: list[Seen]) -> Part:
        """Every event that Kafka takes is in its topic, first appearances in the order of the outbox."""
        expected = self._echoes if name == "echoes" else self._of({name}, without={LARGE})
        return self._compare(f"topic {name}", expected, [record.event_id for record in records], once=False)

    def journal(self, seen: list[str]) -> Part:
        """Every event that is not poison is applied once, in order, cured ones at their place."""
        expected = {*self._of({"events", "small"}, without={LARGE, BAD}), *self._echoes}
        return self._compare("journal", expected, seen)

    def ledger(self, seen: list[str], sums: Mapping[str, int]) -> Part:
        """Every move is booked once, in order, and every account has its sum."""
        part = self._compare("ledger", self._of({"moves"}, without={BAD}), seen)
        part.sums = _differences(self._sums(), sums)
        return part

    def balances(self, sums: Mapping[str, int]) -> Part:
        """Every account has its sum."""
        return Part("balances", sums=_differences(self._sums(), sums), expected=len(self._sums()), seen=len(sums))

    def echoes(self) -> Part:
        """Every so many moves the projector has emitted one event, in the order of the moves."""
        moves = self._of({"moves"}, without={BAD})
        expected = [event for event in moves if (self._written[event].number or 0) % ECHO_EVERY == 0]
        return self._compare("echoes", expected, [json.loads(self._stored[e].payload)["of"] for e in self._echoes])

    def letters(self, rows: list[tuple[str, str, str]]) -> Part:
        """Every poison event is dead once where it is poison, and no other."""
        expected: set[str] = set()
        for event, note in self._written.items():
            moves = note.topic == self._topics["moves"]
            if note.type == LARGE:
                expected.add(f"relay {event}")
            elif note.type == BAD and moves:
                expected |= {f"ledger {event}", f"balances {event}"}
            elif note.type in {BAD, CURABLE}:
                expected.add(f"journal {event}")
        return self._compare("dead letters", expected, [f"{_stage(stage)} {event}" for stage, _, event in rows])

    def letter_topics(self, rows: list[tuple[str, str, str]], dead: list[Seen], log: list[Seen]) -> Part:
        """Every dead letter is on the dead letter topic too."""
        expected = [f"{_stage(stage)} {event}" for stage, _, event in rows]
        events = {(record.topic, str(record.partition), str(record.offset)): record.event_id for record in log}
        seen = []
        for record in dead:
            told = {name: value.decode() for name, value in record.headers.items() if name.startswith("dlq-")}
            # The relay's have never been anywhere in the log; a projector's tell where they lie.
            place = (told["dlq-topic"], told["dlq-partition"], told["dlq-offset"])
            seen.append(f"{_stage(told['dlq-stage'])} {told.get('dlq-event-id') or events.get(place)}")
        return self._compare("dead letter topics", expected, seen, once=False)

    def _of(self, names: set[str], *, without: set[str]) -> list[str]:
        topics = {self._topics[name] for name in names}
        return [event for event, note in self._written.items() if note.topic in topics and note.type not in without]

    def _sums(self) -> dict[str, int]:
        sums: Counter[str] = Counter()
        for note in self._written.values():
            if note.move is not None and note.type != BAD:
                one, other, cents = note.move
                sums[f"{note.key}/{one}"] -= cents
                sums[f"{note.key}/{other}"] += cents
        return dict(sums)

    def _compare(
        self,
        name: str,
        expected: Iterable[str],
        seen: list[str],
        *,
        once: bool = True,
        order: Mapping[str, int] | None = None,
    ) -> Part:
        wanted, counts = set(expected), Counter(seen)
        part = Part(name, len(wanted), len(seen))
        part.lost = [self._tell(event) for event in wanted if event not in counts]
        part.invented = [self._tell(event) for event in counts if event not in wanted]
        again = {event: count - 1 for event, count in counts.items() if count > 1}
        if once:
            part.doubled = [self._tell(event) for event in again]
        else:
            part.repeats = sum(again.values())
        newest: dict[Any, tuple[int, str]] = defaultdict(lambda: (-1, ""))
        for event in counts:  # in the order of first appearance
            row = self._stored.get(event)
            place = row.id if order is None and row else (order or {}).get(event)
            if row is None or place is None:
                continue
            passed = newest[row.topic, row.key]
            if place < passed[0]:
                part.reordered.append(f"{self._tell(event)} after {self._tell(passed[1])}")
            newest[row.topic, row.key] = max(passed, (place, event))
        return part

    def _tell(self, event: str) -> str:
        row = self._stored.get(event.rpartition(" ")[2])
        return f"{event} (id {row.id}, {row.topic} {row.key})" if row else event


def _stage(name: str) -> str:
    """`soak-journal-ab12` -> `journal`."""
    return name.split("-")[1] if name.startswith("soak-") else name


def _differences(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    accounts = sorted(expected.keys() | found.keys())
    return [
        f"{account}: {found.get(account, 0)} instead of {expected.get(account, 0)}"
        for account in accounts
        if found.get(account, 0) != expected.get(account, 0)
    ]
