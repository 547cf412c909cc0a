"""What the broker says of topics and their partitions, remembered for a while so that a relay may ask at every turn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import murmur2

from kylo_outbox.kafka.client import KafkaFault, guarded

if TYPE_CHECKING:
    from confluent_kafka import Producer

_REFRESH = 60.0
# Less than a lease: a relay that waits longer would lose its lane.
_PATIENCE = 0.8
# A look for leaders stands in the way of the partitions that have one: it gives up early and keeps what it knew.
_LOOK_EVERY = 1.0
_LOOK_PATIENCE = 0.3


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    count: int
    leaderless: frozenset[int]


class Partitions:
    """Topics as one client sees them; it lives as long as the client. Not safe to share between threads."""

    def __init__(self, client: Producer) -> None:
        self._client = client
        self._seen: dict[str, _Seen] = {}
        self._looked: dict[str, float] = {}

    def exists(self, topic: str) -> bool:
        """Whether the broker knows the topic (asked again after a minute; a missing one is asked for each time).

        Raises:
            KafkaFault: while no broker answers and the topic was never seen.
        """
        seen = self._seen.get(topic)
        if seen is not None and time.monotonic() - seen.at < _REFRESH:
            return True
        try:
            return self._ask(topic, _PATIENCE)
        except KafkaFault:
            if seen is not None:
                return True  # it was there before the outage; what is sent waits in order
            raise

    def answers(self) -> bool:
        """Whether a broker answers a question about any topic, real or not, within 0.3 s."""
        try:
            guarded(self._client.list_topics, next(iter(self._seen), "__consumer_offsets"), _LOOK_PATIENCE)
        except KafkaFault:
            return False
        return True

    def partition_of(self, topic: str, key: bytes) -> int | None:
        """The partition that the client chooses for a key (`partitioner=murmur2_random`); None for a topic not seen.

        The count of partitions may be a minute old where somebody has just added some.
        """
        seen = self._seen.get(topic)
        return None if seen is None else murmur2(key, seen.count)

    def leaderless(self, topic: str) -> frozenset[int]:
        """Partitions without a leader, as known; asked of the broker at most once a second, for 0.3 s at most.

        A broker that has just died is the leader of its partitions until the cluster notices (its session time).
        Empty for a topic not seen; while no broker answers, what was known last.
        """
        now = time.monotonic()
        if topic in self._seen and now - self._looked.get(topic, -_LOOK_EVERY) >= _LOOK_EVERY:
            self._looked[topic] = now
            try:
                self._ask(topic, _LOOK_PATIENCE)
            except KafkaFault:
                # Nobody answers: one wait a second is enough, whatever the number of topics.
                self._looked = dict.fromkeys(self._seen, time.monotonic())
        seen = self._seen.get(topic)
        return frozenset() if seen is None else seen.leaderless

    def _ask(self, topic: str, seconds: float) -> bool:
        found = guarded(self._client.list_topics, topic, seconds).topics[topic]
        if found.error is not None or not found.partitions:
            self._seen.pop(topic, None)
            return False
        nobody = frozenset(number for number, each in found.partitions.items() if each.leader < 0)
        self._seen[topic] = _Seen(time.monotonic(), len(found.partitions), nobody)
        return True
