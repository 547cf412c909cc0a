"""Held events with a real relay and a real broker: what operators do keeps the order and loses nothing else."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from kylo_outbox import Event, emit, emit_many
from kylo_outbox.flows import holds
from kylo_outbox.flows.relay import holding
from kylo_outbox.model.errors import Fatal
from kylo_outbox.store import audit, pauses
from kylo_outbox.store.pauses import Pauses
from tests.helpers.broker import inversions, make_topic, read_all

ME = "tester@here"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Held events are tried again soon."""
    monkeypatch.setattr(holding, "RETRY_EVERY", 0.3)
    monkeypatch.setattr(pauses, "REFRESH", 0.1)


@pytest.fixture
def small(kafka_server):
    """A topic that takes 20,000 bytes."""
    return make_topic(kafka_server.bootstrap, config={"max.message.bytes": "20000"})


def rows(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def open_rows(database):
    """How many events nobody has acknowledged."""
    return rows(database, "select count(*) from outbox where processed_at is null")[0][0]


def written(database, topic, large=(2,), number=6):
    """Events of two keys; those numbered in `large` are of key a and larger than the topic takes."""
    with database.transaction() as tx:
        for n in range(number):
            text = "x" * (30_000 if n in large else 10)
            emit(tx, topic=topic, key="a" if n in large or n % 2 else "b", type="T", payload={"n": n, "text": text})


def held(database, count):
    """Whether so many events are held and the cursor is behind them."""
    return lambda: rows(database, "select count(*) from kylo.outbox_held")[0][0] == open_rows(database) == count


def test_released_after_the_limit_was_raised_the_key_goes_on_in_order(
    control_db, kafka_server, small, make_relay, run_until
):
    """The refused event first, then those behind it, each once; the other key was never delayed."""
    written(control_db, small)
    relay = make_relay()
    run_until(relay, held(control_db, 3), seconds=60)
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    raised = ConfigEntry("max.message.bytes", "100000", incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, small, incremental_configs=[raised])]
    ).values():
        future.result(60)
    with control_db.transaction() as tx:
        assert holds.release(tx, small, "a", who=ME).changed
        assert [event.verb for event in audit.read(tx, 10)] == ["outbox release"]
    run_until(relay, lambda: open_rows(control_db) == 0, seconds=60)
    records = read_all(kafka_server.bootstrap, small)
    assert inversions(records) == 0
    assert sorted(record.outbox_id for record in records if record.key == "a") == [2, 3, 4, 6]


def test_a_discarded_event_is_a_gap_and_the_next_ones_go_on(control_db, kafka_server, small, make_relay, run_until):
    """The running relay loses its lane and starts over; nothing else is lost, doubled or reordered for the key."""
    written(control_db, small)
    relay = make_relay()
    run_until(relay, held(control_db, 3), seconds=60)
    with control_db.transaction() as tx:
        assert holds.discard(tx, small, "a", reason="by hand", who=ME).ids == (3,)
    with pytest.raises(Fatal, match="taken over"):
        run_until(relay, lambda: False, seconds=20)
    with control_db.transaction() as tx:
        emit(tx, topic=small, key="a", type="T", payload={"n": "later"})
    run_until(make_relay(), lambda: open_rows(control_db) == 0, seconds=60)
    records = read_all(kafka_server.bootstrap, small)
    assert inversions(records) == 0
    assert sorted({record.outbox_id for record in records if record.key == "a"}) == [2, 4, 6, 7]


def test_a_paused_key_waits_over_restarts_and_goes_on_in_order(control_db, kafka_server, make_relay, run_until):
    """Paused by key, then by topic: held in order, seen by a running relay within its look, resumed without loss."""
    topic = make_topic(kafka_server.bootstrap)
    seen = Pauses(control_db)
    relay = make_relay(is_paused=seen.covers)
    with control_db.transaction() as tx:
        holds.pause(tx, topic, "0", reason="", who=ME)
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=str(n % 2), type="T", payload={"n": n}) for n in range(20)])
    run_until(relay, held(control_db, 10), seconds=60)
    assert {record.key for record in read_all(kafka_server.bootstrap, topic)} == {"1"}
    relay.close()
    with control_db.transaction() as tx:
        holds.pause(tx, topic, None, reason="", who=ME)
        holds.resume(tx, topic, "0", who=ME)
        emit_many(tx, [Event(topic=topic, key=str(n % 2), type="T", payload={"n": n}) for n in range(4)])
    again = make_relay(is_paused=Pauses(control_db).covers)
    run_until(again, held(control_db, 14), seconds=60)
    with control_db.transaction() as tx:
        holds.resume(tx, topic, None, who=ME)
    run_until(again, lambda: open_rows(control_db) == 0, seconds=60)
    records = read_all(kafka_server.bootstrap, topic)
    assert len(records) == 24
    assert inversions(records) == 0


def test_by_policy_a_refused_event_becomes_a_dead_letter_on_its_topic(
    control_db, kafka_server, small, make_relay, patiently
):
    """Two refused events of one key: both lie on the dead letter topic with their bytes, all others in the log."""
    dead = make_topic(kafka_server.bootstrap, f"{small}.dlq")
    written(control_db, small, large=(2, 4))
    with control_db.transaction() as tx:
        holds.set_policy(tx, small, "skip", who=ME)
    patiently(make_relay(), lambda: open_rows(control_db) == 0, seconds=60)
    letters = read_all(kafka_server.bootstrap, dead)
    assert [letter.key for letter in letters] == ["a", "a"]
    assert all(len(letter.value) > 30_000 and letter.headers["dlq-stage"] == b"relay" for letter in letters)
    records = read_all(kafka_server.bootstrap, small)
    assert inversions(records) == 0
    assert sorted({record.outbox_id for record in records}) == [1, 2, 4, 6]
    letters_kept = rows(control_db, "select outbox_id, reason from kylo.dead_letters order by 1")
    assert [number for number, _ in letters_kept] == [3, 5]
    assert all("Message size too large" in reason for _, reason in letters_kept)
