"""When Kafka or a part of it is away: nothing is set aside for an outage, and one lost partition stops its own keys."""

from __future__ import annotations

import time
from contextlib import suppress

from kylo_outbox import Event, emit_many
from kylo_outbox.flows.relay import holding
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.model.errors import Transient
from tests.helpers.broker import first_appearances, inversions, make_topic, read_all


def turn(relay, holds, seconds=120.0):
    """Turns of a relay that may have to wait, until something holds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to hold"
        with suppress(Transient):
            time.sleep(relay.run_once().pause)


def fill(database, topic, keys, count):
    """Emit `count` events, the keys in turn."""
    with database.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=keys[n % len(keys)], type="T", payload={"n": n}) for n in range(count)])


def open_rows(database):
    """How many events nobody has acknowledged."""
    with database.transaction() as tx:
        [count] = tx.execute("select count(*) from outbox where processed_at is null").fetchone()
    return count


def relay_to(make_relay, broker, **changes):
    """A relay that publishes to this broker."""
    address = KafkaAddress(brokers=broker.bootstrap)
    return make_relay(open_publisher=lambda store_id: Publisher(address, store_id), **changes)


def test_an_outage_opens_the_breaker_and_ends_by_itself(control_db, own_kafka, make_relay):
    """The broker is killed under load: no row is held, no attempt spent; it is back, and all arrives once in order."""
    topic = make_topic(own_kafka.bootstrap)
    keys = [f"k{n}" for n in range(10)]
    relay = relay_to(make_relay, own_kafka)
    fill(control_db, topic, keys, 100)
    turn(relay, lambda: open_rows(control_db) == 0)
    own_kafka.kill()
    fill(control_db, topic, keys, 100)
    turn(relay, lambda: relay.state.breaker)
    assert relay.state.failed == 0
    assert relay.state.held_keys == set()
    fill(control_db, topic, keys, 100)
    own_kafka.start()
    turn(relay, lambda: open_rows(control_db) == 0)
    assert relay.state.breaker == ""
    records = read_all(own_kafka.bootstrap, topic)
    assert len(first_appearances(records)) == 300
    assert inversions(records) == 0


def test_too_few_replicas_are_an_outage_and_no_refusal(control_db, two_brokers, make_relay):
    """A topic wants two replicas and one broker is dead: its events wait, none is held or refused, and it ends."""
    topic = two_brokers.make_topic([1, 2], together=True)
    relay = relay_to(make_relay, two_brokers)
    fill(control_db, topic, ["k"], 10)
    turn(relay, lambda: open_rows(control_db) == 0)
    two_brokers.second.kill()
    fill(control_db, topic, ["k"], 10)
    turn(relay, lambda: relay.state.breaker)
    assert (relay.state.failed, relay.state.held_keys) == (0, set())
    assert open_rows(control_db) == 10
    two_brokers.second.start()
    turn(relay, lambda: open_rows(control_db) == 0)


class _Handed:
    """A direct path for one key that remembers what it was given."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def takes(self, _topic, key):
        """The keys that begin with `d`."""
        return key.startswith(b"d")

    def catch_up(self):
        """Nothing lies in Kafka."""
        return iter(())

    def deliver(self, rows):
        """Take rows, in order."""
        self.ids += [row[0] for row in rows]


def test_what_is_handed_over_directly_does_not_wait_for_kafka(control_db, own_kafka, make_relay):
    """Some companies direct, others over Kafka, and Kafka goes away: the direct ones go on; the others follow."""
    topic = make_topic(own_kafka.bootstrap)
    handed = _Handed()
    relay = relay_to(make_relay, own_kafka, direct=handed, batch=10)
    fill(control_db, topic, ["direct", "kafka"], 20)
    turn(relay, lambda: open_rows(control_db) == 0)
    own_kafka.kill()
    fill(control_db, topic, ["direct", "kafka"], 400)
    turn(relay, lambda: len(set(handed.ids)) == 210)
    # Starting over repeats some, in order; positions absorb them.
    assert list(dict.fromkeys(handed.ids)) == sorted(set(handed.ids))
    own_kafka.start()
    turn(relay, lambda: open_rows(control_db) == 0)
    records = read_all(own_kafka.bootstrap, topic)
    assert len(first_appearances(records)) == 210
    assert inversions(records) == 0


def test_a_relay_that_starts_while_kafka_is_away_serves_the_direct_path(control_db, own_kafka, make_relay):
    """Its client has never seen a topic: direct events go on all the same, the others follow once Kafka is back."""
    topic = make_topic(own_kafka.bootstrap)
    own_kafka.kill()
    handed = _Handed()
    relay = relay_to(make_relay, own_kafka, direct=handed, batch=10)
    fill(control_db, topic, ["kafka", "direct"], 40)
    turn(relay, lambda: len(set(handed.ids)) == 20, seconds=60)
    assert relay.state.breaker
    own_kafka.start()
    turn(relay, lambda: open_rows(control_db) == 0)
    assert relay.state.breaker == ""
    assert list(dict.fromkeys(handed.ids)) == sorted(set(handed.ids))
    records = read_all(own_kafka.bootstrap, topic)
    assert len(first_appearances(records)) == 20
    assert inversions(records) == 0


def test_a_topic_never_seen_does_not_hide_an_outage(control_db, own_kafka, make_relay):
    """Records of one topic are in flight, the next is of a topic nobody tells of: direct events go on all the same."""
    seen, unseen = make_topic(own_kafka.bootstrap), make_topic(own_kafka.bootstrap)
    handed = _Handed()
    relay = relay_to(make_relay, own_kafka, direct=handed, batch=10)
    fill(control_db, seen, ["kafka"], 10)
    turn(relay, lambda: open_rows(control_db) == 0)
    own_kafka.kill()
    fill(control_db, seen, ["kafka"], 10)
    fill(control_db, unseen, ["kafka", "direct"], 20)
    turn(relay, lambda: len(set(handed.ids)) == 10, seconds=60)


def test_a_direct_key_that_is_resumed_while_kafka_is_away_goes_on(control_db, make_relay, monkeypatch):
    """Nobody listens where the broker should be: a held event that needs no broker is handed over, in order."""
    monkeypatch.setattr(holding, "RETRY_EVERY", 0.3)
    handed, paused = _Handed(), {b"direct 2"}
    nowhere = KafkaAddress(brokers="127.0.0.1:1")
    relay = make_relay(
        open_publisher=lambda store_id: Publisher(nowhere, store_id),
        direct=handed,
        is_paused=lambda _topic, key: key in paused,
    )
    fill(control_db, "t", ["kafka", "direct 1", "direct 2"], 30)
    turn(relay, lambda: len(set(handed.ids)) == 10 and open_rows(control_db) == 20, seconds=60)
    paused.clear()
    turn(relay, lambda: len(set(handed.ids)) == 20, seconds=60)
    assert relay.state.breaker
    assert handed.ids[-10:] == sorted(handed.ids[-10:])
    assert open_rows(control_db) == 10


def test_a_lost_partition_holds_its_own_keys_only(control_db, two_brokers, make_relay):
    """One of two brokers dies with half the partitions: their keys wait, the others go on, all ends by itself."""
    topic = two_brokers.make_topic([1, 2, 1, 2])
    keys = [f"k{n}" for n in range(20)]
    relay = relay_to(make_relay, two_brokers)
    fill(control_db, topic, keys, 100)
    turn(relay, lambda: open_rows(control_db) == 0)
    assert relay._publisher is not None
    on_second = {key for key in keys if relay._publisher.partition_of(topic, key.encode()) in {1, 3}}
    two_brokers.second.kill()
    fill(control_db, topic, keys, 100)
    turn(relay, lambda: open_rows(control_db) == 5 * len(on_second))
    assert {key.decode() for _, key in relay.state.held_keys} == on_second
    fill(control_db, topic, keys, 100)
    turn(relay, lambda: open_rows(control_db) == 10 * len(on_second))
    two_brokers.second.start()
    turn(relay, lambda: open_rows(control_db) == 0)
    records = read_all(two_brokers.bootstrap, topic)
    assert len(first_appearances(records)) == 300
    assert inversions(records) == 0
