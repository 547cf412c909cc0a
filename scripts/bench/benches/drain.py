"""P1: a backlog of published-nowhere rows, drained by the relay and sent from memory by a plain producer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.bench import relays, rows
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.store.engine import Database
    from scripts.bench.relays import Drained, Spent
    from scripts.bench.stage import Stage

ROWS = 200_000
_CPU = "s per 100k events"


@dataclass(frozen=True, slots=True)
class Sent:
    """What a raw producer took: records a second, and CPU seconds of its process per 100,000."""

    rate: float
    cpu: float


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Drain, raw with the same header, raw without: in each round the same rows."""
    count = max(60_000, int(ROWS * scale))
    with stage.database() as database, stage.topic() as topic, stage.topic() as other:
        contenders: dict[str, Callable[[], Any]] = {
            "relay": lambda: relays.drain_backlog(stage, database, topic, count),
            "same": lambda: _raw(stage, database, other, count, headers=1),
            "bare": lambda: _raw(stage, database, other, count, headers=0),
        }
        found = interleaved(rounds, contenders, warm_up=True)
    rates = {name: [each.rate for each in runs] for name, runs in found.items()}
    size = f"{count:,} rows of {rows.PAYLOAD} bytes, {rows.KEYS} keys"
    return [
        Figure("relay / raw producer, same header", "x", ratios(rates["relay"], rates["same"]), Goal("P1", 0.70)),
        Figure("relay / raw producer, no headers", "x", ratios(rates["relay"], rates["bare"]), Goal("P1", 0.50)),
        Figure("relay", "events/s", tuple(rates["relay"]), note=size),
        Figure("raw producer, same header", "events/s", tuple(rates["same"])),
        Figure("raw producer, no headers", "events/s", tuple(rates["bare"])),
        *_limits(found["relay"], found["same"], found["bare"]),
    ]


def _limits(drained: Sequence[Drained], same: Sequence[Sent], bare: Sequence[Sent]) -> list[Figure]:
    """Where the time goes: a relay cannot be cheaper than the producer in it, and the cores are shared by all."""

    def per_100k(pick: Callable[[Spent], float]) -> tuple[float, ...]:
        return tuple(pick(each.cpu) * 1e5 / each.rows for each in drained)

    return [
        Figure("CPU of the relay", _CPU, per_100k(lambda cpu: cpu.relay), note="a raw producer is part of it"),
        Figure("CPU of a raw producer, same header", _CPU, tuple(each.cpu for each in same)),
        Figure("CPU of a raw producer, no headers", _CPU, tuple(each.cpu for each in bare)),
        Figure("CPU of PostgreSQL for the relay", _CPU, per_100k(lambda cpu: cpu.database)),
        Figure("CPU of the broker", _CPU, per_100k(lambda cpu: cpu.broker)),
        Figure(
            "cores kept busy by relay, PostgreSQL and broker",
            "cores",
            tuple(each.cpu.total / each.seconds for each in drained),
            note="when this is all there are, the sum of the three is the limit",
        ),
    ]


def _raw(stage: Stage, database: Database, topic: str, count: int, *, headers: int) -> Sent:
    """Send the newest `count` rows of the database."""
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
    return Sent(found["rows"] / found["seconds"], found["cpu"] * 1e5 / found["rows"])
