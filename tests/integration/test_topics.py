"""Declared topics, lag and a look at records, on a real broker."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.lag import Lag
from kylo_outbox.kafka.tail import tail
from kylo_outbox.kafka.topics import BATCH_OVERHEAD, Topics
from kylo_outbox.model.errors import NotReady, Unreachable
from kylo_outbox.model.topics import Topic, declared
from tests.helpers.broker import make_topic


@pytest.fixture
def topics(address):
    """The admin door."""
    return Topics(address)


@pytest.fixture
def topic():
    """A declaration of this test alone."""
    return Topic(f"t-{uuid.uuid4().hex[:10]}", partitions=3, retention_ms=3_600_000)


def produce(bootstrap: str, name: str, count: int, partition: int = 0, **message: Any) -> None:
    """Write records and wait for the acknowledgements."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in range(count):
        producer.produce(name, f"v{number}", "k", partition, **message)
    assert producer.flush(20) == 0


def commit(bootstrap: str, group: str, name: str, offset: int, partition: int = 0) -> None:
    """What a consumer of that group would have committed."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(name, partition, offset)], asynchronous=False)
    consumer.close()


def test_apply_makes_what_is_declared(topics):
    """From nothing to no drift in one call; the second finds nothing to do."""
    prefix = uuid.uuid4().hex[:8]
    wanted = declared(f"{prefix}.txns", f"{prefix}.promote")
    assert {drift.what for drift in topics.verify(wanted) if drift.topic.startswith(prefix)} == {"topic"}
    done = topics.apply(wanted)
    assert {change.topic for change in done} >= {f"{prefix}.txns", f"{prefix}.promote.dlq"}
    assert topics.verify(wanted) == []
    assert topics.apply(wanted) == []
    state = topics.describe([f"{prefix}.txns"])[f"{prefix}.txns"]
    assert (state.partitions, state.retention_ms, state.cleanup_policy) == (16, 7 * 86_400_000, "delete")
    assert state.max_message_bytes == 1_000_000 + BATCH_OVERHEAD


def test_apply_corrects_retention_and_limit(topics, topic):
    """What can be corrected is; a shorter retention is marked as losing records."""
    topics.apply([topic])
    longer = replace(topic, retention_ms=7_200_000, max_bytes=2_000_000)
    assert {(drift.what, drift.expected) for drift in topics.verify([longer])} == {
        ("retention", "7200000 ms"),
        ("size limit", str(2_000_000 + BATCH_OVERHEAD)),
    }
    assert [change.loses for change in topics.apply([longer])] == [False, False]
    assert topics.verify([longer]) == []
    # A limit that is larger than declared hurts nobody and stays.
    assert [(change.what, change.loses) for change in topics.plan([topic])] == [("retention", True)]


def test_partition_counts_are_never_changed(topics, topic):
    """A wrong count is an error with a remedy, before and after `apply`."""
    topics.apply([topic])
    more = replace(topic, partitions=6)
    for _ in range(2):
        [drift] = topics.verify([more])
        assert (drift.what, drift.expected, drift.found) == ("partitions", "6", "3")
        assert "order" in drift.remedy
        assert topics.apply([more]) == []
    assert topics.describe([topic.name])[topic.name].partitions == 3


def test_drift_that_only_people_can_mend(kafka_server, topics, topic):
    """Compaction and too few copies are told and left alone; retention by size is corrected."""
    make_topic(
        kafka_server.bootstrap, topic.name, 3, config={"cleanup.policy": "compact", "retention.bytes": "1000000"}
    )
    found = {drift.what for drift in topics.verify([topic], replication=2)}
    assert found == {"cleanup policy", "replication", "retention"}
    topics.apply([topic], replication=2)
    assert {drift.what for drift in topics.verify([topic], replication=2)} == {"cleanup policy", "replication"}
    assert topics.describe([topic.name])[topic.name].retention_bytes == -1


def test_internal_topics_are_not_listed(kafka_server, topics, topic):
    """Kafka's own topics are nobody's drift."""
    topics.apply([topic])
    commit(kafka_server.bootstrap, topic.name, topic.name, 0)
    listed = topics.describe()
    assert topic.name in listed
    assert not any(name.startswith("__") for name in listed)


def test_watermarks(kafka_server, topics, topic):
    """Oldest and next offset of each partition; a topic that is not there is told."""
    topics.apply([topic])
    produce(kafka_server.bootstrap, topic.name, 5, partition=1)
    assert topics.watermarks(topic.name) == {0: (0, 0), 1: (0, 5), 2: (0, 0)}
    with pytest.raises(NotReady, match="topics ls"):
        topics.watermarks("never-made")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"brokers": "127.0.0.1:1"}, "KAFKA_BROKERS"),
        ({"brokers": "no.such.host.invalid:9092"}, "KAFKA_BROKERS"),
        (
            {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                "sasl_username": "u",
                "sasl_password": "hunter2",
            },
            "KAFKA_SECURITY_PROTOCOL",
        ),
    ],
)
def test_broker_that_does_not_answer(kafka_server, changes, remedy):
    """Told in some seconds, with the address and what to look at, never with a password."""
    began = time.monotonic()
    with pytest.raises(Unreachable, match=remedy) as told:
        Topics(KafkaAddress(**{"brokers": kafka_server.bootstrap} | changes), seconds=2.0).describe()
    assert time.monotonic() - began < 6
    assert "hunter2" not in str(told.value)


def test_lag_in_messages_and_seconds(kafka_server, address, topics, topic):
    """Counted from the committed offset; the age is that of the first unread record."""
    topics.apply([topic])
    old = int((time.time() - 100) * 1000)
    older = int((time.time() - 1000) * 1000)
    produce(kafka_server.bootstrap, topic.name, 2, timestamp=older)
    produce(kafka_server.bootstrap, topic.name, 3, timestamp=old)
    group = f"g-{topic.name}"
    commit(kafka_server.bootstrap, group, topic.name, 2)
    first, second, third = Lag(address).of({group: [topic.name, "never-made"]})
    assert (first.committed, first.end, first.messages) == (2, 5, 3)
    assert first.seconds == pytest.approx(100, abs=20)
    assert (second.committed, second.messages, second.seconds) == (None, 0, 0.0)
    assert third.messages == 0


def test_lag_of_a_group_that_never_came(kafka_server, address, topics, topic):
    """Everything is unread, because our groups begin at the oldest record."""
    topics.apply([topic])
    produce(kafka_server.bootstrap, topic.name, 4)
    [first, *_] = Lag(address).of({f"never-{topic.name}": [topic.name]})
    assert (first.committed, first.messages) == (None, 4)
    assert first.seconds is not None


def test_lag_of_several_groups_on_one_partition(kafka_server, address, topics, topic):
    """Each group gets the age of its own first unread record."""
    topics.apply([topic])
    for age in (1000, 100):
        produce(kafka_server.bootstrap, topic.name, 1, timestamp=int((time.time() - age) * 1000))
    commit(kafka_server.bootstrap, f"ahead-{topic.name}", topic.name, 1)
    found = Lag(address).of({f"ahead-{topic.name}": [topic.name], f"behind-{topic.name}": [topic.name]})
    ages = {each.group.split("-")[0]: each.seconds for each in found if each.partition == 0}
    assert ages["ahead"] == pytest.approx(100, abs=20)
    assert ages["behind"] == pytest.approx(1000, abs=20)


def test_lag_without_a_look_at_records(kafka_server, address, topics, topic):
    """Where the age is not asked for it is unknown, not zero."""
    topics.apply([topic])
    produce(kafka_server.bootstrap, topic.name, 1)
    [first, *_] = Lag(address).of({f"g-{topic.name}": [topic.name]}, with_seconds=False)
    assert (first.messages, first.seconds) == (1, None)


def test_a_look_at_records(kafka_server, address, topics, topic):
    """The newest by time, everything from the beginning, or so many; bytes, keys and headers as they lie there."""
    topics.apply([topic])
    assert list(tail(address, topic.name)) == []
    produce(kafka_server.bootstrap, topic.name, 6, partition=1, headers={"a": b"\xff"})
    produce(kafka_server.bootstrap, topic.name, 6, partition=2, timestamp=int((time.time() + 60) * 1000))
    assert [(r.partition, r.value) for r in tail(address, topic.name, max_n=2)] == [(2, b"v4"), (2, b"v5")]
    assert len(list(tail(address, topic.name, from_beginning=True, max_n=None))) == 12
    assert len(list(tail(address, topic.name, from_beginning=True, max_n=5))) == 5
    [record] = [
        r for r in tail(address, topic.name, from_beginning=True, max_n=None) if (r.partition, r.offset) == (1, 3)
    ]
    assert (record.key, record.value, record.headers) == (b"k", b"v3", (("a", b"\xff"),))
    assert record.as_json()["headers"] == {"a": "\ufffd"}


def test_following_shows_what_comes_later(kafka_server, address, topics, topic):
    """A record written after the look began appears, and the reader leaves when told to."""
    topics.apply([topic])
    produce(kafka_server.bootstrap, topic.name, 1)
    seen: list[bytes | None] = []
    records = tail(address, topic.name, follow=True, stopped=lambda: len(seen) >= 3)
    for record in records:
        seen.append(record.value)
        if len(seen) == 1:
            produce(kafka_server.bootstrap, topic.name, 2)
    assert seen == [b"v0", b"v0", b"v1"]
