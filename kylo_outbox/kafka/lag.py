"""How far consumer groups are behind, in messages and in seconds, asked of the broker alone.

Seconds need a look at the first unread record of a partition; that work has a limit of time and of partitions, and
what it did not reach is None, never a guess.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, TopicPartition
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from kylo_outbox.kafka.client import KafkaFault, build, client_config, guarded
from kylo_outbox.kafka.tail import LOOKING
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kylo_outbox.kafka.client import KafkaAddress

_LOOK_SECONDS: Final = 2.0
_LOOK_PARTITIONS: Final = 500
_POLL: Final = 0.1
_RETRY: Final = 0.2
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
        messages: How many records are unread, as the broker counts: marks of transactions and what they aborted are
            among them, unless nothing else is.
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
    """Asks for the lag of groups, with one client a group that never joins it; `close` when done with it for good.

    The admin client is left out on purpose: librdkafka 2.16 ends the whole process by a failed assertion when a broker
    goes away under one of its requests, and this runs inside the relay.
    """

    def __init__(self, address: KafkaAddress, seconds: float = 5.0) -> None:
        self._address = address
        self._seconds = seconds
        self._clients: dict[str, Consumer] = {}

    def of(self, groups: Mapping[str, Sequence[str]], *, with_seconds: bool = True) -> list[PartitionLag]:
        """The lag of each group on each partition of its topics, by group, topic, partition.

        Args:
            groups: Topics by group; topics that do not exist are left out (`topics verify` tells about them).
            with_seconds: Whether first unread records are looked at; without, `seconds` is None where any are unread.

        Raises:
            Unreachable: no broker answers.
        """
        # A leader that is just being chosen is worth a moment; a broker that is away is told after `seconds`.
        patiently = Retrying(
            retry=retry_if_exception_type(KafkaFault),
            stop=stop_after_delay(self._seconds),
            wait=wait_fixed(_RETRY),
            reraise=True,
        )
        try:
            found = [
                lag
                for group, topics in sorted(groups.items())
                for lag in patiently(self._of_group, group, sorted(set(topics)))
            ]
            return self._with_ages(found) if with_seconds else found
        except KafkaFault as away:
            raise Unreachable(
                "Kafka",
                f"{self._address.brokers}: no answer ({away.code})",
                "Is a broker running there, and is KAFKA_BROKERS right?",
            ) from None

    def close(self) -> None:
        """Give the connections back."""
        for client in self._clients.values():
            guarded(client.close)
        self._clients.clear()

    def _of_group(self, group: str, topics: Sequence[str]) -> list[PartitionLag]:
        client = self._clients.get(group)
        if client is None:
            config = {**client_config(self._address), **LOOKING, "group.id": group}
            client = self._clients[group] = build(Consumer, config)
        known = {name: guarded(client.list_topics, name, self._seconds).topics[name] for name in topics}
        places = [
            TopicPartition(name, number)
            for name, topic in known.items()
            if topic.error is None
            for number in sorted(topic.partitions)
        ]
        if not places:
            return []
        found = []
        for place in guarded(client.committed, places, self._seconds):
            low, end = guarded(client.get_watermark_offsets, place, self._seconds)
            committed = place.offset if place.offset >= 0 else None
            found.append(_behind(group, place.topic, place.partition, committed, low, end))
        return found

    def _with_ages(self, found: list[PartitionLag]) -> list[PartitionLag]:
        def first_unread(each: PartitionLag) -> Place:
            return each.topic, each.partition, each.end - each.messages

        behind = [each for each in found if each.messages]
        if not behind:
            return found
        written = self._written({first_unread(each) for each in behind[:_LOOK_PARTITIONS]})
        now = time.time()
        return [
            _aged(each, written[place], now) if (place := first_unread(each)) in written else each for each in found
        ]

    def _written(self, places: set[Place]) -> dict[Place, float | None]:
        """When the record at (or after) each place was written, in seconds since 1970; those reached in time.

        None: only marks of transactions lie there, which nobody ever reads.
        """
        until = time.monotonic() + _LOOK_SECONDS
        # One record a partition is enough: small requests, and a partition is let go as soon as it has answered.
        config = {"fetch.message.max.bytes": 4096, "queued.max.messages.kbytes": 1024, "fetch.wait.max.ms": 50}
        config |= {"enable.partition.eof": True}
        consumer = build(Consumer, {**client_config(self._address), **LOOKING, **config})
        found: dict[Place, float | None] = {}
        try:
            while places and time.monotonic() < until:
                # Groups that stand at different offsets of one partition take turns.
                turn = {(topic, number): offset for topic, number, offset in sorted(places)}
                found |= _first_records(consumer, turn, until)
                places = places - {(topic, number, offset) for (topic, number), offset in turn.items()}
        finally:
            guarded(consumer.close)
        return found


def _first_records(consumer: Consumer, turn: dict[tuple[str, int], int], until: float) -> dict[Place, float | None]:
    found: dict[Place, float | None] = {}
    waiting = dict(turn)
    guarded(consumer.assign, [TopicPartition(topic, number, offset) for (topic, number), offset in turn.items()])
    while waiting and time.monotonic() < until:
        for message in guarded(consumer.consume, _MANY, _POLL):
            partition = (message.topic() or "", message.partition() or 0)
            error = message.error()
            at_end = error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001 - its public name
            if partition not in waiting or (error is not None and not at_end):
                continue
            kind, stamp = message.timestamp()
            if at_end:
                found[(*partition, waiting[partition])] = None
            elif kind != TIMESTAMP_NOT_AVAILABLE:
                found[(*partition, waiting[partition])] = stamp / 1000
            del waiting[partition]
            guarded(consumer.incremental_unassign, [TopicPartition(*partition)])
    return found


def _aged(lag: PartitionLag, written: float | None, now: float) -> PartitionLag:
    if written is None:
        return replace(lag, messages=0, seconds=0.0)
    return replace(lag, seconds=max(0.0, now - written))


def _behind(group: str, topic: str, partition: int, committed: int | None, low: int, end: int) -> PartitionLag:
    # A group that never committed, or whose topic was made anew, begins at the oldest record; one whose records were
    # deleted goes on behind them.
    start = committed if committed is not None and committed <= end else low
    messages = max(0, end - max(low, start))
    return PartitionLag(group, topic, partition, committed, end, messages, None if messages else 0.0)
