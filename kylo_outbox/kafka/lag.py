"""How far consumer groups are behind, in messages and in seconds, asked of the broker alone.

Seconds need a look at the first unread record of a partition; that work has a limit of time and of partitions, and
what it did not reach is None, never a guess.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, ConsumerGroupTopicPartitions, TopicPartition

from kylo_outbox.kafka.admin import Admin
from kylo_outbox.kafka.client import build, client_config, guarded
from kylo_outbox.kafka.tail import LOOKING
from kylo_outbox.kafka.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kylo_outbox.kafka.client import KafkaAddress

_LOOK_SECONDS: Final = 2.0
_LOOK_PARTITIONS: Final = 500
_POLL: Final = 0.1
_MANY: Final = 500

Place = tuple[str, int, int]
"""(topic, partition, offset)."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One group on one partition.

    Attributes:
        group: The consumer group.
        topic: The topic.
        partition: Its number.
        committed: The next offset the group will read; None if it never committed (our groups begin at the oldest).
        end: The next offset that will be written.
        messages: How many records are unread; records of aborted transactions count, because the broker counts them.
        seconds: Age of the first unread record; 0.0 if nothing is unread, None if it could not be told in time.
    """

    group: str
    topic: str
    partition: int
    committed: int | None
    end: int
    messages: int
    seconds: float | None


class Lag:
    """Asks for the lag of groups. Keeps one admin client; a consumer is made only while something is unread."""

    def __init__(self, address: KafkaAddress, seconds: float = 5.0) -> None:
        self._address = address
        self._topics = Topics(address, seconds)
        self._admin = Admin(address, seconds)

    def of(self, groups: Mapping[str, Sequence[str]], *, with_seconds: bool = True) -> list[PartitionLag]:
        """The lag of each group on each partition of its topics, by group, topic, partition.

        Args:
            groups: Topics by group; topics that do not exist are left out (`topics verify` tells about them).
            with_seconds: Whether first unread records are looked at; without, `seconds` is None where any are unread.

        Raises:
            Unreachable: no broker answers.
        """
        named = sorted({topic for topics in groups.values() for topic in topics})
        there = set(self._topics.describe(named))
        marks = self._topics.watermarks_of([topic for topic in named if topic in there])
        found: list[PartitionLag] = []
        for group, topics in sorted(groups.items()):
            asked = [(topic, number) for topic in sorted(set(topics) & there) for number in sorted(marks[topic])]
            committed = self._committed(group, asked)
            found += [
                _behind(group, topic, number, committed.get((topic, number)), *marks[topic][number])
                for topic, number in asked
            ]
        return self._with_ages(found) if with_seconds else found

    def _committed(self, group: str, asked: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        if not asked:
            return {}
        request = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, number) for topic, number in asked])
        ask = self._admin.client.list_consumer_group_offsets
        answered = self._admin.ask(
            lambda: ask([request], request_timeout=self._admin.seconds), unless="GROUP_ID_NOT_FOUND"
        )
        found = answered[group]
        partitions = found.topic_partitions if found is not None else []
        return {(each.topic, each.partition): each.offset for each in partitions if each.offset >= 0}

    def _with_ages(self, found: list[PartitionLag]) -> list[PartitionLag]:
        def first_unread(each: PartitionLag) -> Place:
            return each.topic, each.partition, each.end - each.messages

        behind = [each for each in found if each.messages]
        if not behind:
            return found
        written = self._written({first_unread(each) for each in behind[:_LOOK_PARTITIONS]})
        now = time.time()
        return [
            replace(each, seconds=max(0.0, now - written[place])) if (place := first_unread(each)) in written else each
            for each in found
        ]

    def _written(self, places: set[Place]) -> dict[Place, float]:
        """When the record at (or after) each place was written, in seconds since 1970; those reached in time."""
        until = time.monotonic() + _LOOK_SECONDS
        # One record a partition is enough: small requests, and a partition is let go as soon as it has answered.
        config = {"fetch.message.max.bytes": 4096, "queued.max.messages.kbytes": 1024, "fetch.wait.max.ms": 50}
        consumer = build(Consumer, {**client_config(self._address), **LOOKING, **config})
        found: dict[Place, float] = {}
        try:
            while places and time.monotonic() < until:
                # Groups that stand at different offsets of one partition take turns.
                turn = {(topic, number): offset for topic, number, offset in sorted(places)}
                found |= _first_records(consumer, turn, until)
                places = places - {(topic, number, offset) for (topic, number), offset in turn.items()}
        finally:
            guarded(consumer.close)
        return found


def _first_records(consumer: Consumer, turn: dict[tuple[str, int], int], until: float) -> dict[Place, float]:
    found: dict[Place, float] = {}
    waiting = dict(turn)
    guarded(consumer.assign, [TopicPartition(topic, number, offset) for (topic, number), offset in turn.items()])
    while waiting and time.monotonic() < until:
        for message in guarded(consumer.consume, _MANY, _POLL):
            partition = (message.topic() or "", message.partition() or 0)
            if message.error() is not None or partition not in waiting:
                continue
            kind, stamp = message.timestamp()
            if kind != TIMESTAMP_NOT_AVAILABLE:
                found[(*partition, waiting[partition])] = stamp / 1000
            del waiting[partition]
            guarded(consumer.incremental_unassign, [TopicPartition(*partition)])
    return found


def _behind(group: str, topic: str, partition: int, committed: int | None, low: int, end: int) -> PartitionLag:
    # A group that never committed, or whose topic was made anew, begins at the oldest record; one whose records were
    # deleted goes on behind them.
    start = committed if committed is not None and committed <= end else low
    messages = max(0, end - max(low, start))
    return PartitionLag(group, topic, partition, committed, end, messages, None if messages else 0.0)
