"""Records that the log will never give: noticed before anything behind them is applied, filled in from the outbox."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from kylo_outbox import Event, Transient, emit_many
from kylo_outbox.flows.project import Gaps, Project, Projection
from kylo_outbox.flows.republish import Republish
from kylo_outbox.kafka.consumer import Subscription
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store import notices
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.history import stored_rows
from kylo_outbox.store.identity import require_own
from tests.helpers.broker import make_topic, read_all
from tests.helpers.projectors import TABLE, Collects


@pytest.fixture
def applied(control_db):
    """What was applied, in order: (key, outbox id)."""
    with control_db.transaction() as tx:
        tx.execute(TABLE)

    def read():
        with control_db.transaction() as tx:
            return tx.execute("select key, outbox_id from applied order by n").fetchall()

    return read


@pytest.fixture
def own(control_db):
    """The store id of the test's database."""
    with control_db.begin() as connection:
        return require_own(connection).store_id


@pytest.fixture
def make_worker(control_db, address, own):
    """Build workers that watch for gaps; what they tell is kept in `told`."""
    made = []

    def make(topic, group, partitions=1, told=None, **changes):
        def stored(name):
            for rows in stored_rows(control_db, [name]):
                yield [stored_delivery(row, own) for row in rows]

        def tell(*words):
            if told is not None:
                told.append(words)

        gaps = Gaps("collects", {topic: partitions}, stored, tell, lambda *_: None)
        projection = Projection(Collects(topic), lambda _delivery: control_db, dead_letter_name)
        source = Subscription(address, group, [topic], changes or None)
        worker = Project(projection, source, patience=0.05, gaps=gaps)
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.close()


def save(database, topic, keys):
    """Emit one event for each key."""
    with database.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=key, type="T", payload={}) for key in keys])


def test_records_lost_to_retention_are_filled_in_before_the_next(
    control_db, kafka_server, applied, make_relay, make_worker, run_until
):
    """The group committed 10, the log begins at 15: five events come from the outbox, in order, and people are told."""
    topic, group = make_topic(kafka_server.bootstrap, partitions=1), f"g-{uuid4().hex[:8]}"
    told: list[tuple[str, ...]] = []
    relay = make_relay()
    save(control_db, topic, ["k"] * 10)
    run_until(relay, lambda: relay.state.published == 10)
    first = make_worker(topic, group)
    run_until(first, lambda: len(applied()) == 10, seconds=60)
    first.close()
    save(control_db, topic, ["k"] * 10)
    run_until(relay, lambda: relay.state.published == 20)
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    [removed] = admin.delete_records([TopicPartition(topic, 0, 15)]).values()
    removed.result(60)
    second = make_worker(topic, group, told=told)
    run_until(second, lambda: len(applied()) == 20, seconds=60)
    assert [number for _, number in applied()] == sorted(number for _, number in applied())
    assert told[0][:2] == ("lost", f"{topic}/0")
    assert "up to 5 records" in told[0][2]


def test_a_new_partition_count_is_noticed_before_keys_overtake_themselves(
    control_db, kafka_server, applied, make_relay, make_worker, run_until
):
    """Unread events lie in old partitions, newer ones of the same keys in new ones: order is kept all the same."""
    topic, group = make_topic(kafka_server.bootstrap, partitions=2), f"g-{uuid4().hex[:8]}"
    told: list[tuple[str, ...]] = []
    keys = [f"k{n}" for n in range(30)]
    before = make_relay()
    save(control_db, topic, keys)
    run_until(before, lambda: before.state.published == 30)
    before.close()
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    [grown] = admin.create_partitions([NewPartitions(topic, 8)]).values()
    grown.result(60)
    after = make_relay()
    save(control_db, topic, keys)
    run_until(after, lambda: after.state.published == 30)
    worker = make_worker(topic, group, partitions=2, told=told)
    run_until(worker, lambda: len(applied()) == 60, seconds=60)
    for key in keys:
        assert len([number for name, number in applied() if name == key]) == 2
    assert told[0][:2] == ("partitions", topic)
    assert len({record.partition for record in read_all(kafka_server.bootstrap, topic)}) > 2


def test_membership_survives_a_long_not_now(control_db, kafka_server, applied, make_relay, make_worker, run_until):
    """Waiting for longer than max.poll.interval.ms keeps the partitions: the loop goes on polling while it waits."""
    topic = make_topic(kafka_server.bootstrap, partitions=1)
    relay = make_relay()
    save(control_db, topic, ["k"] * 5)
    run_until(relay, lambda: relay.state.published == 5)
    worker = make_worker(topic, f"g-{uuid4().hex[:8]}", **{"max.poll.interval.ms": 6000})
    projector, until = worker._projection.projector, time.monotonic() + 9.0
    while time.monotonic() < until:
        projector.fail_after_effect = Transient("away")
        try:
            worker.run_once()
        except Transient:
            time.sleep(0.2)  # the pause that the loop makes between two tries
    assert worker._source.assigned == {(topic, 0)}
    assert applied() == []
    projector.fail_after_effect = None
    run_until(worker, lambda: len(applied()) == 5, seconds=60)


def test_republish_puts_stored_events_on_the_log_again(
    control_db, kafka_server, applied, address, own, make_relay, make_worker, run_until
):
    """The same ids once more for readers that lost them; projectors of ours take them for repeats."""
    topic = make_topic(kafka_server.bootstrap, partitions=1)
    relay = make_relay()
    save(control_db, topic, ["710", "711"] * 5)
    run_until(relay, lambda: relay.state.published == 10)
    relay.close()
    save(control_db, topic, ["710"])
    publisher = Publisher(address, own)
    done = Republish(control_db, publisher).run(topic, key="710")
    publisher.close()
    assert done == 5, "what the relay has not published yet is its own business"
    records = read_all(kafka_server.bootstrap, topic)
    assert [record.event_id for record in records[10:]] == [r.event_id for r in records[:10] if r.key == "710"]
    worker = make_worker(topic, f"g-{uuid4().hex[:8]}")
    run_until(worker, lambda: worker.settled == 15, seconds=60)
    assert len(applied()) == 10


def test_the_first_partition_count_is_remembered(control_db):
    """What a topic had when it was first read stays known over restarts, until a change has been dealt with."""
    with control_db.transaction() as tx:
        assert notices.first_partitions(tx, "p", {"t": 4}) == {"t": 4}
        assert notices.first_partitions(tx, "p", {"t": 8}) == {"t": 4}
        notices.set_partitions(tx, "p", "t", 8)
        assert notices.first_partitions(tx, "p", {"t": 8}) == {"t": 8}
