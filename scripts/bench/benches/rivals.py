"""P7: from commit to the broker's log at 500 commits a second, everyone measured in the same way.

The senders of others do not tell when they were acknowledged, so the broker's own clock is read: the topic stamps each
record when it is appended (whole milliseconds, and so half of one is added). It runs on the machine of the writers.
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from scripts.bench import latency, pace
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.peers import contenders
from scripts.bench.rounds import interleaved
from scripts.bench.stage import PARTITIONS, BenchFailed
from scripts.bench.workers.writer import number_of

if TYPE_CHECKING:
    from scripts.bench.latency import Latency
    from scripts.bench.peers.contenders import Contender
    from scripts.bench.stage import Stage

RATE = 500
SECONDS = 6.0
_HALF_MS = 500_000
_SILENT_SECONDS = 10.0


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Everyone at the same pace; the best of the others is what we are held against."""
    ours = contenders.Ours()
    # The textbook, row by row, does not keep this pace: it would only fill the page.
    others = [contenders.BATCHED, contenders.BEST, *contenders.asked_for(stage)]
    seconds = max(3.0, SECONDS * scale)
    found = interleaved(rounds, {each.name: partial(_measure, stage, each, seconds) for each in [ours, *others]})
    figures: list[Figure] = []
    for name in ("p50", "p99"):
        pick = attrgetter(name)
        mine = [pick(each) for each in found[ours.name]]
        best = [min(pick(found[other.name][number]) for other in others) for number in range(len(mine))]
        figures.append(
            Figure(
                f"kylo-outbox / best of the others, {name} at {RATE}/s",
                "x",
                ratios(mine, best),
                Goal("P7", 1 / 3, at_least=False),
                note=f"the others: {', '.join(other.name for other in others)}",
            )
        )
        figures += [
            Figure(
                f"kylo-outbox / {other.name}, {name} at {RATE}/s",
                "x",
                ratios(mine, [pick(each) for each in found[other.name]]),
            )
            for other in others
        ]
        figures += [
            Figure(f"{who}, {name} at {RATE}/s", "ms", tuple(pick(each) for each in values))
            for who, values in found.items()
        ]
    return figures


def _measure(stage: Stage, contender: Contender, seconds: float) -> Latency:
    stamped = stage.topic(message_timestamp_type="LogAppendTime")
    with contenders.named(contender), stage.database() as database, stamped as topic:
        contender.prepare(stage, database, topic)
        with contender.running(stage, database, topic) as check:
            contender.warm(stage, database, topic, check)
            acks = partial(_appended, stage, topic)
            return latency.paced(stage, database, topic, RATE, seconds, acks, insert=contender.insert)


def _appended(stage: Stage, topic: str) -> dict[int, int]:
    """When the broker appended each event, by its number; of a repeat the first."""
    found: dict[int, int] = {}
    with pace.consumer(stage) as consumer:
        left = pace.records(consumer, topic)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
        while left > 0:
            batch = consumer.consume(1000, _SILENT_SECONDS)
            if not batch:
                raise BenchFailed(f"the log is silent with {left} records to come")
            left -= len(batch)
            for message in batch:
                value, (_, at) = message.value() or b"", message.timestamp()
                if value.startswith(b'{"n":'):
                    found.setdefault(number_of(value), at * 1_000_000 + _HALF_MS)
    return found
