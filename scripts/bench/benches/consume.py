"""P11: a topic read from its beginning, with the settings of our consumers and with those of the client."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from scripts.bench import relays
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved
from scripts.bench.stage import BenchFailed

if TYPE_CHECKING:
    from scripts.bench.stage import Stage

ROWS = 600_000
_CPU = "s per 100k records"


class Read(NamedTuple):
    """One look through the topic; CPU seconds of the reader, its client's threads included, and of the broker."""

    records: float
    seconds: float
    reader: float
    broker: float

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds

    @property
    def cores(self) -> float:
        """How many cores both kept busy."""
        return (self.reader + self.broker) / self.seconds


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """The same loop for both."""
    count = max(50_000, int(ROWS * scale))
    with stage.database() as database, stage.topic() as topic:
        relays.drain_backlog(stage, database, topic, count)
        found = interleaved(
            rounds, {way: partial(_read, stage, topic, count, way) for way in ("ours", "defaults")}, warm_up=True
        )
    rates = {way: [each.rate for each in reads] for way, reads in found.items()}
    ours, theirs = found["ours"], found["defaults"]
    return [
        Figure("our settings / the client's", "x", ratios(rates["ours"], rates["defaults"]), Goal("P11", 3)),
        Figure("our settings", "records/s", tuple(rates["ours"]), note=f"{count:,} records of 500 bytes"),
        Figure("the client's", "records/s", tuple(rates["defaults"])),
        Figure("CPU of the reader, our settings", _CPU, tuple(each.reader * 1e5 / each.records for each in ours)),
        Figure("CPU of the broker, our settings", _CPU, tuple(each.broker * 1e5 / each.records for each in ours)),
        Figure(
            "cores kept busy by reader and broker, our settings",
            "cores",
            tuple(each.cores for each in ours),
            note="a reader's loop is one of them at most",
        ),
        Figure("the same, the client's", "cores", tuple(each.cores for each in theirs)),
    ]


def _read(stage: Stage, topic: str, count: int, way: str) -> Read:
    handle = stage.kafka.handle()
    if handle is None:
        raise BenchFailed("the broker is gone")
    words = {"brokers": stage.kafka.bootstrap, "topic": topic, "way": way, "rows": count, "broker": handle.pid}
    found = stage.worker("consume", **words)
    return Read(*(float(found[name]) for name in ("records", "seconds", "cpu", "broker")))
