"""P1: a backlog of published-nowhere rows, drained by the relay and sent from memory by a plain producer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.bench import relays, rows
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.relays import Drained
    from scripts.bench.stage import Stage

ROWS = 200_000


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Drain, raw with the same header, raw without: in each round the same rows."""
    count = max(20_000, int(ROWS * scale))
    drained: list[Drained] = []
    with stage.database() as database, stage.topic() as topic, stage.topic() as other:

        def relay() -> float:
            drained.append(relays.drain_backlog(stage, database, topic, count))
            return drained[-1].rate

        rates = interleaved(
            rounds,
            {
                "relay": relay,
                "same": lambda: _raw(stage, database, other, count, headers=1),
                "bare": lambda: _raw(stage, database, other, count, headers=0),
            },
        )
    kept = drained[-rounds:]
    size = f"{count:,} rows of {rows.PAYLOAD} bytes, {rows.KEYS} keys"
    return [
        Figure(
            "relay / raw producer with the same header", "x", ratios(rates["relay"], rates["same"]), Goal("P1", 0.70)
        ),
        Figure("relay / raw producer without headers", "x", ratios(rates["relay"], rates["bare"]), Goal("P1", 0.50)),
        Figure("relay", "events/s", tuple(rates["relay"]), note=size),
        Figure("raw producer, same header", "events/s", tuple(rates["same"])),
        Figure("raw producer, no headers", "events/s", tuple(rates["bare"])),
        Figure("relay's CPU", "s per 100k events", tuple(each.relay_cpu * 1e5 / each.rows for each in kept)),
        Figure(
            "PostgreSQL's CPU for the relay",
            "s per 100k events",
            tuple(each.database_cpu * 1e5 / each.rows for each in kept),
        ),
    ]


def _raw(stage: Stage, database: Database, topic: str, count: int, *, headers: int) -> float:
    """Send the newest `count` rows of the database; records a second."""
    with rows.connect(database) as connection:
        [newest] = connection.execute("select max(id) from kylo.outbox_log").fetchone() or (0,)
    found = stage.worker(
        "raw",
        dsn=database.dsn,
        brokers=stage.kafka.bootstrap,
        topic=topic,
        after=newest - count,
        rows=count,
        headers=headers,
    )
    return float(found["rows"]) / float(found["seconds"])
