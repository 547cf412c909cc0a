"""A short road for the verifier: a store with moves, a relay that publishes them, a ledger that applies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kylo_outbox import emit
from kylo_outbox.flows.project import Projection
from kylo_outbox.flows.verify import Verify
from kylo_outbox.kafka.reading import LogReader
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.history import stored_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.testing import ledger

KEYS = ("710", "711", "712")


class Books(ledger.Ledger):
    """A ledger of a topic of the test's own."""

    def __init__(self, topic: str) -> None:
        self.topics = (topic,)


@dataclass
class Home:
    """A store as the directory would list it."""

    database: Any
    problem: str | None = None


@dataclass
class Road:
    """A store with moves, a relay that publishes them and a ledger that applies them."""

    database: Any
    relay: Any
    books: Books
    address: Any
    run_until: Any

    @property
    def topic(self) -> str:
        """Where the moves go."""
        return self.books.topics[0]

    def save(self, number: int, cents: int = 5) -> None:
        """Save so many moves, key by key in turn; an amount of 0 is poison."""
        [start] = self.ask("select count(*) from kylo.outbox_log")[0]
        with self.database.transaction() as tx:
            for n in range(start, start + number):
                payload = {"from": "a", "to": "b", "cents": cents, "number": n}
                emit(tx, topic=self.topic, key=KEYS[n % len(KEYS)], type="MOVED", payload=payload)

    def publish(self) -> None:
        """Everything that is saved goes to Kafka, and the cursor is stored behind it."""
        self.run_until(self.relay, lambda: self.ask("select count(*) from outbox where processed_at is null") == [(0,)])

    def apply(self) -> None:
        """The ledger takes everything that is stored and that it has not."""
        with self.database.begin() as connection:
            own = require_own(connection)
        projection = Projection(self.books, lambda _delivery: self.database, dead_letter_name)
        for rows in stored_rows(self.database, [self.topic]):
            projection.handle([stored_delivery(row, own.store_id) for row in rows])

    def flow(self, number: int) -> None:
        """Save, publish, apply."""
        self.save(number)
        self.publish()
        self.apply()

    def verify(self, since=None, **changes):
        """One pass."""
        wiring: dict[str, Any] = {
            "stores": lambda: [Home(self.database)],
            "open_log": lambda: LogReader(self.address),
            "projectors": [self.books],
            "database_of": lambda _projector, _key: self.database,
        } | changes
        return Verify(**wiring).run(since)

    def found(self, **more) -> list[tuple[str, str, str, tuple[int, ...]]]:
        """(part, anomaly, key, outbox ids) of what is open after one more pass."""
        verdict = self.verify(**more)
        assert verdict.problems == []
        return [
            (each.finding.part, each.finding.anomaly, each.finding.key, each.finding.outbox_ids)
            for _, each in verdict.differences
        ]

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The answer of one query."""
        with self.database.transaction() as tx:
            return tx.execute(sql).fetchall()

    def do(self, *statements: str) -> None:
        """Damage something."""
        with self.database.transaction() as tx:
            for statement in statements:
                tx.execute(statement)
