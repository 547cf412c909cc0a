"""P5: transactions a second of writers with the relay on the same cores, and without."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scripts.bench import pgbench, relays, rows
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

SECONDS = 8.0
WRITERS = (8, 32)


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Each number of writers in turn, without and with the relay in each round."""
    seconds = max(3.0, SECONDS * scale)
    figures: list[Figure] = []
    for writers in WRITERS:
        with stage.database() as database, stage.topic() as topic:
            pgbench.prepare(database)
            measure = partial(pgbench.tps, stage, database, topic, "emit", writers, seconds)
            found = interleaved(
                rounds,
                {
                    "without": partial(_alone, database, measure),
                    "with": partial(_relayed, stage, database, measure),
                },
            )
        name = f"{writers} writers"
        figures += [
            Figure(
                f"{name}: with the relay / without",
                "x",
                ratios(found["with"], found["without"]),
                Goal("P5", 0.85),
                note="a business row and an event of 500 bytes a transaction",
            ),
            Figure(f"{name}, no relay", "transactions/s", tuple(found["without"])),
            Figure(f"{name}, relay running", "transactions/s", tuple(found["with"])),
        ]
    return figures


def _alone(database: Database, measure: partial[float]) -> float:
    found = measure()
    # What nobody relayed must not be drained at the cost of the next writers.
    rows.mark_published(database)
    return found


def _relayed(stage: Stage, database: Database, measure: partial[float]) -> float:
    with relays.running(stage, database) as relay:
        relay.wait_until_leading()
        found = measure()
        relay.check()
    rows.mark_published(database)
    return found
