"""What the outbox still has for those who apply or send it again: never what nobody is to get, nor what waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from kylo_outbox import emit
from kylo_outbox.flows import holds
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.project import Projection
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store import carrying
from kylo_outbox.store.history import moment, published_rows, stored_rows
from kylo_outbox.store.identity import require_own
from kylo_outbox.testing import ledger

TOPIC = ledger.Ledger.topics[0]
HOLD = """
insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason, waits)
select id, event_id, created_at, slot, topic, key, type, payload, 'refused', id > 3
  from kylo.outbox_log where key = 'a' and id between 3 and 7
"""
PASS = "update kylo.lanes set high_water = {}, snapshot = pg_current_snapshot(), epoch = epoch + 1"


def own(database):
    """The store's name."""
    with database.begin() as connection:
        return require_own(connection).store_id


def ask(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def do(database, *statements):
    """Run statements."""
    with database.transaction() as tx:
        for statement in statements:
            tx.execute(statement)


@pytest.fixture
def outbox(control_db):
    """Ten moves, on keys a (odd ids) and b in turn; the relay has passed eight of them, and holds a from 3 on."""
    with control_db.transaction() as tx:
        tx.execute(ledger.TABLE)
        for number in range(10):
            payload = {"from": "x", "to": "y", "cents": 5, "number": number}
            emit(tx, topic=TOPIC, key="ab"[number % 2], type="MOVED", payload=payload)
    do(
        control_db,
        HOLD,
        PASS.format(8),
        "insert into kylo.marks (lane, low, high, since, at) values (0, 1, 8, now(), now())",
    )
    return control_db


def ids(batches):
    """Their ids."""
    return [row[0] for rows in batches for row in rows]


def test_what_has_not_gone_out_is_not_among_what_has(outbox):
    """Held, or not passed by the relay yet."""
    assert ids(stored_rows(outbox, [TOPIC])) == list(range(1, 11))
    assert ids(published_rows(outbox, [TOPIC])) == [1, 2, 4, 6, 8]
    assert ids(published_rows(outbox, [TOPIC], key="a")) == [1]


def test_what_goes_out_meanwhile_waits_for_its_own_turn(outbox):
    """A key that is let go while its history is read: its later events are not handed out without the earlier ones."""
    reading = published_rows(outbox, [TOPIC], chunk=4)
    assert [row[0] for row in next(reading)] == [1, 2, 4]
    do(outbox, "delete from kylo.outbox_held", PASS.format(10))
    assert ids(reading) == [6, 8]
    assert ids(published_rows(outbox, [TOPIC])) == list(range(1, 11))


def test_what_was_taken_out_is_given_to_nobody(outbox):
    """Discarded or made a dead letter: also when it stands alone in its batch, and once the others have gone out."""
    with outbox.transaction() as tx:
        assert holds.discard(tx, TOPIC, "a", row_id=3, reason="test", who="me").ids == (3,)
        assert holds.dead_letter(tx, TOPIC, "a", row_id=5, reason="test", who="me").ids == (5,)
    do(outbox, "delete from kylo.outbox_held")
    assert ids(stored_rows(outbox, [TOPIC], chunk=1)) == [1, 2, 4, 6, 7, 8, 9, 10]
    assert ids(published_rows(outbox, [TOPIC], chunk=1)) == [1, 2, 4, 6, 7, 8]


def test_what_lies_in_a_side_lane_went_out_when_that_lane_passed_it(outbox):
    """The main lane's cursor says nothing about the slots that it leaves out."""
    [[slot]] = ask(outbox, "select distinct slot from kylo.outbox_log where key = 'b'")
    do(
        outbox,
        f"update kylo.lanes set except_slots = '{{{slot}}}'",
        f"insert into kylo.lanes (lane, slot_from, slot_to, parent, high_water, snapshot) "
        f"values (5, {slot}, {slot} + 1, 0, 4, pg_current_snapshot())",
    )
    assert ids(published_rows(outbox, [TOPIC])) == [1, 2, 4]


def test_the_direct_path_catches_up_with_what_went_out_and_nothing_else(outbox):
    """What is held, discarded or still to come is not applied by the way."""
    with outbox.transaction() as tx:
        holds.discard(tx, TOPIC, "a", row_id=3, reason="test", who="me")
    direct = DirectDelivery(
        store_id=own(outbox),
        topics=[TOPIC],
        is_direct=lambda _key: True,
        projections=[Projection(ledger.Ledger(), lambda _delivery: outbox, dead_letter_name)],
        moment=partial(moment, outbox),
        published_rows=lambda topics, at: published_rows(outbox, topics, at=at),
    )
    list(direct.catch_up())
    assert ask(outbox, "select distinct number from ledger_entries order by 1") == [(0,), (1,), (3,), (5,), (7,)]


def test_a_company_does_not_wait_for_what_nobody_gets(outbox):
    """Its newest event was discarded: everything that went out is applied, so it may move."""
    do(
        outbox,
        f"insert into kylo.positions (projector, store_id, topic, key, generation, outbox_id, applied, digest) "
        f"values ('ledger', '{own(outbox)}', '{TOPIC}', 'a', 1, 1, 1, 1)",
    )
    with outbox.transaction() as tx:
        assert carrying.unapplied(tx, tx, "a", own(outbox), {"ledger": TOPIC}) == []
        assert holds.release(tx, TOPIC, "a", who="me").ids == (3,)
        tx.execute("delete from kylo.outbox_held where id = 3")
        assert carrying.unapplied(tx, tx, "a", own(outbox), {"ledger": TOPIC}) == [TOPIC]
    with outbox.transaction() as tx:
        tx.execute(HOLD.replace("between 3 and 7", "= 3"))
        holds.discard(tx, TOPIC, "a", row_id=3, reason="test", who="me")
        assert carrying.unapplied(tx, tx, "a", own(outbox), {"ledger": TOPIC}) == []


def test_a_company_leaves_no_delayed_event_behind(outbox):
    """What becomes due after the move would be published by nobody; hints about its own tabs are told anew."""
    with outbox.transaction() as tx:
        before = carrying.waiting_elsewhere(tx, "a", ["hints"])
        for topic in ("other", "hints"):
            emit(tx, topic=topic, key="a", type="T", payload={}, available_at=datetime.now(UTC) + timedelta(days=1))
        assert carrying.waiting_elsewhere(tx, "a", ["hints"]) == before + 1
