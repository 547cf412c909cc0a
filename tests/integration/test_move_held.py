"""A company that is to move while events of it wait behind a dead letter: refused with the remedy, none left behind."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.flows.move import MoveCompany
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.errors import Conflict, Transient
from kylo_outbox.model.topics import declared
from kylo_outbox.model.transactions import parse_request
from kylo_outbox.settings import load
from kylo_outbox.store import carrying, desk
from kylo_outbox.store.deliveries import stored_delivery
from kylo_outbox.store.history import stored_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.projectors import named, projection
from tests.helpers.pipeline import transaction
from tests.helpers.projectors import ask

TOPIC = "txns.company.batches"
TOPICS = declared(TOPIC, "rules.promote.requests")
READERS = {"txns": TOPIC, "promote": "rules.promote.requests"}
SPOIL = r"update intake.transactions set content_digest = '\x00'::bytea || content_digest where txn_id = 't2'"
MEND = "update intake.transactions set content_digest = substring(content_digest from 2) where txn_id = 't2'"


@pytest.fixture
def other_db(make_database):
    """The database where the company goes."""
    return make_database()


@pytest.fixture
def environ(control_db, other_db):
    """What references are looked up in."""
    return {"PG_DSN_RW": control_db.dsn, "OTHER": other_db.dsn}


@pytest.fixture
def mover(control_db, environ):
    """Moves companies of this control database; five posts of 710 wait, and the slice of the second is spoiled."""
    Companies(control_db, environ, TOPICS).add(new_company("710", "book"))
    door = Ingest(control_db, TOPIC)
    for number in range(1, 6):
        door.accept(parse_request([transaction(number, "710", amount="1.00")]), source="test")
    with control_db.transaction() as tx:
        tx.execute(SPOIL)
    return MoveCompany(control_db, environ, TOPICS, READERS, patience=0.3)


@pytest.fixture
def projector(environ):
    """The projector `txns` as a process that has just started: it knows where every company lives."""

    @contextmanager
    def started():
        built = parts.build(load(environ))
        try:
            yield projection(built, named(built, "txns"))
        finally:
            built.close()

    return started


def deliveries(control_db):
    """The five events as Kafka would give them."""
    with control_db.begin() as connection:
        store_id = require_own(connection).store_id
    return [stored_delivery(row, store_id) for rows in stored_rows(control_db, [TOPIC]) for row in rows]


def mend_and_release(control_db):
    """The slice is as it was announced again, and a person lets the key go on."""
    with control_db.transaction() as tx:
        tx.execute(MEND)
        done = desk.release(tx, desk.find(tx, desk.Filter(stage="txns")), who="me", reason="mended")
    assert len(done.ids) == 1


def batches(database):
    """Numbers of the slices that were applied there, in order."""
    return [batch for (batch,) in ask(database, "select first_seen_batch from kylo.pending_txns order by seq")]


def finish(mover, projector, control_db, other_db):
    """Move, and read everything once more from the beginning: where each slice is now."""
    assert mover.move("710", "env:OTHER").left == ""
    with projector() as there:
        there.handle(deliveries(control_db))
    assert ask(control_db, "select count(*) from kylo.held_events") == [(0,)]
    assert batches(control_db) == []
    return batches(other_db)


def test_a_dead_letter_is_to_be_settled_first(control_db, other_db, mover, projector):
    """Refused at once, without a pause; released and drained the company moves with everything."""
    with projector() as here:
        here.handle(deliveries(control_db)[:4])
        with pytest.raises(Conflict, match=r"1 dead letters and 2 events .* settle them .*dlq ls --company 710"):
            mover.move("710", "env:OTHER")
        assert ask(control_db, "select paused from control.company_config") == [(False,)]
        mend_and_release(control_db)
        with pytest.raises(Conflict, match="settle them"):
            mover.move("710", "env:OTHER")
        here.tend(at_once=True)
    assert finish(mover, projector, control_db, other_db) == [1, 2, 3, 4, 5]


def test_what_was_discarded_but_is_not_drained_yet_still_stands_in_the_way(control_db, other_db, mover, projector):
    """The letter is settled at once, the events behind it only when the projector has gone on."""
    with projector() as here:
        here.handle(deliveries(control_db)[:3])
        with control_db.transaction() as tx:
            desk.discard(tx, desk.find(tx, desk.Filter(stage="txns")), who="me", reason="twice")
        with pytest.raises(Conflict, match="1 events that wait behind one"):
            mover.move("710", "env:OTHER")
        here.tend(at_once=True)
    assert finish(mover, projector, control_db, other_db) == [1, 3, 4, 5], "2 is a declared gap"


def late(monkeypatch, control_db, here):
    """A dead letter comes up at the last moment: after the last look, before the rows are frozen."""
    freeze = carrying.freeze

    def freeze_late(*given):
        monkeypatch.setattr(carrying, "freeze", freeze)
        here.handle(deliveries(control_db)[:3])
        return freeze(*given)

    monkeypatch.setattr(carrying, "freeze", freeze_late)


def test_a_dead_letter_that_comes_up_during_the_move_is_noticed(control_db, other_db, mover, projector, monkeypatch):
    """Nothing is frozen then; the company stays paused, the letter can be settled, and the same command goes on."""
    with projector() as here:
        late(monkeypatch, control_db, here)
        with pytest.raises(Transient, match=r"1 dead letters and 1 events .* stays paused"):
            mover.move("710", "env:OTHER")
        with pytest.raises(Transient, match="settle them"):
            mover.move("710", "env:OTHER")
        mend_and_release(control_db)
        here.tend(at_once=True)
    assert finish(mover, projector, control_db, other_db) == [1, 2, 3, 4, 5]


def test_without_that_look_the_events_behind_it_would_be_lost(control_db, other_db, mover, projector, monkeypatch):
    """The planted fault: their positions travel, they themselves stay in the old home for ever."""
    with projector() as here:
        late(monkeypatch, control_db, here)
        monkeypatch.setattr(carrying, "open_ends", lambda *_: "")
        mover.move("710", "env:OTHER")
        mend_and_release(control_db)
        here.tend(at_once=True)
    with projector() as there:
        there.handle(deliveries(control_db))
        there.tend(at_once=True)
    assert batches(other_db) == [1, 4, 5]


def test_a_move_that_was_given_up_leaves_everything_as_it_was(control_db, other_db, mover, projector, monkeypatch):
    """Cancelled with the dead letter open: the company flows in its old home, and the letter waits there."""
    with projector() as here:
        late(monkeypatch, control_db, here)
        with pytest.raises(Transient):
            mover.move("710", "env:OTHER")
        assert not mover.cancel("710").paused
        mend_and_release(control_db)
        here.tend(at_once=True)
        here.handle(deliveries(control_db))
    assert (batches(control_db), batches(other_db)) == ([1, 2, 3, 4, 5], [])
