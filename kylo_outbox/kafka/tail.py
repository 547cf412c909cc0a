"""A look at the records of a topic, for people: no group, no commit, nothing of the pipeline is touched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, Message, TopicPartition

from kylo_outbox.kafka.client import build, client_config, guarded, raise_for
from kylo_outbox.kafka.stretches import read_between
from kylo_outbox.kafka.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kylo_outbox.kafka.client import KafkaAddress

_POLL: Final = 0.2
_SILENCE: Final = 10.0
_MANY: Final = 500
# What a consumer that only looks has in common with others that do: no group is joined, nothing is stored.
LOOKING: Final[dict[str, Any]] = {
    "group.id": "kylo-outbox-look",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "fetch.queue.backoff.ms": 10,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies on the broker; `at` is its own time stamp, None if it has none."""

    topic: str
    partition: int
    offset: int
    at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def as_json(self) -> dict[str, Any]:
        """The shape of `topics read --json`; bytes that are no UTF-8 are shown with replacement characters."""
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "at": self.at.isoformat() if self.at else None,
            "key": _text(self.key),
            "value": _text(self.value),
            "headers": {name: _text(value) for name, value in self.headers},
        }


def tail(
    address: KafkaAddress,
    topic: str,
    *,
    from_beginning: bool = False,
    max_n: int | None = 10,
    follow: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Read records of a topic.

    Args:
        address: Where the brokers are.
        topic: Its name.
        from_beginning: From the oldest record on, partition by partition as they arrive; else the newest ones by time.
        max_n: At most so many; None reads what is there now (with `from_beginning`), or nothing old (with `follow`).
        follow: Go on with what is written later, until `stopped` says so or `max_n` are shown.
        stopped: Asked at least every 0.2 s.

    Raises:
        NotReady: there is no such topic.
        Unreachable: no broker answers.
    """
    marks = Topics(address).watermarks(topic)
    consumer = build(Consumer, {**client_config(address), **LOOKING})
    try:
        yield from _read(consumer, topic, marks, from_beginning, max_n, follow, stopped)
    finally:
        guarded(consumer.close)


def _read(
    consumer: Consumer,
    topic: str,
    marks: dict[int, tuple[int, int]],
    from_beginning: bool,
    max_n: int | None,
    follow: bool,
    stopped: Callable[[], bool],
) -> Iterator[Record]:
    shown = 0
    if from_beginning:
        for record in _between(consumer, topic, marks, stopped):
            yield record
            shown += 1
            if shown == max_n:
                return
    elif max_n:
        starts = {number: (max(low, high - max_n), high) for number, (low, high) in marks.items()}
        newest = sorted(_between(consumer, topic, starts, stopped), key=_when)[-max_n:]
        yield from newest
        shown = len(newest) if not follow else 0
    if follow:
        for record in _after(consumer, topic, {number: high for number, (_, high) in marks.items()}, stopped):
            yield record
            shown += 1
            if from_beginning and shown == max_n:
                return


def _between(
    consumer: Consumer, topic: str, bounds: dict[int, tuple[int, int]], stopped: Callable[[], bool]
) -> Iterator[Record]:
    """Records of each partition from the first offset up to (without) the second."""
    stretches = {(topic, number): bound for number, bound in bounds.items()}
    for messages in read_between(consumer, stretches, many=_MANY, patience=_SILENCE):
        yield from map(_record, messages)
        if stopped():
            return


def _after(consumer: Consumer, topic: str, starts: dict[int, int], stopped: Callable[[], bool]) -> Iterator[Record]:
    guarded(consumer.assign, [TopicPartition(topic, number, offset) for number, offset in starts.items()])
    while not stopped():
        for message in guarded(consumer.consume, _MANY, _POLL):
            yield _record(message)


def _record(message: Message) -> Record:
    error = message.error()
    if error is not None:
        raise_for(error, message.topic() or "Kafka")
    kind, stamp = message.timestamp()
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        at=None if kind == TIMESTAMP_NOT_AVAILABLE else datetime.fromtimestamp(stamp / 1000, UTC),
        key=message.key(),
        value=message.value(),
        headers=tuple((name, _bytes(value)) for name, value in _pairs(message.headers())),
    )


def _pairs(headers: Any) -> list[tuple[str, Any]]:
    return list(headers.items() if isinstance(headers, dict) else headers or [])


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value or b"")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _when(record: Record) -> tuple[datetime, int, int]:
    return (record.at or datetime.min.replace(tzinfo=UTC), record.partition, record.offset)
