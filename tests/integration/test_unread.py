"""Events that left the outbox before they were taken and lie unread on the log: nothing that is stored passes them."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from kylo_outbox import Transient
from kylo_outbox.kafka import unread as looking
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.unread import unread
from kylo_outbox.settings import load
from kylo_outbox.store import notices
from kylo_outbox.store.history import Moment, moment
from kylo_outbox.wiring import history, parts, projectors, relays
from tests.helpers.broker import make_topic, read_all
from tests.helpers.unread import Behind, remove


@pytest.fixture
def no_broker(control_db, monkeypatch):
    """Settings of a broker that does not answer, and little patience with it."""
    monkeypatch.setattr(looking, "_PATIENCE", 0.8)
    made = parts.build(load({"PG_DSN_RW": control_db.dsn, "KAFKA_BROKERS": "127.0.0.1:1"}))
    yield made
    made.close()


def test_a_gap_is_filled_behind_what_the_log_alone_has(behind):
    """Two events are lost, four lie behind the gap and nowhere else: what is stored comes after those."""
    remove(behind, 6)
    behind.read(11)
    assert behind.ids["k"] == [1, 2, 3, 4, 7, 8, 9, 10, *behind.ids["k"][-3:]]
    assert behind.ids["k"] == sorted(behind.ids["k"])
    assert "7 events" in behind.told[-1][2]


def test_what_the_gap_has_swallowed_holds_nobody_up(behind):
    """The log begins behind everything that left the outbox: the stored events are applied, the loss is told."""
    remove(behind, 11)
    behind.read(7)
    assert len(behind.ids["k"]) == 7
    assert "up to 7 records" in behind.told[-1][2]


def test_the_direct_path_begins_with_what_the_log_alone_has(behind):
    """A group that is far behind when the switch is turned: nothing is passed, and later everything is a repeat."""
    direct = behind.direct()
    list(direct.catch_up())
    assert len(behind.ids["k"]) == 13
    assert behind.ids["k"] == sorted(behind.ids["k"])
    assert direct.takes(behind.topic, b"k")


def test_what_cannot_be_read_now_stays_on_kafka(behind, no_broker, monkeypatch, caplog, make_relay, run_until):
    """Only the keys of which something is missing; their new events go to Kafka, in order, and a warning names them."""
    behind.publish("n")
    direct = behind.direct(no_broker)
    list(direct.catch_up())
    assert not direct.takes(behind.topic, b"k")
    assert direct.takes(behind.topic, b"n")
    assert {key: len(found) for key, found in behind.ids.items()} == {"k": 4, "n": 1}
    assert f"1 keys of {behind.topic} (k) stay on Kafka" in caplog.text
    behind.save("kn")
    with closing(make_relay(direct=direct)) as relay:
        run_until(relay, lambda: relay.state.published == 2)
    assert [record.key for record in read_all(behind.server.bootstrap, behind.topic)] == [*"k" * 13, "n", "k"]
    assert len(behind.ids["n"]) == 2
    monkeypatch.undo()
    list(behind.direct().catch_up())
    assert len(behind.ids["k"]) == 14
    assert behind.ids["k"] == sorted(behind.ids["k"])


def test_a_key_that_is_not_behind_asks_nothing_of_kafka(control_db, no_broker, kafka_server, make_relay, run_until):
    """Whatever left was taken: the direct path does not wait for a broker that does not answer."""
    behind = Behind(control_db, kafka_server, make_relay, run_until)
    behind.publish("k" * 4)
    behind.read(4)
    behind.let_leave()
    behind.publish("k")
    direct = behind.direct(no_broker)
    list(direct.catch_up())
    assert len(behind.ids["k"]) == 5
    assert direct.takes(behind.topic, b"k")
    behind.parts.close()


def test_what_was_held_for_longer_than_the_outbox_keeps_is_not_passed(behind):
    """It left the outbox while it was held, was let go and published, and nobody has read it yet."""
    behind.read(13)
    behind.save("k")
    behind.hold_newest()
    behind.let_leave()
    behind.relay(1)
    behind.publish("k")
    list(behind.direct().catch_up())
    assert len(behind.ids["k"]) == 15
    assert behind.ids["k"] == sorted(behind.ids["k"])


def test_keys_that_moved_to_other_partitions_come_in_their_order(control_db, kafka_server, make_relay, run_until):
    """What lies in a key's old partition comes before what lies in its new one, whatever their numbers."""
    behind = Behind(control_db, kafka_server, make_relay, run_until, partitions=3)
    keys = [f"k{n}" for n in range(40)]
    behind.publish(keys)
    admin = AdminClient({"bootstrap.servers": behind.server.bootstrap})
    [grown] = admin.create_partitions([NewPartitions(behind.topic, 8)]).values()
    grown.result(60)
    behind.publish(keys)
    behind.let_leave()
    behind.publish(keys)
    with control_db.transaction() as tx:
        notices.first_partitions(tx, "collects", {behind.topic: 3})
    behind.read(120, partitions=3)
    assert {key: (len(found), found == sorted(found)) for key, found in behind.ids.items()} == dict.fromkeys(
        keys, (3, True)
    )
    back = {r.key for r in read_all(behind.server.bootstrap, behind.topic) if r.outbox_id > 40 and r.partition < 3}
    assert back, "some keys moved to a lower number, or stayed"
    behind.parts.close()


def test_only_unread_records_of_the_keys_are_read(behind):
    """From the group's offset to the end, other keys left out; a topic that does not exist has nothing."""
    behind.publish("nnk")
    with closing(Consumer({"bootstrap.servers": behind.server.bootstrap, "group.id": behind.group})) as consumer:
        consumer.commit(offsets=[TopicPartition(behind.topic, 0, 12)], asynchronous=False)

    def found(*keys, topic=behind.topic):
        batches = unread(behind.address, behind.group, topic, keys)
        return [(each.event.key, each.offset) for batch in batches for each in batch]

    assert found("k") == [("k", 12), ("k", 15)]
    assert found("k", "n") == [("k", 12), ("n", 13), ("n", 14), ("k", 15)]
    assert found("k", topic="never-made") == []


def test_an_offset_beyond_the_end_is_of_another_life_of_the_topic(behind):
    """The group itself would begin at the oldest record."""
    with closing(Consumer({"bootstrap.servers": behind.server.bootstrap, "group.id": behind.group})) as consumer:
        consumer.commit(offsets=[TopicPartition(behind.topic, 0, 99)], asynchronous=False)
    assert sum(len(batch) for batch in unread(behind.address, behind.group, behind.topic, ["k"])) == 13


def test_what_was_aborted_at_the_end_of_the_log_keeps_nobody_waiting(kafka_server, address):
    """It has offsets and is never handed out: the position tells that all was read."""
    topic = make_topic(kafka_server.bootstrap, partitions=1)
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap, "transactional.id": topic})
    producer.init_transactions(60)
    for end in (producer.commit_transaction, producer.abort_transaction) * 2:
        producer.begin_transaction()
        producer.produce(topic, b"{}", b"k")
        assert producer.flush(60) == 0
        end(60)
    assert [each.offset for batch in unread(address, f"g-{topic}", topic, ["k"]) for each in batch] == [0, 4]


def test_a_log_that_does_not_answer_is_waited_for_in_steps(no_broker):
    """Whoever asks can renew a lease between two steps; in the end it is told."""
    steps = unread(KafkaAddress(brokers=no_broker.settings.kafka_brokers), "g", "t", ["k"])
    assert next(steps) == []
    with pytest.raises(Transient):
        list(steps)


def test_the_processes_look_at_the_log_where_there_is_one(behind, monkeypatch):
    """A relay without any Kafka has none to look at; with one it asks for direct companies only."""
    settings = behind.parts.settings.model_copy(update={"route_via_kafka": False})
    for brokers, there in ((settings.kafka_brokers, True), (None, False)):
        built = parts.build(settings.model_copy(update={"kafka_brokers": brokers}))
        direct = relays.RelayProcess(built)._direct(behind.database, behind.store)
        assert (direct._missing is not None) is there
        with pytest.raises(Transient, match="left while it was read"):
            next(direct._published_rows([behind.topic], Moment(0, "[]", frozenset())))
        built.close()
    built = parts.build(settings.model_copy(update={"route_via_kafka": True, "via_kafka_companies": ("k",)}))
    asked = []
    monkeypatch.setattr(history, "unread", lambda *given: asked.append(given) or iter(()))
    made = projectors.projection(built, behind.applies.projector)
    wanted = {"k": False}
    outbox = history.Outbox(behind.database, behind.store, moment(behind.database, [behind.topic]))
    looks = history.missing(built, made, behind.topic, [outbox], lambda key: wanted.get(key, True))
    assert list(looks.look()) == []
    assert looks.keys == set()
    wanted["k"] = True
    assert list(looks.look()) == [None]
    assert looks.keys == {"k"}
    list(looks.batches())
    assert [given[1:4] for given in asked] == [(behind.group, behind.topic, {"k"})]
    built.close()
