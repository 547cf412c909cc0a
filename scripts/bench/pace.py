"""How fast a topic grows: the one measure that suits every relay, ours and others, because only the broker is asked."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, TopicPartition

from scripts.bench.stage import PARTITIONS, BenchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.bench.stage import Stage

_LOOK_SECONDS = 0.05
# A JVM on a busy machine takes its time.
_FIRST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Pace:
    """So many records in so many seconds, counted from the first look that found any."""

    records: int
    seconds: float

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


@contextmanager
def consumer(stage: Stage, **more: str | int | bool) -> Iterator[Consumer]:
    """A consumer that belongs to no group of anybody and commits nothing."""
    made = Consumer(
        {
            "bootstrap.servers": stage.kafka.bootstrap,
            "group.id": f"bench-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            **more,
        }
    )
    try:
        yield made
    finally:
        made.close()


def records(look: Consumer, topic: str, partitions: int = PARTITIONS) -> int:
    """How many records the broker has for a topic."""
    ends = [look.get_watermark_offsets(TopicPartition(topic, number), 30) for number in range(partitions)]
    return sum(high - low for low, high in ends)


def grow(stage: Stage, topic: str, count: int, check: Callable[[], None], *, longest: float) -> Pace:
    """Watch a topic grow by `count` records, at most `longest` seconds from its first new one.

    Args:
        stage: Where the broker is.
        topic: Who grows.
        count: How many records will come.
        check: Raises when the sender is dead.
        longest: A slow sender is measured over this time and need not finish.

    Raises:
        BenchFailed: nothing came, or too little to measure.
    """
    with consumer(stage) as look:
        before = records(look, topic)

        def wait_for(wanted: int, until: float) -> tuple[int, float]:
            while (now := records(look, topic)) < wanted and time.monotonic() < until:
                check()
                time.sleep(_LOOK_SECONDS)
            return now, time.monotonic()

        first, begun = wait_for(before + 1, time.monotonic() + _FIRST_SECONDS)
        if first == before:
            raise BenchFailed(f"no record came within {_FIRST_SECONDS:.0f} s")
        last, ended = wait_for(before + count, begun + longest)
    if last == first:
        raise BenchFailed(f"{count} records are too few to measure: give a larger --scale")
    return Pace(last - first, ended - begun)
