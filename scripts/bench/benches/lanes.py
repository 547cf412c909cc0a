"""P9: order per key and throughput with one, two and four lanes, as an independent reader of the log sees it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from kylo_outbox.model.events import HEADER
from scripts.bench import pace, relays, rows
from scripts.bench.figures import Figure, Goal, ratios
from scripts.bench.rounds import interleaved
from scripts.bench.stage import PARTITIONS, BenchFailed

if TYPE_CHECKING:
    from scripts.bench.stage import Stage

ROWS = 100_000
ROWS_FULL = 1_000_000
LANES = (1, 2, 4)
LANES_SHORT = (1, 2)
_SILENT_SECONDS = 15.0
_QUIET_SECONDS = 1.0
_OUTBOX_ID = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """One drain: its pace, and what a reader of the log found."""

    rate: float
    inversions: int
    lost: int


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """Each number of lanes in turn, each lane with a relay process of its own."""
    count = max(20_000, int((ROWS_FULL if stage.options.full else ROWS) * scale))
    wanted = LANES if stage.options.full else LANES_SHORT
    possible = [number for number in wanted if number == 1 or _can_set(stage, number)]
    found = interleaved(rounds, {str(number): partial(_drain, stage, number, count) for number in possible})
    figures: list[Figure] = []
    for number in LANES:
        lanes = f"{number} lane{'s' if number > 1 else ''}"
        seen = found.get(str(number))
        if seen is None:
            why = "`kylo-outbox lanes set` failed" if number in wanted else "part of --full"
            figures += [
                Figure(f"inversions per key, {lanes}", "", goal=Goal("P9", 0, at_least=False), missing=why),
                Figure(f"{lanes} / 1 lane", "x", missing=why),
            ]
            continue
        figures += [
            Figure(
                f"inversions per key, {lanes}",
                "",
                tuple(float(each.inversions) for each in seen),
                Goal("P9", 0, at_least=False),
                note=f"among {count:,} events, repeats removed",
            ),
            Figure(
                f"events lost, {lanes}", "", tuple(float(each.lost) for each in seen), Goal("P9", 0, at_least=False)
            ),
            Figure(
                lanes,
                "events/s",
                tuple(each.rate for each in seen),
                note="acknowledged, with what was repeated where a lane changed hands",
            ),
        ]
        if number > 1:
            share = ratios([each.rate for each in seen], [each.rate for each in found["1"]])
            figures.append(Figure(f"{lanes} / 1 lane", "x", share, note="on two cores nothing is left to gain"))
    return figures


def _can_set(stage: Stage, number: int) -> bool:
    """Whether this version of the product can divide its outbox into lanes."""
    with stage.database() as database:
        return stage.command(database, "lanes", "set", str(number), "--yes").returncode == 0


def _drain(stage: Stage, lanes: int, count: int) -> Seen:
    with stage.database() as database, stage.topic() as topic, ExitStack() as running:
        if lanes > 1 and stage.command(database, "lanes", "set", str(lanes), "--yes").returncode != 0:
            raise BenchFailed(f"kylo-outbox lanes set {lanes} failed")
        started = [running.enter_context(relays.running(stage, database)) for _ in range(lanes)]
        started[0].wait_until_leading()
        # All lanes wait for one commit: how long a process takes to start is no part of this.
        rows.fill(database, topic, count)
        rate = relays.drain(started[0], count, begun=0).rate
        inversions, different = _read(stage, topic, count)
        return Seen(rate, inversions, count - different)


def _read(stage: Stage, topic: str, count: int) -> tuple[int, int]:
    """(inversions per key after removing repeats, different events) of a topic, read until nothing more comes.

    Acknowledgements are no sign of the end: where a lane changed hands, repeats were acknowledged too.
    """
    inversions, newest, seen = 0, dict[bytes, int](), set[int]()
    with pace.consumer(stage, **{"fetch.queue.backoff.ms": 10}) as consumer:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
        last = time.monotonic()
        while time.monotonic() - last < (_SILENT_SECONDS if len(seen) < count else _QUIET_SECONDS):
            # It waits for all of them, so that each end costs the whole time.
            batch = consumer.consume(1000, 0.5)
            last = time.monotonic() if batch else last
            for message in batch:
                header: Any = dict(message.headers() or [])[HEADER]
                number = int(header.split(b";")[_OUTBOX_ID])
                if number in seen:
                    continue
                seen.add(number)
                key = message.key() or b""
                inversions += number < newest.get(key, 0)
                newest[key] = max(number, newest.get(key, 0))
    return inversions, len(seen)
