"""What is no difference: dead letters, declared gaps, repeats; and what nobody can know, which is said."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import closing

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from kylo_outbox.flows import holds
from kylo_outbox.flows.housekeeping import Housekeeping
from kylo_outbox.flows.republish import Republish
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.kafka.reading import LogReader
from kylo_outbox.model.events import Origin
from kylo_outbox.store.identity import rename, require_own
from tests.helpers.pipeline import wait_until
from tests.helpers.verifying import Home


def own(road):
    """The store's name."""
    with road.database.begin() as connection:
        return require_own(connection).store_id


def drop_first(road):
    """Housekeeping lets everything that is published go."""
    Housekeeping(lambda: [road.database], 0.0).run_once()
    assert road.ask("select to_regclass('kylo.outbox_log_1')") == [(None,)]


def made_anew(admin, topic):
    """The topic, as soon as the broker has forgotten the former one."""

    def makes():
        [made] = admin.create_topics([NewTopic(topic, 2, 1)]).values()
        try:
            made.result(20)
        except KafkaException as refused:
            if refused.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            return False
        return True

    wait_until(makes, 30, "the topic is made anew")


def test_dead_letters_and_what_waits_behind_them_are_accounted_for(road):
    """A poison move and two behind it have no effect and are no difference, until they are let go and have one."""
    road.save(3)
    road.save(1, cents=0)
    road.flow(6)
    [store] = road.verify().stores
    assert store.open == []
    assert (store.effects["ledger"].events, store.effects["ledger"].set_aside) == (7, 3)
    road.do("delete from kylo.dead_letters", "delete from kylo.held_events")
    [[long_ago]] = road.ask("select now() - interval '1 hour'")
    lost = [("effects", "lost", "710", (number,)) for number in (4, 7, 10)]
    assert road.found(since=long_ago) == lost


def test_repeats_on_the_log_are_counted_and_no_difference(road, address):
    """A relay that was killed sends some again; so does `republish`."""
    road.flow(6)
    road.verify()
    publisher = Publisher(address, own(road))
    assert Republish(road.database, publisher).run(road.topic) == 6
    publisher.close()
    [store] = road.verify().stores
    assert (store.log.records, store.log.repeats, store.open) == (6, 6, [])
    assert road.ask("select repeats from kylo.verify_state") == [(6,)]


def test_a_record_that_no_transaction_committed_is_an_aborted_read(road, kafka_server):
    """Somebody wrote to the log under an id that the outbox never had."""
    road.flow(3)
    event = uuid.uuid4()
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    producer.produce(road.topic, b"{}", b"710", headers={"kylo": Origin(own(road), 1, 900, event, "MOVED").header()})
    assert producer.flush(20) == 0
    assert road.found() == [("log", "aborted read", "710", (900,))]


def test_records_of_a_key_in_the_wrong_order_are_reordered(road, kafka_server):
    """First appearances on the log tell the order; the later one is named as well."""
    road.save(4)
    rows = road.ask("select id, event_id from kylo.outbox_log where key = '710' order by id desc")
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    for number, event in rows:
        header = Origin(own(road), 1, number, event, "MOVED").header()
        producer.produce(road.topic, b"{}", b"710", headers={"kylo": header}, partition=0)
    assert producer.flush(20) == 0
    assert road.found() == [("log", "reordered", "710", (1, 4))]


def test_what_is_not_published_yet_waits(road):
    """Saved and not acknowledged: no difference; published later, it is compared then."""
    road.save(3)
    [store] = road.verify().stores
    assert (store.log.waiting, store.open) == (3, [])
    road.publish()
    [store] = road.verify().stores
    assert (store.log.waiting, store.log.records, store.open) == (0, 3, [])


def test_what_is_acknowledged_while_the_log_is_read_is_not_lost(road):
    """It lies behind what was read: the pass looks there before it says anything."""

    class Reads(LogReader):
        def bounds(self, topics):
            found = super().bounds(topics)
            road.publish()
            return found

    road.save(3)
    [store] = road.verify(open_log=lambda: Reads(road.address)).stores
    assert store.open == []
    assert road.found() == []


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(road, kafka_server):
    """Its offsets begin again, below those that were read of the former one."""
    road.flow(6)
    road.verify()
    road.relay.close()
    with closing(LogReader(road.address)) as reader:
        reader.bounds([road.topic])
        partition = reader.partition_of(road.topic, "710")
    assert partition is not None
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    [gone] = admin.delete_topics([road.topic]).values()
    gone.result(20)
    made_anew(admin, road.topic)
    road.save(1)
    [(number, event)] = road.ask("select id, event_id from kylo.outbox_log order by id desc limit 1")
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    header = Origin(own(road), 1, number, event, "MOVED").header()
    producer.produce(road.topic, b"{}", b"710", headers={"kylo": header}, partition=partition)
    assert producer.flush(20) == 0
    road.do(f"update kylo.lanes set high_water = {number}, snapshot = pg_current_snapshot()")
    [store] = road.verify().stores
    assert (store.log.records, store.open) == (1, [])


def test_what_left_the_log_unseen_is_said_and_not_passed_over(road, kafka_server):
    """Retention took the records before the first look: nobody can know whether they were ever there."""
    road.flow(6)
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    for partition in range(2):
        [removed] = admin.delete_records([TopicPartition(road.topic, partition, -1)]).values()
        removed.result(20)
    [store] = road.verify().stores
    assert store.open == []
    assert store.log.unknown == 6
    assert any("had left before this look" in text for text in store.unknown)
    road.flow(3)
    assert road.found() == []


def test_a_declared_gap_is_no_difference(road):
    """A held event that an operator discards reaches nobody, and its key's counts agree without it."""
    road.flow(3)
    road.verify()
    road.relay.close()
    road.save(6)
    road.do(
        "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason) "
        "select id, event_id, created_at, slot, topic, key, type, payload, 'refused' from kylo.outbox_log where id = 4"
    )
    [store] = road.verify().stores
    assert (store.log.waiting, store.open) == (6, [])
    with road.database.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = 4, snapshot = pg_current_snapshot(), epoch = epoch + 1")
        assert holds.discard(tx, road.topic, "710", reason="test", who="me").ids == (4,)
    road.publish()
    road.do("update kylo.positions set outbox_id = 4 where key = '710'")
    road.apply()
    [store] = road.verify().stores
    assert [each.finding.line() for each in store.open] == []
    assert store.log.taken_out == 1
    [[long_ago]] = road.ask("select now() - interval '1 hour'")
    assert road.found(since=long_ago) == []


def test_counts_stay_comparable_when_partitions_leave(road):
    """What left is in the totals: a look at everything agrees, and a position that is wrong is still found."""
    road.flow(6)
    road.verify()
    drop_first(road)
    assert road.ask("select sum(events) from kylo.outbox_left") == [(6,)]
    assert road.found() == []
    [[long_ago]] = road.ask("select now() - interval '1 hour'")
    assert road.found(since=long_ago) == []
    road.flow(3)
    assert road.found() == []
    road.do("update kylo.positions set applied = applied - 1, digest = digest - 2 where key = '711'")
    assert road.found() == [("positions", "lost", "711", (2,))]


def test_what_leaves_before_it_was_compared_is_counted_and_said(road):
    """The verifier was off for longer than the retention."""
    road.flow(3)
    road.verify()
    road.flow(3)
    drop_first(road)
    [store] = road.verify().stores
    assert store.open == []
    assert any(text.startswith("3 events left the outbox before") for text in store.unknown)


def test_a_projector_that_begins_late_has_lost_nothing(road):
    """Some events had left when it began; what it misses from then on is a loss."""
    road.save(6)
    road.publish()
    road.verify()
    drop_first(road)
    road.flow(3)
    assert road.found() == []
    road.flow(3)
    assert road.found() == []
    road.do("update kylo.positions set applied = applied - 1, digest = digest - outbox_id where key = '711'")
    assert [each[:3] for each in road.found()] == [("positions", "lost", "711")]


def test_what_was_handed_over_directly_never_was_on_the_log(road):
    """Its projector took it, and its topic may be direct: counted, no difference; nobody took it: lost."""
    road.relay.close()
    road.save(3)
    road.do("update kylo.lanes set high_water = 3, snapshot = pg_current_snapshot(), epoch = epoch + 1")
    road.apply()
    assert road.found() == [("log", "lost", key, (n,)) for n, key in enumerate(("710", "711", "712"), 1)]
    [store] = road.verify(directly=lambda _topic, _key: "if taken").stores
    assert (store.log.direct, [each for each in store.open if not each.accepted]) == (3, [])


def test_what_may_have_been_taken_by_a_database_that_is_away_waits(road):
    """Nobody says lost before that database was asked."""
    road.relay.close()
    road.save(1)
    road.do("update kylo.lanes set high_water = 1, snapshot = pg_current_snapshot(), epoch = epoch + 1")
    homes = [Home(road.database), Home(road.database, "store 720: no answer")]
    verdict = road.verify(stores=lambda: homes, directly=lambda _topic, _key: "if taken")
    assert (verdict.differences, verdict.problems) == ([], ["store 720: no answer"])
    assert road.found(directly=lambda _topic, _key: "if taken") == [("log", "lost", "710", (1,))]


def test_a_copy_begins_with_what_is_saved_in_it(road):
    """Under a new name nothing of the origin's counts, nor its findings."""
    road.flow(3)
    road.verify()
    road.relay.close()
    with road.database.begin() as connection:
        rename(connection)
    assert road.found() == []
    [store] = road.verify().stores
    assert (store.store, store.log.events) == (own(road), 0)
    road.save(3)
    [store] = road.verify().stores
    assert (store.log.events, store.log.waiting) == (3, 3)


def test_another_life_of_the_store_begins_the_comparison_anew(road):
    """What was taken in the one before is taken for right, and that is said."""
    road.flow(6)
    road.verify()
    road.do("update kylo.store set generation = 2")
    [store] = road.verify().stores
    assert (store.open, store.log.records) == ([], 6)
    assert any("another life" in text for text in store.unknown)
    road.do("update kylo.positions set applied = applied - 1, digest = digest - 2 where key = '711'")
    assert road.found() == [("positions", "lost", "711", (2,))]


def test_a_pass_costs_little_at_rest(road):
    """Quiet passes stay within the three seconds of this process that one percent of a core is in five minutes."""
    road.flow(30)
    road.verify()
    began = time.process_time()
    for _ in range(5):
        road.verify()
    spent = (time.process_time() - began) / 5
    print(json.dumps({"cpu_seconds_per_pass": round(spent, 3)}))
    assert spent < 3.0
