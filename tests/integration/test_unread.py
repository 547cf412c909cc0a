"""Events that left the outbox before they were taken and lie unread on the log: nothing that is stored passes them."""

from __future__ import annotations

from contextlib import closing
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from kylo_outbox import Event, Transient, emit_many
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.flows.project import Gaps, Project
from kylo_outbox.kafka import unread as looking
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.consumer import Subscription
from kylo_outbox.kafka.unread import unread
from kylo_outbox.settings import load
from kylo_outbox.store import notices
from kylo_outbox.store.history import beginning, published_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.wiring import history, parts, projectors, relays
from tests.helpers.broker import make_topic, read_all
from tests.helpers.projectors import TABLE, Collects, applied, ask, on


class Road:
    """A store, one topic of the broker, a projector of its own group, and what stands between them."""

    def __init__(self, database, server, make_relay, run_until, partitions=1):
        self.database, self.server, self.run_until = database, server, run_until
        self.topic, self.group = make_topic(server.bootstrap, partitions=partitions), f"g-{uuid4().hex[:8]}"
        self.address = KafkaAddress(brokers=server.bootstrap)
        self.make_relay, self.saved, self.told = make_relay, 0, []
        projector = Collects(self.topic)
        projector.group = self.group
        self.applies = on(database, projector)
        self.parts = parts.build(load({"PG_DSN_RW": database.dsn, "KAFKA_BROKERS": server.bootstrap}))
        with database.begin() as connection:
            self.store = require_own(connection).store_id
        with database.transaction() as tx:
            tx.execute(TABLE)

    def publish(self, keys):
        """Save one event for each key, and relay them."""
        with self.database.transaction() as tx:
            emit_many(tx, [Event(topic=self.topic, key=key, type="T", payload={}) for key in keys])
        self.saved += len(keys)
        with closing(self.make_relay()) as relay:
            self.run_until(relay, lambda: relay.state.published == len(keys))

    def let_leave(self):
        """Housekeeping lets everything go that may go; the rows that are stored after it."""
        Housekeeping(lambda: [self.database], 0.0).run_once()
        assert ask(self.database, "select count(*) from kylo.outbox_log") == [(0,)]

    def read(self, number, partitions=1):
        """A member of the group reads until so many events were applied; what stands in front of gaps is closed."""
        gaps = Gaps(
            "collects",
            {self.topic: partitions},
            lambda topic: history.published_events(self.parts, self.applies, topic),
            lambda *words: self.told.append(words),
            lambda *_: None,
        )
        with closing(Project(self.applies, Subscription(self.address, self.group, [self.topic]), gaps=gaps)) as worker:
            # A gap is told of twice: when it is met, and when it is filled.
            self.run_until(
                worker, lambda: len(applied(self.database)) == number and len(self.told) % 2 == 0, seconds=60
            )

    def direct(self, around=None):
        """The direct path over this store; `around` has other settings."""

        def missing(projection, topic):
            return history.missing(around or self.parts, projection, topic, [(self.database, self.store)])

        return DirectDelivery(
            store_id=self.store,
            topics=[self.topic],
            is_direct=lambda _key: True,
            projections=[self.applies],
            beginning=lambda: beginning(self.database),
            published_rows=lambda topics, begins: published_rows(self.database, topics, begins=begins),
            missing=missing,
        )

    @property
    def ids(self):
        """Outbox ids by key, as they were applied."""
        found: dict[str, list[int]] = {}
        for key, number in applied(self.database):
            found.setdefault(key, []).append(number)
        return found


@pytest.fixture
def no_broker(control_db, monkeypatch):
    """Settings of a broker that does not answer, and little patience with it."""
    monkeypatch.setattr(looking, "_PATIENCE", 0.8)
    made = parts.build(load({"PG_DSN_RW": control_db.dsn, "KAFKA_BROKERS": "127.0.0.1:1"}))
    yield made
    made.close()


@pytest.fixture
def road(control_db, kafka_server, make_relay, run_until):
    """Four events of k were applied; six more lie on the log and left the outbox; three more are stored as well."""
    made = Road(control_db, kafka_server, make_relay, run_until)
    made.publish("k" * 4)
    made.read(4)
    made.publish("k" * 6)
    made.let_leave()
    made.publish("k" * 3)
    yield made
    made.parts.close()


def remove(road, offset, partition=0):
    """The log begins at this offset from now on."""
    admin = AdminClient({"bootstrap.servers": road.server.bootstrap})
    [removed] = admin.delete_records([TopicPartition(road.topic, partition, offset)]).values()
    removed.result(60)


def test_a_gap_is_filled_behind_what_the_log_alone_has(road):
    """Two events are lost, four lie behind the gap and nowhere else: what is stored comes after those."""
    remove(road, 6)
    road.read(11)
    assert road.ids["k"] == [1, 2, 3, 4, 7, 8, 9, 10, *road.ids["k"][-3:]]
    assert road.ids["k"] == sorted(road.ids["k"])
    assert "7 stored events" in road.told[-1][2]


def test_a_gap_is_filled_anew_if_something_leaves_meanwhile(road):
    """What the log alone has was found out at the beginning: the stored rows that left since would be missing."""
    road.publish("n" * 1001)
    filling = history.published_events(road.parts, road.applies, road.topic)
    while not any(each.partition is None for each in next(filling)):
        pass
    road.let_leave()
    with pytest.raises(Transient, match="left while it was read"):
        next(filling)
    direct = road.direct()
    road.publish("n" * 1001)
    steps = direct.catch_up()
    while len(road.ids.get("n", ())) <= 1001:
        next(steps)
    road.let_leave()
    with pytest.raises(Transient, match="left while it was read"):
        list(steps)


def test_what_the_gap_has_swallowed_holds_nobody_up(road):
    """The log begins behind everything that left the outbox: the stored events are applied, the loss is told."""
    remove(road, 11)
    road.read(7)
    assert len(road.ids["k"]) == 7
    assert "up to 7 records" in road.told[-1][2]


def test_the_direct_path_begins_with_what_the_log_alone_has(road):
    """A group that is far behind when the switch is turned: nothing is passed, and later everything is a repeat."""
    direct = road.direct()
    list(direct.catch_up())
    assert len(road.ids["k"]) == 13
    assert road.ids["k"] == sorted(road.ids["k"])
    assert direct.takes(road.topic, b"k")


def test_what_cannot_be_read_now_stays_on_kafka(road, no_broker, monkeypatch, caplog, make_relay, run_until):
    """Only the keys of which something is missing; their new events go to Kafka, in order, and a warning names them."""
    road.publish("n")
    direct = road.direct(no_broker)
    list(direct.catch_up())
    assert not direct.takes(road.topic, b"k")
    assert direct.takes(road.topic, b"n")
    assert {key: len(found) for key, found in road.ids.items()} == {"k": 4, "n": 1}
    assert f"1 keys of {road.topic} (k) stay on Kafka" in caplog.text
    with road.database.transaction() as tx:
        emit_many(tx, [Event(topic=road.topic, key=key, type="T", payload={}) for key in "kn"])
    with closing(make_relay(direct=direct)) as relay:
        run_until(relay, lambda: relay.state.published == 2)
    assert [record.key for record in read_all(road.server.bootstrap, road.topic)] == [*"k" * 13, "n", "k"]
    assert len(road.ids["n"]) == 2
    monkeypatch.undo()
    list(road.direct().catch_up())
    assert len(road.ids["k"]) == 14
    assert road.ids["k"] == sorted(road.ids["k"])


def test_a_key_that_is_not_behind_asks_nothing_of_kafka(control_db, no_broker, kafka_server, make_relay, run_until):
    """Whatever left was taken: the direct path does not wait for a broker that does not answer."""
    road = Road(control_db, kafka_server, make_relay, run_until)
    road.publish("k" * 4)
    road.read(4)
    road.let_leave()
    road.publish("k")
    direct = road.direct(no_broker)
    list(direct.catch_up())
    assert len(road.ids["k"]) == 5
    assert direct.takes(road.topic, b"k")
    road.parts.close()


def test_what_was_held_for_longer_than_the_outbox_keeps_is_not_passed(road):
    """It left the outbox while it was held, was let go and published, and nobody has read it yet."""
    road.read(13)
    with road.database.transaction() as tx:
        emit_many(tx, [Event(topic=road.topic, key="k", type="T", payload={})])
        tx.execute(
            "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason, retry) "
            "select id, event_id, created_at, slot, topic, key, type, payload, 'paused', true "
            "from kylo.outbox_log order by id desc limit 1"
        )
    with road.database.transaction() as tx:
        tx.execute(
            "update kylo.lanes set high_water = (select max(id) from kylo.outbox_log), "
            "snapshot = pg_current_snapshot(), epoch = epoch + 1"
        )
    road.let_leave()
    with closing(road.make_relay()) as relay:
        road.run_until(relay, lambda: relay.state.published == 1)
    road.publish("k")
    list(road.direct().catch_up())
    assert len(road.ids["k"]) == 15
    assert road.ids["k"] == sorted(road.ids["k"])


def test_keys_that_moved_to_other_partitions_come_in_their_order(control_db, kafka_server, make_relay, run_until):
    """What lies in a key's old partition comes before what lies in its new one, whatever their numbers."""
    road = Road(control_db, kafka_server, make_relay, run_until, partitions=3)
    keys = [f"k{n}" for n in range(40)]
    road.publish(keys)
    admin = AdminClient({"bootstrap.servers": road.server.bootstrap})
    [grown] = admin.create_partitions([NewPartitions(road.topic, 8)]).values()
    grown.result(60)
    road.publish(keys)
    road.let_leave()
    road.publish(keys)
    with control_db.transaction() as tx:
        notices.first_partitions(tx, "collects", {road.topic: 3})
    road.read(120, partitions=3)
    assert {key: (len(found), found == sorted(found)) for key, found in road.ids.items()} == dict.fromkeys(
        keys, (3, True)
    )
    back = {r.key for r in read_all(road.server.bootstrap, road.topic) if r.outbox_id > 40 and r.partition < 3}
    assert back, "some keys moved to a lower number, or stayed"
    road.parts.close()


def test_only_unread_records_of_the_keys_are_read(road):
    """From the group's offset to the end, other keys left out; a topic that does not exist has nothing."""
    road.publish("nnk")
    with closing(Consumer({"bootstrap.servers": road.server.bootstrap, "group.id": road.group})) as consumer:
        consumer.commit(offsets=[TopicPartition(road.topic, 0, 12)], asynchronous=False)

    def found(*keys, topic=road.topic):
        batches = unread(road.address, road.group, topic, keys)
        return [(each.event.key, each.offset) for batch in batches for each in batch]

    assert found("k") == [("k", 12), ("k", 15)]
    assert found("k", "n") == [("k", 12), ("n", 13), ("n", 14), ("k", 15)]
    assert found("k", topic="never-made") == []


def test_a_log_that_does_not_answer_is_waited_for_in_steps(no_broker):
    """Whoever asks can renew a lease between two steps; in the end it is told."""
    steps = unread(KafkaAddress(brokers=no_broker.settings.kafka_brokers), "g", "t", ["k"])
    assert next(steps) == []
    with pytest.raises(Transient):
        list(steps)


def test_the_processes_look_at_the_log_where_there_is_one(road, monkeypatch):
    """A relay without any Kafka has none to look at; with one it asks for direct companies only."""
    settings = road.parts.settings.model_copy(update={"route_via_kafka": False})
    for brokers, there in ((settings.kafka_brokers, True), (None, False)):
        built = parts.build(settings.model_copy(update={"kafka_brokers": brokers}))
        direct = relays.RelayProcess(built)._direct(road.database, road.store)
        assert (direct._missing is not None) is there
        with pytest.raises(Transient, match="left while it was read"):
            next(direct._published_rows([road.topic], 0))
        built.close()
    built = parts.build(settings.model_copy(update={"route_via_kafka": True, "via_kafka_companies": ("k",)}))
    asked = []
    monkeypatch.setattr(history, "unread", lambda *given: asked.append(given) or iter(()))
    made = projectors.projection(built, road.applies.projector)
    wanted = {"k": False}
    looks = history.missing(built, made, road.topic, [(road.database, road.store)], lambda key: wanted.get(key, True))
    assert list(looks.look()) == [None]
    assert looks.keys == set()
    wanted["k"] = True
    assert list(looks.look()) == [None]
    assert looks.keys == {"k"}
    list(looks.batches())
    assert [given[1:4] for given in asked] == [(road.group, road.topic, {"k"})]
    built.close()
