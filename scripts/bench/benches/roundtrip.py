"""P2: a broker two milliseconds away, with batches in flight and with a wait for each batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from kylo_outbox.local.paths import LOOPBACK
from scripts.bench import relays, rows
from scripts.bench.figures import Figure, Goal, percentile, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

ROWS = 60_000
ADDED_MS = 2.0
_PROBES = 50


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Both through the same proxy, in turn."""
    count = max(20_000, int(ROWS * scale))
    words = {"port": stage.far_port, "to": stage.far_door, "milliseconds": ADDED_MS}
    with stage.database() as database, stage.topic() as topic, stage.working("proxy", **words) as proxy:
        if proxy.stdout is not None:
            proxy.stdout.readline()
        far = f"{LOOPBACK}:{stage.far_port}"
        rates = interleaved(
            rounds,
            {
                "flight": lambda: relays.drain_backlog(stage, database, topic, count, brokers=far).rate,
                "flush": lambda: _flushing(stage, database, topic, count, far),
            },
        )
        with stage.topic() as probed:
            added = _round_trip(far, probed) - _round_trip(stage.kafka.bootstrap, probed)
    return [
        Figure(
            "batches in flight / wait for each batch", "x", ratios(rates["flight"], rates["flush"]), Goal("P2", 1.7)
        ),
        Figure("batches in flight", "events/s", tuple(rates["flight"]), note="the product's relay"),
        Figure(
            "wait for each batch",
            "events/s",
            tuple(rates["flush"]),
            note="its reader and publisher, one batch at a time",
        ),
        Figure("round trip added", "ms", (added,), note=f"measured, {ADDED_MS:g} ms asked for"),
    ]


def _flushing(stage: Stage, database: Database, topic: str, count: int, brokers: str) -> float:
    rows.fill(database, topic, count)
    found = stage.worker("flushing_relay", dsn=database.dsn, brokers=brokers, topic=topic, rows=count)
    return float(found["rows"]) / float(found["seconds"])


def _round_trip(brokers: str, topic: str) -> float:
    """Milliseconds until a single record is acknowledged, the middle of many."""
    client = Producer({"bootstrap.servers": brokers, "linger.ms": 0, "acks": "all"})
    took = []
    for _ in range(_PROBES):
        begun = time.perf_counter()
        client.produce(topic, b"probe")
        client.flush()
        took.append((time.perf_counter() - begun) * 1e3)
    return percentile(took, 0.5)
