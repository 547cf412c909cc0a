"""P11: a topic read from its beginning, with the settings of our consumers and with those of the client."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scripts.bench import relays
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from scripts.bench.stage import Stage

ROWS = 600_000


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """The same loop for both."""
    count = max(50_000, int(ROWS * scale))
    with stage.database() as database, stage.topic() as topic:
        relays.drain_backlog(stage, database, topic, count)
        rates = interleaved(
            rounds, {way: partial(_read, stage, topic, count, way) for way in ("ours", "defaults")}, warm_up=True
        )
    return [
        Figure("our settings / the client's", "x", ratios(rates["ours"], rates["defaults"]), Goal("P11", 3)),
        Figure("our settings", "records/s", tuple(rates["ours"]), note=f"{count:,} records of 500 bytes"),
        Figure("the client's", "records/s", tuple(rates["defaults"])),
    ]


def _read(stage: Stage, topic: str, count: int, way: str) -> float:
    found = stage.worker("consume", brokers=stage.kafka.bootstrap, topic=topic, way=way, rows=count)
    return float(found["records"]) / float(found["seconds"])
