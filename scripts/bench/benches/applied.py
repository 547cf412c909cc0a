"""P12: from commit to applied, beside commit to acknowledgement, of the same events at 500 a second."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from scripts.bench import latency, projectors, relays
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved
from scripts.bench.workers import writer

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.latency import Latency
    from scripts.bench.stage import Stage

RATE = 500
SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Both:
    """The same events: acknowledged by Kafka, and applied."""

    acked: Latency
    applied: Latency


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """One relay and one projector for each round."""
    seconds = max(3.0, SECONDS * scale)
    with stage.database() as database, stage.topic() as topic:
        projectors.prepare(database)
        found = interleaved(rounds, {"both": partial(_both, stage, database, topic, seconds)}, warm_up=True)["both"]
    acked50, applied50 = [each.acked.p50 for each in found], [each.applied.p50 for each in found]
    return [
        Figure(
            "commit to applied / commit to ack, p50", "x", ratios(applied50, acked50), Goal("P12", 2, at_least=False)
        ),
        Figure("commit to applied, p50", "ms", tuple(applied50)),
        Figure("commit to applied, p99", "ms", tuple(each.applied.p99 for each in found)),
        Figure("commit to ack, p50", "ms", tuple(acked50)),
        Figure("commit to ack, p99", "ms", tuple(each.acked.p99 for each in found)),
        Figure("commits", "per second", tuple(each.applied.pace for each in found)),
    ]


def _both(stage: Stage, database: Database, topic: str, seconds: float) -> Both:
    acks, moments = stage.folder / "relay-acks", stage.folder / "applied"
    acks.write_text("")
    moments.write_text("")
    with (
        relays.running(stage, database, acks=acks) as relay,
        projectors.running(stage, database, topic, moments=moments) as projector,
    ):
        relay.wait_until_leading()
        # Something applied proves that the group has its partitions.
        latency.paced(stage, database, topic, RATE, 2.0, partial(writer.load, moments))
        projector.check()
        done = latency.written(stage, database, topic, RATE, seconds)
        return Both(
            acked=latency.done_until(done, partial(writer.load, acks)),
            applied=latency.done_until(done, partial(writer.load, moments)),
        )
