"""P6: from commit to acknowledgement by the relay, and by a writer that sends to the broker itself after its commit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scripts.bench import latency, relays, rows
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved
from scripts.bench.workers import writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.store.engine import Database
    from scripts.bench.latency import Latency
    from scripts.bench.stage import Stage

# Commits a second, and the seconds to keep them up: a slow pace needs time for enough of them.
RATES = {20: 9.0, 500: 4.0, 2_000: 4.0}


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Each pace in turn; in each round first the relay, then the writer by itself."""
    figures: list[Figure] = []
    for rate, usual in RATES.items():
        seconds = max(3.0, usual * scale)
        with stage.database() as database, stage.topic() as topic, stage.topic() as other:
            found = interleaved(
                rounds,
                {
                    "relay": partial(_relayed, stage, database, topic, rate, seconds),
                    "direct": partial(_direct, stage, database, topic, other, rate, seconds),
                },
                warm_up=not figures,
            )
        figures += _figures(rate, found["relay"], found["direct"])
    return figures


def _relayed(stage: Stage, database: Database, topic: str, rate: float, seconds: float) -> Latency:
    acks = stage.folder / "relay-acks"
    acks.write_text("")
    with relays.running(stage, database, acks=acks) as relay:
        relay.wait_until_leading()
        return latency.paced(stage, database, topic, rate, seconds, partial(writer.load, acks))


def _direct(stage: Stage, database: Database, topic: str, other: str, rate: float, seconds: float) -> Latency:
    """The same writers on the same outbox, which nobody reads; then what they left is put behind the cursor."""
    found = latency.paced(stage, database, topic, rate, seconds, dict, direct=other)
    rows.mark_published(database)
    return found


def _figures(rate: float, relayed: Sequence[Latency], direct: Sequence[Latency]) -> list[Figure]:
    at = f"at {rate:,}/s"
    ours50, ours99 = [each.p50 for each in relayed], [each.p99 for each in relayed]
    own50, own99 = [each.p50 for each in direct], [each.p99 for each in direct]
    return [
        Figure(f"commit to ack / broker's own, p50 {at}", "x", ratios(ours50, own50), Goal("P6", 1.5, at_least=False)),
        Figure(f"commit to ack / broker's own, p99 {at}", "x", ratios(ours99, own99), Goal("P6", 2, at_least=False)),
        Figure(f"commit to ack, p50 {at}", "ms", tuple(ours50)),
        Figure(f"commit to ack, p99 {at}", "ms", tuple(ours99)),
        Figure(f"broker's own, p50 {at}", "ms", tuple(own50), note="the writer sends by itself after its commit"),
        Figure(f"broker's own, p99 {at}", "ms", tuple(own99)),
        Figure(
            f"commits {at}", "per second", tuple(each.pace for each in relayed), note="what the writers really made"
        ),
    ]
