"""What emit costs a writer beside a plain insert: one event a transaction, and a thousand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scripts.bench import pgbench
from scripts.bench.figures import Figure, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

SECONDS = 6.0
WRITERS = 8
_WAYS = ("plain", "many")


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """One event a transaction with pgbench, many with the library in one connection."""
    seconds = max(3.0, SECONDS * scale)
    with stage.database() as database, stage.topic() as topic:
        pgbench.prepare(database)
        single = interleaved(
            rounds,
            {name: partial(pgbench.tps, stage, database, topic, name, WRITERS, seconds) for name in pgbench.SCRIPTS},
        )
        many = interleaved(rounds, {way: partial(_many, stage, database, topic, way, seconds) for way in _WAYS})
    return [
        Figure("business row + emit / + plain insert", "x", ratios(single["emit"], single["insert"])),
        Figure("business row + emit / business row alone", "x", ratios(single["emit"], single["business"])),
        Figure("emit_many / executemany of plain inserts", "x", ratios(many["many"], many["plain"])),
        Figure("business row alone", "transactions/s", tuple(single["business"]), note=f"{WRITERS} writers"),
        Figure("business row + plain insert", "transactions/s", tuple(single["insert"])),
        Figure("business row + emit", "transactions/s", tuple(single["emit"])),
        Figure("plain inserts, 1,000 a transaction", "events/s", tuple(many["plain"]), note="one writer"),
        Figure("emit_many, 1,000 a transaction", "events/s", tuple(many["many"]), note="one writer"),
    ]


def _many(stage: Stage, database: Database, topic: str, way: str, seconds: float) -> float:
    found = stage.worker("batch_writer", dsn=database.dsn, topic=topic, way=way, seconds=seconds)
    return float(found["events"]) / float(found["seconds"])
