"""Projecting: each event's effect once, in order per key, whatever is repeated, crashes or is poison."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from kylo_outbox import Event, Transient, emit, emit_many
from kylo_outbox.flows.project import Project, Projection
from kylo_outbox.kafka.consumer import Subscription
from kylo_outbox.model.delivery import from_record
from kylo_outbox.model.projector import EffectProjector
from kylo_outbox.model.topics import dead_letter_name
from tests.helpers.broker import make_topic, read_all
from tests.helpers.projectors import TABLE, Collects, delivery


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
def projection(control_db, applied):
    """A projection of `Collects` on the test's database."""
    return Projection(Collects("t"), lambda _delivery: control_db, dead_letter_name)


def position(database, key="k"):
    """Where the projector is with a key."""
    with database.transaction() as tx:
        columns = "generation, outbox_id, applied, digest, duplicates"
        return tx.execute(f"select {columns} from kylo.positions where key = %s", (key,)).fetchone()


def test_repeats_change_nothing_and_are_counted(control_db, projection, applied):
    """A batch handed over twice, and a part of it again, is applied once."""
    batch = [delivery(n, f"k{n % 2}") for n in range(1, 7)]
    projection.handle(batch)
    projection.handle(batch)
    projection.handle(batch[2:4])
    assert applied() == [(f"k{n % 2}", n) for n in range(1, 7)]
    assert position(control_db, "k0") == (1, 6, 3, 12, 4)


def test_effect_and_position_are_one_transaction(control_db, projection, applied):
    """A failure after the effect leaves neither effect nor position; the next try applies once."""
    projection.projector.fail_after_effect = Transient("the database goes away now")
    with pytest.raises(Transient):
        projection.handle([delivery(1)])
    assert applied() == []
    assert position(control_db) is None
    projection.handle([delivery(1)])
    assert applied() == [("k", 1)]


def test_a_position_in_a_transaction_of_its_own_would_lose_or_double(control_db, projection, applied):
    """The planted fault: with the position stored before the effect's transaction, a crash between them loses."""
    transaction = control_db.transaction

    @contextmanager
    def split_in_two():
        with transaction() as tx:
            execute = tx.execute

            def committing(sql, *rest):
                result = execute(sql, *rest)
                if "insert into applied" in str(sql):
                    tx.commit()  # the effect is a transaction of its own now
                return result

            yield SimpleNamespace(execute=committing, pipeline=tx.pipeline, commit=tx.commit)

    projection._database_of = lambda _delivery: SimpleNamespace(transaction=split_in_two)
    projection.projector.fail_after_effect = Transient("killed between effect and position")
    with pytest.raises(Transient):
        projection.handle([delivery(1)])
    projection.handle([delivery(1)])
    assert applied() == [("k", 1), ("k", 1)]


def test_a_zombie_changes_nothing(control_db, projection, applied):
    """A stalled owner that goes on after its successor applied the same finds it seen."""
    stalled = Projection(Collects("t"), lambda _delivery: control_db, dead_letter_name)
    batch = [delivery(n) for n in range(1, 4)]
    projection.handle([*batch, delivery(4)])
    stalled.handle(batch)
    assert applied() == [("k", n) for n in range(1, 5)]


def test_ids_of_another_store_or_generation_are_no_repeats(projection, applied):
    """Two stores with one key, and a store whose ids started again, are told apart."""
    projection.handle([delivery(5)])
    projection.handle([delivery(1, store="ddddeeeeffff")])
    projection.handle([delivery(1, generation=2)])
    projection.handle([delivery(6, generation=1)])
    assert [number for _, number in applied()] == [5, 1, 1]


def test_one_poison_record_is_found_and_buried(control_db, projection, applied):
    """One bad record of 100 is a dead letter with its bytes and reason; with `skip`, 99 are applied in order."""
    projection.projector.on_poison = "skip"
    batch = [delivery(n, f"k{n % 5}", b'{"poison": true}' if n == 42 else b"{}") for n in range(1, 101)]
    projection.handle(batch)
    assert sorted(number for _, number in applied()) == [n for n in range(1, 101) if n != 42]
    with control_db.transaction() as tx:
        columns = "stage, topic, key, outbox_id, payload, reason, error_class, partition_offset"
        letters = tx.execute(f"select {columns} from kylo.dead_letters").fetchall()
        record = tx.execute("select topic, key, payload, headers from outbox").fetchone()
    assert letters == [("collects", "t", "k2", 42, b'{"poison": true}', "payload: this one is poison", "Poison", 42)]
    assert record[:3] == ("t.dlq", "k2", '{"poison": true}')
    assert record[3]["dlq-reason"] == "payload: this one is poison"
    assert record[3]["dlq-stage"] == "collects"
    projection.handle(batch)
    with control_db.transaction() as tx:
        assert tx.execute("select count(*) from kylo.dead_letters").fetchone() == (1,)
        assert tx.execute("select count(*) from outbox").fetchone() == (1,)


STRANGE: list[dict[str, Any]] = [
    {"value": None},
    {"value": b"\xff\x00not json"},
    {"value": b"[" * 5000 + b"]" * 5000},
    {"value": b'{"n": ' + b"9" * 10000 + b"}"},
    {"key": None},
    {"key": b"\xff\xfe\x00"},
    {"key": b"k" * 5000},
    {"headers": [("kylo", b"1;x;y")]},
    {"headers": [("kylo", None), ("", b"\xff")]},
    {"headers": [("kylo", b"9;later;version;of;the;header")]},
    {"headers": [("n\x00", b"\x00"), ("kylo", b"")]},
]


def test_strange_records_never_block_the_partition(control_db, projection, applied):
    """Random bytes, missing parts and broken headers are applied or buried with a reason, whoever wrote them."""
    projection.projector.on_poison = "skip"
    numbers = itertools.count()
    plain: dict[str, Any] = {"topic": "t", "partition": 3, "key": b"k", "value": b"{}", "headers": [], "at": None}
    batch = [from_record(**{**plain, **strange, "offset": next(numbers)}) for strange in STRANGE]
    projection.handle(batch)
    projection.handle(batch)
    with control_db.transaction() as tx:
        [buried] = tx.execute("select count(*) from kylo.dead_letters").fetchone()
        assert tx.execute("select outbox_id from kylo.positions where key = '@3'").fetchone() == (len(STRANGE) - 1,)
    assert buried >= 4
    assert len(applied()) + buried == len(STRANGE)


class Calls(EffectProjector):
    """An effect outside the database that fails once."""

    name = "calls"
    topics = ("t",)

    def __init__(self):
        self.calls = []
        self.fail = True

    def perform(self, events):
        """Remember the call; the first one fails afterwards, as a time-out would."""
        self.calls.append([event.outbox_id for event in events])
        if self.fail:
            self.fail = False
            raise Transient("no answer")


def test_an_effect_outside_is_repeated_until_confirmed_and_never_after(control_db):
    """The position of an outside effect is stored after it; a repeat of the records calls nobody."""
    projection = Projection(Calls(), lambda _delivery: control_db, dead_letter_name)
    batch = [delivery(1), delivery(2)]
    with pytest.raises(Transient):
        projection.handle(batch)
    projection.handle(batch)
    projection.handle(batch)
    assert projection.projector.calls == [[1, 2], [1, 2]]


@pytest.fixture
def make_worker(control_db, address):
    """Build workers of a topic and group; closed in the end."""
    made = []

    def make(topic, group):
        projection = Projection(Collects(topic), lambda _delivery: control_db, dead_letter_name)
        worker = Project(projection, Subscription(address, group, [topic]), patience=0.05)
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.close()


def test_the_whole_way_over_the_broker(control_db, kafka_server, applied, make_relay, make_worker, run_until):
    """Emitted, relayed, consumed, applied: each once, and the group's offsets show no lag for ordinary tools."""
    topic, group = make_topic(kafka_server.bootstrap), f"g-{uuid4().hex[:8]}"
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key=f"k{n % 7}", type="T", payload={"n": n}) for n in range(700)])
    relay, worker = make_relay(), make_worker(topic, group)
    run_until(relay, lambda: relay.state.published == 700)
    run_until(worker, lambda: len(applied()) == 700, seconds=40)
    assert len(set(applied())) == 700
    worker.close()
    again = make_worker(topic, group)
    with control_db.transaction() as tx:
        emit(tx, topic=topic, key="k1", type="T", payload={})
    run_until(relay, lambda: relay.state.published == 701)
    run_until(again, lambda: len(applied()) == 701, seconds=40)
    assert again.settled == 1


def test_a_group_that_begins_again_changes_nothing(
    control_db, kafka_server, applied, make_relay, make_worker, run_until
):
    """Reading everything once more under another group id is absorbed by the positions."""
    topic = make_topic(kafka_server.bootstrap)
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key="k", type="T", payload={}) for _ in range(50)])
    relay = make_relay()
    run_until(relay, lambda: relay.state.published == 50)
    for _ in range(2):
        worker = make_worker(topic, f"g-{uuid4().hex[:8]}")
        run_until(worker, lambda w=worker: w.settled == 50, seconds=40)
    assert len(applied()) == 50
    assert len(read_all(kafka_server.bootstrap, topic)) == 50
    assert position(control_db)[4] == 50


def test_not_now_keeps_the_batch_in_hand_and_membership(
    control_db, kafka_server, applied, make_relay, make_worker, run_until
):
    """While the effect's database says "not now" nothing is committed or lost; afterwards it goes on in order."""
    topic = make_topic(kafka_server.bootstrap)
    with control_db.transaction() as tx:
        emit_many(tx, [Event(topic=topic, key="k", type="T", payload={}) for _ in range(20)])
    relay, worker = make_relay(), make_worker(topic, f"g-{uuid4().hex[:8]}")
    run_until(relay, lambda: relay.state.published == 20)
    worker._projection.projector.fail_after_effect = Transient("away")
    with pytest.raises(Transient):
        run_until(worker, lambda: False, seconds=40)
    assert applied() == []
    run_until(worker, lambda: len(applied()) == 20, seconds=40)
    assert [number for _, number in applied()] == sorted(number for _, number in applied())
