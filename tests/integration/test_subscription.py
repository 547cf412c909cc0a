"""Members of a consumer group that pause while they wait, and what a rebalance makes of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from kylo_outbox.kafka import consumer
from kylo_outbox.kafka.client import KafkaFault, guarded
from kylo_outbox.kafka.consumer import Subscription
from tests.helpers.broker import make_topic

if TYPE_CHECKING:
    from kylo_outbox.model.delivery import Delivery

# Of two members that share them, both lose some to a third.
PARTITIONS = 6


@pytest.fixture
def topic(kafka_server):
    """An empty topic."""
    return make_topic(kafka_server.bootstrap, partitions=PARTITIONS)


@pytest.fixture
def join(address, topic):
    """Members of one group; whoever is left leaves in the end."""
    group, members = f"g-{uuid4().hex[:8]}", []

    def member(named=group):
        made = Subscription(address, named, [topic])
        members.append(made)
        return made

    yield member
    for made in members:
        made.close()


def write(kafka_server, topic):
    """One record on each partition."""
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    for partition in range(PARTITIONS):
        producer.produce(topic, b"{}", b"k", partition=partition)
    assert producer.flush(20) == 0


def until(holds, *members, seconds=60):
    """Serve the members until something holds; the partitions of what they got."""
    taken: list[int | None] = []
    end = time.monotonic() + seconds
    while not holds(taken):
        assert time.monotonic() < end, taken
        for member in members:
            taken += [delivery.partition for delivery in member.take(100, 0.05)]
    return taken


def test_a_partition_that_left_while_paused_is_read_when_it_comes_back(kafka_server, join, topic):
    """Paused, given to another, gone on without it, given back: a client remembers the pause for ever."""
    first = join()
    until(lambda _: len(first.assigned) == PARTITIONS, first)
    first.pause()
    second = join()
    until(lambda _: len(second.assigned) == len(first.assigned) == PARTITIONS // 2, first, second)
    first.resume()
    second.close()
    until(lambda _: len(first.assigned) == PARTITIONS, first)
    write(kafka_server, topic)
    assert sorted(until(lambda taken: len(taken) == PARTITIONS, first)) == list(range(PARTITIONS))


def test_a_partition_that_comes_while_paused_waits_with_the_others(kafka_server, join, topic):
    """Who waits for a database takes nothing from a partition that is assigned meanwhile, until it goes on."""
    first = join()
    second = join()
    until(lambda _: len(second.assigned) == len(first.assigned) == PARTITIONS // 2, first, second)
    write(kafka_server, topic)
    until(lambda taken: len(taken) == PARTITIONS, first, second)
    new = {number for _, number in second.assigned}
    first.pause()
    second.close()
    until(lambda _: len(first.assigned) == PARTITIONS, first)
    assert [first.take(100, 0.1) for _ in range(10)] == [[]] * 10
    first.resume()
    assert set(until(lambda taken: len(taken) == len(new), first)) == new, "nothing was committed: they come again"


def test_a_rebalance_that_waits_for_a_busy_member_holds_no_other_up_when_it_ends(kafka_server, join, topic, caplog):
    """The answer to a commit lies behind that to the rebalance: nobody who ends waits a minute for it."""
    first, busy = join(), join()
    until(lambda _: len(busy.assigned) == len(first.assigned) == PARTITIONS // 2, first, busy)
    write(kafka_server, topic)
    place = TopicPartition(topic, min(number for _, number in first.assigned))
    third = join()
    # Nobody serves `busy`; the others rejoin, and the coordinator is silent to them until it does too.
    taken = first.take(100, 5.0)
    end = time.monotonic() + 60
    while answers(first, place):
        assert time.monotonic() < end
        taken += first.take(100, 0.05)
        third.take(100, 0.05)
    assert taken
    first.commit(taken)
    begun = time.monotonic()
    first.close()
    assert time.monotonic() - begun < 20
    assert "does not answer" in caplog.text
    busy.close()


def answers(member, place):
    """Whether the coordinator answers a member within a second."""
    try:
        guarded(member._consumer.committed, [place], 1.0)
    except KafkaFault as silent:
        if silent.code == "_TIMED_OUT":
            return False
        raise
    return True


@pytest.mark.parametrize("ending", ["take", "close"])
def test_offsets_are_told_seldom_and_never_forgotten(kafka_server, join, topic, monkeypatch, ending):
    """A commit a batch would cost the broker a record each; what was not told yet follows when it is quiet, or over."""
    monkeypatch.setattr(consumer, "_COMMIT_EVERY", 600.0)
    group = f"g-{uuid4().hex[:8]}"
    only = join(group)
    until(lambda _: len(only.assigned) == PARTITIONS, only)
    write(kafka_server, topic)
    taken: list[Delivery] = []
    while len(taken) < PARTITIONS:
        taken += only.take(100, 1.0)
    only.commit(taken[:1])
    only.commit(taken[1:])
    look = Consumer({"bootstrap.servers": kafka_server.bootstrap, "group.id": group})

    def told():
        places = look.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], 10)
        return sum(place.offset == 1 for place in places)

    assert told() <= 1
    if ending == "take":
        until(lambda _: told() == PARTITIONS, only)
    else:
        only.close()
        assert told() == PARTITIONS
    look.close()
