"""P10: a topic read, applied and noted by a projector; beside it a plain COPY, and one transaction a message."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from scripts.bench import projectors, relays
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

ROWS = 150_000


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """The same records for everyone; each round on a database of its own."""
    count = max(20_000, int(ROWS * scale))
    with stage.database() as source, stage.topic() as topic:
        relays.drain_backlog(stage, source, topic, count)
        contenders: dict[str, Callable[[], Any]] = {
            "ours": lambda: projectors.catch_up(stage, topic, count),
            "copy": partial(_by_hand, stage, source, topic, "copy"),
            "whole": partial(_by_hand, stage, source, topic, "whole"),
            "single": partial(_by_hand, stage, source, topic, "single"),
        }
        found = interleaved(rounds, contenders, warm_up=True)
    rates = {name: [each if name != "ours" else each.rate for each in runs] for name, runs in found.items()}
    return [
        Figure("projector / plain COPY", "x", ratios(rates["ours"], rates["copy"]), Goal("P10", 0.50)),
        Figure("projector / one transaction a message", "x", ratios(rates["ours"], rates["single"]), Goal("P10", 25)),
        Figure("projector", "events/s", tuple(rates["ours"]), note=f"{count:,} records of 500 bytes, 200 keys"),
        Figure("plain COPY", "rows/s", tuple(rates["copy"]), note="rows in memory, a thousand a transaction"),
        Figure("plain COPY, all in one", "rows/s", tuple(rates["whole"])),
        Figure("one transaction a message", "events/s", tuple(rates["single"])),
        Figure(
            "CPU of the projector",
            "s per 100k events",
            tuple(each.cpu * 1e5 / each.events for each in found["ours"]),
            note="the client's own threads are part of it",
        ),
    ]


def _by_hand(stage: Stage, source: Database, topic: str, way: str) -> float:
    with stage.database() as database:
        projectors.prepare(database)
        words = {"dsn": database.dsn, "source": source.dsn, "brokers": stage.kafka.bootstrap, "topic": topic}
        found = stage.worker("project_by_hand", **words, way=way)
    return float(found["events"]) / float(found["seconds"])
