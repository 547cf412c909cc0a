"""What a group has not read yet, looked at beside it: no group is joined, no offset is stored.

Each step takes a second at most, so that the caller can look after a lease or a membership in between.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, TopicPartition, murmur2

from kylo_outbox.kafka.client import KafkaFatal, KafkaFault, build, client_config, guarded, raise_for
from kylo_outbox.kafka.consumer import as_delivery
from kylo_outbox.kafka.stretches import read_between
from kylo_outbox.kafka.tail import LOOKING
from kylo_outbox.model.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from kylo_outbox.kafka.client import KafkaAddress
    from kylo_outbox.model.appearances import Place
    from kylo_outbox.model.delivery import Delivery

T = TypeVar("T")

_ANSWER: Final = 0.5
_PATIENCE: Final = 10.0
_MANY: Final = 1000


def unread(
    address: KafkaAddress, group: str, topic: str, keys: Collection[str], before: int | None = None
) -> Iterator[list[Delivery]]:
    """Records of some keys from the group's offsets up to the end that the log has by now, each key in its order.

    Args:
        address: Where the brokers are.
        group: Whose offsets; where it has none, from the oldest record.
        topic: What to read; one that does not exist has nothing.
        keys: Which records.
        before: How many partitions the topic had for the group. If it has more by now, what lies in a key's old
            partition comes first. If it was grown more than once since, the order of the newer ones is not promised.

    Yields:
        Batches; empty ones while nothing comes.

    Raises:
        Transient: no answer, or no record, for ten seconds.
    """
    config = {**client_config(address), **LOOKING, "isolation.level": "read_committed", "group.id": group}
    consumer = build(Consumer, config)
    try:
        stretches = yield from _stretches(consumer, topic)
        wanted = {key.encode() for key in keys}
        for is_turn_of in _rounds(len(stretches), before):
            for messages in read_between(consumer, stretches, many=_MANY, patience=_PATIENCE):
                yield [
                    as_delivery(message)
                    for message in messages
                    if message.key() in wanted and is_turn_of(message.key(), message.partition())
                ]
    except KafkaFatal as broken:
        raise Transient(str(broken)) from broken
    finally:
        guarded(consumer.close)


def _rounds(count: int, before: int | None) -> list[Callable[[bytes, int], bool]]:
    if before is None or before >= count:
        return [lambda _key, _number: True]
    return [
        lambda key, number: murmur2(key, before) == number,
        lambda key, number: murmur2(key, before) != number,
    ]


def _stretches(consumer: Consumer, topic: str) -> Generator[list[Delivery], None, dict[Place, tuple[int, int]]]:
    """(first unread offset, next one to be written) of each partition."""
    places = yield from _asked(partial(_places, consumer, topic))
    found: dict[Place, tuple[int, int]] = {}
    for place in (yield from _asked(partial(guarded, consumer.committed, places, _ANSWER))) if places else []:
        low, end = yield from _asked(partial(guarded, consumer.get_watermark_offsets, place, _ANSWER))
        # As the group itself would begin: an offset beyond the end is of another life of the topic.
        found[place.topic, place.partition] = (low if place.offset > end else max(low, place.offset)), end
    return found


def _places(consumer: Consumer, topic: str) -> list[TopicPartition]:
    known = guarded(consumer.list_topics, topic, _ANSWER).topics[topic]
    if known.error is None:
        return [TopicPartition(topic, number) for number in sorted(known.partitions)]
    if known.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise_for(known.error, topic)
    return []


def _asked(ask: Callable[[], T]) -> Generator[list[Delivery], None, T]:
    """The answer; an empty batch behind it, and for each time that none came."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            answer = ask()
        except KafkaFault:
            if time.monotonic() > until:
                raise
            yield []
        else:
            yield []
            return answer
