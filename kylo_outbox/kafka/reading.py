"""Reading stretches of the log with a plain consumer: no group is joined, nothing is stored at the broker.

The admin client is left out on purpose (see `kafka/lag.py`): this runs inside the relay.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import OFFSET_END, TIMESTAMP_NOT_AVAILABLE, Consumer, TopicPartition, murmur2

from kylo_outbox.kafka.client import build, client_config, guarded
from kylo_outbox.kafka.stretches import read_between
from kylo_outbox.kafka.tail import LOOKING
from kylo_outbox.model.appearances import LONG_AGO, LogRecord, Place
from kylo_outbox.model.events import HEADER, origin_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from kylo_outbox.kafka.client import KafkaAddress

_ANSWER: Final = 10.0
_SILENCE: Final = 20.0
_MANY: Final = 5000
_MILLISECONDS: Final = 1000


class LogReader:
    """One client; `close` it. Not safe to share between threads."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        config = {**client_config(address), **LOOKING, "isolation.level": "read_committed"}
        self._consumer = build(Consumer, {**config, "group.id": "kylo-outbox-verify"})
        self._counts: dict[str, int] = {}

    def bounds(self, topics: Collection[str]) -> dict[Place, tuple[int, int]]:
        """(oldest offset, next one to be written) of each partition; topics that do not exist are left out.

        Raises:
            KafkaFault: no broker answers, or a partition has no leader.
        """
        found: dict[Place, tuple[int, int]] = {}
        for name in sorted(topics):
            topic = guarded(self._consumer.list_topics, name, _ANSWER).topics[name]
            if topic.error is not None:
                continue
            self._counts[name] = len(topic.partitions)
            for number in topic.partitions:
                found[name, number] = guarded(
                    self._consumer.get_watermark_offsets, TopicPartition(name, number), _ANSWER
                )
        return found

    def partition_of(self, topic: str, key: str) -> int | None:
        """Where the relay's client puts a key; None for a topic that `bounds` has not met."""
        count = self._counts.get(topic)
        return None if count is None else murmur2(key.encode(), count)

    def since(self, places: Collection[Place], when: datetime) -> dict[Place, int]:
        """The first offset that was written at `when` or later; the end where there is none."""
        asked = [TopicPartition(*place, int(when.timestamp() * _MILLISECONDS)) for place in sorted(places)]
        if not asked:
            return {}
        answer = guarded(self._consumer.offsets_for_times, asked, _ANSWER)
        return {
            (each.topic, each.partition): each.offset
            for each in answer
            if each.offset >= 0 and each.offset != OFFSET_END
        }

    def read(
        self, stretches: Mapping[Place, tuple[int, int]]
    ) -> Iterator[list[tuple[Place, LogRecord | None, datetime]]]:
        """Read each partition from the first offset up to (without) the second.

        Yields:
            Batches of (place, the record if it is one of ours, its time stamp), each partition in its order.

        Raises:
            Unreachable: nothing came for 20 s.
        """
        for messages in read_between(self._consumer, stretches, many=_MANY, patience=_SILENCE):
            batch = []
            for message in messages:
                at = _at(*message.timestamp())
                batch.append(((message.topic(), message.partition()), _ours(message, at), at))
            if batch:
                yield batch

    def close(self) -> None:
        """Give the connections back."""
        guarded(self._consumer.close)


def _ours(message: Any, at: datetime) -> LogRecord | None:
    headers = message.headers() or ()
    value = next((value for name, value in headers if name == HEADER and value is not None), None)
    origin = origin_of(value) if value is not None else None
    key = (message.key() or b"").decode("utf-8", "backslashreplace")
    if origin is None or "\x00" in key:
        return None
    return LogRecord(
        origin.store_id,
        message.topic(),
        key,
        message.partition(),
        message.offset(),
        at,
        origin.generation,
        origin.outbox_id,
        origin.event_id,
    )


def _at(kind: int, milliseconds: int) -> datetime:
    # A producer may write any number as the time of its record.
    try:
        return LONG_AGO if kind == TIMESTAMP_NOT_AVAILABLE else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return LONG_AGO
