"""Reading each partition from one offset up to another, with a plain consumer that has joined no group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import TopicPartition

from kylo_outbox.kafka.client import guarded, raise_for
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from confluent_kafka import Consumer

    from kylo_outbox.model.appearances import Place

_POLL: Final = 0.2


def read_between(
    consumer: Consumer, stretches: Mapping[Place, tuple[int, int]], *, many: int, patience: float
) -> Iterator[list[Any]]:
    """Messages of each partition from the first offset up to (without) the second, each partition in its order.

    Args:
        consumer: Is assigned these partitions, and none when all has been read.
        stretches: By (topic, partition).
        many: Messages of one batch, and one more.
        patience: Seconds without any message after which it is given up.

    Yields:
        Batches; an empty one after 0.2 seconds in which nothing came.

    Raises:
        Unreachable: nothing came for so long.
        KafkaFault: an error of the broker came in place of a record.
    """
    ends = {place: end for place, (start, end) in stretches.items() if start < end}
    if not ends:
        return
    guarded(consumer.assign, [TopicPartition(*place, stretches[place][0]) for place in ends])
    heard = time.monotonic()
    while ends:
        first = guarded(consumer.poll, _POLL)
        messages = [] if first is None else [first, *guarded(consumer.consume, many, 0)]
        for message in messages:
            if (error := message.error()) is not None:
                raise_for(error, message.topic() or "Kafka")
        if messages:
            heard = time.monotonic()
        yield [
            each for each in messages if (each.offset() or 0) < ends.get((each.topic() or "", each.partition() or 0), 0)
        ]
        # What was aborted and marks of transactions have offsets, too: the position tells how far we are.
        for each in guarded(consumer.position, [TopicPartition(*place) for place in ends]):
            if each.offset >= ends[each.topic, each.partition]:
                del ends[each.topic, each.partition]
        if time.monotonic() - heard > patience:
            raise Unreachable("Kafka", f"no record for {patience:.0f} s", "Do all partitions have leaders?")
    guarded(consumer.unassign)
