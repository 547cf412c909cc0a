"""An independent look at the broker: nothing here is shared with the product."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.store.outbox import Row


@dataclass(frozen=True)
class Seen:
    """One record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    kylo: str
    headers: dict[str, bytes]
    # When it was made or, in a topic that says so, appended: seconds since 1970.
    at: float

    @property
    def outbox_id(self) -> int:
        """The row it came from."""
        return int(self.kylo.split(";")[3])

    @property
    def event_id(self) -> str:
        """Stable over repeats."""
        return self.kylo.split(";")[4]


def make_topic(bootstrap: str, name: str = "", partitions: int = 4, config: dict[str, str] | None = None) -> str:
    """Create a topic and wait until it is there; its name."""
    name = name or f"t-{uuid.uuid4().hex[:10]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    [future] = admin.create_topics([NewTopic(name, partitions, 1, config=config or {})]).values()
    future.result(60)
    # The controller knows it first; the brokers that clients ask learn of it a moment later.
    until = time.monotonic() + 60
    while (found := admin.list_topics(name, 20).topics[name]).error or len(found.partitions) < partitions:
        assert time.monotonic() < until, found.error
        time.sleep(0.01)
    return name


def delete_topic(bootstrap: str, name: str) -> None:
    """Delete a topic and wait until it is gone."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    [future] = admin.delete_topics([name]).values()
    future.result(60)


def read_all(bootstrap: str, *topics: str) -> list[Seen]:
    """Every committed record of topics as they are now, topic by topic and partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"look-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            # Nobody is waited for: what is not there at the end is not read.
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        places = [
            (topic, number) for topic in topics for number in consumer.list_topics(topic, 20).topics[topic].partitions
        ]
        consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])
        found: dict[tuple[str, int], list[Seen]] = {place: [] for place in places}
        unread = set(places)
        while unread:
            message = consumer.poll(20)
            assert message is not None, f"{unread} are silent after {sum(map(len, found.values()))} records"
            error, place = message.error(), (message.topic(), message.partition() or 0)
            if error is None:
                # What arrives behind the end that was told is younger than the look.
                if place in unread:
                    found[place].append(_seen(message))
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                unread.discard(place)
        return [record for records in found.values() for record in records]
    finally:
        consumer.close()


def outbox_rows(topic: str, keys: Sequence[bytes], payload: bytes = b"{}", start: int = 1) -> list[Row]:
    """Rows as the store reads them, one for each key, with ids from `start` on."""
    return [
        (number, topic, key, "T", payload, None, str(uuid.UUID(int=number)), 0.0, 1)
        for number, key in enumerate(keys, start)
    ]


def first_appearances(records: list[Seen]) -> list[Seen]:
    """The log without repeats."""
    seen: set[str] = set()
    return [record for record in records if not (record.event_id in seen or seen.add(record.event_id))]


def inversions(records: list[Seen]) -> int:
    """How many first appearances of a key come after a later one of the same key."""
    newest: dict[str, int] = {}
    count = 0
    for record in first_appearances(records):
        count += record.outbox_id < newest.get(record.key, 0)
        newest[record.key] = max(newest.get(record.key, 0), record.outbox_id)
    return count


def _seen(message) -> Seen:
    headers = dict(message.headers() or [])
    return Seen(
        message.topic(),
        message.partition(),
        message.offset(),
        (message.key() or b"").decode(errors="replace"),
        message.value() or b"",
        headers.get("kylo", b"").decode(),
        headers,
        message.timestamp()[1] / 1000,
    )
