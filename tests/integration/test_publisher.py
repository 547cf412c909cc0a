"""The publisher alone on a real broker: where records go, what a ticket knows, what a refusal for size looks like."""

from __future__ import annotations

import random
import time

import pytest

from kylo_outbox.kafka.client import KafkaAddress, KafkaFault
from kylo_outbox.kafka.partitions import _Seen
from kylo_outbox.kafka.producer import NoBroker, Publisher
from tests.helpers.broker import make_topic, outbox_rows, read_all


@pytest.fixture
def publisher(address):
    """A publisher of this test alone."""
    made = Publisher(address, "test")
    yield made
    made.close()


@pytest.mark.parametrize("partitions", [1, 7, 12])
def test_partition_of_is_where_the_record_lands(kafka_server, publisher, partitions):
    """Keys of all lengths, empty and not UTF-8 included: the broker has them where `partition_of` says."""
    topic = make_topic(kafka_server.bootstrap, partitions=partitions)
    assert publisher.partition_of(topic, b"k") is None
    assert publisher.exists(topic)
    chance = random.Random(partitions)
    keys = [b"", b"\xff\x80", *(b"%d" % n for n in range(100)), *(chance.randbytes(n) for n in range(1, 60))]
    # The key travels as the payload, too: the reader shows keys as text.
    for number, key in enumerate(keys, 1):
        publisher.send(outbox_rows(topic, [key], payload=key.hex().encode(), start=number))
    assert publisher.drain(30) == 0
    found = {record.value.decode(): record.partition for record in read_all(kafka_server.bootstrap, topic)}
    assert found == {key.hex(): publisher.partition_of(topic, key) for key in keys}


def test_a_tracked_ticket_knows_its_rows_and_a_plain_one_says_that_it_does_not(kafka_server, publisher):
    """Ids leave `missing` with their acknowledgements."""
    topic = make_topic(kafka_server.bootstrap)
    assert publisher.exists(topic)
    ticket = publisher.send(outbox_rows(topic, [b"a", b"b", b"c"]), tracked=True)
    assert ticket.missing() == {1, 2, 3}
    publisher.drain(30)
    assert (ticket.done, ticket.missing()) == (True, set())
    with pytest.raises(ValueError, match="tracked=True"):
        publisher.send(outbox_rows(topic, [b"a"])).missing()


def test_a_tracked_ticket_names_what_a_refusal_left_over(kafka_server, publisher):
    """Acknowledged rows before the refused one are not missing; the refused one and those behind it are."""
    topic = make_topic(kafka_server.bootstrap, partitions=1, config={"max.message.bytes": "20000"})
    assert publisher.exists(topic)
    good = publisher.send(outbox_rows(topic, [b"a", b"b"]), tracked=True)
    publisher.drain(30)
    large = publisher.send(outbox_rows(topic, [b"a"], payload=b"x" * 30_000, start=3), tracked=True)
    publisher.drain(30)
    assert good.missing() == set()
    assert large.missing() == {3}
    assert large.refused_for_size(publisher.fatal)
    assert large.refuses_record(publisher.fatal)


@pytest.mark.parametrize("gapless", [True, False])
def test_nothing_behind_a_refused_record_reaches_the_log(kafka_server, address, monkeypatch, gapless):
    """Batches behind the one with the refused record are on their way too; only a gapless client stops them."""
    monkeypatch.setattr(Publisher, "_guarantee", lambda _: {"enable.gapless.guarantee": gapless})
    topic = make_topic(kafka_server.bootstrap, partitions=1, config={"max.message.bytes": "400000"})
    publisher = Publisher(address, "test")
    assert publisher.exists(topic)
    before = outbox_rows(topic, [b"k"])
    refused = outbox_rows(topic, [b"k"], payload=b"x" * 600_000, start=2)
    behind = outbox_rows(topic, [b"k"] * 40, payload=b"x" * 90_000, start=3)
    publisher.send([*before, *refused, *behind])
    until = time.monotonic() + 20
    while publisher.drain(0.2) and publisher.fatal is None and time.monotonic() < until:
        pass
    publisher.close()
    reached = {record.outbox_id for record in read_all(kafka_server.bootstrap, topic)}
    assert (reached - {1} == set()) is gapless, reached


def test_smaller_batches_let_innocent_records_pass(kafka_server, address):
    """2,000 small rows in a batch above the topic's limit are refused together; smaller batches pass as they are."""
    topic = make_topic(kafka_server.bootstrap, partitions=1, config={"max.message.bytes": "60000"})
    publisher = Publisher(address, "test", batch_bytes=400_000)
    batch = outbox_rows(topic, [b"k"] * 2000, payload=b"x" * 100)
    rebuilds = 0
    while True:
        ticket = publisher.send(batch)
        publisher.drain(30)
        if ticket.done:
            break
        assert ticket.refused_for_size(publisher.fatal), ticket.reason
        publisher.rebuild(smaller=True)
        rebuilds += 1
        assert rebuilds < 6
    assert rebuilds >= 1
    assert {record.outbox_id for record in read_all(kafka_server.bootstrap, topic)} == set(range(1, 2001))
    for _ in range(10):
        publisher.rebuild(smaller=True)
    assert publisher._config["batch.size"] == 16_384
    publisher.close()


def test_an_unknown_topic_has_no_partitions(publisher):
    """Nothing is guessed about a topic that the broker does not have."""
    assert not publisher.exists("never-made")
    assert publisher.partition_of("never-made", b"k") is None
    assert publisher.leaderless("never-made") == frozenset()


def test_every_partition_of_a_healthy_topic_has_a_leader(kafka_server, publisher):
    """Asking again within the second costs no request."""
    topic = make_topic(kafka_server.bootstrap)
    assert publisher.exists(topic)
    asked = []
    ask = publisher._partitions._ask
    publisher._partitions._ask = lambda *args: (asked.append(args), ask(*args))[1]
    assert [publisher.leaderless(topic) for _ in range(100)] == [frozenset()] * 100
    assert len(asked) <= 2


def test_without_an_answer_leaders_are_as_they_were_and_one_wait_serves_all_topics():
    """Nobody listens: a topic never seen is an outage, known ones stay as they are, at one wait a second for all."""
    publisher = Publisher(KafkaAddress("127.0.0.1:1"), "test")
    with pytest.raises(KafkaFault):
        publisher.exists("t")
    known = publisher._partitions
    for name in ("a", "b", "c"):
        known._seen[name] = _Seen(at=time.monotonic(), count=4, leaderless=frozenset({2}))
    asked = []
    ask = known._ask
    known._ask = lambda *args: (asked.append(args), ask(*args))[1]
    assert [publisher.leaderless(name) for name in "abc"] == [frozenset({2})] * 3
    assert len(asked) == 1
    assert publisher.exists("a")
    publisher.close()


def test_no_broker_answers_like_a_publisher():
    """The relay need not ask which of the two it has."""
    nobody = NoBroker()
    assert nobody.partition_of("t", b"k") is None
    assert nobody.leaderless("t") == frozenset()
    assert nobody.send([], tracked=True).missing() == set()
    nobody.rebuild(smaller=True)


def test_a_partition_without_a_leader_is_told_and_the_others_go_on(two_brokers):
    """Broker 2 is killed: its partitions are named, records of the others are acknowledged, and it heals by itself."""
    topic = two_brokers.make_topic([1, 2, 1, 2])
    publisher = Publisher(KafkaAddress(two_brokers.bootstrap), "test")
    wait(lambda: publisher.exists(topic) and not publisher.leaderless(topic))
    keys = {publisher.partition_of(topic, b"%d" % number): b"%d" % number for number in range(100)}
    assert keys.keys() == {0, 1, 2, 3}
    batches = [outbox_rows(topic, [keys[number]], start=number + 1) for number in range(4)]

    two_brokers.second.kill()
    wait(lambda: publisher.leaderless(topic) == {1, 3})
    sent = [publisher.send(batch) for batch in batches]
    wait(lambda: (publisher.poll(0.1), sent[0].done and sent[2].done)[1])
    assert not sent[1].done
    assert not sent[3].done
    assert publisher.fatal is None

    two_brokers.second.start()
    wait(lambda: not publisher.leaderless(topic))
    wait(lambda: (publisher.poll(0.1), all(ticket.done for ticket in sent))[1])
    publisher.close()


def wait(holds, seconds=120.0):
    """Look again and again until it holds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to hold"
        time.sleep(0.05)
