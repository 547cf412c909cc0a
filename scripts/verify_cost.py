"""What the verifier costs: `.venv/bin/python -m scripts.verify_cost [--keys N] [--events N] [--passes N]`.

On real PostgreSQL and Kafka in a throw-away folder: CPU seconds of this process and of PostgreSQL for the first pass,
for passes at rest, and for a pass over as many new events; the share of a core where a pass comes every five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kylo_outbox.flows.project import Projection
from kylo_outbox.flows.relay import Relay, RelayState
from kylo_outbox.flows.verify import Verify
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.kafka.reading import LogReader
from kylo_outbox.kafka.topics import Topics
from kylo_outbox.model.topics import dead_letter_name, declared
from kylo_outbox.store import fixtures
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.history import stored_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.store.session import LaneSession
from kylo_outbox.testing import ledger
from kylo_outbox.testing.servers import shared_servers

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database

_EVERY = 300.0
_TOPIC = "txns.company.batches"
_SAVE = """
select kylo.emit(%s, 'k' || n %% %s, 'MOVED', jsonb_build_object('from', 'a', 'to', 'b', 'cents', 5, 'number', n))
  from generate_series(1, %s) n
"""


class Books(ledger.Ledger):
    """A ledger of the topic that is measured."""

    topics = (_TOPIC,)


@dataclass
class Home:
    """A store as the directory would list it."""

    database: Database
    problem: str | None = None


def main() -> None:
    """Measure and print JSON."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--keys", type=int, default=10_000)
    asked.add_argument("--events", type=int, default=100_000)
    asked.add_argument("--passes", type=int, default=10)
    words = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # PostgreSQL may run under another account
        postgres, kafka = shared_servers(Path(folder))
        try:
            postgres.start()
            kafka.start()
            address = KafkaAddress(brokers=kafka.bootstrap)
            Topics(address).apply(declared(_TOPIC, "rules.promote.requests"))
            fixtures.ensure_template(postgres.dsn("postgres"), postgres.dsn("template_of_kylo"), "template_of_kylo")
            database = fixtures.clone(postgres.dsn("postgres"), postgres.dsn("cost"), "template_of_kylo", "cost")
            print(json.dumps(measure(database, address, words), indent=2))
            database.close()
        finally:
            kafka.stop()
            postgres.stop()


def measure(database: Database, address: KafkaAddress, words: Any) -> dict[str, Any]:
    """The figures."""
    with database.transaction() as tx:
        tx.execute(ledger.TABLE)
    books = Books()
    verify = Verify(
        stores=lambda: [Home(database)],
        open_log=lambda: LogReader(address),
        projectors=[books],
        database_of=lambda _projector, _key: database,
    )
    flow(database, address, books, words)
    first = cost(verify)
    rest = [cost(verify) for _ in range(words.passes)]
    flow(database, address, books, words)
    busy = cost(verify)
    quiet = statistics.median(rest)
    return {
        "keys": words.keys,
        "events": words.events,
        "cpu_seconds": {"first": first, "rest": quiet, "rest_most": max(rest), "same_number_again": busy},
        "percent_of_a_core_at_rest": round(100 * quiet / _EVERY, 3),
        "cores": os.cpu_count(),
    }


def flow(database: Database, address: KafkaAddress, books: Books, words: Any) -> None:
    """Save, publish, apply."""
    with database.transaction() as tx:
        tx.execute("set local idle_in_transaction_session_timeout = 0")
        tx.execute(_SAVE, (_TOPIC, words.keys, words.events))
    relay = Relay(
        state=RelayState(store="cost", lane=0),
        holder="cost",
        open_session=lambda: LaneSession(database.dsn, "cost"),
        open_publisher=lambda store_id: Publisher(address, store_id),
    )
    while waiting(database):
        time.sleep(relay.run_once().pause)
    relay.close()
    with database.begin() as connection:
        own = require_own(connection)
    projection = Projection(books, lambda _delivery: database, dead_letter_name)
    for rows in stored_rows(database, [_TOPIC]):
        projection.handle([stored_delivery(row, own.store_id) for row in rows])


def waiting(database: Database) -> int:
    """Events that Kafka has not acknowledged."""
    with database.transaction() as tx:
        [number] = tx.execute("select count(*) from outbox where processed_at is null").fetchone() or (0,)
        return int(number)


def cost(verify: Verify) -> float:
    """CPU seconds of one pass, this process and PostgreSQL's together."""
    before = spent()
    verdict = verify.run()
    if verdict.problems or verdict.differences:
        raise SystemExit(f"nothing should differ: {verdict.problems} {verdict.differences[:3]}")
    return round(spent() - before, 3)


def spent() -> float:
    """CPU seconds until now."""
    total = 0.0
    for process in psutil.process_iter(["name", "cpu_times"]):
        if process.info["name"] == "postgres" and process.info["cpu_times"] and _ours(process):
            total += process.info["cpu_times"].user + process.info["cpu_times"].system
    return total + time.process_time()


def _ours(process: psutil.Process) -> bool:
    try:
        return "cost" in " ".join(process.cmdline())
    except psutil.Error:
        return False


if __name__ == "__main__":
    main()
