"""The hint that wakes a relay: paid only while the relay sleeps, once a bucket and transaction, never in its way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.flows.relay import Relay, RelayState, rest, worker
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.local import paths
from kylo_outbox.local.postgres import LocalPostgres
from kylo_outbox.model.errors import Transient
from kylo_outbox.runtime.loop import Pulse, run
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.store import fixtures
from kylo_outbox.store.engine import connect
from kylo_outbox.store.session import LaneSession
from tests.helpers.broker import make_topic

ASLEEP = 1802068091


@pytest.fixture(scope="module")
def database(module_folder):
    """A store on a server where nobody can prepare transactions, as most servers are set."""
    server = LocalPostgres(
        module_folder / "postgres",
        paths.free_port(),
        log_file=module_folder / "postgres.log",
        settings={"max_prepared_transactions": "0", "shared_buffers": "16MB"},
    )
    server.start()
    fixtures.ensure_template(server.dsn("postgres"), server.dsn("hints"), "hints")
    yield server.dsn("hints")
    server.kill()


@pytest.fixture
def relay(database):
    """A connection that listens as a relay does."""
    with closing(connect(database, "relay", autocommit=True)) as connection:
        connection.execute("listen kylo_outbox")
        fall_asleep(connection)
        yield connection


@pytest.fixture
def writer(database):
    """A connection of a business transaction."""
    with closing(connect(database, "writer")) as connection:
        yield connection


def fall_asleep(relay):
    """Take the lock of every bucket; whether each was free."""
    sql = "select pg_try_advisory_lock(%s, b) from generate_series(0, 15) b"
    return all(taken for (taken,) in relay.execute(sql, (ASLEEP,)))


def heard(relay):
    """Payloads of the notifications that have arrived; a query of ours comes after all that were sent before it."""
    relay.execute("select pg_notify('kylo_outbox', 'end')")
    found = []
    for notice in relay.notifies(timeout=30, stop_after=100):
        if notice.payload == "end":
            break
        found.append(notice.payload)
    return found


def event(key: str) -> Event:
    """An event of a key."""
    return Event(topic="t", key=key, type="T", payload={})


def bucket(connection, key: str) -> str:
    """The bucket of a key, as the hint names it."""
    [slot] = connection.execute("select kylo.slot_of('t', convert_to(%s, 'UTF8')) >> 6", (key,)).fetchone()
    return str(slot)


def test_a_relay_that_sleeps_is_called_once_a_bucket_and_transaction(relay, writer):
    """However many events: one notification for each bucket."""
    keys = [f"k{n}" for n in range(40)]
    for key in keys[:5]:
        emit(writer, topic="t", key=key, type="T", payload={})
        emit(writer, topic="t", key=key, type="T", payload={})
    emit_many(writer, [event(key) for key in keys])
    expected = {bucket(writer, key) for key in keys}
    assert heard(relay) == []
    writer.commit()
    found = heard(relay)
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert 5 < len(expected) <= 16


def test_a_relay_that_is_awake_is_not_called(relay, writer):
    """Its locks are free: it finds the event by itself; the buckets that it still holds are called for."""
    mine = bucket(writer, "k")
    for number in set(range(16)) - {int(mine)}:
        relay.execute("select pg_advisory_unlock(%s, %s)", (ASLEEP, number))
    others = [event(key) for key in "abcdefgh" if bucket(writer, key) != mine]
    emit_many(writer, others)
    writer.commit()
    assert heard(relay) == []
    emit(writer, topic="t", key="k", type="T", payload={})
    emit_many(writer, others)
    writer.commit()
    assert heard(relay) == [mine]


def test_what_is_rolled_back_calls_nobody(relay, writer):
    """The hint is part of the transaction."""
    emit(writer, topic="t", key="k", type="T", payload={})
    emit_many(writer, [event("a")])
    writer.rollback()
    assert heard(relay) == []


def test_an_open_transaction_does_not_keep_the_relay_from_falling_asleep(relay, writer):
    """A writer that found nobody asleep and goes on for long holds no lock that the relay wants."""
    relay.execute("select pg_advisory_unlock_all()")
    emit(writer, topic="t", key="k", type="T", payload={})
    emit_many(writer, [event("a")])
    assert fall_asleep(relay)
    writer.rollback()


def test_where_transactions_can_be_prepared_there_is_no_hint(control_db):
    """PREPARE TRANSACTION refuses a transaction with a NOTIFY, so emit sends none there."""
    with (
        closing(connect(control_db.dsn, "relay", autocommit=True)) as relay,
        closing(connect(control_db.dsn, "two phases", autocommit=True)) as writer,
    ):
        relay.execute("listen kylo_outbox")
        assert fall_asleep(relay)
        writer.execute("begin")
        emit(writer, topic="t", key="k", type="T", payload={})
        emit_many(writer, [event("a")])
        writer.execute("prepare transaction 'hinted'")
        writer.execute("commit prepared 'hinted'")
        assert heard(relay) == []


def test_a_server_that_ends_the_connection_wakes_the_relay_with_that(database, writer):
    """It does not sleep on: the wait says that the connection is gone."""
    with closing(LaneSession(database, "test")) as session:
        assert session.take(0, "test")
        assert session.asleep()
        writer.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ 'relay test'")
        writer.commit()
        with pytest.raises(Transient, match="test"):
            while not session.wait(60.0):
                pass
        assert session.broken


def test_a_relay_that_would_look_in_a_minute_hears_of_a_commit_at_once(database, writer, kafka_server, monkeypatch):
    """The bell wakes a sleeping relay: its next look by itself would come much later."""
    monkeypatch.setattr(rest, "_SHORTEST", 60.0)
    monkeypatch.setattr(rest, "_LONGEST", 60.0)
    asleep = threading.Event()
    session = LaneSession(database, "test")
    waits = session.wait
    monkeypatch.setattr(session, "wait", lambda seconds: asleep.set() or waits(seconds))
    topic = make_topic(kafka_server.bootstrap)
    relay = Relay(
        state=RelayState(store="test", lane=0),
        holder="test",
        open_session=lambda: session,
        open_publisher=lambda store_id: Publisher(KafkaAddress(brokers=kafka_server.bootstrap), store_id),
    )
    stop, published = Stop(), threading.Event()
    monkeypatch.setattr(worker, "count", lambda _batch: published.set())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, relay, stop, Pulse())
        try:
            assert asleep.wait(60)
            emit(writer, topic=topic, key="k", type="T", payload={})
            writer.commit()
            assert published.wait(40), "it slept on"
        finally:
            stop.set()
            emit(writer, topic=topic, key="k", type="T", payload={})
            writer.commit()
            running.result(120)
