"""The relay on a real database and a real broker: keyed, in order, acknowledged before the cursor moves."""

from __future__ import annotations

import time

import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.flows.relay import RelayState
from kylo_outbox.kafka.producer import NoBroker, Publisher, Ticket
from kylo_outbox.model.errors import Fatal
from tests.helpers.broker import first_appearances, inversions, make_topic, read_all
from tests.helpers.writers import Writers


def open_rows(database):
    """How many events nobody has acknowledged."""
    with database.transaction() as tx:
        [count] = tx.execute("select count(*) from outbox where processed_at is null").fetchone()
    return count


@pytest.fixture
def topic(kafka_server):
    """A topic of this test's own."""
    return make_topic(kafka_server.bootstrap)


def test_rows_arrive_with_key_payload_and_headers(control_db, kafka_server, topic, make_relay, run_until):
    """A record carries the key, the payload's bytes, one header of ours and the writer's own."""
    with control_db.transaction() as tx:
        event = emit(tx, topic=topic, key="710", type="PAID", payload='{ "a": 1 }', headers={"who": "me"})
        [store_id] = tx.execute("select store_id from kylo.store").fetchone()
    assert open_rows(control_db) == 1
    run_until(make_relay(), lambda: open_rows(control_db) == 0)
    [record] = read_all(kafka_server.bootstrap, topic)
    assert (record.key, record.value) == ("710", b'{ "a": 1 }')
    assert record.headers["who"] == b"me"
    assert record.kylo == f"1;{store_id};1;1;{event.event_id};PAID"
    with control_db.transaction() as tx:
        assert tx.execute("select processed_at >= created_at from outbox").fetchone() == (True,)


def test_a_backlog_is_drained_in_order_without_touching_a_row(control_db, kafka_server, topic, make_relay, run_until):
    """5,000 rows of 50 keys: each once, in order, and not one row of the outbox updated or deleted."""
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=str(n % 50), type="T", payload={"n": n}) for n in range(5000)])
    run_until(make_relay(), lambda: open_rows(control_db) == 0)
    records = read_all(kafka_server.bootstrap, topic)
    assert len(records) == len(first_appearances(records)) == 5000
    assert inversions(records) == 0
    with control_db.transaction() as tx:
        tx.execute("select pg_stat_force_next_flush()")
        touched = (
            "select coalesce(sum(n_tup_upd + n_tup_del), 0) from pg_stat_user_tables where relname like 'outbox_log%'"
        )
        assert tx.execute(touched).fetchone() == (0,)


def test_a_clean_stop_and_start_repeats_nothing(control_db, kafka_server, topic, make_relay, run_until):
    """What was in flight at the stop is waited for and its cursor stored."""
    first = make_relay()
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key="k", type="T", payload={"n": n}) for n in range(3000)])
    run_until(first, lambda: first.state.published or any(track.in_flight for track in first._tracks))
    first.close()
    run_until(make_relay(), lambda: open_rows(control_db) == 0)
    assert len(read_all(kafka_server.bootstrap, topic)) == 3000


def test_the_second_relay_stands_by_and_takes_over(control_db, topic, make_relay, run_until):
    """One leads; when it has gone the other publishes at once."""
    first, second = make_relay(), make_relay(state=RelayState(store="test", lane=0))
    run_until(first, lambda: first.state.leading)
    assert second.run_once().leading is False
    first.close()
    with control_db.transaction() as tx:
        emit(tx, topic=topic, key="k", type="T", payload={})
    run_until(second, lambda: open_rows(control_db) == 0, seconds=2.0)


def test_a_relay_that_lost_its_lane_moves_no_cursor(control_db, topic, make_relay, run_until):
    """After a takeover (a higher epoch) the former holder stops instead of storing anything."""
    relay = make_relay()
    run_until(relay, lambda: relay.state.leading)
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set epoch = epoch + 1")
        emit(tx, topic=topic, key="k", type="T", payload={})
        [before] = tx.execute("select high_water from kylo.lanes").fetchone()
    with pytest.raises(Fatal, match="taken over"):
        run_until(relay, lambda: False, seconds=5.0)
    with control_db.transaction() as tx:
        assert tx.execute("select high_water from kylo.lanes").fetchone() == (before,)


class _NeverSends(Publisher):
    """A producer whose process dies before anything reaches the broker."""

    def send(self, rows, *, tracked=False):
        return Ticket(len(rows), [row[0] for row in rows] if tracked else None)


class _ClaimsAtOnce(_NeverSends):
    """The planted fault: success is taken for granted when the rows were handed over."""

    def send(self, rows, *, tracked=False):
        ticket = super().send(rows, tracked=tracked)
        ticket.acknowledged = ticket.expected
        return ticket


@pytest.mark.parametrize(("kind", "lost"), [(_NeverSends, 0), (_ClaimsAtOnce, 100)])
def test_the_cursor_moves_over_acknowledged_rows_only(
    control_db, kafka_server, topic, make_relay, run_until, address, kind, lost
):
    """A relay that dies with everything unacknowledged loses nothing; one that moved the cursor before loses all."""
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key="k", type="T", payload={"n": n}) for n in range(100)])
    relay = make_relay(open_publisher=lambda store_id: kind(address, store_id))
    run_until(relay, lambda: any(track.in_flight for track in relay._tracks) or relay.state.published)
    for _ in range(20):
        relay.run_once()
    relay._written_at = 0.0
    relay.run_once()
    relay._session._connection.close()  # kill -9: no draining, no last cursor
    relay._drop()
    run_until(make_relay(), lambda: open_rows(control_db) == 0)
    assert len(read_all(kafka_server.bootstrap, topic)) == 100 - lost


def test_a_missing_topic_holds_its_own_keys_only(control_db, kafka_server, topic, make_relay, run_until):
    """Events of a topic that does not exist wait, in order, and go on when it does; others are not delayed."""
    missing = f"{topic}-missing"
    with control_db.transaction() as tx:
        for number in range(3):
            emit(tx, topic=missing, key="k", type="T", payload={"n": number})
            emit(tx, topic=topic, key="k", type="T", payload={"n": number})
    relay = make_relay()
    run_until(relay, lambda: open_rows(control_db) == 3)
    assert len(read_all(kafka_server.bootstrap, topic)) == 3
    make_topic(kafka_server.bootstrap, missing)
    run_until(relay, lambda: open_rows(control_db) == 0)
    assert [record.outbox_id for record in read_all(kafka_server.bootstrap, missing)] == [1, 3, 5]


def test_a_refused_record_holds_its_key_and_none_passes_it(control_db, kafka_server, make_relay, run_until):
    """Of 300 records one is too large for its topic: its key waits from there, every other record arrives, in order."""
    small = make_topic(kafka_server.bootstrap, config={"max.message.bytes": "20000"})
    with control_db.transaction() as tx:
        for number in range(300):
            text = "x" * (30_000 if number == 140 else 10)
            emit(tx, topic=small, key=f"k{number % 10}", type="T", payload={"n": number, "text": text})
    relay = make_relay()
    run_until(relay, lambda: open_rows(control_db) == 16, seconds=60)
    records = read_all(kafka_server.bootstrap, small)
    assert inversions(records) == 0
    held = {number + 1 for number in range(140, 300, 10)}
    assert {record.outbox_id for record in records} == set(range(1, 301)) - held
    with control_db.transaction() as tx:
        reasons = tx.execute("select distinct reason from kylo.outbox_held").fetchall()
    assert any("Message size too large" in reason for (reason,) in reasons)


def test_a_paused_company_waits_and_goes_on_in_order(control_db, kafka_server, topic, make_relay, run_until):
    """Events of a paused company are held, the others go on; resumed, they follow in order, also over a restart."""
    paused = {b"710"}
    relay = make_relay(is_paused=lambda _topic, key: key in paused)
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=str(710 + n % 2), type="T", payload={}) for n in range(20)])
    run_until(relay, lambda: open_rows(control_db) == 10)
    assert {record.key for record in read_all(kafka_server.bootstrap, topic)} == {"711"}
    relay.close()
    paused.clear()
    with control_db.transaction() as tx:
        emit(tx, topic=topic, key="710", type="T", payload={})
    again = make_relay(is_paused=lambda _topic, key: key in paused)
    run_until(again, lambda: open_rows(control_db) == 0)
    records = read_all(kafka_server.bootstrap, topic)
    assert len(records) == len(first_appearances(records)) == 21
    assert inversions(records) == 0


def test_with_an_interval_the_relay_looks_on_schedule(control_db, topic, make_relay, run_until):
    """`KYLO_RELAY_INTERVAL`: a look drains what is there, and the next one comes after the interval, not before."""
    relay = make_relay(interval=1.0)
    run_until(relay, lambda: relay._rest._not_before > 0)
    due = relay._rest._not_before
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key="k", type="T", payload={}) for _ in range(2500)])
    while time.monotonic() < due - 0.2:
        assert relay.run_once().read == 0
    run_until(relay, lambda: open_rows(control_db) == 0, seconds=10.0)


def test_without_any_broker_events_for_kafka_are_held(control_db, kafka_server, topic, make_relay, run_until):
    """A relay without Kafka loses nothing: what is for Kafka waits until there is a relay with Kafka."""
    with control_db.transaction() as tx:
        emit(tx, topic=topic, key="k", type="T", payload={})
    relay = make_relay(open_publisher=lambda _store: NoBroker())
    run_until(relay, lambda: relay.state.held_keys)
    relay.close()
    assert open_rows(control_db) == 1
    run_until(make_relay(), lambda: open_rows(control_db) == 0)
    assert len(read_all(kafka_server.bootstrap, topic)) == 1


def test_late_commits_reach_the_log_in_order_and_the_relay_never_stalls(
    control_db, make_database, kafka_server, topic, make_relay, run_until
):
    """8 writers with sleeps and rollbacks while another database of the cluster holds a transaction open: 0 and 0."""
    relay = make_relay()
    elsewhere = make_database()
    with elsewhere.begin() as idle:
        idle.exec_driver_sql("set local idle_in_transaction_session_timeout = 0")
        idle.exec_driver_sql("select pg_current_xact_id()")
        with Writers(control_db.dsn, topic).running() as writers:
            run_until(relay, lambda: relay.state.published >= 2500, seconds=60)
        run_until(relay, lambda: open_rows(control_db) == 0)
    assert writers.failed == []
    records = read_all(kafka_server.bootstrap, topic)
    assert {record.event_id for record in records} == {str(event_id) for event_id in writers.committed}
    assert inversions(records) == 0
