"""Fencing at the broker: who claims a lane's transactional id last is obeyed, everybody before is refused."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from itertools import repeat

import pytest
from confluent_kafka import Consumer, TopicPartition

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.flows.relay import RelayTurn
from kylo_outbox.kafka.client import KafkaAddress, KafkaFault
from kylo_outbox.kafka.fenced import FencedPublisher
from kylo_outbox.kafka.producer import Publisher, Ticket
from kylo_outbox.model.errors import Fatal, Transient
from tests.helpers.broker import first_appearances, inversions, make_topic, outbox_rows, read_all


def open_rows(database):
    """How many events nobody has acknowledged."""
    with database.transaction() as tx:
        [count] = tx.execute("select count(*) from outbox where processed_at is null").fetchone()
    return count


class Patient:
    """Runs a relay as its loop would: "not now" is waited out, and counted."""

    name = "relay"

    def __init__(self, relay):
        self.relay, self.waits = relay, 0
        self.close = relay.close

    def run_once(self):
        """One turn."""
        try:
            return self.relay.run_once()
        except Transient as away:
            self.waits += 1
            print(away)
            return RelayTurn(leading=False, pause=0.05)


def committed(bootstrap, topic):
    """Ids of the rows that a reader of committed records sees."""
    return [record.outbox_id for record in read_all(bootstrap, topic)]


def written(bootstrap, topic):
    """How many records lie in the log, committed or not (and marks of transactions)."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "look", "isolation.level": "read_uncommitted"})
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, number), 20)[1]
            for number in consumer.list_topics(topic, 20).topics[topic].partitions
        )
    finally:
        consumer.close()


def until(holds, seconds=30.0):
    """Look again and again until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.01)


def claimed(publisher, topic):
    """The publisher, once it has claimed its id; the first claim on a new broker may need a moment."""
    until(lambda: publisher.exists(topic))
    while publisher._phase == "unclaimed":
        try:
            publisher._claim()
        except KafkaFault:
            continue
    return publisher


@pytest.fixture
def topic(kafka_server):
    """A topic of this test's own."""
    return make_topic(kafka_server.bootstrap)


@pytest.fixture
def store_id():
    """A store of this test's own, so that its transactional ids are, too."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def open_fenced(address, store_id, topic):
    """Build fenced publishers of one lane; all are closed in the end."""
    made = []

    def make(kind=FencedPublisher):
        made.append(kind(address, store_id))
        return claimed(made[-1], topic) if kind is FencedPublisher else made[-1]

    yield make
    for publisher in made:
        publisher.close()


def test_several_batches_share_a_transaction_and_are_done_together(kafka_server, topic, open_fenced):
    """Nothing is acknowledged before the commit; `hurry` commits."""
    publisher = open_fenced()
    tickets = [publisher.send(outbox_rows(topic, [b"a", b"b"], start=1 + 2 * n)) for n in range(3)]
    assert [ticket.done for ticket in tickets] == [False] * 3
    publisher.hurry()
    publisher.drain(30)
    assert [ticket.done for ticket in tickets] == [True] * 3
    assert sorted(committed(kafka_server.bootstrap, topic)) == [1, 2, 3, 4, 5, 6]


def test_a_transaction_is_committed_when_it_is_full_or_old(topic, open_fenced):
    """Without `hurry`: 5,000 records, or 30 ms, whichever comes first."""
    publisher = open_fenced()
    full = publisher.send(outbox_rows(topic, [b"k"] * 5000))
    assert full.done or publisher._phase == "committing"
    until(lambda: (publisher.poll(0.01), full.done)[1])
    one = publisher.send(outbox_rows(topic, [b"k"]), tracked=True)
    assert one.missing() == {1}
    until(lambda: (publisher.poll(0.01), one.done)[1])
    assert one.missing() == set()


@pytest.mark.parametrize(
    "find_out",
    [
        lambda old: old.drain(30),
        lambda old: until(lambda: old.poll(0.01)),
        # Refused while callbacks run: the code of the error is lost on Python 3.11 and must be asked for again.
        lambda old: old._serve(old._producer.flush, 30),
    ],
    ids=["commit", "poll", "callbacks"],
)
def test_the_producer_before_is_refused_and_nothing_of_it_becomes_visible(kafka_server, topic, open_fenced, find_out):
    """One had records on the broker and more in its queue when another claimed the lane: none of them counts."""
    old = open_fenced()
    early = old.send(outbox_rows(topic, [b"k"] * 3, start=1))
    old._producer.flush(30)
    assert written(kafka_server.bootstrap, topic) == 3
    assert not early.done
    new = open_fenced()
    stale = Ticket(3)
    old._inside.append(stale)
    # Reports of a broken client may be lost: these are.
    old._hand_over(outbox_rows(topic, [b"k"] * 3, start=4), stale, repeat(lambda *_: len("")))
    with pytest.raises(Fatal, match="taken over"):
        find_out(old)
    assert not stale.done
    ticket = new.send(outbox_rows(topic, [b"k"] * 2, start=10))
    assert new.drain(30) == 0
    assert ticket.done
    assert committed(kafka_server.bootstrap, topic) == [10, 11]


def test_without_fencing_the_producer_before_is_heard(kafka_server, topic, open_fenced):
    """What the plain publisher cannot do: its late records are there (repeats, absorbed downstream)."""
    old, new = open_fenced(Publisher), open_fenced(Publisher)
    new.send(outbox_rows(topic, [b"k"], start=10))
    assert new.drain(30) == 0
    old.send(outbox_rows(topic, [b"k"], start=1))
    assert old.drain(30) == 0
    assert committed(kafka_server.bootstrap, topic) == [10, 1]


def test_an_idle_producer_that_was_taken_over_is_refused_at_its_next_record(kafka_server, topic, open_fenced):
    """No transaction was open when the other came: the next commit fails all the same."""
    old = open_fenced()
    new = open_fenced()
    with pytest.raises(Fatal, match="taken over"):
        old.send(outbox_rows(topic, [b"k"]))
        old.drain(30)
    new.send(outbox_rows(topic, [b"k"], start=5))
    assert new.drain(30) == 0
    assert committed(kafka_server.bootstrap, topic) == [5]


def test_a_kill_between_produce_and_commit_shows_nothing(kafka_server, topic, open_fenced, store_id):
    """Kill -9 with 100 records on the broker and no commit: after the next claim the log shows none of them."""
    program = (
        "import sys, time\n"
        "from kylo_outbox.kafka.client import KafkaAddress\n"
        "from kylo_outbox.kafka import fenced\n"
        "from tests.helpers.broker import outbox_rows\n"
        "from tests.integration.test_fencing import claimed\n"
        "bootstrap, topic, store = sys.argv[1:]\n"
        "publisher = claimed(fenced.FencedPublisher(KafkaAddress(bootstrap), store), topic)\n"
        "publisher.send(outbox_rows(topic, [b'k'] * 100))\n"
        "publisher._producer.flush(30)\n"
        "print('written', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, kafka_server.bootstrap, topic, store_id], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
    assert written(kafka_server.bootstrap, topic) == 100
    publisher = open_fenced()
    publisher.send(outbox_rows(topic, [b"k"], start=200))
    assert publisher.drain(30) == 0
    assert committed(kafka_server.bootstrap, topic) == [200]


def test_closing_leaves_no_open_transaction_behind(kafka_server, topic, open_fenced):
    """Readers of committed records are not held back by what a closed publisher had begun."""
    old = open_fenced()
    old.send(outbox_rows(topic, [b"k"]))
    old._producer.flush(30)
    old.close()
    plain = open_fenced(Publisher)
    plain.send(outbox_rows(topic, [b"k"], start=7))
    assert plain.drain(30) == 0
    assert committed(kafka_server.bootstrap, topic) == [7]


def test_after_a_refused_record_the_publisher_is_rebuilt_and_goes_on(kafka_server, address, store_id):
    """The transaction of a too large record is lost as a whole; what is sent again is there once."""
    small = make_topic(kafka_server.bootstrap, config={"max.message.bytes": "20000"})
    publisher = claimed(FencedPublisher(address, store_id), small)
    good = publisher.send(outbox_rows(small, [b"a", b"b"]))
    bad = publisher.send(outbox_rows(small, [b"c"], payload=b"x" * 30_000, start=3))
    publisher.drain(30)
    assert not good.done
    assert bad.failure is not None
    assert bad.refuses_record(publisher.fatal)
    assert bad.refused_for_size(publisher.fatal)
    publisher.rebuild()
    until(lambda: publisher.exists(small))
    claimed(publisher, small).send(outbox_rows(small, [b"a", b"b"]))
    assert publisher.drain(30) == 0
    assert sorted(committed(kafka_server.bootstrap, small)) == [1, 2]
    publisher.close()


def test_without_a_broker_nothing_is_taken_and_nothing_hangs():
    """`send` says that it took nothing; so the relay keeps the rows and asks again."""
    publisher = FencedPublisher(KafkaAddress("127.0.0.1:1"), "nobody")
    before = time.monotonic()
    with pytest.raises(KafkaFault):
        publisher.send(outbox_rows("t", [b"k"]))
    assert time.monotonic() - before < 10
    assert publisher.drain(1) == 0
    publisher.close()


@pytest.fixture
def fenced_relay(make_relay, address):
    """Build relays that publish with fencing."""

    def make(at=address, **changes):
        return Patient(make_relay(open_publisher=lambda store_id: FencedPublisher(at, store_id), **changes))

    return make


def test_the_relay_drains_a_backlog_in_order_and_repeats_nothing(
    control_db, kafka_server, topic, fenced_relay, run_until
):
    """5,000 rows of 50 keys, and a clean stop in between: each is there once, in order."""
    first = fenced_relay()
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=str(n % 50), type="T", payload={"n": n}) for n in range(5000)])
    run_until(first, lambda: first.relay.state.published)
    first.close()
    run_until(fenced_relay(), lambda: open_rows(control_db) == 0, seconds=60)
    records = read_all(kafka_server.bootstrap, topic)
    assert len(records) == len(first_appearances(records)) == 5000
    assert inversions(records) == 0


def test_a_relay_that_stands_by_refuses_nobody(control_db, topic, fenced_relay, run_until):
    """The id is claimed by whoever publishes: a second relay that starts does not stop the first."""
    leader, standby = fenced_relay(), fenced_relay()
    standby.relay._opened()  # to connect may take longer than a lease lasts
    run_until(leader, lambda: leader.relay.state.leading)
    for number in range(5):
        with control_db.transaction() as tx:
            emit(tx, topic=topic, key="k", type="T", payload={"n": number})
        run_until(leader, lambda: open_rows(control_db) == 0)
        leader.run_once()
        assert standby.run_once().leading is False
    assert leader.relay.state.leading


def test_a_relay_that_was_taken_over_at_the_broker_stops(control_db, kafka_server, topic, fenced_relay, run_until):
    """Its lease still stands, but the broker knows a newer owner of the lane: the worker ends, the cursor stays."""
    relay = fenced_relay()
    with control_db.transaction() as tx:
        emit(tx, topic=topic, key="k", type="T", payload={})
        [store_id] = tx.execute("select store_id from kylo.store").fetchone()
    run_until(relay, lambda: open_rows(control_db) == 0)
    usurper = claimed(FencedPublisher(KafkaAddress(kafka_server.bootstrap), store_id), topic)
    with control_db.transaction() as tx:
        emit(tx, topic=topic, key="k", type="T", payload={})
    with pytest.raises(Fatal, match="taken over"):
        run_until(relay, lambda: False)
    usurper.close()
    assert open_rows(control_db) == 1
    run_until(fenced_relay(), lambda: open_rows(control_db) == 0)
    assert committed(kafka_server.bootstrap, topic) == [1, 2]


def test_a_too_large_record_is_held_and_its_neighbours_pass(control_db, kafka_server, fenced_relay, run_until):
    """The refused transaction is sent again row by row: the culprit waits with its key, the others are there once."""
    small = make_topic(kafka_server.bootstrap, config={"max.message.bytes": "20000"})
    with control_db.transaction() as tx:
        for number in range(60):
            text = "x" * (30_000 if number == 33 else 10)
            emit(tx, topic=small, key=f"k{number % 10}", type="T", payload={"n": number, "text": text})
    run_until(fenced_relay(), lambda: open_rows(control_db) == 3, seconds=120)
    records = read_all(kafka_server.bootstrap, small)
    assert inversions(records) == 0
    assert sorted(record.outbox_id for record in records) == sorted(set(range(1, 61)) - {34, 44, 54})


def test_the_relay_goes_on_after_the_broker_was_away(control_db, own_kafka, fenced_relay, run_until):
    """The broker gets kill -9 in the middle of a backlog, and a start: everything arrives, in order, and none twice."""
    topic = make_topic(own_kafka.bootstrap)
    relay = fenced_relay(KafkaAddress(own_kafka.bootstrap), batch=200)
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=str(n % 50), type="T", payload={"n": n}) for n in range(20_000)])
    run_until(relay, lambda: relay.relay.state.published >= 2000, seconds=60)
    own_kafka.kill()
    run_until(relay, lambda: relay.waits > 2, seconds=60)
    own_kafka.start()
    run_until(relay, lambda: open_rows(control_db) == 0, seconds=120)
    records = read_all(own_kafka.bootstrap, topic)
    assert len(records) == len(first_appearances(records)) == 20_000
    assert inversions(records) == 0
