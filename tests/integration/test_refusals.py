"""What the real broker refuses, and who is held for it: the record at fault with its key, never its neighbours."""

from __future__ import annotations

import pytest

from kylo_outbox import Event, emit_many
from kylo_outbox.kafka.producer import Publisher
from tests.helpers.broker import delete_topic, first_appearances, inversions, make_topic, read_all


class _Counted(Publisher):
    """Counts how often its client is built anew, and how often with smaller batches."""

    rebuilds = smaller = 0

    def rebuild(self, *, smaller=False):
        self.rebuilds += 1
        self.smaller += smaller
        super().rebuild(smaller=smaller)


@pytest.fixture
def counted_relay(make_relay, address):
    """A relay and the list of its publishers."""
    made: list[_Counted] = []

    def open_publisher(store_id):
        made.append(_Counted(address, store_id))
        return made[-1]

    return make_relay(open_publisher=open_publisher), made


def open_rows(database):
    """How many events nobody has acknowledged."""
    with database.transaction() as tx:
        [count] = tx.execute("select count(*) from outbox where processed_at is null").fetchone()
    return count


def reasons(database):
    """Why events are held, without those that only wait behind one."""
    with database.transaction() as tx:
        found = tx.execute("select distinct reason from kylo.outbox_held").fetchall()
    return [reason for (reason,) in found if not reason.startswith("waits behind")]


def test_a_limit_below_the_batch_size_refuses_no_innocent_record(control_db, kafka_server, patiently, counted_relay):
    """5,000 small rows for a topic that takes 20 kB at once: all arrive, none is held, after few new clients."""
    small = make_topic(kafka_server.bootstrap, partitions=2, config={"max.message.bytes": "20000"})
    relay, made = counted_relay
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=small, key=f"k{n % 50}", type="T", payload={"x": "x" * 100}) for n in range(5000)])
    patiently(relay, lambda: open_rows(control_db) == 0)
    records = read_all(kafka_server.bootstrap, small)
    assert len(first_appearances(records)) == 5000
    assert inversions(records) == 0
    assert relay.state.held_keys == set()
    print(f"{made[0].rebuilds} new clients, {made[0].smaller} with smaller batches, {len(records) - 5000} repeats")
    assert 1 <= made[0].smaller <= 4
    assert made[0].rebuilds <= 12
    with control_db.transaction() as tx:
        assert tx.execute("select count(*) from kylo.outbox_held").fetchone() == (0,)


def test_no_successor_of_a_refused_record_reaches_the_log(control_db, kafka_server, patiently, counted_relay):
    """Three of 2,000 records are too large: the log never saw a later one of their keys, and has all others."""
    small = make_topic(kafka_server.bootstrap, config={"max.message.bytes": "20000"})
    relay, _ = counted_relay
    culprits = {501: "k1", 502: "k2", 1401: "k1", 1503: "k3"}
    with control_db.transaction() as tx:
        emit_many(
            tx,
            [
                Event(topic=small, key=f"k{n % 50}", type="T", payload={"x": "x" * (30_000 if n in culprits else 10)})
                for n in range(2000)
            ],
        )
    first = {"k1": 502, "k2": 503, "k3": 1504}  # ids begin at 1
    held = {n + 1 for n in range(2000) if n + 1 >= first.get(f"k{n % 50}", 3000)}
    patiently(relay, lambda: open_rows(control_db) == len(held))
    records = read_all(kafka_server.bootstrap, small)
    assert inversions(records) == 0
    assert {record.outbox_id for record in records} == set(range(1, 2001)) - held
    assert relay.state.held_keys == {(small, key.encode()) for key in first}
    assert all("Message size too large" in reason for reason in reasons(control_db))


def test_many_refused_records_cost_few_new_clients(control_db, kafka_server, patiently, counted_relay):
    """One in a hundred is too large: what the topic refused once is known for the next ones, larger or as large."""
    small = make_topic(kafka_server.bootstrap, config={"max.message.bytes": "200000"})
    relay, made = counted_relay

    def payload(n):
        return {"x": "x" * (250_000 + n if n % 100 == 17 else 10)}

    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=small, key=f"k{n % 1000}", type="T", payload=payload(n)) for n in range(4000)])
    # Ids begin at 1; the first refused record of a key holds the three turns of it that follow.
    keys = {n for n in range(1000) if n % 100 == 17}
    patiently(relay, lambda: open_rows(control_db) == 4 * len(keys))
    records = read_all(kafka_server.bootstrap, small)
    assert inversions(records) == 0
    assert {record.outbox_id for record in records} == {n + 1 for n in range(4000) if n % 1000 not in keys}
    assert relay.state.held_keys == {(small, f"k{n}".encode()) for n in keys}
    assert all("Message size too large" in reason for reason in reasons(control_db))
    assert made[0].rebuilds <= 14, "ten to find the first, and none for the others"
    assert not relay._caution._doubted, "nobody is doubted for ever: the next limit would not be recognised"


def test_a_topic_deleted_under_the_relay_holds_its_own_keys(control_db, kafka_server, patiently, counted_relay):
    """It was there when it was asked for: its events wait, others arrive, and it goes on when it is made again."""
    doomed, other = make_topic(kafka_server.bootstrap), make_topic(kafka_server.bootstrap)
    relay, _ = counted_relay
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key="k", type="T", payload={}) for topic in (doomed, other)])
    patiently(relay, lambda: open_rows(control_db) == 0)
    delete_topic(kafka_server.bootstrap, doomed)
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key="k", type="T", payload={}) for topic in (doomed, other) * 3])
    patiently(relay, lambda: open_rows(control_db) == 3)
    assert relay.state.held_keys == {(doomed, b"k")}
    assert len(first_appearances(read_all(kafka_server.bootstrap, other))) == 4
    make_topic(kafka_server.bootstrap, doomed)
    patiently(relay, lambda: open_rows(control_db) == 0)
    records = read_all(kafka_server.bootstrap, doomed)
    assert [record.outbox_id for record in first_appearances(records)] == [3, 5, 7]
